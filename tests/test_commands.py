"""The three commands as a user types them: status, last line, console, a kill, a run of two processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from lookright.commands.generate import generate
from lookright.commands.train import train

ROOT = Path(__file__).parents[1]
NOISE = re.compile(r"litlogger|LeafSpec|eval mode|exists and is not empty|Loading weights|Writing model|Warning|TPU")
Compose = Callable[..., DictConfig]


def start(*arguments: str, cwd: Path = ROOT) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_errors_end_in_a_message_and_status_2(tmp_path: Path) -> None:
    runs = {
        "loss.betta does not exist; did you mean loss.kind.beta?": start("train.py", "loss.betta=1", cwd=tmp_path),
        "data.path is not set; set data.path=...": start("infer.py", cwd=tmp_path),
        "batch_size=0; set 1 or more": start("generate.py", "batch_size=0", f"output={tmp_path / 'g'}", cwd=tmp_path),
    }
    for message, process in runs.items():
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 2, output
        assert "Traceback" not in output
        assert any(line.startswith("error: ") for line in output.splitlines())
        assert message in output.split("error: ", 1)[1]


@pytest.mark.slow
def test_generate_goes_on_after_sigkill(composed: Compose, llava_weights: Path, tmp_path: Path) -> None:
    settings = [f"backbone.path={llava_weights}", "num_prompts=40", "batch_size=4", "decode.max_new_tokens=3"]
    settings += ["composers.grid_collage.cell_size=48", "composers.grid_collage.margin=12"]
    process = start("generate.py", *settings, f"output={tmp_path / 'killed'}")
    answers = tmp_path / "killed" / "answers.jsonl"
    while process.poll() is None and not (answers.is_file() and answers.stat().st_size > 2000):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    generate(composed("generate", *settings, f"output={tmp_path / 'killed'}"))
    generate(composed("generate", *settings, f"output={tmp_path / 'whole'}"))
    for name in ("instructions.jsonl", "answers.jsonl", "preferences.jsonl", "summary.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_train_on_two_processes_is_train_on_one(composed: Compose, small_run: list[str], tmp_path: Path) -> None:
    """Two ranks with a batch each step as one process does that adds up the gradients of two batches."""
    shared = [*small_run, "data.batch_size=1", "tuning.dropout=0", "trainer.max_epochs=2"]
    two = start(
        "train.py", *shared, "trainer.devices=2", "trainer.strategy=ddp", f"output={tmp_path / 'two'}", cwd=tmp_path
    )
    summary = train(composed("train", *shared, "trainer.accumulate_grad_batches=2", f"output={tmp_path / 'one'}"))
    output = finish(two)
    assert summary["examples"] % 2 == 0, "every batch has a partner"
    other = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert other["steps"] == summary["steps"] == summary["examples"]
    assert other["metrics"]["val/loss"] == pytest.approx(summary["metrics"]["val/loss"], rel=1e-5)
    one = load_file(tmp_path / "one" / "adapter" / "adapter_model.safetensors")
    for name, value in load_file(tmp_path / "two" / "adapter" / "adapter_model.safetensors").items():
        torch.testing.assert_close(value, one[name], rtol=1e-3, atol=1e-5)
    assert not NOISE.search(output), output
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


@pytest.mark.slow
def test_sweep_runs_its_jobs_and_says_nothing_needless(small_run: list[str], tmp_path: Path) -> None:
    sweep = ["-m", "loss.alpha=0,1", "loss.gamma=0,1", "trainer.max_steps=2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    output = finish(start("train.py", *sweep, *small_run, cwd=tmp_path))
    summaries = [json.loads((tmp_path / "sweep" / str(job) / "summary.json").read_text()) for job in range(4)]
    assert [summary["steps"] for summary in summaries] == [2] * 4
    assert ["train/loss_dpo" in summary["metrics"] for summary in summaries] == [False, False, True, True]
    assert ["train/loss_sft" in summary["metrics"] for summary in summaries] == [False, True, False, True]
    assert output.count("reference: ") == 4
    assert not NOISE.search(output), output
