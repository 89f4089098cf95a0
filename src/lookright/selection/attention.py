"""Attention-aware selection: wrong answers given while looking elsewhere."""

import math
from collections.abc import Collection, Iterable, Mapping

from lookright.composing.formats.base import Composer
from lookright.composing.formats.grid_collage import GridCollage
from lookright.composing.formats.pic_in_pic import PicInPic
from lookright.composing.formats.sequence import SequenceFormat
from lookright.errors import ConfigError, RecordError
from lookright.selection.base import Candidate, Selection

_PUBLISHED = (SequenceFormat, GridCollage, PicInPic)
THRESHOLDS: dict[str, float | dict[int, float]] = {one.name: one.thresholds for one in _PUBLISHED}
"""Attention ratio by format and number of source images; one number holds for every count. Source: MIA-DPO."""
INCLUSIVE = tuple(one.name for one in _PUBLISHED if one.inclusive)


class AttentionSelection(Selection):
    """Takes an answer whose attention ratio on the target is below its threshold.

    `thresholds` maps a format to a number, or to a number for each count of source images; `inclusive`
    names the formats where a ratio equal to the threshold is taken too (MIA-DPO: sequence only). A format that is not
    named may bring a threshold of its own, see `adopt`. Raises ConfigError for a threshold outside [0, 1].
    """

    reasons: tuple[str, ...] = ("attention_ratio",)
    needs_attention = True

    def __init__(
        self,
        thresholds: Mapping[str, float | Mapping[int, float]] | None = None,
        inclusive: Collection[str] = INCLUSIVE,
    ) -> None:
        self.thresholds = {
            name: _limits(name, given) for name, given in (THRESHOLDS if thresholds is None else thresholds).items()
        }
        unknown = sorted(set(inclusive) - set(self.thresholds))
        if unknown:
            raise ConfigError(
                f"selection.inclusive names {unknown[0]!r}, which has no threshold; "
                f"valid are {', '.join(self.thresholds)}"
            )
        self.inclusive = frozenset(inclusive)

    def adopt(self, composers: Iterable[Composer]) -> None:
        """Take the thresholds that formats from elsewhere bring themselves where none is set."""
        for one in composers:
            # of the published formats a config names all that it wants
            if one.name not in {**THRESHOLDS, **self.thresholds} and one.thresholds is not None:
                self.thresholds[one.name] = _limits(one.name, one.thresholds)
                self.inclusive |= {one.name} if one.inclusive else set()

    def threshold(self, format_name: str, num_sources: int) -> float:
        """Raises ConfigError, telling what to set, for a format or count without a threshold."""
        limits = self.thresholds.get(format_name)
        if limits is None:
            raise ConfigError(
                f"selection.thresholds has no format {format_name!r}, only {', '.join(self.thresholds)}; "
                f"set selection.thresholds.{format_name} (with a + before it on the command line)"
            )
        if isinstance(limits, float):
            return limits
        if num_sources not in limits:
            raise ConfigError(
                f"selection.thresholds.{format_name} has no threshold for {num_sources} images, only for "
                f"{', '.join(map(str, limits))}; set selection.thresholds.{format_name}.{num_sources}"
            )
        return limits[num_sources]

    def keeps(self, candidate: Candidate) -> bool:
        """Raises RecordError (`no_attention_ratio`) where the ratio is missing or not a number."""
        ratio = candidate.attention_ratio
        if ratio is None or math.isnan(ratio):
            raise RecordError(
                "no_attention_ratio",
                f"{candidate.id}: attention_ratio is {ratio}, and selection decides by it; "
                "run stage=answer again, or set selection=random or none",
            )
        limit = self.threshold(candidate.format, candidate.num_sources)
        return ratio < limit or (ratio == limit and candidate.format in self.inclusive)


def _limits(format_name: str, given: float | Mapping[int, float]) -> float | dict[int, float]:
    """Checked thresholds of one format; counts as whole numbers, whichever way the config spells them."""
    key = f"selection.thresholds.{format_name}"
    if not isinstance(given, Mapping):
        return _share(key, given)
    if not given or not all(str(count).isdigit() for count in given):
        raise ConfigError(f"{key}={dict(given)!r}: set one number in [0, 1], or one for each number of images")
    return {int(count): _share(f"{key}.{count}", value) for count, value in given.items()}


def _share(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"{key}={value!r} is out of range; a ratio lies in [0, 1]")
    return float(value)
