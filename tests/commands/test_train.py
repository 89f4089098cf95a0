"""`train.py` as a function: the files of a run, what it refuses before weights load, several files of pairs."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel

from lookright.backbones.llava import LlavaBackbone
from lookright.commands.train import train
from lookright.config.made_by import read_made_by
from lookright.errors import ConfigError, LookRightError
from lookright.reports.training import read_columns
from lookright.training.preference import PreferenceModule, held_out_means

Compose = Callable[..., DictConfig]


def forbid_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading weights fails the test; a model on the meta device has none."""
    build = LlavaBackbone.build

    def refuse(self: LlavaBackbone, *, weights: bool = True, **options: Any) -> Any:
        assert not weights, "weights were loaded"
        return build(self, weights=False, **options)

    monkeypatch.setattr(LlavaBackbone, "build", refuse)


@pytest.fixture()
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_weights(monkeypatch)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_records(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def finished(composed: Compose, small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the defaults."""
    folder = tmp_path_factory.mktemp("finished")
    train(composed("train", *small_run, f"output={folder}"))
    return folder


def test_files_of_a_run(finished: Path, llava_weights: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == summary["planned_steps"] == 6
    assert (summary["examples"], summary["held_out"], summary["weights"]) == (12, 2, "adapter")
    config = OmegaConf.load(finished / "config.yaml")
    assert config.loss.kind.beta == 0.1 and config.output == str(finished) and not OmegaConf.missing_keys(config)
    header, first = (finished / "metrics.csv").read_text().splitlines()[:2]
    row = dict(zip(header.split(","), first.split(","), strict=True))
    # the policy starts as the reference
    assert float(row["train/loss_dpo"]) == pytest.approx(0.6931472, abs=1e-6)
    assert float(row["train/learning_rate"]) == pytest.approx(0.01)
    assert {"val/loss", "val/sequence/attention_ratio", "val/grid_collage/reward_margin"} <= set(summary["metrics"])

    checkpoint = torch.load(finished / "checkpoints" / "step=6.ckpt", weights_only=True)
    assert all(".lora_" in name for name in checkpoint["state_dict"])
    base = LlavaBackbone(path=str(llava_weights)).build()
    tuned = PeftModel.from_pretrained(base, finished / "adapter")
    assert max(float(p.abs().max()) for name, p in tuned.named_parameters() if "lora_B" in name) > 0


def test_page_of_a_run(finished: Path) -> None:
    """Curves by format, the two held-out pairs with their margins before and after, what made it."""
    page = (finished / "report.html").read_text()
    for wanted in ("Attention ratio, sequence", "Reward margin", "Held-out metrics", "alpha=1.0", "train.py, called"):
        assert wanted in page
    assert page.count("<article") == 2 and len(re.findall(r"[+-][0-9.]+ before, [+-][0-9.]+ after nats", page)) == 2
    assert read_made_by(finished).model.endswith("(LlavaBackbone), float32")
    assert set(read_made_by(finished).inputs) == {"backbone.path", "data.path", "data.pictures"}
    columns = read_columns(finished / "metrics.csv")
    # the held-out pair of two pictures in one, and one of two or three pictures
    assert columns["val/grid_collage/even_ratio"] == [(5.0, pytest.approx(0.5))]
    assert columns["val/sequence/even_ratio"][0][1] in (pytest.approx(1 / 2), pytest.approx(1 / 3))
    # the policy's reward margin is beta times what it added to the reference's
    added = columns["val/logps_margin"][0][1] - columns["val/reference_logps_margin"][0][1]
    assert columns["val/reward_margin"][0][1] == pytest.approx(0.1 * added, rel=1e-4)


def test_page_of_a_run_without_validation(composed: Compose, small_run: list[str], tmp_path: Path) -> None:
    train(composed("train", *small_run, "data.val_fraction=0", "trainer.max_steps=2", f"output={tmp_path}"))
    page = (tmp_path / "report.html").read_text()
    assert "Reward margin" in page and "Held-out metrics" not in page and "<article" not in page


def test_held_out_metrics_are_means_over_pairs() -> None:
    """By hand: each pair counts once, a value that is not there does not."""
    pairs = {
        "a": ("sequence", {"loss": 1.0, "attention_ratio": 0.2}),
        "b": ("sequence", {"loss": 3.0, "attention_ratio": float("nan")}),
        "c": ("grid_collage", {"loss": 8.0, "attention_ratio": 0.4}),
        "d": ("", {"loss": 0.0, "attention_ratio": float("nan")}),
    }
    assert held_out_means(pairs) == pytest.approx(
        {
            "val/loss": 3.0,
            "val/attention_ratio": 0.3,
            "val/sequence/loss": 2.0,
            "val/sequence/attention_ratio": 0.2,
            "val/grid_collage/loss": 8.0,
            "val/grid_collage/attention_ratio": 0.4,
        }
    )


def test_finished_run_is_not_overwritten(
    composed: Compose, small_run: list[str], finished: Path, no_weights: None
) -> None:
    with pytest.raises(ConfigError, match=f"holds a run already; set resume={finished}"):
        train(composed("train", *small_run, f"output={finished}"))


def test_every_epoch_takes_each_pair_once_in_its_own_order(
    composed: Compose, small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = PreferenceModule.training_step, []

    def noting(self: PreferenceModule, batch: Any, batch_idx: int) -> torch.Tensor:
        seen.append(batch.ids)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PreferenceModule, "training_step", noting)
    train(composed("train", *small_run, "trainer.max_epochs=2", f"output={tmp_path}"))
    epochs = [[record for batch in seen[start : start + 6] for record in batch] for start in (0, 6)]
    assert len(seen) == 12 and sorted(epochs[0]) == sorted(epochs[1]) and len(set(epochs[0])) == 12
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("alpha", [0, 1])
@pytest.mark.parametrize("gamma", [0, 1])
def test_alpha_gamma_sweep(alpha: int, gamma: int, composed: Compose, small_run: list[str], tmp_path: Path) -> None:
    weights = [f"loss.alpha={alpha}", f"loss.gamma={gamma}", "trainer.max_steps=2"]
    summary = train(composed("train", *small_run, *weights, f"output={tmp_path}"))
    terms = {name for name in summary["metrics"] if name.startswith("train/loss_")}
    active = {"train/loss_attention": 1, "train/loss_dpo": alpha, "train/loss_sft": gamma}
    assert summary["steps"] == 2 and terms == {name for name, weight in active.items() if weight}


def test_full_tuning_with_a_frozen_copy(
    composed: Compose, small_run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    lora = ("tuning.r", "tuning.alpha", "tuning.dropout")
    kept = [item for item in small_run if not item.startswith(lora)]
    full = ["tuning=full", "reference=frozen_copy", "loss/kind=ipo", "trainer.max_steps=2"]
    summary = train(composed("train", *kept, *full, f"output={tmp_path}"))
    assert summary["weights"] == "model" and "train/loss_ipo" in summary["metrics"]
    assert LlavaBackbone(path=str(tmp_path / "model")).build() is not None


def test_plan_loads_no_weights_and_writes_nothing(
    composed: Compose, small_run: list[str], tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture
) -> None:
    plan = train(composed("train", *small_run, "trainer.plan=true", "trainer.max_epochs=3", f"output={tmp_path / 'x'}"))
    assert (plan["examples"], plan["held_out"], plan["optimizer_steps"]) == (12, 2, 18)
    assert "18 optimiser steps" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["tuning=full"], ["reference=adapter_off needs adapters; set tuning=lora, or reference=frozen_copy"]),
        (["tuning.train_projector=true"], ["cannot undo the training of"]),
        (["~reference"], ["set reference=adapter_off, or loss.alpha=0"]),
        (["loss.attention.layers=[2,6]"], ["loss.attention.layers=[2, 6]: 6 is not a layer"]),
        (["loss.alpha=0", "loss.gamma=0", "loss.attention.weight=0"], ["nothing would train"]),
        (["loss.attention.formats=[sequense]"], ["loss.attention.formats=[sequense]: no pair has such a format"]),
        (["trainer.val_check_interval=7"], ["trainer.val_check_interval=7; an epoch has 6 batches"]),
        (["trainer.strategy=dpp"], ["trainer: ", "dpp"]),
        (
            ["loss.kind=dop", "tuning.r=0", "trainer.max_steps=0", "trainer.precision=8-true", "data.val_fraction=1"],
            [
                "loss.kind='dop' does not fit",
                "tuning.r=0",
                "trainer.max_steps=0",
                "trainer.precision='8-true'",
                "val_fraction=1",
            ],
        ),
        (
            ["schedule.warmup=1", "data.on_bad_record=ignore"],
            [
                "schedule.warmup=1; a share of",
                "data.on_bad_record='ignore' does not fit; set error, skip",
            ],
        ),
        (["data.path=/nowhere.jsonl"], ["data.path=/nowhere.jsonl: no such file"]),
        (["data.image_root=/nowhere"], ["data.image_root=/nowhere: no such folder"]),
        (["resume=/nowhere"], ["resume=/nowhere holds no config.yaml"]),
    ],
)
def test_config_that_cannot_run_is_refused_before_weights_load(
    overrides: list[str], wanted: list[str], composed: Compose, small_run: list[str], tmp_path: Path, no_weights: None
) -> None:
    if overrides == ["tuning=full"]:
        small_run = [item for item in small_run if not item.startswith("tuning.")]
    with pytest.raises(ConfigError) as error:
        train(composed("train", *small_run, *overrides, f"output={tmp_path / 'run'}"))
    for text in wanted:
        assert text in str(error.value)
    assert not (tmp_path / "run").exists()


def spoiled(pairs_file: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Fourteen records of which six are bad, and the reason of each by id."""
    lines = records(pairs_file)
    lines[1]["images"] = ["images/cut.png"]
    lines[2]["prompt"] = lines[2]["prompt"].replace("Image1:<image>\n", "")
    lines[3]["chosen"] = "  "
    lines[4]["rejected"] = lines[4]["chosen"]
    lines[5]["prompt"] += " really?" * 3000
    lines[6]["images"][0] = "../secret.png"
    reasons = ["picture", "placeholders", "empty_answer", "chosen_equals_rejected", "too_long", "path"]
    return lines, {f"pair{number + 1}": reason for number, reason in enumerate(reasons)}


def test_bad_records_are_named_or_counted(
    composed: Compose, small_run: list[str], pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, reasons = spoiled(pairs_file)
    (tmp_path / "images").mkdir()
    for picture in (pairs_file.parent / "images").iterdir():
        (tmp_path / "images" / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / "images" / "cut.png").write_bytes((pairs_file.parent / "images" / "pair1_0.png").read_bytes()[:50])
    path = write_records(tmp_path / "spoiled.jsonl", lines)
    config = [*small_run, f"data.path={path}", "data.val_fraction=0", "trainer.max_steps=1"]
    with monkeypatch.context() as patch:
        forbid_weights(patch)
        with pytest.raises(LookRightError) as error:
            train(composed("train", *config, f"output={tmp_path / 'error'}"))
    told = str(error.value)
    assert "data.on_bad_record=skip" in told
    for number, reason in enumerate(["picture", "placeholders", "empty_answer", "chosen_equals_rejected"], start=1):
        assert any(f":{number + 1} (id pair{number})" in line and f"[{reason}]" in line for line in told.split("\n"))
    summary = train(composed("train", *config, "data.on_bad_record=skip", f"output={tmp_path / 'skip'}"))
    assert summary["dropped"] == dict.fromkeys(reasons.values(), 1) and summary["examples"] == 8
    assert json.loads((tmp_path / "skip" / "summary.json").read_text())["dropped"] == summary["dropped"]


def test_pairs_of_several_files(
    composed: Compose,
    small_run: list[str],
    pairs: Callable[..., Path],
    pairs_file: Path,
    tmp_path: Path,
    no_weights: None,
) -> None:
    other = pairs(tmp_path / "other", 4, "more")
    plan = ["data.val_fraction=0", "trainer.plan=true", f"output={tmp_path / 'x'}"]
    both = train(composed("train", *small_run, *plan, f"data.path=[{pairs_file},{other}]"))
    assert both["examples"] == 18
    again = pairs(tmp_path / "again", 3)
    with pytest.raises(
        LookRightError, match=r"again/preferences.jsonl \(id pair0\): the id is also in .*\[duplicate_id\]"
    ):
        train(composed("train", *small_run, *plan, f"data.path=[{pairs_file},{again}]"))
    skipped = train(
        composed("train", *small_run, *plan, f"data.path=[{pairs_file},{again}]", "data.on_bad_record=skip")
    )
    assert skipped["examples"] == 14


def test_a_row_is_the_mean_over_the_micro_batches_of_its_step(
    composed: Compose, small_run: list[str], tmp_path: Path
) -> None:
    """Four pairs at once, or two and two: the same step, and the same row."""
    given = [*small_run, "tuning.dropout=0", "data.val_fraction=0", "trainer.max_steps=2", "loss.gamma=0.5"]
    for name, own in (
        ("once", ["data.batch_size=4"]),
        ("parts", ["data.batch_size=2", "trainer.accumulate_grad_batches=2"]),
    ):
        train(composed("train", *given, *own, f"output={tmp_path / name}"))
    once, parts = (read_columns(tmp_path / name / "metrics.csv") for name in ("once", "parts"))
    assert once.keys() == parts.keys() and {"train/loss", "train/reward_margin", "train/learning_rate"} <= once.keys()
    for name, points in once.items():
        assert [step for step, _ in parts[name]] == [step for step, _ in points] == [0.0, 1.0]
        assert [value for _, value in parts[name]] == pytest.approx([value for _, value in points], abs=1e-5), name
