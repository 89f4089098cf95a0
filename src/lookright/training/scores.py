"""From responses in a row to pairs: the first response of a prompt is chosen, the others are rejected."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lookright.losses.base import AttentionRead, PairScores, SideScores
from lookright.packing.batch import PackedBatch
from lookright.packing.forward import PackedOutput


def pair_scores(
    batch: PackedBatch,
    output: PackedOutput,
    reference_logps: Tensor | None,
    reads: Sequence[AttentionRead] = (),
) -> PairScores:
    """Regroup float[R] values as chosen float[P] and rejected float[P, k] with a mask where k differs.

    `reads` say of each attention ratio of `output` what it is.
    """
    first = batch.first_response
    counts = torch.diff(first, append=first.new_tensor([batch.scored.num_responses])) - 1
    offsets = torch.arange(int(counts.max()), device=first.device)
    mask = offsets[None, :] < counts[:, None]
    # a missing response points at the chosen one; the mask keeps it out of every term
    rejected = torch.where(mask, first[:, None] + 1 + offsets[None, :], first[:, None])
    return PairScores(
        policy_chosen=SideScores(logps=output.logps[first], num_tokens=output.num_tokens[first]),
        policy_rejected=SideScores(logps=output.logps[rejected], num_tokens=output.num_tokens[rejected], mask=mask),
        reference_chosen=None if reference_logps is None else reference_logps[first],
        reference_rejected=None if reference_logps is None else reference_logps[rejected],
        attention_ratio=output.attention_ratio,
        attention_ratios=dict(zip(reads, output.attention_ratios, strict=True)),
    )
