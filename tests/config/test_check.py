"""Unknown keys, missing and mistyped values: all at once, with the names that exist."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import DictConfig, OmegaConf

from lookright.config.annotations import misfits
from lookright.config.check import Problems, check_config
from lookright.config.entry import explain, launch
from lookright.errors import ConfigError, RecordError


def test_every_problem_of_a_config_is_told_at_once(composed: Callable[..., DictConfig]) -> None:
    wrong = ("+trainer.max_step=3", "tuning.r=many", "+data.formts=[sequence]")
    config = composed("train", "backbone=llava15_7b", "data.path=???", *wrong)
    with pytest.raises(ConfigError) as error:
        check_config(config)
    lines = str(error.value).split("\n")
    assert lines[:2] == ["backbone.path is not set; set backbone.path=...", "data.path is not set; set data.path=..."]
    assert "tuning.r='many' does not fit; set a whole number" in lines
    assert any(
        line.startswith("trainer.max_step does not exist; did you mean max_steps? valid names: ") for line in lines
    )
    assert any(line.startswith("data.formts does not exist; did you mean formats? ") for line in lines)
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("command", "override", "wanted"),
    [
        ("train", "loss.betta=1", "loss.betta does not exist; did you mean loss.kind.beta?"),
        ("train", "loss.attention.wieght=1", "loss.attention.wieght does not exist; did you mean weight?"),
        ("train", "optimizer.learning_rate=1", "optimizer.learning_rate does not exist; valid names: betas, eps, lr"),
        ("train", "sede=1", "sede does not exist; did you mean seed?"),
        ("generate", "shard.cuont=2", "shard.cuont does not exist; did you mean count?"),
        (
            "generate",
            "composers.sequence.mixtur=null",
            "composers.sequence.mixtur does not exist; did you mean mixture?",
        ),
        ("generate", "companions.witin=folder", "companions.witin does not exist; did you mean within?"),
        ("generate", "shortfall=fill", "shortfall does not exist; "),
        ("infer", "num_workers=4", "num_workers does not exist; did you mean num_threads?"),
        ("infer", "decode.max_tokens=4", "decode.max_tokens does not exist; did you mean max_new_tokens?"),
    ],
)
def test_misspelt_key_on_the_command_line_gets_the_valid_names(
    command: str, override: str, wanted: str, composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [f"{command}.py", override])
    with pytest.raises(Exception, match="override|struct|Key") as error:
        composed(command, override)
    assert explain(error.value, command).startswith(wanted)


@pytest.mark.parametrize(
    ("command", "override", "valid"),
    [
        ("train", "backbone=tiny", "tiny_llava"),
        ("train", "experiment=no_such", "demo"),
        ("train", "loss=dpo", "preference"),
        ("generate", "companions=nearest", "same_question"),
    ],
)
def test_unknown_choice_gets_the_valid_ones(
    command: str, override: str, valid: str, composed: Callable[..., DictConfig]
) -> None:
    with pytest.raises(Exception, match="Could not") as error:
        composed(command, override)
    told = explain(error.value, command)
    assert override.split("=")[1] in told and valid in told


class Abstract(ABC):
    @abstractmethod
    def act(self) -> None: ...


OBJECT = OmegaConf.create({"_target_": "x.Y"})


@pytest.mark.parametrize(
    ("value", "annotation", "wanted"),
    [
        (3, int, None),
        (3, float, None),
        (True, float, "a number"),
        (True, int, "a whole number"),
        ("3", int, "a whole number"),
        (3.5, int | None, "a whole number or null"),
        (None, int | None, None),
        (None, float, "a number"),
        ("sik", Literal["error", "skip"], "error, skip"),
        ("skip", Literal["error", "skip"] | None, None),
        (3, Literal["error", "skip"] | None, "error, skip or null"),
        (["a"], str | list[str], None),
        (["a"], str, "text"),
        ("a", Sequence[str], "a list"),
        ({"a": 1}, Mapping[str, Any] | None, None),
        ({2: 0.5}, Mapping[int, float], None),
        ({"a": 1}, list[int], "a list"),
        ([0, 0.5], tuple[float, float], None),
        ([0], tuple[float, float], "a longer list"),
        ([0, 1, 2], tuple[float, float], "a shorter list"),
        ([1, 2, 3], tuple[int, ...] | None, None),
        ("anything", Any, None),
        ("auto", int | str, None),
        (OBJECT, Abstract, None),
        (OBJECT, Mapping[str, int], "a mapping"),
        ({"a": 1}, Abstract | None, "a mapping with _target_ or null"),
        ("name", Abstract, "a mapping with _target_"),
        ("cpu", Path, None),
    ],
)
def test_value_against_annotation(value: Any, annotation: Any, wanted: str | None) -> None:
    node = OmegaConf.create(value) if isinstance(value, list | dict) else value
    found = misfits(node, annotation)
    assert [(one.path, one.wanted) for one in found] == ([] if wanted is None else [((), wanted)])


@pytest.mark.parametrize(
    ("value", "annotation", "found"),
    [
        (["a", 3, "b", None], list[str], [((1,), 3, "text"), ((3,), None, "text")]),
        (["a", 3], str | list[str], [((1,), 3, "text")]),
        (["a", 0.5], Sequence[int] | Sequence[float] | None, [((0,), "a", "a whole number or a number")]),
        ({"x": [1, "b"]}, Mapping[str, list[int]] | None, [(("x", 1), "b", "a whole number")]),
        ({"x": {"_target_": "y.Z"}, "w": 1}, Mapping[str, Abstract], [(("w",), 1, "a mapping with _target_")]),
        # told elsewhere, once
        (["???", 1], list[int], []),
        (["${there.is.none}"], list[int], []),
    ],
)
def test_each_item_is_held_against_the_annotation(value: Any, annotation: Any, found: list[Any]) -> None:
    told = misfits(OmegaConf.create(value), annotation)
    assert [(one.path, one.value, one.wanted) for one in told] == found


def test_an_item_of_a_list_is_told_with_its_key_value_and_remedy(composed: Callable[..., DictConfig]) -> None:
    config = composed("train", "backbone=tiny_llava", "data.path=x", "data.formats=[sequence,3]")
    with pytest.raises(ConfigError) as error:
        check_config(config)
    assert str(error.value) == "data.formats.1=3 does not fit; set text"


def test_problems_hold_what_is_the_users_and_nothing_else() -> None:
    problems = Problems(OmegaConf.create())
    with problems:
        raise ConfigError("first\nsecond")
    with problems:
        raise RuntimeError("wrapped") from RecordError("picture", "third")
    with problems:
        raise ConfigError("first")
    with pytest.raises(ZeroDivisionError), problems:
        1 / 0  # noqa: B018
    with pytest.raises(ConfigError) as error:
        problems.finish()
    assert str(error.value) == "first\nsecond\nthird"


def test_a_path_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SystemExit, match="2"):
        launch(lambda: (tmp_path / "file" / "run").mkdir(), "train")
    assert f"cannot use the path {tmp_path / 'file' / 'run'} (Not a directory)" in capsys.readouterr().err
