"""Whether the confidence is worth its name: calibration error, Brier score, and how well it orders right and wrong."""

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookright.common.formats import MULTI_IMAGE, format_order
from lookright.evaluation.groups import Line, format_of, groups_of
from lookright.evaluation.metric import Breakdown, Metric

Floats = NDArray[np.float64]


@dataclass(slots=True, frozen=True, kw_only=True)
class Bin:
    """Questions of neighbouring confidence: mean confidence and share of right answers, in [0, 1]."""

    low: float
    high: float
    confidence: float
    accuracy: float
    num_questions: int


def equal_mass_bins(confidences: Sequence[float], right: Sequence[bool], num_bins: int = 10) -> list[Bin]:
    """Return bins of equally many questions, from the least confidence on.

    Questions of equal confidence share a bin, that of the middle of their ranks, so bins may differ, and be fewer.
    """
    known, order = _sorted(confidences, right)
    values, starts, counts = np.unique(known, return_index=True, return_counts=True)
    middles = starts + counts / 2
    places = np.repeat(np.minimum((middles * num_bins / len(known)).astype(int), num_bins - 1), counts)
    return [
        Bin(
            low=float(known[inside].min()),
            high=float(known[inside].max()),
            confidence=float(known[inside].mean()),
            accuracy=float(order[inside].mean()),
            num_questions=int(inside.sum()),
        )
        for inside in (places == place for place in np.unique(places))
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Return the mean over questions of their bin's |accuracy - confidence|, in [0, 1].

    Source: Naeini, Cooper and Hauskrecht, AAAI 2015, with bins of equal mass (Nguyen and O'Connor, EMNLP 2015).
    """
    count = sum(one.num_questions for one in bins)
    return sum(one.num_questions * abs(one.accuracy - one.confidence) for one in bins) / count


def brier_score(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Return the mean squared distance of confidence and outcome, in [0, 1]. Source: G. Brier, 1950."""
    return float(np.mean((np.asarray(confidences) - np.asarray(right, dtype=np.float64)) ** 2))


def auroc(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return the chance that a right answer is surer than a wrong one, ties half; None where there is but one kind.

    By mean ranks, the statistic of Mann and Whitney, 1947.
    """
    known, order = _sorted(confidences, right)
    num_right = int(order.sum())
    num_wrong = len(order) - num_right
    if not num_right or not num_wrong:
        return None
    _, starts, counts = np.unique(known, return_index=True, return_counts=True)
    ranks = np.repeat(starts + (counts + 1) / 2, counts)
    return float((ranks[order == 1].sum() - num_right * (num_right + 1) / 2) / (num_right * num_wrong))


def risk_coverage(confidences: Sequence[float], right: Sequence[bool]) -> Floats:
    """Return the share of wrong answers among the k surest, k = 1 ... n: float[n], ties in the mean of their orders.

    Its mean is the area under the curve of Geifman and El-Yaniv, NeurIPS 2017.
    """
    known, order = _sorted(confidences, right)
    values, inverse = np.unique(known, return_inverse=True)
    means = np.bincount(inverse, 1 - order) / np.bincount(inverse)
    return np.asarray(np.cumsum(means[inverse][::-1]) / np.arange(1, len(known) + 1))


def _sorted(confidences: Sequence[float], right: Sequence[bool]) -> tuple[Floats, Floats]:
    known, order = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    places = np.argsort(known, kind="stable")
    return known[places], order[places]


class Calibration(Metric):
    """`calibration`: per format and `multi_image`, all those questions, how confidence and right answers agree.

    `ece` with its `bins`, `brier`, `auroc`, and `aurc`, the area under the risk-coverage curve. Holds 9 bytes a
    question and group.
    """

    title = "Calibration of the confidence"
    lead = (
        "Confidence is the probability of the first answer token in plain decoding. ECE: the mean distance of accuracy "
        "and confidence, in ten bins of equally many questions. Brier: the mean squared distance of confidence and "
        "outcome. AUROC: how often a right answer is surer than a wrong one, 0.5 by chance. AURC: the mean share of "
        "wrong answers over all shares of the surest that are kept. On the line, confidence is accuracy."
    )

    def __init__(self, num_bins: int = 10) -> None:
        self.num_bins = num_bins
        self._confidences: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self._right: dict[str, array[int]] = defaultdict(lambda: array("b"))

    def add(self, line: Line) -> None:
        """See `Metric.add`; a line without a confidence is left out."""
        if line.get("confidence") is None:
            return
        for group in groups_of(format_of(line)):
            self._confidences[group].append(line["confidence"])
            self._right[group].append(bool(line["correct"]))

    def result(self) -> dict[str, Any]:
        """See `Metric.result`."""
        return {"calibration": {name: self._group(name) for name in sorted(self._confidences, key=format_order)}}

    def breakdowns(self, result: Mapping[str, Any]) -> list[Breakdown]:
        """Return the numbers of each group with the curve of all, and the bins behind that."""
        found = result.get("calibration", {})
        if not found:
            return []
        keys = ("ece", "brier", "auroc", "aurc")
        rows = {name: [group["num_questions"], *(_shown(group[key]) for key in keys)] for name, group in found.items()}
        name = MULTI_IMAGE if MULTI_IMAGE in found else next(iter(found))
        bins = found[name]["bins"]
        numbers = Breakdown(
            title=self.title,
            lead=self.lead,
            head=["Questions", "ECE", "Brier", "AUROC", "AURC"],
            rows=rows,
            curve=[(one["confidence"], one["accuracy"]) for one in bins],
            axes=("confidence", "Accuracy by confidence"),
        )
        table = {
            f"{one['low']:.2f} to {one['high']:.2f}": [
                one["num_questions"], _shown(one["confidence"]), _shown(one["accuracy"]),
            ]
            for one in bins
        }  # fmt: skip
        head = ["Questions", "Mean confidence", "Accuracy"]
        return [numbers, Breakdown(title="Bins of the calibration", head=head, rows=table)]

    def _group(self, name: str) -> dict[str, Any]:
        confidences, right = self._confidences[name], [bool(value) for value in self._right[name]]
        bins = equal_mass_bins(confidences, right, self.num_bins)
        return {
            "ece": expected_calibration_error(bins),
            "brier": brier_score(confidences, right),
            "auroc": auroc(confidences, right),
            "aurc": float(risk_coverage(confidences, right).mean()),
            "num_questions": len(right),
            "bins": [asdict(one) for one in bins],
        }


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
