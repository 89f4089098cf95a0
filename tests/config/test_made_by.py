"""What a page says of the run that made it: paths as they were given, the code's own commit, no path of the machine."""

import json
import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from lookright.config import made_by as module
from lookright.config.made_by import (
    code_version,
    describe_backbone,
    describe_data,
    described_values,
    made_by,
    read_made_by,
)
from lookright.config.references import resolved
from lookright.errors import ConfigError
from lookright.reports.cells import made_by_entries


def test_a_record_of_infer(composed: Callable[..., DictConfig], tmp_path: Path) -> None:
    config = composed(
        "infer", "data.path=[a/x.jsonl,b/y.jsonl]", "adapter=runs/one/adapter", "decode=sample", "dtype=float32"
    )
    record = made_by(config, "infer.py", describe_data(config.data))
    assert record.model == "tiny_llava (LlavaBackbone), float32" and record.adapter == "runs/one/adapter"
    assert record.data == "a/x.jsonl, b/y.jsonl"
    values = "sampling.temperature=1.0, sampling.top_p=0.9, sampling.seed=0"
    assert record.decoding == f"Decoder, max_new_tokens=512, num_beams=1, {values}"
    assert record.command == "infer.py, called from Python"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record.date)
    record.write(tmp_path)
    assert read_made_by(tmp_path) == record and read_made_by(tmp_path / "none") is None
    assert str(Path.cwd()) not in "".join(made_by_entries(record).values())


def test_a_record_of_train(composed: Callable[..., DictConfig]) -> None:
    record = made_by(composed("train", "tuning.adapter=earlier/adapter"), "train.py", "pairs")
    assert (record.adapter, record.decoding) == ("earlier/adapter", None)
    assert record.model == "tiny_llava (LlavaBackbone), float32"


def test_backbones_and_data_in_words(composed: Callable[..., DictConfig]) -> None:
    given = {"_target_": "lookright.backbones.llava.LlavaBackbone", "path": "/models/big", "quantization": "4bit"}
    assert describe_backbone(given, "bfloat16") == "/models/big (LlavaBackbone), bfloat16, 4bit"
    inside = {"_target_": "a.B", "path": str(Path.cwd() / "outputs" / "model")}
    assert describe_backbone(inside) == "outputs/model (B)"
    assert describe_backbone({"_target_": "a.fresh_llava"}) == "fresh_llava, made by the run itself"
    assert describe_data(composed("train").data) == "preferences.jsonl"
    assert describe_data({"_target_": "a.PretrainData"}) == "PretrainData"


def test_values_of_a_loss_are_told_once_with_its_kind(composed: Callable[..., DictConfig]) -> None:
    plain = OmegaConf.to_container(resolved(composed("train", "loss/kind=ipo", "loss.gamma=0.5")), resolve=False)
    assert list(described_values(plain["loss"])) == [
        "kind=IPOLoss",
        "kind.beta=0.1",
        "kind.average=False",
        "alpha=1.0",
        "gamma=0.5",
        "attention.weight=0.9",
        "attention.threshold=0.75",
        "attention.positions=response",
    ]


@pytest.fixture()
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in a checkout of its own, in git with one commit."""
    package = tmp_path / "src" / "lookright"
    package.mkdir(parents=True)
    (package / "a.py").write_text("1\n")
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(module, "PACKAGE", package)
    module._checkout.cache_clear()
    yield package
    module._checkout.cache_clear()


def test_the_commit_of_the_own_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = checkout.parents[1]
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert code_version().endswith(f"commit {head.stdout[:10]}")
    (checkout / "a.py").write_text("2\n")
    module._checkout.cache_clear()
    assert code_version().endswith(f"commit {head.stdout[:10]} with changes")
    assert module._checkout()[0] == head.stdout.strip()
    (_, first), _ = module._checkout(), (checkout / "a.py").write_text("3\n")
    module._checkout.cache_clear()
    assert first is not None and module._checkout()[1] not in (None, first)
    # an environment inside somebody's checkout says nothing of that
    inside = root / "venv" / "lib" / "lookright"
    inside.mkdir(parents=True)
    monkeypatch.setattr(module, "PACKAGE", inside)
    module._checkout.cache_clear()
    assert "commit" not in code_version()


def test_a_record_of_an_earlier_version_is_read_and_a_broken_one_refused(tmp_path: Path) -> None:
    names = ("command", "model", "adapter", "data", "decoding", "code", "date")
    (tmp_path / "made_by.json").write_text(json.dumps(dict.fromkeys(names, "x")))
    earlier = read_made_by(tmp_path)
    assert (earlier.command, earlier.versions, earlier.inputs) == ("x", {}, {})
    for text in ("{", "[]", '{"command": "x"}', '{"inputs": {"a": 1}}'):
        (tmp_path / "made_by.json").write_text(text)
        with pytest.raises(ConfigError, match=r"made_by.json is no record of a run"):
            read_made_by(tmp_path)


def test_what_differs_in_the_code_is_named(composed: Callable[..., DictConfig]) -> None:
    now = made_by(composed("train"), "train.py", "pairs")
    assert now.versions["python"] == platform.python_version() and now.versions["torch"] == torch.__version__
    assert now.code_differences(now) == [] and now.code_differences(replace(now, versions={})) == []
    versions = {name: text for name, text in now.versions.items() if name != "peft"} | {"torch": "1.0", "gone": "3"}
    assert now.code_differences(replace(now, versions=versions, code="0.0.9, commit 1")) == [
        f"torch was 1.0, is {now.versions['torch']}",
        "gone was 3, is not there",
        f"code was 0.0.9, commit 1, is {now.code}",
        f"peft was not there, is {now.versions['peft']}",
    ]
    other = replace(now, changes="another")
    assert other.code_differences(now) == ["the changes of the code since its commit are others"]
