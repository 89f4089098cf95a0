"""Several runs of infer.py on the same questions: what each answers, and how it differs from one of them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookright.common.jsonl import read_lines
from lookright.config.made_by import MadeBy, read_made_by
from lookright.errors import ConfigError
from lookright.evaluation.error_kinds import wrong_kind
from lookright.evaluation.intervals import Estimate, RunningMean, mean_of_proportions, wilson
from lookright.evaluation.metrics import MULTI_IMAGE, SINGLE_IMAGE, ChanceLevel, format_order
from lookright.evaluation.paired import Change, mcnemar, paired_difference

Line = Mapping[str, Any]
"""A line of predictions.jsonl."""
Told = Callable[[Line], bool]
"""What is told of a line: that it is right, say."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Answers:
    """What one run did on one group of questions.

    Shares of the questions, in percent: right, answers that another shown image has, and yes or no where something
    else was asked. In the mean of formats they are unweighted means, and the numbers are sums. `attention_ratio` in
    [0, 1] is a mean over the questions where it is known, `even_ratio` what an even look has there.
    """

    accuracy: Estimate
    other_image: Estimate
    wrong_kind: Estimate
    num_wrong: int
    num_other_image: int
    num_wrong_kind: int
    attention_ratio: Estimate | None
    even_ratio: float | None


@dataclass(slots=True, frozen=True, kw_only=True)
class Difference:
    """One run against another on the same questions, of one thing that is told of an answer.

    `gained` questions have it in this run alone, `lost` in the other alone; `points` is the paired difference of the
    shares in percentage points, `p_value` McNemar's exact one (over all questions, also in the mean of formats).
    """

    gained: int
    lost: int
    p_value: float
    points: Estimate


@dataclass(slots=True, frozen=True, kw_only=True)
class Group:
    """Questions of one format, or the mean of the multi-image formats.

    `chance` is the accuracy, in percent, of the answer of a shown image picked at random, None where not all answers
    are known. `accuracy` and `other_image` have one entry a run other than the one compared with.
    """

    num_questions: int
    chance: float | None
    answers: dict[str, Answers]
    accuracy: dict[str, Difference]
    other_image: dict[str, Difference]


@dataclass(slots=True, frozen=True, kw_only=True)
class Comparison:
    """All runs, by name; `groups` by format, `sources` the same for the questions of each source of data."""

    against: str
    runs: list[str]
    groups: dict[str, Group]
    sources: dict[str, dict[str, Group]]
    made_by: dict[str, MadeBy | None]

    def result(self) -> dict[str, Any]:
        """Plain containers, ready for json."""
        return asdict(self)


def compare_runs(runs: Mapping[str, str | Path], against: str | None = None) -> Comparison:
    """Compare folders of infer.py, by name, with the run `against` (None: the first).

    Raises ConfigError for fewer than two runs, a folder without predictions, an unknown name, and runs that did not
    answer the same questions.
    """
    names = list(runs)
    against = names[0] if against is None and names else against
    if len(names) < 2 or against not in runs:
        raise ConfigError(f"against={against}, runs={', '.join(names)}; name two runs or more, and one of them")
    lines = {name: read_predictions(folder) for name, folder in runs.items()}
    for name in names:
        _check_same(lines[against], lines[name], against, name)
    order = list(lines[against])
    aligned = {name: [lines[name][question] for question in order] for name in names}
    sources = sorted({line["source"] for line in aligned[against] if line.get("source")})
    return Comparison(
        against=against,
        runs=names,
        groups=_groups(aligned, against),
        sources={
            source: _groups(_picked(aligned, against, lambda line, own=source: line.get("source") == own), against)
            for source in sources
        },
        made_by={name: read_made_by(Path(folder)) for name, folder in runs.items()},
    )


def read_predictions(folder: str | Path) -> dict[str, Line]:
    """Lines of a run by id. Raises ConfigError where there is none."""
    path = Path(folder) / "predictions.jsonl"
    lines = {line["id"]: line for line in read_lines(path)} if path.is_file() else {}
    if not lines:
        raise ConfigError(f"{folder} holds no predictions.jsonl with an answer; name the output of an infer.py run")
    return lines


def _check_same(one: Mapping[str, Line], other: Mapping[str, Line], one_name: str, other_name: str) -> None:
    apart = sorted(one.keys() ^ other.keys())
    if apart:
        raise ConfigError(
            f"runs {one_name} and {other_name} answered {len(one)} and {len(other)} questions, and {len(apart)} are in "
            f"one alone ({apart[0]} first); run infer.py with the same data for both"
        )
    facts = ("answer", "format", "num_images")
    changed = next((key for key in one if any(one[key][fact] != other[key][fact] for fact in facts)), None)
    if changed is not None:
        raise ConfigError(
            f"runs {one_name} and {other_name} have another ground truth or format for question {changed}; "
            "run infer.py with the same data for both"
        )


def _picked(lines: Mapping[str, Sequence[Line]], against: str, wanted: Told) -> dict[str, list[Line]]:
    """The questions that `wanted` says yes to, in every run."""
    places = [place for place, line in enumerate(lines[against]) if wanted(line)]
    return {name: [found[place] for place in places] for name, found in lines.items()}


def _groups(lines: Mapping[str, Sequence[Line]], against: str) -> dict[str, Group]:
    """Every format, and the mean of those with several images."""
    formats = sorted({format_of(line) for line in lines[against]}, key=format_order)
    wanted: dict[str, Told] = {name: lambda line, own=name: format_of(line) == own for name in formats}
    if any(name != SINGLE_IMAGE for name in formats):
        wanted[MULTI_IMAGE] = lambda line: format_of(line) != SINGLE_IMAGE
    return {name: _group(_picked(lines, against, told), against) for name, told in wanted.items()}


def _group(lines: Mapping[str, Sequence[Line]], against: str) -> Group:
    chance = ChanceLevel()
    for line in lines[against]:
        chance.add(format_of(line), line.get("chance"))
    return Group(
        num_questions=len(lines[against]),
        chance=chance.percent({format_of(line) for line in lines[against]}),
        answers={name: _answers(found) for name, found in lines.items()},
        accuracy=_differences(lines, against, is_right),
        other_image=_differences(lines, against, _is_other_image),
    )


def _answers(lines: Sequence[Line]) -> Answers:
    ratios, even = RunningMean(), RunningMean()
    for line in lines:
        if line.get("attention_ratio") is not None:
            ratios.add(line["attention_ratio"])
        if line.get("even_ratio") is not None:
            even.add(line["even_ratio"])
    return Answers(
        accuracy=_share(lines, is_right),
        other_image=_share(lines, _is_other_image),
        wrong_kind=_share(lines, _is_wrong_kind),
        num_wrong=sum(not is_right(line) for line in lines),
        num_other_image=sum(map(_is_other_image, lines)),
        num_wrong_kind=sum(map(_is_wrong_kind, lines)),
        attention_ratio=ratios.estimate() if ratios.count else None,
        even_ratio=even.mean if even.count else None,
    )


def _share(lines: Sequence[Line], told: Told) -> Estimate:
    """Percent of the lines, an unweighted mean over their formats."""
    by_format: dict[str, list[bool]] = defaultdict(list)
    for line in lines:
        by_format[format_of(line)].append(told(line))
    return _percent(mean_of_proportions([wilson(sum(found), len(found)) for found in by_format.values()]))


def _differences(lines: Mapping[str, Sequence[Line]], against: str, told: Told) -> dict[str, Difference]:
    return {name: difference(lines[against], found, told) for name, found in lines.items() if name != against}


def difference(before: Sequence[Line], after: Sequence[Line], told: Told) -> Difference:
    """What `told` says of two runs' lines of the same questions, in one order."""
    pairs = [(told(one), told(other)) for one, other in zip(before, after, strict=True)]
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    changes = [
        Change(value=int(other) - int(one), stratum=format_of(line), cluster=cluster_of(line))
        for line, (one, other) in zip(before, pairs, strict=True)
    ]
    return Difference(
        gained=gained, lost=lost, p_value=mcnemar(gained, lost), points=_percent(paired_difference(changes))
    )


def _percent(share: Estimate) -> Estimate:
    return Estimate(value=100 * share.value, low=100 * share.low, high=100 * share.high, count=share.count)


def format_of(line: Line) -> str:
    """The line's format; one without is a single image."""
    return line["format"] or SINGLE_IMAGE


def cluster_of(line: Line) -> str:
    """Questions about one picture belong together; one whose picture is not known stands for itself."""
    picture = line.get("source_picture")
    return line["id"] if picture is None else f"{line.get('source')}/{picture}"


def is_right(line: Line) -> bool:
    """Whether the answer was correct."""
    return bool(line["correct"])


def _is_other_image(line: Line) -> bool:
    return line["error_kind"] == "sequence_confusion"


def _is_wrong_kind(line: Line) -> bool:
    return not line["correct"] and wrong_kind(line["prediction"], line["answer"])
