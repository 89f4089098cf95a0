"""Further loss terms from a folder outside the package: one class, one YAML each, no other edit."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from lookright.commands.train import train
from lookright.reports.training import read_columns

CLASSES = '''
from lookright.losses.base import AttentionRead, Reads, Term, in_range

class LengthPenalty(Term):
    """slope x tokens of the chosen response; reads nothing beside the policy."""

    def __init__(self, slope: float):
        self.slope = in_range("slope", slope, above=0.0)

    def __call__(self, scores):
        return self.slope * scores.policy_chosen.num_tokens.float()


class EarlyLook(Term):
    """-log attention ratio in the layers that it is told."""

    def __init__(self, layers: list[int]):
        self.reads = Reads(attention=AttentionRead(tuple(layers), "first"))

    def __call__(self, scores):
        return -scores.attention_ratio.log()
'''
LENGTH = """
# @package loss.terms
length:
  _target_: lookright.losses.composite.Weighted
  weight: 0.25
  term:
    _target_: terms_of_mine.LengthPenalty
    slope: 2
"""
EARLY = """
# @package loss.terms
early:
  _target_: lookright.losses.composite.Weighted
  weight: 0.5
  term:
    _target_: terms_of_mine.EarlyLook
    layers: [0]
"""
Compose = Callable[..., DictConfig]


@pytest.fixture()
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "terms_of_mine.py").write_text(CLASSES)
    group = tmp_path / "conf" / "loss" / "term"
    group.mkdir(parents=True)
    (group / "length.yaml").write_text(LENGTH.lstrip())
    (group / "early.yaml").write_text(EARLY.lstrip())
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def first_step(config: DictConfig, run: Path) -> dict[str, float]:
    train(config)
    return {name: points[0][1] for name, points in read_columns(run / "metrics.csv").items()}


def test_two_more_terms_beside_the_shipped_ones(folder: Path, composed: Compose, small_run: list[str]) -> None:
    chosen = [f"hydra.searchpath=[file://{folder / 'conf'}]", "loss/term=[length,early]", "trainer.max_steps=1"]
    given = [*small_run, *chosen, "loss.terms.length.weight=0.125", "data.val_fraction=0"]
    found = first_step(composed("train", *given, f"output={folder / 'run'}"), folder / "run")
    weights = {"dpo": 1.0, "sft": 0.1, "attention": 0.9, "length": 0.125, "early": 0.5}
    assert {name for name in found if name.startswith("train/loss_")} == {f"train/loss_{name}" for name in weights}
    total = sum(weight * found[f"train/loss_{name}"] for name, weight in weights.items())
    assert found["train/loss"] == pytest.approx(total, rel=1e-5)
    # answers have one or two tokens and an end, of which each costs 2
    assert 2 < found["train/loss_length"] < 20
    # each reads attention where it says: the band for the one, layer 0 for the other
    assert found["train/attention_ratio"] != pytest.approx(found["train/attention_ratio_early"], abs=1e-6)
    assert 0 < found["train/attention_ratio_early"] < 1


def test_a_term_that_reads_nothing_costs_no_pass(folder: Path, composed: Compose, small_run: list[str]) -> None:
    chosen = [f"hydra.searchpath=[file://{folder / 'conf'}]", "loss/term=[length]", "~reference"]
    off = ["loss.alpha=0", "loss.attention.weight=0", "trainer.max_steps=1", "data.val_fraction=0"]
    found = first_step(composed("train", *small_run, *chosen, *off, f"output={folder / 'run'}"), folder / "run")
    assert {name for name in found if "attention" in name or "reward" in name} == set()
    assert found["train/loss"] == pytest.approx(0.1 * found["train/loss_sft"] + 0.25 * found["train/loss_length"])
