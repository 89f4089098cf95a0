"""Pictures that break after the questions were checked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from lookright.commands import infer as infer_command
from lookright.commands.infer import infer
from lookright.errors import LookRightError
from lookright.records.records import write_jsonl
from tests.commands.test_infer import question


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    write_jsonl(tmp_path / "instructions.jsonl", [question(tmp_path, number) for number in range(7)])
    return tmp_path


@pytest.fixture
def answered(
    folder: Path, llava_weights: Path, composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Run infer.py; the pictures `gone` go when the weights load, after the check."""

    def run(*overrides: str, gone: tuple[str, ...] = (), at: str = "load_policy") -> dict[str, Any]:
        real = getattr(infer_command, at)

        def vanish(*values: Any, **options: Any) -> Any:
            for name in gone:
                (folder / "images" / name).unlink(missing_ok=True)
            return real(*values, **options)

        with monkeypatch.context() as patch:
            patch.setattr(infer_command, at, vanish)
            return infer(
                composed(
                    "infer",
                    f"backbone.path={llava_weights}",
                    f"data.path={folder / 'instructions.jsonl'}",
                    "decode.max_new_tokens=3",
                    f"output={folder / 'out'}",
                    *overrides,
                )
            )

    return run


def lines(folder: Path) -> dict[str, dict[str, Any]]:
    text = (folder / "out" / "predictions.jsonl").read_text()
    return {line["id"]: line for line in map(json.loads, text.splitlines())}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_skip_answers_the_rest_and_counts(
    folder: Path, answered: Callable[..., dict[str, Any]], batch_size: int
) -> None:
    result = answered("data.on_bad_record=skip", f"batch_size={batch_size}", "overlays=9", gone=("2_0.png", "4_1.png"))
    assert sorted(lines(folder)) == ["q0", "q1", "q3", "q5", "q6"]
    assert result["dropped"] == {"picture": 2}
    assert sum(entry["num_questions"] for name, entry in result["accuracy"].items() if name in FORMATS) == 5


FORMATS = ("sequence", "grid_collage", "pic_in_pic", "single_image")


def test_error_names_the_question_and_a_second_run_goes_on(
    folder: Path, answered: Callable[..., dict[str, Any]]
) -> None:
    data = (folder / "images" / "4_1.png").read_bytes()
    with pytest.raises(LookRightError, match=r"question q4: cannot read .*4_1\.png.*\[picture\].*same output"):
        answered("batch_size=2", gone=("4_1.png",))
    assert sorted(lines(folder)) == ["q0", "q1", "q2", "q3"]
    (folder / "images" / "4_1.png").write_bytes(data)
    assert answered("batch_size=2")["dropped"] == {}
    assert len(lines(folder)) == 7


def test_a_picture_that_goes_before_the_report_costs_its_heat_map(
    folder: Path, answered: Callable[..., dict[str, Any]]
) -> None:
    result = answered("data.on_bad_record=skip", "overlays=9", gone=("2_0.png",), at="measure")
    assert result["dropped"] == {} and len(lines(folder)) == 7 and (folder / "out" / "report.html").is_file()


def test_a_picture_that_goes_before_the_report_is_named(folder: Path, answered: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(LookRightError, match="question q2: cannot read the picture"):
        answered("overlays=9", gone=("2_0.png",), at="measure")
