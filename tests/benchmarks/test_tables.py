"""The page's numbers are those that were measured."""

import json

import pytest

from benchmarks.run import CACHED, OFF, TRL, TRL_CPU
from benchmarks.start import HELP, IMPORTS, MISSPELT, PLAN
from benchmarks.tables import MARKS, PAGE, SHOWN, TABLES, origin, sides, start, written

MACHINE = {"cpu": "A CPU", "cores": 2, "vectors": "AVX512", "bfloat16": "bfloat16 units", "torch": "2.13.0"}


def row(seconds: float, peak: float, main_seconds: float = 6.0, main_peak: float = 3000.0) -> dict:
    return {
        "seconds": seconds,
        "all_seconds": [seconds] * 5,
        "peak_mib": peak,
        "times_as_fast": main_seconds / seconds,
        "share_of_memory": peak / main_peak,
        "largest_loss_difference": 1.2e-6,
    }


def figures() -> dict:
    return {OFF: row(2.0, 1199.0), CACHED: row(1.6, 1201.0), TRL: row(6.0, 3000.0), TRL_CPU: row(24.0, 7000.0)}


def entry(others: float | None) -> dict:
    return {"machine": MACHINE, "date": "2026-11-25", "busy_cores_of_others": others, "figures": figures()}


def test_the_page_shows_what_is_kept_and_nothing_else() -> None:
    page = PAGE.read_text()
    assert written(page, json.loads(SHOWN.read_text())) == page, "run `python -m benchmarks.tables`"


def test_every_section_has_its_place_and_every_place_a_table() -> None:
    assert sorted(name for _, name, _ in MARKS.findall(PAGE.read_text())) == sorted(TABLES)


def test_sides_are_compared_with_the_row_that_is_one() -> None:
    text = sides("float32", figures())
    assert f"| {OFF} | 2.00 | 3.0 | 1,199 | 40% |" in text
    assert f"| {TRL_CPU} | 24.00 | 0.2 | 7,000 | 233% |" in text
    assert "Medians of 5 steps" in text and "1e-06" in text
    assert f"{OFF} 2.8 times (3.00), met" in text
    assert f"{CACHED} 4 times (3.75), missed" in text
    assert "memory at most 40% (40.0%), missed" in text, "1,201 of 3,000 is more than 40 %"


@pytest.mark.parametrize(("others", "disturbed"), [(None, False), (0.02, False), (1.4, True)])
def test_figures_of_a_busy_machine_are_marked(others: float | None, disturbed: bool) -> None:
    text = origin(entry(others))
    assert "A CPU, 2 cores, AVX512, bfloat16 units; torch 2.13.0; 2026-11-25." in text
    assert ("Disturbed" in text) == disturbed
    assert not disturbed or "1.4 of 2 cores" in text


def test_starts_hold_their_goals_with_the_slowest_command() -> None:
    found = {"a.py": {HELP: 0.84, MISSPELT: 0.7, IMPORTS: 5.04}, "b.py": {HELP: 2.04, PLAN: 6.9, IMPORTS: 5.96}}
    text = start("start", found)
    assert "| a.py | 0.8 | 0.7 |  | 5.0 |" in text and "| b.py | 2.0 |  | 6.9 | 6.0 |" in text
    assert "--help under 2 s (2.0), missed; a misspelt key under 2 s (0.7), met" in text
    assert "trainer.plan=true under 2 s (6.9), missed; a job's imports under 6 s (6.0), met" in text


def test_a_section_without_figures_says_how_to_get_them() -> None:
    page = "before\n<!-- figures: float32 -->\nold\n<!-- end -->\nafter\n"
    empty = written(page, {})
    assert "`python -m benchmarks.run float32`" in empty and "old" not in empty
    filled = written(empty, {"float32": entry(0.0)})
    assert filled.startswith("before\n") and filled.endswith("after\n") and "| 3.0 |" in filled
    assert written(filled, {"float32": entry(0.0)}) == filled
