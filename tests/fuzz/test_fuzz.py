"""Damaged inputs to every reader: a record that is right, or an error that names file, line or id. Never a traceback,
a hang, or memory without bound. Millions: `python -m tests.fuzz --cases 1000000` (`tests/fuzz/__main__.py`)."""

import os
from pathlib import Path

import pytest

from tests.fuzz.reader import DEADLINE, fuzz
from tests.fuzz.readers import READERS, prepare

CASES = int(os.environ.get("LOOKRIGHT_FUZZ_CASES", 100_000))
"""Of all readers together."""
PARTS = 4
"""Of each reader, for as many processes."""
KEPT = sorted((Path(__file__).parent / "failures").glob("*/*.bin"))
MAX_GROWTH = 300.0
"""Megabytes; seeds are of kilobytes, and cases at most of one megabyte."""


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", READERS)
def test_damaged_inputs(name: str, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKRIGHT_CACHE", "")
    prepare(tmp_path)
    share = READERS[name].weight / sum(one.weight for one in READERS.values()) / PARTS
    outcome = fuzz(READERS[name], max(round(CASES * share), 10), part, tmp_path)
    told = "\n".join(f"{one.kind}: {one.data[:300]!r}\n{one.detail}" for one in outcome.findings.values())
    assert not outcome.findings, f"{outcome.counts['broken']} of {outcome.counts}\n{told}"
    assert outcome.counts["read"] and outcome.counts["refused"], "both sides are reached"
    assert outcome.slowest < DEADLINE and outcome.growth < MAX_GROWTH


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_once_broke_a_reader(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKRIGHT_CACHE", "")
    prepare(tmp_path)
    _, finding = READERS[path.parent.name].run(path.read_bytes(), tmp_path)
    assert finding is None, f"{finding.kind}\n{finding.detail}"


def test_the_fuzzer_finds_what_is_wrong(tmp_path: Path) -> None:
    """A reader with a traceback, one that gives another record, one that hangs and one that names nothing."""
    from dataclasses import replace

    from lookright.errors import LookRightError
    from tests.fuzz import reader as module

    sound = READERS["lines"]
    prepare(tmp_path)

    def unnamed(path: Path) -> None:
        raise LookRightError("it is damaged")

    def hanging(path: Path) -> None:
        while True:
            pass

    kinds = {
        "KeyError": replace(sound, read=lambda path: {}["id"]),
        "differs": replace(sound, read=lambda path: [{"id": "other"}]),
        "message names no file": replace(sound, read=unnamed),
        "TimeoutError": replace(sound, read=hanging),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DEADLINE", 0.2)
        for kind, broken in kinds.items():
            outcome = fuzz(broken, 1, 0, tmp_path)
            assert outcome.counts["broken"] == 1 and next(iter(outcome.findings)).startswith(kind)
    assert fuzz(sound, 1, 0, tmp_path).counts == {"read": 1, "refused": 0, "broken": 0}
