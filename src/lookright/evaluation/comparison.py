"""Several runs of infer.py on the same questions: what each answers, and how it differs from one of them."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lookright.common.formats import MULTI_IMAGE, SINGLE_IMAGE, format_order
from lookright.config.made_by import MadeBy, read_made_by
from lookright.errors import ConfigError
from lookright.evaluation.groups import Line, format_of
from lookright.evaluation.intervals import Estimate, RunningMean, mean_of_proportions, wilson
from lookright.evaluation.metric import Measure, Metric, Metrics
from lookright.evaluation.paired import (
    Bootstrap,
    Change,
    bootstrap_difference,
    design_effect,
    mcnemar,
    paired_difference,
    questions_for_a_point,
)
from lookright.evaluation.predictions import metrics_of_run, read_predictions
from lookright.evaluation.rules import DEFAULT_RULE


@dataclass(slots=True, frozen=True, kw_only=True)
class Answers:
    """What one run did on one group of questions, by the key of each measure.

    Shares are in percent of the questions where they are told; in the mean of formats they are unweighted means. Means
    are over the questions where they are known. None is what no question tells. `counts` has the questions that a share
    says yes to, `besides` what a measure is held against, such as the attention ratio of an even look.
    """

    num_wrong: int
    estimates: dict[str, Estimate | None]
    counts: dict[str, int]
    besides: dict[str, float | None]

    def _estimate(self, key: str) -> Estimate:
        found = self.estimates[key]
        assert found is not None, f"every question tells {key}"
        return found

    @property
    def accuracy(self) -> Estimate:
        """Right answers, percent."""
        return self._estimate("accuracy")

    @property
    def other_image(self) -> Estimate:
        """Answers that another shown image has, percent."""
        return self._estimate("other_image")

    @property
    def wrong_kind(self) -> Estimate:
        """Yes or no where something else was asked, percent."""
        return self._estimate("wrong_kind")

    @property
    def num_other_image(self) -> int:
        """Answers that another shown image has."""
        return self.counts["other_image"]

    @property
    def num_wrong_kind(self) -> int:
        """Yes or no where something else was asked."""
        return self.counts["wrong_kind"]

    @property
    def attention_ratio(self) -> Estimate | None:
        """Mean attention ratio, in [0, 1]."""
        return self.estimates["attention_ratio"]

    @property
    def even_ratio(self) -> float | None:
        """What an even look would have."""
        return self.besides["even_ratio"]

    def result(self) -> dict[str, Any]:
        """Return plain containers, ready for json."""
        estimates = {key: None if found is None else asdict(found) for key, found in self.estimates.items()}
        counts = {f"num_{key}": count for key, count in self.counts.items()}
        return estimates | {"num_wrong": self.num_wrong} | counts | self.besides


@dataclass(slots=True, frozen=True, kw_only=True)
class Difference:
    """One run against another on the same questions, of one thing that is told of an answer.

    `gained` questions have it in this run alone, `lost` in the other alone; `points` is the paired difference of the
    shares in percentage points, `p_value` McNemar's exact one (over all questions, also in the mean of formats).
    `bootstrap` has the same points with the interval of a bootstrap over pictures, where one was asked for;
    `questions_for_a_point` says how many such questions it takes to see a difference of one point, None where all are
    answered alike.
    """

    gained: int
    lost: int
    p_value: float
    points: Estimate
    bootstrap: Estimate | None = None
    questions_for_a_point: int | None = None


@dataclass(slots=True, frozen=True, kw_only=True)
class Group:
    """Questions of one format, or the mean of the multi-image formats.

    `differences` has, for each share that both runs tell, one entry a run other than the one compared with.
    """

    num_questions: int
    answers: dict[str, Answers]
    differences: dict[str, dict[str, Difference]]
    besides: dict[str, float | None]
    """Of the run compared with."""

    @property
    def chance(self) -> float | None:
        """Accuracy, in percent, of the answer of a shown image picked at random; None where that is not known."""
        return self.besides.get("chance")

    @property
    def accuracy(self) -> dict[str, Difference]:
        """Differences in accuracy."""
        return self.differences["accuracy"]

    @property
    def other_image(self) -> dict[str, Difference]:
        """Differences in answers that another shown image has."""
        return self.differences["other_image"]

    def result(self) -> dict[str, Any]:
        """Return plain containers, ready for json."""
        differences = {
            key: {run: asdict(difference) for run, difference in found.items()}
            for key, found in self.differences.items()
        }
        answers = {run: found.result() for run, found in self.answers.items()}
        return {"num_questions": self.num_questions, **self.besides, "answers": answers, **differences}


@dataclass(slots=True, frozen=True, kw_only=True)
class Comparison:
    """All runs, by name; `groups` by format, `sources` the same for the questions of each source of data.

    `metrics` are those of all runs together, by name.
    """

    against: str
    runs: list[str]
    groups: dict[str, Group]
    sources: dict[str, dict[str, Group]]
    made_by: dict[str, MadeBy | None]
    metrics: Metrics = field(default_factory=Metrics)

    def result(self) -> dict[str, Any]:
        """Return plain containers, ready for json."""
        return {
            "against": self.against,
            "runs": self.runs,
            "groups": {name: group.result() for name, group in self.groups.items()},
            "sources": {
                source: {name: group.result() for name, group in groups.items()}
                for source, groups in self.sources.items()
            },
            "made_by": {name: None if record is None else asdict(record) for name, record in self.made_by.items()},
        }


def compare_runs(
    runs: Mapping[str, str | Path],
    against: str | None = None,
    bootstrap: Bootstrap | None = None,
    trusted: Collection[str] = (),
) -> Comparison:
    """Compare folders of infer.py, by name, with the run `against` (None: the first).

    Differences have a bootstrap interval too where `bootstrap` says how. `trusted` are classes, modules or packages of
    metrics that are not ours.

    Raises ConfigError for fewer than two runs, a folder without predictions, an unknown name, and runs that did not
    answer the same questions.
    """
    names = list(runs)
    against = names[0] if against is None and names else against
    if len(names) < 2 or against is None or against not in runs:
        raise ConfigError(f"against={against}, runs={', '.join(names)}; name two runs or more, and one of them")
    lines = {name: read_predictions(folder) for name, folder in runs.items()}
    for name in names:
        _check_same(lines[against], lines[name], against, name)
    order = list(lines[against])
    aligned = {name: [lines[name][question] for question in order] for name in names}
    sources = sorted({line["source"] for line in aligned[against] if line.get("source")})
    metrics = _metrics([runs[name] for name in (against, *names)], trusted)
    compared = _Compared(metrics=metrics, against=against, bootstrap=bootstrap)
    return Comparison(
        against=against,
        runs=names,
        groups=compared.groups(aligned),
        sources={
            source: compared.groups(_picked(aligned, against, partial(_has_source, source))) for source in sources
        },
        made_by={name: read_made_by(Path(folder)) for name, folder in runs.items()},
        metrics=metrics,
    )


def _metrics(folders: Sequence[str | Path], trusted: Collection[str]) -> Metrics:
    """The metrics of all runs; of two with one name the first run's, which is the one compared with."""
    parts: dict[str, Metric] = {}
    for folder in folders:
        parts = {**metrics_of_run(folder, trusted).parts, **parts}
    return Metrics(parts=parts)


def _check_same(one: Mapping[str, Line], other: Mapping[str, Line], one_name: str, other_name: str) -> None:
    apart = sorted(one.keys() ^ other.keys())
    if apart:
        raise ConfigError(
            f"runs {one_name} and {other_name} answered {len(one)} and {len(other)} questions, and {len(apart)} are in "
            f"one alone ({apart[0]} first); run infer.py with the same data for both"
        )
    facts = ("ground_truth", "format", "num_images")
    changed = next((key for key in one if any(one[key][fact] != other[key][fact] for fact in facts)), None)
    if changed is not None:
        raise ConfigError(
            f"runs {one_name} and {other_name} have another ground truth or format for question {changed}; "
            "run infer.py with the same data for both"
        )
    rules = [{key: line.get("rule", DEFAULT_RULE) for key, line in lines.items()} for lines in (one, other)]
    judged = next((key for key in one if rules[0][key] != rules[1][key]), None)
    if judged is not None:
        raise ConfigError(
            f"runs {one_name} and {other_name} matched question {judged} by the rules {rules[0][judged]} and "
            f"{rules[1][judged]}; run infer.py with the same metrics.accuracy for both"
        )


def _picked(lines: Mapping[str, Sequence[Line]], against: str, wanted: Callable[[Line], bool]) -> dict[str, list[Line]]:
    """The questions that `wanted` says yes to, in every run."""
    places = [place for place, line in enumerate(lines[against]) if wanted(line)]
    return {name: [found[place] for place in places] for name, found in lines.items()}


@dataclass(slots=True, frozen=True, kw_only=True)
class _Compared:
    """Runs on the same questions, line by line, held against one of them in all measures."""

    metrics: Metrics
    against: str
    bootstrap: Bootstrap | None = None

    def groups(self, lines: Mapping[str, Sequence[Line]]) -> dict[str, Group]:
        """Every format, and the mean of those with several images."""
        against = self.against
        formats = sorted({format_of(line) for line in lines[against]}, key=format_order)
        found = {name: _picked(lines, against, partial(_has_format, name)) for name in formats}
        if any(name != SINGLE_IMAGE for name in formats):
            found[MULTI_IMAGE] = _picked(lines, against, lambda line: format_of(line) != SINGLE_IMAGE)
        return {name: self._group(picked) for name, picked in found.items()}

    def _group(self, lines: Mapping[str, Sequence[Line]]) -> Group:
        shares = [measure for measure in self.metrics.measures if measure.share]
        return Group(
            num_questions=len(lines[self.against]),
            answers={name: self._answers(found) for name, found in lines.items()},
            differences={measure.key: self._differences(lines, measure) for measure in shares},
            besides={beside.key: beside.of(lines[self.against]) for beside in self.metrics.besides},
        )

    def _answers(self, lines: Sequence[Line]) -> Answers:
        told = {measure.key: [measure.told(line) for line in lines] for measure in self.metrics.measures}
        return Answers(
            num_wrong=sum(not line["correct"] for line in lines),
            estimates={
                measure.key: (_share if measure.share else _mean)(lines, told[measure.key])
                for measure in self.metrics.measures
            },
            counts={
                measure.key: sum(bool(value) for value in told[measure.key])
                for measure in self.metrics.measures
                if measure.share
            },
            besides={beside.key: beside.of(lines) for beside in self.metrics.besides},
        )

    def _differences(self, lines: Mapping[str, Sequence[Line]], measure: Measure) -> dict[str, Difference]:
        """Of the questions that both runs tell; a run that tells none is left out."""
        found = {
            name: _if_told(lines[self.against], own, measure, self.bootstrap)
            for name, own in lines.items()
            if name != self.against
        }
        return {name: one for name, one in found.items() if one is not None}


def _share(lines: Sequence[Line], told: Sequence[bool | float | None]) -> Estimate | None:
    """Percent of the lines that tell, an unweighted mean over their formats."""
    by_format: dict[str, list[bool]] = defaultdict(list)
    for line, value in zip(lines, told, strict=True):
        if value is not None:
            by_format[format_of(line)].append(bool(value))
    if not by_format:
        return None
    return _percent(mean_of_proportions([wilson(sum(found), len(found)) for found in by_format.values()]))


def _mean(lines: Sequence[Line], told: Sequence[bool | float | None]) -> Estimate | None:
    del lines
    mean = RunningMean()
    for value in told:
        if value is not None:
            mean.add(float(value))
    return mean.estimate() if mean.count else None


def _if_told(
    before: Sequence[Line], after: Sequence[Line], measure: Measure, bootstrap: Bootstrap | None
) -> Difference | None:
    told = [
        (one, other)
        for one, other in zip(before, after, strict=True)
        if measure.told(one) is not None and measure.told(other) is not None
    ]
    if not told:
        return None
    return difference(
        [one for one, _ in told], [other for _, other in told], lambda line: bool(measure.told(line)), bootstrap
    )


def difference(
    before: Sequence[Line],
    after: Sequence[Line],
    told: Callable[[Line], bool],
    bootstrap: Bootstrap | None = None,
) -> Difference:
    """Return what `told` says of two runs' lines of the same questions, in one order."""
    pairs = [(told(one), told(other)) for one, other in zip(before, after, strict=True)]
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    changes = [
        Change(value=int(other) - int(one), stratum=format_of(line), cluster=cluster_of(line))
        for line, (one, other) in zip(before, pairs, strict=True)
    ]
    return Difference(
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost),
        points=_percent(paired_difference(changes)),
        bootstrap=None if bootstrap is None else _percent(bootstrap_difference(changes, bootstrap)),
        questions_for_a_point=questions_for_a_point((gained + lost) / len(pairs), design_effect(changes))
        if gained + lost
        else None,
    )


def _percent(share: Estimate) -> Estimate:
    return Estimate(value=100 * share.value, low=100 * share.low, high=100 * share.high, count=share.count)


def cluster_of(line: Line) -> str:
    """Return what questions about one picture share; one whose picture is not known stands for itself."""
    picture = line.get("source_picture")
    return line["id"] if picture is None else f"{line.get('source')}/{picture}"


def _has_source(source: str, line: Line) -> bool:
    return bool(line.get("source") == source)


def _has_format(name: str, line: Line) -> bool:
    return format_of(line) == name
