"""What stands in a page's tables, figures and lines, as text; the templates only place it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lookright.common.formats import MULTI_IMAGE, format_title
from lookright.config.made_by import SHOWN, MadeBy
from lookright.evaluation.intervals import Estimate


@dataclass(slots=True, frozen=True, kw_only=True)
class Cell:
    """A table's cell: `text`, what stands smaller behind it (`note`) and in lines below it, and a class (`kind`)."""

    text: str
    note: str = ""
    below: tuple[str, ...] = ()
    kind: str = ""


@dataclass(slots=True, frozen=True, kw_only=True)
class Table:
    """Column headings and rows; the first cell of a row is its heading."""

    head: list[str]
    rows: Sequence[Sequence[Cell | str]]
    title: str = ""


def format_cell(name: str) -> Cell:
    """A row's heading; the mean of formats stands out."""
    return Cell(text=format_title(name), kind="total" if name == MULTI_IMAGE else "")


def with_range(entry: Mapping[str, float] | Estimate, digits: int = 1) -> Cell:
    """A value and its 95 % interval: 71.2 [66.5, 75.4]."""
    value, low, high = _ends(entry)
    return Cell(text=f"{value:.{digits}f}", note=f"{low:.{digits}f} to {high:.{digits}f}")


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where it is not known."""
    return "-" if value is None else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """A difference with its sign, one digit; what rounds to nothing has none."""
    shown = f"{value:+.1f}"
    return "0.0" if shown in ("+0.0", "-0.0") else shown


def p_text(p_value: float) -> str:
    """A p-value to three digits."""
    return "p < 0.001" if p_value < 0.0005 else f"p = {p_value:.3f}"


def ratio_text(ratio: float | None, even: float | None) -> str | None:
    """An attention ratio beside that of an even look: `0.62 (even 0.33)`; None where it is unknown."""
    if ratio is None:
        return None
    return f"{ratio:.2f}" if even is None else f"{ratio:.2f} (even {even:.2f})"


def score_line(scores: Mapping[str, float | None]) -> str:
    """Named scores in one line, None left out; an attention ratio with that of an even look beside it."""
    texts = {name: f"{value:.2f}" for name, value in scores.items() if value is not None}
    ratio = ratio_text(scores.get("attention_ratio"), scores.get("even_ratio"))
    if ratio is not None:
        texts["attention_ratio"] = ratio
        texts.pop("even_ratio", None)
    return " \u00b7 ".join(f"{name.replace('_', ' ')} {text}" for name, text in texts.items())


def made_by_entries(record: MadeBy | None) -> dict[str, str]:
    """What a record says, by what a reader calls it; what it has no use for is left out."""
    if record is None:
        return {"Command": "not known: made by an earlier version"}
    return {name.capitalize(): text for name in SHOWN if (text := getattr(record, name)) is not None}


def _ends(entry: Mapping[str, Any] | Estimate) -> tuple[float, float, float]:
    if isinstance(entry, Estimate):
        return entry.value, entry.low, entry.high
    return entry["value"], entry["low"], entry["high"]
