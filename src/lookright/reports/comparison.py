"""Base against tuned: one table for the terminal, one page with the pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookright.reports.charts import chart, interval_rows, legend
from lookright.reports.heat import HeatValues
from lookright.reports.heat_pictures import heat_pictures
from lookright.reports.inference import whisker
from lookright.reports.markup import Html, page, section, table, tag
from lookright.reports.parts import (
    card_head,
    definitions,
    figures,
    format_title,
    prompt_text,
    ratio_text,
    score_line,
    with_range,
)
from lookright.reports.pictures import prompt_pictures
from lookright.types import Prompt

Metrics = Mapping[str, Any]
"""What `Metrics.result()` gives."""


@dataclass(slots=True, frozen=True, kw_only=True)
class ComparedExample:
    """One question answered by both models; heat maps where they were read."""

    prompt: Prompt
    base: str
    tuned: str
    base_correct: bool
    tuned_correct: bool
    base_ratio: float | None = None
    tuned_ratio: float | None = None
    even_ratio: float | None = None
    base_heat: Sequence[HeatValues] | None = None
    tuned_heat: Sequence[HeatValues] | None = None


def comparison_text(base: Metrics, tuned: Metrics) -> str:
    """The table for a terminal: accuracies in percent with intervals, differences in points, ratios."""
    lines = [f"{'':<20}{'base':>22}{'tuned':>22}{'change':>9}{'attention ratio':>20}{'even look':>11}"]
    for name in _shared(base, tuned):
        one, other = base["accuracy"][name], tuned["accuracy"][name]
        cells = [f"{entry['value']:.1f} [{entry['low']:.1f}, {entry['high']:.1f}]" for entry in (one, other)]
        ratios = [metrics["attention_ratio"].get(name) for metrics in (base, tuned)]
        looked = " -> ".join(f"{ratio['value']:.2f}" for ratio in ratios) if all(ratios) else ""
        even = ratios[1].get("even") if all(ratios) else None
        change = f"{other['value'] - one['value']:+.1f}"
        lines.append(
            f"{format_title(name):<20}{cells[0]:>22}{cells[1]:>22}{change:>9}{looked:>20}"
            f"{'' if even is None else f'{even:.2f}':>11}"
        )
    return "\n".join(lines)


def comparison_html(
    base: Metrics,
    tuned: Metrics,
    *,
    folder: Path,
    examples: Sequence[ComparedExample] = (),
    seconds: Mapping[str, float] | None = None,
    title: str = "Base against tuned",
    subtitle: str | None = None,
) -> str:
    """The page. `folder` is where image paths start; `seconds` says how long each stage took."""
    return page(
        title,
        _figures(base, tuned),
        _table(base, tuned),
        _charts(base, tuned),
        _gallery(examples, folder),
        _seconds(seconds or {}),
        subtitle=subtitle,
    )


def write_comparison(path: Path, base: Metrics, tuned: Metrics, **options: Any) -> None:
    """`comparison_html` into a file."""
    path.write_text(comparison_html(base, tuned, **options), encoding="utf-8")


def _shared(base: Metrics, tuned: Metrics) -> list[str]:
    return [name for name in base["accuracy"] if name in tuned["accuracy"]]


def _figures(base: Metrics, tuned: Metrics) -> Html:
    shown = {}
    for name in ("multi_image", "single_image"):
        if name in _shared(base, tuned):
            change = tuned["accuracy"][name]["value"] - base["accuracy"][name]["value"]
            shown[f"points, {format_title(name).lower()}"] = f"{change:+.1f}"
    ratios = [metrics["attention_ratio"].get("multi_image") for metrics in (base, tuned)]
    if all(ratios):
        looked = ratio_text(ratios[1]["value"], ratios[1].get("even"))
        shown["attention on the target"] = f"{ratios[0]['value']:.2f} \u2192 {looked}"
    return figures(shown)


def _table(base: Metrics, tuned: Metrics) -> Html:
    rows = []
    for name in _shared(base, tuned):
        one, other = base["accuracy"][name], tuned["accuracy"][name]
        title = tag("span", format_title(name), class_="total") if name == "multi_image" else format_title(name)
        change = other["value"] - one["value"]
        apart = "yes" if one["high"] < other["low"] or other["high"] < one["low"] else "no"
        mark = tag("span", f"{change:+.1f}", class_="up" if change > 0 else "down" if change < 0 else None)
        rows.append([title, f"{other['num_questions']:,}", with_range(one), with_range(other), mark, apart])
    head = ["", "Questions", "Base, %", "Tuned, %", "Change, points", "Intervals apart"]
    return section("Accuracy", table(head, rows), lead="With 95 % intervals; both models answer the same questions.")


def _charts(base: Metrics, tuned: Metrics) -> Html:
    drawings = []
    for key, title, unit, highest in (
        ("accuracy", "Accuracy", "%", 100.0),
        ("attention_ratio", "Attention ratio", "", 1.0),
    ):
        names = [name for name in base[key] if name in tuned[key]]
        rows = {
            format_title(name): [whisker(base[key][name], "base"), whisker(tuned[key][name], "tuned")] for name in names
        }
        if rows:
            drawings.append(chart(title, interval_rows(rows, unit=unit, highest=highest)))
    return section(
        "At a glance", legend({"base": "base", "tuned": "tuned"}), tag("div", *drawings, class_="charts two")
    )


def _gallery(examples: Sequence[ComparedExample], folder: Path) -> Html | None:
    if not examples:
        return None
    return section(
        "Examples",
        tag("div", *(_card(one, folder) for one in examples), class_="cards wide"),
        lead="Bright areas got more of the model's attention while it answered; the target has the strong outline.",
    )


def _card(example: ComparedExample, folder: Path) -> Html:
    prompt = example.prompt
    maps = [
        ("Base looks here", example.base_heat, example.tuned_heat),
        ("Tuned looks here", example.tuned_heat, example.base_heat),
    ]
    shown = [
        tag("div", tag("h3", name), heat_pictures(prompt, folder, heat, other))
        for name, heat, other in maps
        if heat is not None
    ]
    answers = [("Base", example.base, example.base_correct), ("Tuned", example.tuned, example.tuned_correct)]
    return tag(
        "article",
        card_head(prompt, []),
        tag("div", *shown, class_="pair") if shown else prompt_pictures(prompt, folder),
        prompt_text(prompt),
        definitions(
            [
                ("Ground truth", prompt.answer, None),
                *(
                    (name, f"{text} ({'right' if right else 'wrong'})", "good" if right else "bad")
                    for name, text, right in answers
                ),
            ]
        ),
        score_line(
            {
                "attention_ratio of base": example.base_ratio,
                "of tuned": example.tuned_ratio,
                "of an even look": example.even_ratio,
            }
        ),
        class_="card",
    )


def _seconds(seconds: Mapping[str, float]) -> Html | None:
    if not seconds:
        return None
    rows = [[name.replace("_", " "), f"{value:,.0f}"] for name, value in seconds.items()]
    return section("Time", table(["", "Seconds"], rows))
