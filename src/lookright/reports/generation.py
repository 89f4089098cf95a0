"""The report of a generation run: what was made, kept and dropped, and why."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lookright.common.formats import format_order, format_title
from lookright.config.made_by import MadeBy
from lookright.records.pictures import Pictures
from lookright.reports.cells import Cell, Table, made_by_entries, score_line
from lookright.reports.charts import Drawing, histogram
from lookright.reports.examples import Card, prompt_card
from lookright.reports.page import render, write_page
from lookright.reports.sampling import StratifiedSample
from lookright.selection.base import Decision
from lookright.selection.pipeline import SAME_ANSWER
from lookright.types import Prompt

NUM_BINS = 20


@dataclass(slots=True, frozen=True, kw_only=True)
class _Example:
    prompt: Prompt
    answer: str
    decision: Decision
    number: int


class GenerationReport:
    """Collects a run's answers one by one and writes `report.html`; memory does not grow with their number.

    `pictures` opens what the prompts name. `threshold(format, num_sources)` gives the attention
    threshold to draw (None: no attention rule). `reasons` is the order of the drop reasons in the table.
    `num_examples` cards are shown, spread over formats and outcomes, the same ones every time.
    """

    def __init__(
        self,
        pictures: Pictures,
        *,
        threshold: Callable[[str, int], float] | None = None,
        reasons: Sequence[str] = (),
        num_examples: int = 24,
    ) -> None:
        self.pictures, self.threshold, self.reasons = pictures, threshold, list(reasons)
        self._counts: Counter[tuple[str, int, str | None]] = Counter()
        self._bins: dict[tuple[str, str], list[int]] = {}
        self._skipped: Counter[str] = Counter()
        self._num_prompts = self._num_with_pair = 0
        self._last_with_pair: str | None = None
        self._examples: StratifiedSample[_Example] = StratifiedSample(num_examples)

    def add(self, prompt: Prompt, answer: str, decision: Decision, number: int = 0) -> None:
        """One prompt, answer `number` (0-based) of the model to it, and what selection said of that.

        All answers to a prompt come one after the other.
        """
        self._num_prompts += number == 0
        if decision.keep and prompt.id != self._last_with_pair:
            self._num_with_pair += 1
            self._last_with_pair = prompt.id
        self._counts[prompt.format, prompt.num_sources, decision.reason] += 1
        ratio = decision.scores.get("attention_ratio")
        if ratio is not None and ratio == ratio:
            outcome = "kept" if decision.keep else "right" if decision.reason == SAME_ANSWER else "dropped"
            bins = self._bins.setdefault((prompt.format, outcome), [0] * NUM_BINS)
            bins[min(max(int(ratio * NUM_BINS), 0), NUM_BINS - 1)] += 1
        group = (prompt.format, decision.reason or "")
        example = _Example(prompt=prompt, answer=answer, decision=decision, number=number)
        self._examples.add(group, f"{prompt.id}#{number}" if number else prompt.id, example)

    def add_skipped(self, reason: str, count: int = 1) -> None:
        """Records that never got an answer, under their reason."""
        self._skipped[reason] += count

    def html(self, made_by: MadeBy | None = None) -> str:
        """The page."""
        examples = sorted(self._examples.take(), key=lambda one: format_order(one.prompt.format))
        return render(
            "generation",
            figures=self._figures(),
            counts=self._table(),
            histograms=self._histograms(),
            cards=[self._card(one) for one in examples],
            num_answers=self._counts.total(),
            made_by=made_by_entries(made_by),
        )

    def write(self, path: Path, made_by: MadeBy | None = None) -> None:
        """The page into a file."""
        write_page(path, self.html(made_by))

    def _figures(self) -> dict[str, str]:
        total, prompts = self._counts.total(), self._num_prompts
        return {
            "prompts answered": f"{prompts:,}",
            **({"answers": f"{total:,}"} if self._several else {}),
            ("wrong answers" if self._several else "answered wrongly"): f"{total - self._sum(SAME_ANSWER):,}",
            "preference pairs": f"{self._sum(None):,}",
            "prompts with a pair": f"{100 * self._num_with_pair / prompts:.1f} %" if prompts else "-",
            **{f"skipped: {_spoken(reason)}": f"{count:,}" for reason, count in self._skipped.items()},
        }

    @property
    def _several(self) -> bool:
        """Whether some prompt has several answers."""
        return self._counts.total() > self._num_prompts

    def _sum(self, reason: str | None) -> int:
        return sum(count for (_, _, given), count in self._counts.items() if given == reason)

    def _table(self) -> Table:
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
        cells = sorted(
            {(name, count) for name, count, _ in self._counts}, key=lambda cell: (format_order(cell[0]), cell)
        )
        rows = [
            self._row(format_title(name), [(name, count)], reasons, str(count), self._limit(name, count))
            for name, count in cells
        ]
        rows.append(self._row(Cell(text="All", kind="total"), cells, reasons, "", ""))
        return Table(head=head, rows=rows)

    def _row(
        self, label: Cell | str, cells: Sequence[tuple[str, int]], reasons: Sequence[str], num_sources: str, limit: str
    ) -> list[Cell | str]:
        counts = [sum(self._counts[(*cell, reason)] for cell in cells) for reason in (None, *reasons)]
        return [label, num_sources, limit, *(f"{count:,}" for count in (sum(counts), *counts))]

    def _limit(self, format_name: str, num_sources: int) -> str:
        return "-" if self.threshold is None else f"{self.threshold(format_name, num_sources):g}"

    def _histograms(self) -> list[Drawing]:
        names = sorted({name for name, _ in self._bins}, key=format_order)
        return [histogram(format_title(name), self._series(name), self._lines(name)) for name in names]

    def _series(self, format_name: str) -> Mapping[str, list[int]]:
        empty = [0] * NUM_BINS
        return {outcome: self._bins.get((format_name, outcome), empty) for outcome in ("kept", "dropped", "right")}

    def _lines(self, format_name: str) -> dict[float, str]:
        if self.threshold is None:
            return {}
        lines: dict[float, list[str]] = {}
        for num_sources in sorted({count for name, count, _ in self._counts if name == format_name}):
            lines.setdefault(self.threshold(format_name, num_sources), []).append(str(num_sources))
        return {limit: ", ".join(counts) for limit, counts in lines.items()}

    def _card(self, example: _Example) -> Card:
        decision, prompt = example.decision, example.prompt
        kept = Cell(text="kept", kind="good")
        verdict = kept if decision.keep else Cell(text=f"dropped: {_spoken(decision.reason or '')}")
        chips = [Cell(text=f"answer {example.number + 1}"), verdict] if self._several else [verdict]
        right = decision.reason == SAME_ANSWER
        names = ("Chosen", "Rejected") if decision.keep else ("Ground truth", "Model")
        entries = [
            (names[0], Cell(text=prompt.ground_truth, kind="good")),
            (names[1], Cell(text=example.answer or "(empty)", kind="good" if right else "bad")),
        ]
        return prompt_card(prompt, self.pictures, chips, entries, score_line(decision.scores))


def _spoken(reason: str) -> str:
    return reason.replace("_", " ")
