"""The loss of `conf/loss/preference.yaml` in Python, for tests and benchmarks that compose no config."""

from lookright.losses.attention import AttentionLoss
from lookright.losses.base import Term
from lookright.losses.composite import CompositeLoss, Weighted
from lookright.losses.preference.dpo import DPOLoss
from lookright.losses.sft import SFTLoss


def make_loss(
    alpha: float = 1.0, gamma: float = 0.1, attention: float = 0.9, *, threshold: float = 0.75, kind: Term | None = None
) -> CompositeLoss:
    """alpha x preference + gamma x SFT + attention x attention term."""
    return CompositeLoss(
        {
            "preference": Weighted(alpha, DPOLoss() if kind is None else kind),
            "sft": Weighted(gamma, SFTLoss()),
            "attention": Weighted(attention, AttentionLoss(threshold)),
        }
    )
