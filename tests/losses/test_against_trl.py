"""The same numbers as TRL's own trainers, called on ready log-probabilities without a model."""

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lookright.losses.base import PairScores, PreferenceTerm
from lookright.losses.preference.dpo import DPOLoss
from lookright.losses.preference.hinge import HingeLoss
from lookright.losses.preference.ipo import IPOLoss
from lookright.losses.preference.orpo import ORPOLoss
from lookright.losses.preference.robust import RobustDPOLoss
from lookright.losses.preference.simpo import SimPOLoss

trl = pytest.importorskip("trl", reason="the comparison needs trl, which the extra dev installs")


def trl_dpo_trainer_loss(scores: PairScores, loss_type: str, beta: float, label_smoothing: float) -> float:
    """The mean loss of DPOTrainer's own code; each response is one row with its log-probability on the first token."""
    num_tokens = torch.cat([scores.policy_chosen.num_tokens, scores.policy_rejected.num_tokens[:, 0]])
    width = int(num_tokens.max()) + 1
    completion_mask = (torch.arange(width) >= 1) & (torch.arange(width) <= num_tokens[:, None])
    logps = torch.cat([scores.policy_chosen.logps, scores.policy_rejected.logps[:, 0]])
    log_probs = torch.zeros(len(logps), width - 1, dtype=torch.float64)
    log_probs[:, 0] = logps
    same = torch.zeros_like(log_probs)
    outputs = SimpleNamespace(log_probs=log_probs, entropy=same, mean_logits=same, is_top1=same.bool())
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda value: value, gather=lambda value: value),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=label_smoothing,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.zeros_like(completion_mask, dtype=torch.long),
        "attention_mask": torch.ones_like(completion_mask),
        "completion_mask": completion_mask.long(),
        "ref_chosen_logps": scores.reference_chosen,
        "ref_rejected_logps": scores.reference_rejected[:, 0],
    }
    return trl.DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False).item()


@pytest.mark.parametrize(
    ("term", "options", "loss_type", "label_smoothing"),
    [
        (DPOLoss, {}, "sigmoid", 0.0),
        (HingeLoss, {}, "hinge", 0.0),
        (IPOLoss, {"average": True}, "ipo", 0.0),
        (RobustDPOLoss, {"label_smoothing": 0.15}, "robust", 0.15),
    ],
)
def test_dpo_trainer(
    random_scores: Callable[..., PairScores],
    term: type[PreferenceTerm],
    options: dict[str, Any],
    loss_type: str,
    label_smoothing: float,
) -> None:
    scores = random_scores(num_pairs=9)
    ours = term(beta=0.3, **options)(scores).mean().item()
    assert ours == pytest.approx(trl_dpo_trainer_loss(scores, loss_type, 0.3, label_smoothing), rel=1e-9)


def test_simpo(random_scores: Callable[..., PairScores]) -> None:
    cpo = pytest.importorskip("trl.experimental.cpo")
    scores = random_scores()
    trainer = SimpleNamespace(
        alpha=0.0,
        loss_type="simpo",
        beta=2.5,
        simpo_gamma=1.4,
        label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )
    theirs, *_ = cpo.CPOTrainer.cpo_loss(
        trainer, scores.policy_chosen.mean_logps, scores.policy_rejected.mean_logps[:, 0]
    )
    ours = SimPOLoss(beta=2.5, target_margin=1.4)(scores)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_orpo(random_scores: Callable[..., PairScores]) -> None:
    orpo = pytest.importorskip("trl.experimental.orpo")
    scores = random_scores()
    trainer = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    chosen, rejected = scores.policy_chosen.mean_logps, scores.policy_rejected.mean_logps[:, 0]
    theirs, *_ = orpo.ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)
    ours = ORPOLoss(beta=0.3)(scores)
    # TRL subtracts the weighted log sigmoid from the likelihood term, and computes it in float32.
    torch.testing.assert_close(ours, -chosen - theirs, rtol=1e-5, atol=1e-5)
