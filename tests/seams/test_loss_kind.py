"""A loss kind from a folder outside the package: one class, one YAML, no other edit."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from lookright.commands.train import train
from lookright.config.check import check_config
from lookright.errors import ConfigError
from lookright.reports.training import read_columns

CLASS = '''
from lookright.losses.base import PreferenceTerm, in_range

class SquaredHinge(PreferenceTerm):
    """max(0, reach - beta m)^2, m = log-ratio of chosen less that of rejected."""

    name = "squared_hinge"

    def __init__(self, beta: float, reach: float):
        super().__init__(beta)
        self.reach = in_range("reach", reach, above=0.0)

    def __call__(self, scores):
        chosen, rejected = scores.log_ratios()
        return scores.mean_over_rejected((self.reach - self.beta * (chosen[:, None] - rejected)).relu().square())
'''
YAML = """
_target_: kinds_of_mine.SquaredHinge
beta: 0.1
# margin, in units of 1 / beta nats, that is enough
reach: 1.5
"""
Compose = Callable[..., DictConfig]


@pytest.fixture()
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "kinds_of_mine.py").write_text(CLASS)
    (tmp_path / "conf" / "loss" / "kind").mkdir(parents=True)
    (tmp_path / "conf" / "loss" / "kind" / "squared_hinge.yaml").write_text(YAML)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_kind_of_ones_own_trains(folder: Path, composed: Compose, small_run: list[str]) -> None:
    chosen = [f"hydra.searchpath=[file://{folder / 'conf'}]", "loss/kind=squared_hinge", "loss.kind.reach=2"]
    weights = ["loss.alpha=0.5", "loss.gamma=0", "loss.attention.weight=0"]
    summary = train(composed("train", *small_run, *chosen, *weights, f"output={folder / 'run'}"))
    columns = read_columns(folder / "run" / "metrics.csv")
    # the policy starts as the reference: margin 0, so reach^2, and half of it
    assert columns["train/loss_squared_hinge"][0][1] == pytest.approx(4.0)
    assert columns["train/loss"][0][1] == pytest.approx(2.0)
    assert {"val/loss_squared_hinge", "val/reward_margin", "val/sequence/attention_ratio"} <= set(summary["metrics"])


def test_its_options_are_checked_as_those_of_the_shipped_kinds(folder: Path, composed: Compose) -> None:
    chosen = ["data.path=x", f"hydra.searchpath=[file://{folder / 'conf'}]", "loss/kind=squared_hinge"]
    with pytest.raises(ConfigError) as error:
        check_config(composed("train", *chosen, "+loss.kind.raech=3", "loss.kind.beta=low"))
    assert sorted(str(error.value).split("\n")) == [
        "loss.kind.beta='low' does not fit; set a number",
        "loss.kind.raech does not exist; did you mean reach? valid names: beta, reach",
    ]
    with pytest.raises(Exception, match=r"(?s)Could not find 'loss/kind/squared'.*squared_hinge"):
        composed("train", *chosen[:2], "loss/kind=squared")
