"""Which setting of adaptive decoding is taken: chosen on half of the questions, and judged by the others."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from lookright.answering.adaptive_grid import PUBLISHED, Arm, Setting, told_of_setting
from lookright.common.hashing import stable_hash
from lookright.errors import ConfigError
from lookright.evaluation.comparison import Difference, cluster_of, difference
from lookright.evaluation.groups import Line, format_of, is_right

MOST_PARTS = 10**6
"""The largest denominator of a score."""
Half = Sequence[int]
"""Places of its questions."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Trial:
    """A setting (None: greedy) on both halves: accuracy in percent, the mean over formats, and against greedy."""

    setting: Setting | None
    choosing: float
    confirming: float
    against_greedy: Difference
    """On the half that chooses: the best of many is better there than it is."""
    confirmed: Difference

    def result(self) -> dict[str, Any]:
        """Plain containers, ready for json."""
        return asdict(self) | {"setting": None if self.setting is None else self.setting.options()}


@dataclass(slots=True, frozen=True, kw_only=True)
class Choice:
    """All trials in the order of the grid, greedy first; the best scaling one; and whether it is to be taken.

    `helps`: it was better than greedy on the half that chose it, and so on the other half with a McNemar p-value below
    the `significance`.
    """

    trials: list[Trial]
    best: Trial
    helps: bool
    num_questions: tuple[int, int]

    @property
    def recommended(self) -> Setting | None:
        """The best setting where it helps, else None: greedy."""
        return self.best.setting if self.helps else None

    @property
    def greedy(self) -> Trial:
        """Plain decoding."""
        return self.trials[0]

    @property
    def published(self) -> Trial:
        """The published values, in the scope of the trials."""
        scope = {"scope": PUBLISHED["scope"]}
        return next(one for one in self.trials if one.setting and one.setting.options() | scope == PUBLISHED)


def choose(
    lines: Sequence[Line], settings: Sequence[Setting], arms: Sequence[Arm], significance: float, seed: int = 0
) -> Choice:
    """Choose among greedy and the `settings` from lines of answers.jsonl, whose `right` is plain, then one an arm.

    So are `scores`, in [0, 1], of a line whose rule gives parts: accuracy is their mean, while halves are held against
    greedy by what is right. Settings of one scope are to be compared: being told the target is more than a question
    says. `seed` is that of the halves. The most accurate setting on one half is chosen, at equal accuracy the first of
    the grid, greedy before all. Raises ConfigError for questions that cannot be halved.
    """
    halves = split_in_halves(lines, seed)
    confidences, right = [line["confidence"] for line in lines], [line["right"] for line in lines]
    scores = [line.get("scores", line["right"]) for line in lines]
    plain = [row[0] for row in right]
    trials = [_trial(None, lines, plain, plain, [row[0] for row in scores], halves)]
    for setting in settings:
        own, own_scores = (told_of_setting(setting, arms, confidences, told) for told in (right, scores))
        trials.append(_trial(setting, lines, plain, own, own_scores, halves))
    # max takes the first of equal ones
    best = max(trials[1:], key=lambda one: one.choosing)
    found = best.confirmed
    helps = best.choosing > trials[0].choosing and found.gained > found.lost and found.p_value < significance
    return Choice(trials=trials, best=best, helps=helps, num_questions=(len(halves[0]), len(halves[1])))


def split_in_halves(lines: Sequence[Line], seed: int = 0) -> tuple[Half, Half]:
    """Places of the questions of either half, whatever their order; those about one picture are in one half.

    Raises ConfigError where all are about one picture.
    """
    clusters: dict[str, list[int]] = defaultdict(list)
    for place, line in enumerate(lines):
        clusters[cluster_of(line)].append(place)
    if len(clusters) < 2:
        raise ConfigError(
            f"data.path holds {len(lines)} questions about {len(clusters)} pictures; half of them choose and half "
            "confirm: set data.path to questions about two pictures or more"
        )
    halves: tuple[list[int], list[int]] = ([], [])
    for name in sorted(clusters, key=lambda name: stable_hash(f"{seed}/{name}")):
        min(halves, key=len).extend(clusters[name])
    return halves


def _trial(
    setting: Setting | None,
    lines: Sequence[Line],
    plain: Sequence[bool],
    right: Sequence[bool],
    scores: Sequence[float],
    halves: tuple[Half, Half],
) -> Trial:
    chosen_by, confirmed_by = (_against(lines, plain, right, half) for half in halves)
    return Trial(
        setting=setting,
        choosing=_accuracy(lines, scores, halves[0]),
        confirming=_accuracy(lines, scores, halves[1]),
        against_greedy=chosen_by,
        confirmed=confirmed_by,
    )


def _against(lines: Sequence[Line], plain: Sequence[bool], right: Sequence[bool], half: Half) -> Difference:
    before, after = ([{**lines[place], "correct": side[place]} for place in half] for side in (plain, right))
    return difference(before, after, is_right)


def _accuracy(lines: Sequence[Line], scores: Sequence[float], half: Half) -> float:
    """Percent: the unweighted mean over formats, from fractions, so that equal sums are equal."""
    asked = Counter(format_of(lines[place]) for place in half)
    sums = dict.fromkeys(asked, Fraction())
    for place in half:
        # a score of VQA is a whole number of thirds over that of its annotators
        sums[format_of(lines[place])] += Fraction(scores[place]).limit_denominator(MOST_PARTS)
    return float(100 * sum(sums[name] / count for name, count in asked.items()) / len(asked))


def table(choice: Choice, num_rows: int = 10) -> list[str]:
    """Markdown: greedy, the published values, and the best settings on the half that chooses.

    Of settings with equal numbers the first of the grid is shown.
    """
    ranked = sorted(choice.trials[1:], key=lambda one: -one.choosing)
    different = {(one.choosing, one.confirming, one.against_greedy, one.confirmed): one for one in reversed(ranked)}
    best = [one for one in ranked if one in different.values()][:num_rows]
    shown = dict.fromkeys([choice.greedy, choice.published, *best])
    lines = [
        "| decoding | accuracy, choosing half | against greedy | p | accuracy, other half | against greedy | p |",
        "|---|---|---|---|---|---|---|",
    ]
    return [*lines, *(_row(f"`{setting_text(one.setting)}`", one) for one in shown)]


def _row(name: str, trial: Trial) -> str:
    cells = [name]
    for accuracy, found in ((trial.choosing, trial.against_greedy), (trial.confirming, trial.confirmed)):
        cells.append(f"{accuracy:.1f}")
        if trial.setting is None:
            cells += ["", ""]
        else:
            cells += [f"+{found.gained} -{found.lost}", f"{found.p_value:.2g}"]
    return f"| {' | '.join(cells)} |"


def setting_text(setting: Setting | None) -> str:
    """Overrides of infer.py; the published values are those of the group, and left out."""
    if setting is None:
        return "decode=greedy"
    values = {key: value for key, value in setting.options().items() if PUBLISHED[key] != value}
    return " ".join(["decode=adaptive", *(f"decode.{key}={_value(value)}" for key, value in values.items())])


def _value(value: Any) -> str:
    if value is None:
        return "null"
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
