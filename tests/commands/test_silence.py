"""What once went wrong without a word: pairs that are replaced, pairs of another model, validation of nothing."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from lookright.backbones.folder import check_folder, local_folder
from lookright.backbones.loading import use_threads
from lookright.commands.train import train
from lookright.config.inputs import Input, inputs_of, model_name, other_model
from lookright.errors import ConfigError
from tests.commands.conftest import Run

Compose = Callable[..., DictConfig]
NONE_LEFT_OUT = [
    "selection=none",
    *(f"filters.{name}=null" for name in ("perplexity", "length_ratio", "edit_distance")),
]


@pytest.fixture()
def finished(unbroken: Path, tmp_path: Path) -> Path:
    """A copy of a finished run of generate.py."""
    shutil.copytree(unbroken, tmp_path / "pairs")
    return tmp_path / "pairs"


@pytest.mark.parametrize(
    "given",
    [["selection=none"], ["stage=select", "filters.perplexity.minimum=9"], ["stage=answer", "selection=random"]],
)
def test_other_pairs_do_not_take_the_place_of_those_that_are_there(given: list[str], finished: Path, run: Run) -> None:
    before = {file.name: file.read_bytes() for file in finished.glob("*.*")}
    with pytest.raises(ConfigError) as caught:
        run(finished, *given)
    changed = "filters.perplexity.minimum" if "filters" in given[-1] else "selection"
    message = str(caught.value)
    assert message.startswith(f"{finished / 'preferences.jsonl'} is there, made by another selection ({changed}")
    assert "set another output, or overwrite=true to replace it" in message
    assert {file.name: file.read_bytes() for file in finished.glob("*.*")} == before


def test_the_same_selection_makes_the_same_pairs_again(finished: Path, run: Run) -> None:
    before = (finished / "preferences.jsonl").read_bytes()
    run(finished)
    run(finished, "stage=select")
    assert (finished / "preferences.jsonl").read_bytes() == before


def test_who_asks_gets_other_pairs(finished: Path, run: Run) -> None:
    before = (finished / "preferences.jsonl").read_bytes()
    run(finished, "stage=select", *NONE_LEFT_OUT, "overwrite=true")
    assert (finished / "preferences.jsonl").read_bytes() != before
    # and they are what the next one is held against
    run(finished, "stage=select", *NONE_LEFT_OUT)


def test_pairs_say_who_answered(finished: Path, llava_weights: Path, composed: Compose) -> None:
    pairs = [json.loads(line) for line in (finished / "preferences.jsonl").open()]
    named = {pair["provenance"]["answered_by"] for pair in pairs}
    digest = inputs_of(composed("generate", f"backbone.path={llava_weights}"))["backbone.path"].hash
    assert named == {f"{llava_weights.name}@{digest[:12]}"}


@pytest.fixture()
def one_step(small_run: list[str], tmp_path: Path) -> list[str]:
    return [*small_run, "trainer.max_steps=1", "data.val_fraction=0", f"output={tmp_path / 'run'}"]


def answered(source: Path, folder: Path, name: str | None) -> Path:
    """Pairs whose answers a model of that name gave; None is who does not say."""
    shutil.copytree(source.parent, folder)
    lines = [json.loads(line) for line in source.open()]
    for line in lines:
        line["provenance"] = {} if name is None else {"answered_by": name}
    (folder / source.name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / source.name


@pytest.mark.parametrize("name", ["other@000000000000", "other@000000000000 + adapter@1", None, "own", "own + a@1"])
def test_pairs_of_another_model_are_told_by_name(
    name: str | None, one_step: list[str], composed: Compose, pairs_file: Path, llava_weights: Path, tmp_path: Path
) -> None:
    own = model_name(inputs_of(composed("train", f"backbone.path={llava_weights}")))
    assert own is not None
    path = answered(pairs_file, tmp_path / "pairs", None if name is None else name.replace("own", own))
    config = composed("train", *one_step, f"data.path={path}")
    if name is None or name.startswith("own"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lookright.commands.train_parts.rank_zero_warn", lambda text: pytest.fail(text))
            train(config)
        return
    with pytest.warns(
        UserWarning, match=rf"14 of 14 pairs hold answers of {name.replace('+', '.')}, and backbone.path"
    ):
        train(config)


def test_names_are_held_against_each_other_where_both_are_hashes_of_one_kind() -> None:
    def named(covers: str, digest: str, path: str = "a/b") -> str:
        name = model_name({"backbone.path": Input(path=path, hash=digest, size=0, covers=covers)})
        assert name is not None
        return name

    hub, folder = "the commit on the hub", "every byte of 3 files"
    assert named(hub, "0" * 40) == "a/b@commit-000000000000" and named(folder, "1" * 32) == "b@111111111111"
    assert other_model(named(hub, "0" * 40), named(hub, "1" * 40))
    assert not other_model(named(hub, "0" * 40), named(folder, "1" * 32))
    assert not other_model(named(folder, "0" * 32, "x/moved"), named(folder, "0" * 32))
    assert not other_model("somebody", named(hub, "0" * 40)) and not other_model(named(hub, "0" * 40), None)
    assert model_name({}) is None


def test_a_share_that_holds_nothing_out_is_told_once(
    one_step: list[str], composed: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.warns(UserWarning) as warned:
        train(composed("train", *one_step, "data.val_fraction=0.001"))
    told = [*(str(one.message) for one in warned), *caplog.messages]
    (found,) = (text for text in told if "holds out none" in text)
    assert found.startswith("data.val_fraction=0.001 of 14 pairs holds out none: there is no validation. Set a larger")


def test_threads_are_one_or_more() -> None:
    for number in (0, -1):
        with pytest.raises(ConfigError, match=f"num_threads={number}; set 1 or more"):
            use_threads(number)


@pytest.mark.parametrize(
    "path", ["nowhere", "./nowhere", "/no/where", "~/nowhere", "a/b/c", "models/nowhere", "models"]
)
def test_a_misspelt_path_is_told_at_once(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lookright.backbones.folder.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(
        ConfigError, match=rf"^backbone\.path={path} (is|holds) no.*set backbone\.path to a model folder"
    ):
        check_folder(path)
    if path != "models":
        with pytest.raises(ConfigError, match="is no local folder; look there"):
            local_folder(path, [], "look there")


def test_a_name_on_a_hub_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_folder("owner/name") == "owner/name"
