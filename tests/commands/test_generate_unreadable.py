"""Composed pictures that break before their prompt is answered, and after they were checked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lookright.commands import generate as generation_run
from lookright.errors import LookRightError
from tests.commands.conftest import Run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def breaking(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the stage answer; pictures of the prompts of these numbers go when the weights load."""

    def answer(folder: Path, numbers: tuple[int, ...], *overrides: str) -> Path:
        real = generation_run.load_policy

        def vanish(*values: Any, **options: Any) -> Any:
            prompts = lines(folder / "instructions.jsonl")
            for number in numbers:
                (folder / prompts[number]["images"][0]).unlink()
            return real(*values, **options)

        with monkeypatch.context() as patch:
            patch.setattr(generation_run, "load_policy", vanish)
            return run(folder, "stage=answer", *overrides)

    return answer


def test_skip_leaves_them_out_of_answers_and_pairs(run: Run, breaking: Callable[..., Path], tmp_path: Path) -> None:
    folder = run(tmp_path / "out", "stage=compose")
    prompts = [line["id"] for line in lines(folder / "instructions.jsonl")]
    breaking(folder, (1, 4, 5, 6, 7), "on_bad_record=skip")
    left = [name for number, name in enumerate(prompts) if number not in (1, 4, 5, 6, 7)]
    assert [line["id"] for line in lines(folder / "answers.jsonl")] == left
    skipped = [line for line in lines(folder / "skipped.jsonl") if line["stage"] == "answer"]
    assert [line["reason"] for line in skipped] == ["picture"] * 5
    assert [line["id"] for line in skipped] == [prompts[number] for number in (1, 4, 5, 6, 7)]
    run(folder, "stage=select", "on_bad_record=skip")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["answered"] == len(left) and summary["skipped"]["picture"] == 5


def test_error_names_the_prompt_and_a_second_run_ends_as_an_unbroken_one(
    run: Run, breaking: Callable[..., Path], unbroken: Path, tmp_path: Path
) -> None:
    folder = run(tmp_path / "out", "stage=compose")
    prompt = lines(folder / "instructions.jsonl")[9]
    data = (folder / prompt["images"][0]).read_bytes()
    with pytest.raises(LookRightError, match=rf"prompt {prompt['id']}: cannot read the picture .*on_bad_record=skip"):
        breaking(folder, (9,))
    assert len(lines(folder / "answers.jsonl")) == 8
    (folder / prompt["images"][0]).write_bytes(data)
    run(folder, "stage=answer")
    assert (folder / "answers.jsonl").read_text() == (unbroken / "answers.jsonl").read_text()


def test_an_answered_prompt_needs_its_picture_no_more(run: Run, breaking: Callable[..., Path], tmp_path: Path) -> None:
    """Its batch is answered again for the others; that it cannot be read then takes nothing from its answer."""
    folder = run(tmp_path / "out", "stage=compose")
    run(folder, "stage=answer")
    answers = lines(folder / "answers.jsonl")
    (folder / "answers.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in answers[:2]))
    breaking(folder, (0,), "on_bad_record=skip")
    assert [line["id"] for line in lines(folder / "answers.jsonl")] == [line["id"] for line in answers]
    assert not [line for line in lines(folder / "skipped.jsonl") if line["stage"] == "answer"]


def test_the_check_of_a_stage_names_what_broke_before_it(run: Run, tmp_path: Path) -> None:
    folder = run(tmp_path / "out", "stage=compose")
    prompt = lines(folder / "instructions.jsonl")[3]
    (folder / prompt["images"][0]).write_bytes(b"\x89PNG nothing")
    with pytest.raises(LookRightError, match=f"prompt {prompt['id']}: broken picture .* of 12 bytes"):
        run(folder, "stage=answer")
