"""The report of a generation run: what was made, kept and dropped, and why."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lookright.reports.charts import chart, histogram, legend
from lookright.reports.markup import Html, page, section, table, tag
from lookright.reports.parts import card_head, definitions, figures, format_title, prompt_text, score_line
from lookright.reports.pictures import prompt_pictures
from lookright.reports.sampling import Spread
from lookright.selection.base import Decision
from lookright.selection.pipeline import SAME_ANSWER
from lookright.types import Prompt

NUM_BINS = 20


@dataclass(slots=True, frozen=True, kw_only=True)
class _Example:
    prompt: Prompt
    answer: str
    decision: Decision


class GenerationReport:
    """Collects a run's answers one by one and writes `report.html`; memory does not grow with their number.

    `folder` is where the prompts' image paths start. `threshold(format, num_images)` gives the attention
    threshold to draw (None: no attention rule). `reasons` is the order of the drop reasons in the table.
    `num_examples` cards are shown, spread over formats and outcomes, the same ones every time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threshold: Callable[[str, int], float] | None = None,
        reasons: Sequence[str] = (),
        num_examples: int = 24,
    ) -> None:
        self.folder, self.threshold, self.reasons = folder, threshold, list(reasons)
        self._counts: Counter[tuple[str, int, str | None]] = Counter()
        self._bins: dict[tuple[str, str], list[int]] = {}
        self._skipped: Counter[str] = Counter()
        self._examples: Spread[_Example] = Spread(num_examples)

    def add(self, prompt: Prompt, answer: str, decision: Decision) -> None:
        """One prompt, the model's answer, and what selection said of it."""
        self._counts[prompt.format, prompt.num_images, decision.reason] += 1
        ratio = decision.scores.get("attention_ratio")
        if ratio is not None and ratio == ratio:
            outcome = "kept" if decision.keep else "right" if decision.reason == SAME_ANSWER else "dropped"
            bins = self._bins.setdefault((prompt.format, outcome), [0] * NUM_BINS)
            bins[min(max(int(ratio * NUM_BINS), 0), NUM_BINS - 1)] += 1
        group = (prompt.format, decision.reason or "")
        self._examples.add(group, prompt.id, _Example(prompt=prompt, answer=answer, decision=decision))

    def add_skipped(self, reason: str, count: int = 1) -> None:
        """Records that never got an answer, under their reason."""
        self._skipped[reason] += count

    def html(self, title: str = "Generated preference pairs", subtitle: str | None = None) -> str:
        """The page."""
        parts = [self._figures(), self._table(), self._histograms(), self._gallery()]
        return page(title, *parts, subtitle=subtitle)

    def write(self, path: Path, title: str = "Generated preference pairs", subtitle: str | None = None) -> None:
        """The page into a file."""
        path.write_text(self.html(title, subtitle), encoding="utf-8")

    def _figures(self) -> Html:
        total, kept = self._counts.total(), self._sum(None)
        wrong = total - self._sum(SAME_ANSWER)
        return figures(
            {
                "prompts answered": f"{total:,}",
                "answered wrongly": f"{wrong:,}",
                "preference pairs": f"{kept:,}",
                "pairs per prompt": f"{100 * kept / total:.1f} %" if total else "-",
                **{f"skipped: {reason.replace('_', ' ')}": f"{count:,}" for reason, count in self._skipped.items()},
            }
        )

    def _sum(self, reason: str | None) -> int:
        return sum(count for (_, _, given), count in self._counts.items() if given == reason)

    def _table(self) -> Html:
        found = {reason for _, _, reason in self._counts if reason is not None}
        reasons = [*self.reasons, *sorted(found - set(self.reasons))]
        head = [
            "Format",
            "Images",
            "Threshold",
            "Answered",
            "Kept",
            *(_spoken(reason).capitalize() for reason in reasons),
        ]
        cells = sorted({(name, count) for name, count, _ in self._counts}, key=lambda cell: (_order(cell[0]), cell))
        rows = [
            self._row(format_title(name), [(name, count)], reasons, count, self._limit(name, count))
            for name, count in cells
        ]
        rows.append(self._row(tag("span", "All", class_="total"), cells, reasons, "", ""))
        lead = "Every answered prompt is in exactly one column: kept, or dropped for the first reason that applied."
        return section("Counts", table(head, rows), lead=lead)

    def _row(
        self, label: str, cells: Sequence[tuple[str, int]], reasons: Sequence[str], num_images: int | str, limit: str
    ) -> list[str | int]:
        counts = [sum(self._counts[(*cell, reason)] for cell in cells) for reason in (None, *reasons)]
        return [label, num_images, limit, *(f"{count:,}" for count in (sum(counts), *counts))]

    def _limit(self, format_name: str, num_images: int) -> str:
        return "-" if self.threshold is None else f"{self.threshold(format_name, num_images):g}"

    def _histograms(self) -> Html | None:
        names = sorted({name for name, _ in self._bins}, key=_order)
        if not names:
            return None
        charts = [chart(format_title(name), histogram(self._series(name), self._lines(name))) for name in names]
        keys = {"kept": "kept as rejected answer", "dropped": "wrong but dropped", "right": "same as the ground truth"}
        return section(
            "Attention ratio on the target",
            legend(keys),
            tag("div", *charts, class_="charts"),
            lead="Share of the attention on the source images that the target gets while the model answers; an even "
            "look at n equal images has 1/n. Broken lines are the thresholds, by number of images.",
        )

    def _series(self, format_name: str) -> Mapping[str, list[int]]:
        empty = [0] * NUM_BINS
        return {outcome: self._bins.get((format_name, outcome), empty) for outcome in ("kept", "dropped", "right")}

    def _lines(self, format_name: str) -> dict[float, str]:
        if self.threshold is None:
            return {}
        lines: dict[float, list[str]] = {}
        for num_images in sorted({count for name, count, _ in self._counts if name == format_name}):
            lines.setdefault(self.threshold(format_name, num_images), []).append(str(num_images))
        return {limit: ", ".join(counts) for limit, counts in lines.items()}

    def _gallery(self) -> Html:
        examples = sorted(self._examples.take(), key=lambda one: _order(one.prompt.format))
        return section(
            "Examples",
            legend({"target": "target image", "companion": "other source images"}),
            tag("div", *(self._card(one) for one in examples), class_="cards"),
            lead=f"{len(examples)} of {self._counts.total():,}, spread over formats and outcomes.",
        )

    def _card(self, example: _Example) -> Html:
        decision, prompt = example.decision, example.prompt
        verdict = ("kept", "good") if decision.keep else (f"dropped: {_spoken(decision.reason or '')}", None)
        entries = [("Ground truth", prompt.answer, "good"), ("Model", example.answer, "bad")]
        if decision.reason == SAME_ANSWER:
            entries[1] = ("Model", example.answer, "good")
        elif decision.keep:
            entries = [("Chosen", prompt.answer, "good"), ("Rejected", example.answer, "bad")]
        return tag(
            "article",
            card_head(prompt, [verdict]),
            prompt_pictures(prompt, self.folder),
            prompt_text(prompt),
            definitions(entries),
            score_line(decision.scores),
            class_="card",
        )


def _spoken(reason: str) -> str:
    return reason.replace("_", " ")


def _order(name: str) -> int:
    known = ["sequence", "grid_collage", "pic_in_pic"]
    return known.index(name) if name in known else len(known)
