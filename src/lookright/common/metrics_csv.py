"""metrics.csv: a header, then a row for each time that something was logged; empty where it was not."""

import csv
import io
from pathlib import Path

from lookright.errors import LookRightError

STEP = "step"
"""The one column that every row fills."""


def read_metrics(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a metrics.csv; a last row without line feed is still being written, and left out.

    Every value is empty or a number, `step` a whole one. Raises LookRightError naming file and line.
    """
    try:
        data = path.read_bytes() if path.is_file() else b""
        text = data[: data.rfind(b"\n") + 1].decode("utf-8")
        table = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _damaged(f"{path} cannot be read ({error})") from error
    if not table:
        return [], []
    header = table[0]
    if len(set(header)) < len(header) or (len(table) > 1 and STEP not in header):
        raise _damaged(
            f"{path}:1: the header names {', '.join(header)[:200]!r}, each column once and {STEP} among them"
        )
    for number, cells in enumerate(table[1:], start=2):
        fault = _row_fault(header, cells)
        if fault:
            raise _damaged(f"{path}:{number}: {fault}")
    return header, [dict(zip(header, cells, strict=True)) for cells in table[1:]]


def _row_fault(header: list[str], cells: list[str]) -> str:
    if len(cells) != len(header):
        return f"{len(cells)} cells under {len(header)} columns"
    for name, cell in zip(header, cells, strict=True):
        if name == STEP and not (cell.isascii() and cell.isdigit() and len(cell) < 19):
            return f"{STEP}={cell[:40]!r} is no step"
        if cell and not _is_number(cell):
            return f"{name}={cell[:40]!r} is no number"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text


def _damaged(message: str) -> LookRightError:
    return LookRightError(f"{message}; the file is damaged: remove what is wrong, or the file")
