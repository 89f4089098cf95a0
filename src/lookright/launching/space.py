"""What a search may try: Hydra's words for a sweep, as distributions of Optuna."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lookright.errors import ConfigError

LOG = "log"


@dataclass(slots=True, frozen=True, kw_only=True)
class Dimension:
    """One key of the space: `key` as an override sets it, the distribution of its values."""

    key: str
    distribution: BaseDistribution

    @property
    def name(self) -> str:
        """The key alone, as Optuna calls the parameter."""
        return self.key.lstrip("+")

    def override(self, value: Any) -> str:
        """Set the key to a value that was drawn. A choice is text, as it stood on the command line."""
        return f"{self.key}={value}"

    @property
    def probes(self) -> list[Any]:
        """Values that tell whether all fit the key: every choice, or both ends."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices)
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        return [self.distribution.low, self.distribution.high]


def read_space(overrides: Sequence[Override]) -> tuple[list[str], list[Dimension]]:
    """What every trial has, as overrides, and the keys that are searched. Raises ConfigError with all problems."""
    fixed: list[str] = []
    space: dict[str, Dimension] = {}
    problems: list[str] = []
    for one in overrides:
        key = one.get_key_element()
        if not one.is_sweep_override():
            fixed.append(key if one.is_delete() else f"{key}={one.get_value_element_as_str()}")
            continue
        try:
            space[key] = Dimension(key=key, distribution=_distribution(one))
        except ValueError as error:
            problems.append(f"{one.input_line}: {error}")
    if not space and not problems:
        problems.append(
            "nothing to search: give a key several values, such as loss.alpha=interval(0.01,1), loss.gamma=0.1,1 or "
            "tuning.r=range(4,33,4)"
        )
    if problems:
        raise ConfigError("\n".join(problems))
    return fixed, list(space.values())


def check_space(space: Sequence[Dimension], check: Callable[[list[str]], None]) -> None:
    """Try every choice and both ends of every range, the other keys at their first. Raises ConfigError with all.

    `check` raises ConfigError for overrides that make no config.
    """
    first = {one.key: one.override(one.probes[0]) for one in space}
    problems: list[str] = []
    for one in space:
        for value in one.probes:
            try:
                check(list((first | {one.key: one.override(value)}).values()))
            except ConfigError as error:
                problems += [f"{line}{_whole(one, line)}" for line in str(error).split("\n")]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def overrides_of(space: Sequence[Dimension], values: Mapping[str, Any]) -> list[str]:
    """The values of a trial, by parameter, as overrides."""
    return [one.override(values[one.name]) for one in space]


def _whole(dimension: Dimension, problem: str) -> str:
    """What to write for an interval of a key that takes whole numbers."""
    space = dimension.distribution
    if not isinstance(space, FloatDistribution) or not problem.endswith("set a whole number"):
        return ""
    return f": {dimension.key}=int(interval({space.low:g},{space.high:g}))"


def _distribution(override: Override) -> BaseDistribution:
    """Raises ValueError for what Optuna has no distribution for."""
    sweep = override.value()
    tags = set(sweep.tags) if isinstance(sweep, Sweep) else set()
    if tags - {LOG}:
        raise ValueError(f"the tag {min(tags - {LOG})} says nothing to Optuna; valid: {LOG}")
    if isinstance(sweep, IntervalSweep):
        return _interval(sweep, LOG in tags)
    if isinstance(sweep, RangeSweep):
        return _range(sweep, LOG in tags)
    if tags:
        raise ValueError("a choice has no scale; leave tag(log, ...) out, or set interval(...) or range(...)")
    if isinstance(sweep, ChoiceSweep) and sweep.shuffle:
        raise ValueError("the sampler decides on the order; leave shuffle(...) out")
    choices = list(override.sweep_string_iterator())
    if len(set(choices)) < len(choices):
        raise ValueError("a value is named twice")
    if not choices:
        raise ValueError("there is no such value")
    return CategoricalDistribution(choices)


def _interval(sweep: IntervalSweep, log: bool) -> BaseDistribution:
    assert sweep.start is not None and sweep.end is not None
    if not sweep.start < sweep.end:
        raise ValueError("the interval is empty; set its lower end first")
    if log and sweep.start <= 0:
        raise ValueError("on a scale of logarithms both ends are above 0")
    # int(interval(1, 8)) has whole ends
    if isinstance(sweep.start, int):
        return IntDistribution(sweep.start, int(sweep.end), log=log)
    return FloatDistribution(sweep.start, sweep.end, log=log)


def _range(sweep: RangeSweep, log: bool) -> BaseDistribution:
    """As everywhere in Hydra the end is left out."""
    if sweep.shuffle:
        raise ValueError("the sampler decides on the order; leave shuffle(...) out")
    values = list(sweep.range())
    if not values or sweep.step <= 0:
        raise ValueError("the range is empty, or goes down; set range(lower,upper,step)")
    if log and (sweep.step != 1 or values[0] <= 0 or not isinstance(values[0], int)):
        raise ValueError("a range on a scale of logarithms has whole numbers above 0 and no step")
    if all(isinstance(value, int) for value in values):
        return IntDistribution(int(values[0]), int(values[-1]), log=log, step=1 if log else int(sweep.step))
    step = float(sweep.step)
    return FloatDistribution(float(values[0]), float(values[0]) + step * (len(values) - 1), step=step)
