"""Where the model looked while it answered, and how sure it was."""

from collections.abc import Mapping, Sequence
from typing import Any

from lookright.common.formats import MULTI_IMAGE
from lookright.evaluation.groups import Line, Means, format_of
from lookright.evaluation.intervals import RunningMean
from lookright.evaluation.metric import Beside, Column, Measure, Metric


def mean_even_ratio(lines: Sequence[Line]) -> float | None:
    """Return the attention ratio that an even look has on the questions of these lines; None where it is unknown."""
    mean = RunningMean()
    for line in lines:
        if line.get("even_ratio") is not None:
            mean.add(line["even_ratio"])
    return mean.mean if mean.count else None


class AttentionRatio(Metric):
    """Mean share of the attention on source images that falls on the target, in [0, 1].

    `attention_ratio`: per format, and `multi_image`, the mean over all multi-image questions; `even` beside it is the
    mean of what an even look would have. It means the same whatever the decoder.
    """

    title = "Attention ratio"
    lead = (
        "Share of the attention on source images that falls on the target while the model answers, with 95 % "
        "intervals. A model that looks at all of them alike has the value of an even look."
    )
    columns = (
        Column(key="attention_ratio", title="Attention ratio", digits=2, chart="Attention ratio", unit="", highest=1.0),
        Column(key="attention_ratio", field="even", title="Even look", digits=2),
    )
    measures = (
        Measure(
            key="attention_ratio",
            title="Attention ratio",
            short="attention ratio",
            told=lambda line: line.get("attention_ratio"),
            share=False,
            several=True,
            digits=2,
            highest=1.0,
        ),
    )
    besides = (Beside(measure="attention_ratio", key="even_ratio", title="Even look", of=mean_even_ratio),)

    def __init__(self) -> None:
        self._ratios, self._even = Means(), Means()

    def add(self, line: Line) -> None:
        """See `Metric.add`."""
        self._ratios.add(format_of(line), line.get("attention_ratio"))
        self._even.add(format_of(line), line.get("even_ratio"))

    def result(self) -> dict[str, Any]:
        """See `Metric.result`."""
        ratios = self._ratios.result()
        return {"attention_ratio": {name: found | {"even": self._even.mean(name)} for name, found in ratios.items()}}

    def figures(self, result: Mapping[str, Any]) -> dict[str, str]:
        """See `Metric.figures`."""
        found = result["attention_ratio"].get(MULTI_IMAGE)
        if found is None:
            return {}
        even = "" if found.get("even") is None else f" (even {found['even']:.2f})"
        return {"attention on the target": f"{found['value']:.2f}{even}"}


class _OfLine(Metric):
    """Mean of a number that every line has, whatever the metrics."""

    name: str
    heading: str

    def __init__(self) -> None:
        self._means = Means()
        self.columns = (Column(key=self.name, title=self.heading, digits=2),)

    def add(self, line: Line) -> None:
        """See `Metric.add`."""
        self._means.add(format_of(line), line.get(self.name))

    def result(self) -> dict[str, Any]:
        """See `Metric.result`."""
        return {self.name: self._means.result()}


class ScaledRatio(_OfLine):
    """Mean ratio of the last prompt row as adaptive decoding scaled it; empty for other decoders."""

    name = "scaled_ratio"
    heading = "Scaled ratio"


class Confidence(_OfLine):
    """Mean probability of the first token in plain decoding, over right and wrong answers."""

    name = "confidence"
    heading = "Confidence"
