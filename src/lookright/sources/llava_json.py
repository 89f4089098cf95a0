"""LLaVA json (`id, image, conversations`) with a folder of pictures."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lookright.errors import ConfigError, RecordError
from lookright.pictures import leaves_folder, open_rgb
from lookright.sources.base import Source, Split, check_split
from lookright.types import IMAGE_PLACEHOLDER, SourceRow

MAX_ANSWER_LENGTH = 512
"""Answers of so many characters or more are left out (MIA-DPO)."""


class LlavaJson(Source):
    """The first question and answer of every row that shows exactly one picture.

    Either `test_json` names the test split, or `test_share` (0 to 1) of the pictures of `train_json` are
    held out by a hash of their path, so that all rows of a picture fall on one side; with neither there
    is no test split. Rows that are left out are counted in `dropped` under their reason: `no_image`,
    `several_images`, `path` (leaves the folder), `malformed`, `empty`, `long_answer`.
    """

    def __init__(
        self,
        train_json: str | Path,
        image_folder: str | Path,
        test_json: str | Path | None = None,
        test_share: float | None = None,
        name: str = "llava_json",
    ) -> None:
        self.name = name
        self.dropped: Counter[str] = Counter()
        self._train_json, self._image_folder = Path(train_json), Path(image_folder)
        self._test_json = None if test_json is None else Path(test_json)
        self._test_share = test_share
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
        """The file `<image_folder>/<picture>`."""
        return open_rgb(self._image_folder / row.picture, f"row {row.id}")

    def _problems(self) -> Iterator[str]:
        for key, path in (("train_json", self._train_json), ("test_json", self._test_json)):
            if path is not None and not path.is_file():
                yield f"source.{key}={path}: no such file; set the path of a LLaVA json file"
        if not self._image_folder.is_dir():
            yield f"source.image_folder={self._image_folder}: no such folder; image paths start from it"
        if self._test_share is not None and not 0 < self._test_share < 1:
            yield f"source.test_share={self._test_share}: set a number between 0 and 1"
        if self._test_share is not None and self._test_json is not None:
            yield "source.test_share is not used where source.test_json is set: leave one of them out"

    def _load(self, split: Split) -> None:
        if self._test_json is not None:
            path = self._train_json if split == "train" else self._test_json
            self._rows[split] = [self._row(split, *parsed) for parsed in self._parse(path)]
            return
        self._rows = {"train": [], "test": []}
        for parsed in self._parse(self._train_json):
            side: Split = "test" if _held_out(parsed[1], self._test_share or 0.0) else "train"
            self._rows[side].append(self._row(side, *parsed))

    def _row(self, split: Split, key: str, picture: str, question: str, answer: str) -> SourceRow:
        return SourceRow(id=f"{self.name}/{split}/{key}", picture=picture, question=question, answer=answer)

    def _parse(self, path: Path) -> Iterator[tuple[str, str, str, str]]:
        for position, record in enumerate(read_json_records(path)):
            try:
                picture = one_picture(record)
                question, answer = first_turn(record)
            except RecordError as error:
                self.dropped[error.reason] += 1
                continue
            yield f"{record.get('id', 'row')}-{position}", picture, question, answer


def read_json_records(path: Path) -> list[Any]:
    """The rows of a json file that holds one list, or of a `.jsonl` file. Raises ConfigError naming the place."""
    try:
        with path.open(encoding="utf-8") as file:
            records = (
                [json.loads(line) for line in file if line.strip()] if path.suffix == ".jsonl" else json.load(file)
            )
    except ValueError as error:
        raise ConfigError(f"{path}: not valid json ({error})") from error
    if not isinstance(records, list):
        raise ConfigError(f"{path}: found a json {type(records).__name__}, a LLaVA json file holds one list of rows")
    return records


def one_picture(record: Any) -> str:
    """Relative path of the only picture of a LLaVA row. Raises RecordError."""
    if not isinstance(record, dict):
        raise RecordError("malformed", f"a row is a json object, found {type(record).__name__}")
    image = record.get("image")
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if not image:
        raise RecordError("no_image", "the row has no image")
    if not isinstance(image, str):
        raise RecordError("several_images", f"the row's image is {image!r}, not one path")
    if leaves_folder(image):
        raise RecordError("path", f"the image path {image!r} leaves the image folder; paths are relative, without '..'")
    return image


def first_turn(record: dict[str, Any]) -> tuple[str, str]:
    """First question, its one placeholder taken off, and first answer, not too long. Raises RecordError."""
    question, answer = turns(record)
    if question.count(IMAGE_PLACEHOLDER) > 1:
        raise RecordError("several_images", f"{question.count(IMAGE_PLACEHOLDER)} placeholders in the first turn")
    question = question.replace(IMAGE_PLACEHOLDER, "").strip()
    if not question or not answer:
        raise RecordError("empty", f"the first {'question' if not question else 'answer'} is empty")
    if len(answer) >= MAX_ANSWER_LENGTH:
        raise RecordError("long_answer", f"the answer has {len(answer)} characters, {MAX_ANSWER_LENGTH} are too many")
    return question, answer


def turns(record: dict[str, Any]) -> tuple[str, str]:
    """First question and first answer as they stand, stripped. Raises RecordError (reason `malformed`)."""
    try:
        human, gpt = record["conversations"][:2]
        if (human["from"], gpt["from"]) != ("human", "gpt"):
            raise ValueError(f"turns from {human['from']!r} and {gpt['from']!r}")
        return human["value"].strip(), gpt["value"].strip()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError("malformed", f"conversations do not start with a human and a gpt turn ({error!r})") from error


def _held_out(picture: str, share: float) -> bool:
    digest = hashlib.blake2b(picture.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
