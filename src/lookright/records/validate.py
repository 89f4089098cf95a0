"""What must hold for a record before any model loads."""

import math
import re
from collections import Counter
from typing import Literal, get_args

from lookright.common.strict_json import short, unfit_character
from lookright.errors import ConfigError, LookRightError, RecordError
from lookright.records.pictures import Pictures
from lookright.records.records import Record
from lookright.types import IMAGE_PLACEHOLDER, Preference, Region, Size

OnBadRecord = Literal["error", "skip"]
MAX_SHOWN = 20
FOREIGN_PLACEHOLDERS = re.compile(
    r"<ImageHere>|<image-placeholder>|<img>|<\|image\|>|<\|image_pad\|>|<image_\d+>|<Img>|<IMG>"
)


class BadRecords:
    """Collects what is wrong: `error` raises all of it at the end, `skip` counts it under its reason."""

    def __init__(self, mode: OnBadRecord, key: str = "data.on_bad_record") -> None:
        if mode not in get_args(OnBadRecord):
            raise ConfigError(f"{key}={mode!r}: valid are {', '.join(get_args(OnBadRecord))}")
        self._mode, self._key = mode, key
        self._messages: list[str] = []
        self.counts: Counter[str] = Counter()

    def add(self, where: str, error: RecordError) -> None:
        """Take note of a record that is left out."""
        self.counts[error.reason] += 1
        if len(self._messages) < MAX_SHOWN:
            self._messages.append(f"{where}: {error} [{error.reason}]")

    def finish(self, num_records: int, may_be_all: bool = False) -> None:
        """Raise LookRightError with the first problems, if any is an error or nothing is left of `num_records`.

        `may_be_all`: where they may be skipped nothing need be left.
        """
        total = self.counts.total()
        if not total or (self._mode == "skip" and (may_be_all or total < num_records)):
            return
        kind = f"{self._key}=error" if self._mode == "error" else "none is left"
        more = [f"... and {total - MAX_SHOWN} more"] if total > MAX_SHOWN else []
        skip = f", or set {self._key}=skip to leave them out, counted by reason" if self._mode == "error" else ""
        remedy = [f"Repair them{skip}."]
        head = f"{total} of {num_records} records cannot be used ({kind}):"
        raise LookRightError("\n".join([head, *self._messages, *more, *remedy]))


def check_record(record: Record, pictures: Pictures) -> None:
    """Raise RecordError for the first thing that is wrong with a record."""
    if not record.id:
        raise RecordError("malformed", "the id is empty")
    check_placeholders(record)
    _check_texts(record)
    sizes = [pictures.size(name) for name in record.images]
    check_geometry(record.target, record.regions, sizes)


def check_placeholders(record: Record) -> None:
    """One `<image>` for each picture, none in an answer. Raises RecordError (reason `placeholders` or `no_image`)."""
    if not record.images:
        raise RecordError("no_image", "the record has no picture")
    found = record.prompt.count(IMAGE_PLACEHOLDER)
    foreign = sorted(set(FOREIGN_PLACEHOLDERS.findall(record.prompt)))
    if foreign and found != len(record.images):
        raise RecordError(
            "placeholders",
            f"the prompt holds {', '.join(foreign)}, the placeholder of another model; write {IMAGE_PLACEHOLDER} once "
            "for each picture",
        )
    if found != len(record.images):
        raise RecordError(
            "placeholders",
            f"{len(record.images)} pictures but {found} {IMAGE_PLACEHOLDER} in the prompt; write it once for each",
        )
    if any(IMAGE_PLACEHOLDER in answer for answer in _answers(record)):
        raise RecordError("placeholders", f"an answer holds {IMAGE_PLACEHOLDER}, which only a prompt may")


def check_geometry(target: int | None, regions: list[Region] | None, sizes: list[Size]) -> None:
    """Boxes inside their pictures, target among the regions. Raises RecordError (reason `region` or `target`)."""
    for number, region in enumerate(regions or []):
        if not 0 <= region.picture < len(sizes):
            raise RecordError("region", f"regions[{number}] lies on picture {region.picture} of {len(sizes)} (0-based)")
        width, height = sizes[region.picture]
        x0, y0, x1, y1 = region.box
        if not all(map(math.isfinite, region.box)) or not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise RecordError(
                "region",
                f"regions[{number}] has the box {list(region.box)}, empty or outside of its picture of "
                f"{width} x {height} pixels",
            )
    if target is not None and not 0 <= target < len(regions or []):
        raise RecordError("target", f"target={target} but the record has {len(regions or [])} regions (0-based)")


def _check_texts(record: Record) -> None:
    for text in (record.id, *record.images, record.prompt, *_answers(record)):
        fault = unfit_character(text)
        if fault is not None:
            raise RecordError("malformed", f"the text {short(text)} has {fault}")
    if not record.prompt.replace(IMAGE_PLACEHOLDER, "").strip():
        raise RecordError("empty_prompt", "the prompt holds no text")
    answers = _answers(record)
    if not all(answer.strip() for answer in answers) or len(answers) < 1 + isinstance(record, Preference):
        name = "chosen or rejected" if isinstance(record, Preference) else "ground_truth"
        raise RecordError("empty_answer", f"{name} is empty")
    if isinstance(record, Preference) and record.chosen.strip() in (text.strip() for text in record.rejected):
        raise RecordError("chosen_equals_rejected", f"chosen and rejected are the same: {record.chosen.strip()[:80]!r}")


def _answers(record: Record) -> list[str]:
    return [record.chosen, *record.rejected] if isinstance(record, Preference) else [record.ground_truth]
