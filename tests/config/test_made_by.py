"""What a page says of the run that made it: paths as they were given, the code's own commit, no path of the machine."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from lookright.config import made_by as module
from lookright.config.made_by import (
    MadeBy,
    code_version,
    describe_backbone,
    describe_data,
    described_values,
    made_by,
    read_made_by,
)
from lookright.config.references import resolved


def test_a_record_of_infer(composed: Callable[..., DictConfig], tmp_path: Path) -> None:
    config = composed("infer", "data.path=[a/x.jsonl,b/y.jsonl]", "adapter=runs/one/adapter", "decode=sample")
    record = made_by(config, "infer.py", describe_data(config.data))
    assert record.model == "tiny_llava (LlavaBackbone), float32" and record.adapter == "runs/one/adapter"
    assert record.data == "a/x.jsonl, b/y.jsonl"
    values = "sampling.temperature=1.0, sampling.top_p=0.9, sampling.seed=0"
    assert record.decoding == f"Decoder, max_new_tokens=512, num_beams=1, {values}"
    assert record.command == "infer.py, called from Python"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record.date)
    record.write(tmp_path)
    assert read_made_by(tmp_path) == record and read_made_by(tmp_path / "none") is None
    assert str(Path.cwd()) not in str(record)


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
    code_version.cache_clear()
    yield package
    code_version.cache_clear()


def test_the_commit_of_the_own_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = checkout.parents[1]
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert code_version().endswith(f"commit {head.stdout[:10]}")
    (checkout / "a.py").write_text("2\n")
    code_version.cache_clear()
    assert code_version().endswith(f"commit {head.stdout[:10]} with changes")
    # an environment inside somebody's checkout says nothing of that
    inside = root / "venv" / "lib" / "lookright"
    inside.mkdir(parents=True)
    monkeypatch.setattr(module, "PACKAGE", inside)
    code_version.cache_clear()
    assert "commit" not in code_version()


def test_records_are_plain_text() -> None:
    assert all(kind in ("str", "str | None", str, str | None) for kind in MadeBy.__annotations__.values())
