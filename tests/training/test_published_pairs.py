"""The published pairs as they are train with the attention term."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from lookright.commands.train import train
from tests.published import OLD, write_published


def test_thirty_two_published_rows_train(
    composed: Callable[..., DictConfig], small_run: list[str], tmp_path: Path
) -> None:
    """Five collages, sequences of 2 to 5, insets, single pictures; repeated ids, foreign placeholders and paths."""
    path = write_published(tmp_path / "data")
    given = [f"data.path={path}", f"data.path_map={{{OLD}: new}}", "data.val_fraction=0", f"output={tmp_path / 'run'}"]
    config = composed("train", *small_run, *given)
    assert config.loss.attention.weight > 0
    train(config)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["examples"], summary["dropped"]) == (32, {})
    with (tmp_path / "run" / "metrics.csv").open() as file:
        steps = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert len(steps) == summary["steps"] == 16
    for row in steps:
        assert math.isfinite(float(row["train/loss"])) and math.isfinite(float(row["train/loss_attention"]))
        assert 0 < float(row["train/attention_ratio"]) <= 1
