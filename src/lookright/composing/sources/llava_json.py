"""LLaVA json (`id, image, conversations`) with a folder of pictures."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from lookright.common.hashing import stable_hash
from lookright.common.jsonl import numbered_lines
from lookright.common.path_map import PathMap
from lookright.common.pictures import leaves_folder, open_rgb
from lookright.common.ranks import rank_zero_info
from lookright.common.strict_json import parse_json, read_json, short
from lookright.composing.sources.base import Source, Split, check_split
from lookright.composing.sources.follow_up import standing_instruction, stands_alone
from lookright.errors import ConfigError, RecordError
from lookright.records.pictures import PictureFolder
from lookright.records.turns import num_turns, turn_texts
from lookright.types import IMAGE_PLACEHOLDER, SourceRow

MAX_ANSWER_LENGTH = 512
"""Answers of so many characters or more are left out (MIA-DPO)."""


Turns = Literal["first", "all"]


class LlavaJson(Source):
    """Questions and answers of every row that shows exactly one picture.

    `turns`: the `first` of a row, or `all` that stand alone (`follow_up.stands_alone`), each a row of its own;
    how to answer, which LLaVA says in the first turn alone, goes with them. Either `test_json` names the test
    split, or `test_share` (0 to 1) of the pictures of `train_json` are held out by a hash of their path, so that
    all rows of a picture fall on one side; with neither there is no test split. `path_map`: prefixes of image
    paths and what stands in their place.

    What is left out is counted in `dropped` under its reason: rows as `no_image`, `several_images`, `path` (leaves
    the folder) or `malformed`; turns as `empty`, `long_answer`, `several_images`, `malformed`, `further_turns`
    (of rows of which the first is taken) or `follow_up_turn`.
    """

    def __init__(
        self,
        train_json: str | Path,
        image_folder: str | Path,
        test_json: str | Path | None = None,
        test_share: float | None = None,
        name: str = "llava_json",
        turns: Turns = "first",
        path_map: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.dropped: Counter[str] = Counter()
        self._train_json, self._image_folder = Path(train_json), Path(image_folder)
        self._test_json = None if test_json is None else Path(test_json)
        self._test_share, self._turns = test_share, turns
        self._path_map = PathMap(path_map, "source.path_map")
        self._rows: dict[str, list[SourceRow]] = {}
        problems = list(self._problems())
        if problems:
            raise ConfigError("\n".join(problems))

    def rows(self, split: Split) -> Sequence[SourceRow]:
        """Rows in the order of the file; ids read `<name>/<split>/<id>-<position in the file>`."""
        check_split(split)
        if split == "test" and self._test_json is None and self._test_share is None:
            raise ConfigError("source=llava_json has no test split: set source.test_json or source.test_share")
        if split not in self._rows:
            self._load(split)
        return self._rows[split]

    def open(self, row: SourceRow) -> Image.Image:
        """The file `<image_folder>/<picture>`, which no link leads out of."""
        folder = PictureFolder(self._image_folder, self._path_map.folders, "source.path_map")
        return open_rgb(folder.encoded(row.picture), f"row {row.id}")

    def _problems(self) -> Iterator[str]:
        for key, path in (("train_json", self._train_json), ("test_json", self._test_json)):
            if path is not None and not path.is_file():
                yield f"source.{key}={path}: no such file; set the path of a LLaVA json file"
        if not self._image_folder.is_dir():
            yield f"source.image_folder={self._image_folder}: no such folder; image paths start from it"
        if self._turns not in get_args(Turns):
            yield f"source.turns={self._turns!r}: valid are {', '.join(get_args(Turns))}"
        if self._test_share is not None and not 0 < self._test_share < 1:
            yield f"source.test_share={self._test_share}: set a number between 0 and 1"
        if self._test_share is not None and self._test_json is not None:
            yield "source.test_share is not used where source.test_json is set: leave one of them out"

    def _load(self, split: Split) -> None:
        if self._test_json is not None:
            path = self._train_json if split == "train" else self._test_json
            self._rows[split] = [self._row(split, *parsed) for parsed in self._parse(path)]
            self._path_map.check_used()
            return
        self._rows = {"train": [], "test": []}
        for parsed in self._parse(self._train_json):
            side: Split = "test" if _held_out(parsed[1], self._test_share or 0.0) else "train"
            self._rows[side].append(self._row(side, *parsed))
        self._path_map.check_used()

    def _row(self, split: Split, key: str, picture: str, question: str, answer: str) -> SourceRow:
        return SourceRow(id=f"{self.name}/{split}/{key}", picture=picture, question=question, answer=answer)

    def _parse(self, path: Path) -> Iterator[tuple[str, str, str, str]]:
        """Key, picture, question and answer of every turn that is taken."""
        before, num_taken = self.dropped.copy(), 0
        for position, record in enumerate(read_json_records(path)):
            try:
                picture, name = one_picture(record, self._path_map), row_id(record)
                taken = list(self._taken(record))
            except RecordError as error:
                self.dropped[error.reason] += 1
                continue
            for turn, question, answer in taken:
                num_taken += 1
                key = f"{name}-{position}"
                yield key if turn == 0 else f"{key}-turn{turn + 1}", picture, question, answer
        self._tell(path, num_taken, self.dropped - before)

    def _taken(self, record: dict[str, Any]) -> Iterator[tuple[int, str, str]]:
        """Number (0-based), question and answer of the turns of a row. Raises RecordError for the first one alone."""
        question, answer = first_turn(record)
        yield 0, question, answer
        total = num_turns(record)
        if self._turns == "first":
            self.dropped += Counter(further_turns=total - 1)
            return
        instruction = standing_instruction(question)
        for turn in range(1, total):
            try:
                question, answer = one_turn(record, turn)
                if not stands_alone(question):
                    raise RecordError("follow_up_turn", "the question leans on earlier turns")
            except RecordError as error:
                self.dropped[error.reason] += 1
                continue
            carried = instruction and not standing_instruction(question)
            yield turn, f"{question}\n{instruction}" if carried else question, answer

    def _tell(self, path: Path, num_taken: int, left_out: Counter[str]) -> None:
        """What a reader of the run's output should know of the file."""
        if left_out:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
            more = "; source.turns=all takes those that stand alone" if left_out["further_turns"] else ""
            rank_zero_info(f"{path}: {num_taken} questions; left out: {reasons}{more}")


def read_json_records(path: Path) -> list[Any]:
    """The rows of a json file that holds one list, or of a `.jsonl` file. Raises ConfigError naming the place."""
    if path.suffix == ".jsonl":
        return [_row_at(where, line) for where, line in numbered_lines(path)]
    records = read_json(path, "a LLaVA json file holds one list of rows")
    if not isinstance(records, list):
        raise ConfigError(f"{path}: found a json {type(records).__name__}, a LLaVA json file holds one list of rows")
    return records


def _row_at(where: str, line: bytes) -> Any:
    try:
        return parse_json(line)
    except RecordError as error:
        raise ConfigError(f"{where}: {error}") from error


def row_id(record: dict[str, Any]) -> str:
    """The row's own id, `row` where it has none. Raises RecordError (reason `malformed`) for another kind of value."""
    own = record.get("id", "row")
    if isinstance(own, bool) or not isinstance(own, str | int):
        raise RecordError("malformed", f"id={short(own)} is {type(own).__name__}, not text or a whole number")
    return str(own)


def one_picture(record: Any, path_map: PathMap | None = None) -> str:
    """Path of the only picture of a LLaVA row, moved by the map. Raises RecordError."""
    if not isinstance(record, dict):
        raise RecordError("malformed", f"a row is a json object, found {type(record).__name__}")
    image = record.get("image")
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if not image:
        raise RecordError("no_image", "the row has no image")
    if not isinstance(image, str):
        raise RecordError("several_images", f"the row's image is {short(image)}, not one path")
    moved = image if path_map is None else path_map(image)
    # what the map made absolute lies in a folder that the user named
    inner = moved.removeprefix("/") if path_map is not None and moved != image else moved
    if leaves_folder(inner):
        raise RecordError("path", f"the image path {image!r} leaves the image folder; paths are relative, without '..'")
    return moved


def first_turn(record: dict[str, Any]) -> tuple[str, str]:
    """First question, its one placeholder taken off, and first answer, not too long. Raises RecordError."""
    return one_turn(record, 0)


def one_turn(record: dict[str, Any], turn: int) -> tuple[str, str]:
    """Question and answer of a turn (0-based) as `first_turn` has them. Raises RecordError."""
    question, answer = turn_texts(record, turn)
    if question.count(IMAGE_PLACEHOLDER) > 1:
        raise RecordError("several_images", f"{question.count(IMAGE_PLACEHOLDER)} placeholders in turn {turn + 1}")
    question = question.replace(IMAGE_PLACEHOLDER, "").strip()
    if not question or not answer:
        raise RecordError("empty", f"the {'question' if not question else 'answer'} of turn {turn + 1} is empty")
    if len(answer) >= MAX_ANSWER_LENGTH:
        raise RecordError("long_answer", f"the answer has {len(answer)} characters, {MAX_ANSWER_LENGTH} are too many")
    return question, answer


def _held_out(picture: str, share: float) -> bool:
    return stable_hash(picture) < share * 2**64
