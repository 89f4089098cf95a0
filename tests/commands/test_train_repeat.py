"""`train.py repeat=`: the same run bit for bit in a folder of its own, and what it refuses or tells."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from lookright.backbones.llava import LlavaBackbone
from lookright.commands.train import train
from lookright.config.made_by import read_made_by
from lookright.errors import ConfigError
from tests.commands.test_train import forbid_weights
from tests.commands.test_train_resume import assert_same_run

Train = Callable[..., Path]


@pytest.fixture()
def run(composed: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train as the command line would, into a folder below `tmp_path`: run("again", "repeat=...")."""

    def make(name: str, *given: str) -> Path:
        overrides = [*given, f"output={tmp_path / name}"]
        for module in ("run_folder", "train"):
            monkeypatch.setattr(f"lookright.commands.{module}.given_overrides", lambda: overrides)
        train(composed("train", *overrides))
        return tmp_path / name

    return make


@pytest.fixture()
def first(run: Train, pairs: Callable[..., Path], small_run: list[str], tmp_path: Path) -> Path:
    """Two steps on pairs of its own, with keys and groups that are not the defaults."""
    data = f"data.path={pairs(tmp_path / 'data')}"
    given = ["loss/kind=ipo", "loss.alpha=0.5", "seed=3", "trainer.max_steps=2", "logger=tensorboard", "~eval"]
    return run("first", *small_run, data, *given)


def test_a_repetition_is_the_same_run_in_its_own_folder(
    run: Train, first: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    again = run("again", f"repeat={first}")
    assert_same_run(again, first)
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    config, earlier = (OmegaConf.load(folder / "config.yaml") for folder in (again, first))
    assert (config.output, config.repeat, config.logger.tensorboard.folder) == (str(again), str(first), str(again))
    assert {**config, "output": 0, "repeat": 0, "logger": 0} == {**earlier, "output": 0, "repeat": 0, "logger": 0}
    assert not [text for text in caplog.messages if text.startswith("repeat=")]
    assert read_made_by(again).inputs == read_made_by(first).inputs
    # once more, of the repetition, and on from it
    assert_same_run(run("third", f"repeat={again}"), first)


def test_overrides_go_on_top(run: Train, first: Path) -> None:
    """A key, what follows it, a group, a key that is added and one that is taken away."""
    given = ["seed=4", "optimizer.lr=0.02", "schedule=cosine", "loss/kind=dpo", "++trainer.enable_model_summary=false"]
    again = run("again", f"repeat={first}", *given, "~trainer.deterministic")
    config, earlier = (OmegaConf.load(folder / "config.yaml") for folder in (again, first))
    assert (config.seed, config.data.seed, earlier.data.seed) == (4, 4, 3)
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (0.02, earlier.optimizer.weight_decay)
    assert [one.schedule._target_.rpartition(".")[2] for one in (config, earlier)] == ["Cosine", "Linear"]
    assert config.loss.kind._target_.endswith("DPOLoss") and config.loss.terms.preference.term == config.loss.kind
    assert (config.loss.alpha, config.trainer.max_steps, config.tuning.r) == (0.5, 2, 2)
    assert config.trainer.enable_model_summary is False and "deterministic" not in config.trainer
    assert "deterministic" in earlier.trainer


def test_what_cannot_be_put_on_top_is_refused(run: Train, first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_weights(monkeypatch)
    for group in ("debug=steps", "experiment=demo"):
        with pytest.raises(ConfigError, match=f"repeat={first}: {group} sets keys elsewhere, .*; set the keys"):
            run("again", f"repeat={first}", group)
    with pytest.raises(ConfigError, match=f"output={first} is the run that repeat names"):
        run("first", f"repeat={first}")
    with pytest.raises(ConfigError, match=r"resume takes the config of x; remove repeat="):
        run("again", "resume=x", f"repeat={first}")
    with pytest.raises(ConfigError, match="repeat=/nowhere holds no config.yaml"):
        run("again", "repeat=/nowhere")
    with pytest.raises(ConfigError, match="data.batch_size=0"):
        run("again", f"repeat={first}", "data.batch_size=0")
    assert not (first.parent / "again").exists()


@pytest.mark.parametrize("text", ["a: [", "- 1", "3", "a: ${b", "\x00"])
def test_a_broken_config_is_refused_under_the_key(text: str, run: Train, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"repeat={tmp_path}: config.yaml "):
        run("again", f"repeat={tmp_path}")


def test_other_data_is_refused_and_may_be_chosen(
    run: Train, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data" / "preferences.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"chosen": "', '"chosen": "not ', 1))
    with monkeypatch.context() as patch:
        forbid_weights(patch)
        with pytest.raises(ConfigError) as error:
            run("again", f"repeat={first}")
    assert str(error.value).startswith(f"data.path: {path} is not what repeat={first} was made of (every byte: ")
    assert str(error.value).endswith("or set data.path=... on the command line to take what is there now")
    assert not (tmp_path / "again").exists()
    again = run("again", f"repeat={first}", f"data.path={path}")
    assert read_made_by(again).inputs["data.path"] != read_made_by(first).inputs["data.path"]

    # the same file, another picture
    path.write_text(text)
    name = tmp_path / "data" / json.loads(text.splitlines()[0])["images"][0]
    with Image.open(name) as image:
        size = image.size
    Image.new("RGB", size).save(name)
    with monkeypatch.context() as patch:
        forbid_weights(patch)
        with pytest.raises(ConfigError, match=r"data.pictures: .* \(names and sizes of \d+ pictures: .*set data.path="):
            run("other", f"repeat={first}")
    run("other", f"repeat={first}", f"data.path={path}")


def test_other_weights_are_refused_and_may_be_chosen(
    run: Train, first: Path, llava: LlavaBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights"
    llava.save_pretrained(llava.build(weights=False), weights)
    begun = run("begun", f"repeat={first}", f"backbone.path={weights}")
    file = weights / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with monkeypatch.context() as patch:
        forbid_weights(patch)
        with pytest.raises(ConfigError, match=f"backbone.path: {weights} is not what repeat={begun} was made of"):
            run("again", f"repeat={begun}")
    run("again", f"repeat={begun}", f"backbone.path={weights}")


def test_other_code_is_told_by_name(run: Train, first: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = read_made_by(first)
    versions = record.versions | {"transformers": "4.0", "torch": "1.0"}
    replace(record, versions=versions, code="0.0.1, commit 1").write(first)
    run("again", f"repeat={first}")
    told = [text.removeprefix(f"repeat={first}: ") for text in caplog.messages if text.startswith("repeat=")]
    now = record.versions
    assert sorted(told) == sorted(
        [
            f"torch was 1.0, is {now['torch']}",
            f"transformers was 4.0, is {now['transformers']}",
            f"code was 0.0.1, commit 1, is {record.code}",
        ]
    )
    caplog.clear()
    (first / "made_by.json").unlink()
    run("third", f"repeat={first}")
    assert [text for text in caplog.messages if "says nothing of data, weights and versions" in text]
