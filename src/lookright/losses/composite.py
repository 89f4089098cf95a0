"""From the responses of a packed pass to pairs, and the weighted sum of loss terms over them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from lookright.config.references import ShortName
from lookright.errors import ConfigError
from lookright.losses.base import AttentionRead, PairScores, SideScores, Term, in_range
from lookright.losses.sft import SFTLoss
from lookright.packing.batch import PackedBatch
from lookright.packing.forward import PackedOutput


class Weighted:
    """A term and what the sum multiplies it with; weight 0 leaves the term out."""

    def __init__(self, weight: float, term: Term) -> None:
        self.weight = in_range("weight", weight, minimum=0.0)
        self.term = term


class CompositeLoss:
    """Sum of weight times term. A term of weight 0 is dropped: not evaluated, what it reads does not count.

    `terms` maps any name to a weighted term; metrics use the name where the term has none of its own, or another
    term has the same. `short_names` are keys of a config that its `terms` refer to (`weight: ${loss.alpha}`), and
    are not read here. Raises ConfigError where no term is left, and where the likelihood would count twice.
    """

    def __init__(self, terms: Mapping[str, Weighted], **short_names: ShortName) -> None:
        del short_names
        given = {key: part for key, part in terms.items() if part is not None}
        active = {key: part for key, part in given.items() if part.weight > 0}
        if not active:
            raise ConfigError(
                f"every loss term has weight 0 ({', '.join(given) or 'no term given'}): nothing would train; "
                "set loss.alpha, loss.gamma or loss.attention.weight above 0"
            )
        taken = Counter(part.term.name for part in active.values())
        self.terms: dict[str, Weighted] = {
            part.term.name if part.term.name and taken[part.term.name] == 1 else key: part
            for key, part in active.items()
        }
        if len(self.terms) < len(active):
            twice = next(name for name in self.terms if name in taken and name in active)
            raise ConfigError(f"two loss terms are called {twice}; give the one loss.terms.{twice} another key")
        self._refuse_double_likelihood()

    def _refuse_double_likelihood(self) -> None:
        whole = [name for name, part in self.terms.items() if part.term.contains_sft]
        added = [part.weight for part in self.terms.values() if isinstance(part.term, SFTLoss)]
        if whole and added:
            raise ConfigError(
                f"loss/kind={whole[0]} already contains the likelihood term that loss.gamma={added[0]:g} would add "
                "again; set loss.gamma=0"
            )

    @property
    def needs_reference(self) -> bool:
        """Whether an active term compares with the reference."""
        return any(part.term.reads.reference for part in self.terms.values())

    @property
    def needs_attention(self) -> bool:
        """Whether an active term reads the attention ratio."""
        return bool(self.attention_reads)

    @property
    def attention_reads(self) -> dict[str, AttentionRead]:
        """Where each active term that reads attention does, by the term's name."""
        reads = {name: part.term.reads.attention for name, part in self.terms.items()}
        return {name: read for name, read in reads.items() if read is not None}

    def __call__(self, scores: PairScores) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted loss float[P], and each term unweighted and detached under `loss_<name>`, float[P]."""
        values = {name: part.term(scores.seen_by(part.term)) for name, part in self.terms.items()}
        # there is a term, so that the sum is more than its start, 0
        loss = cast(Tensor, sum(part.weight * values[name] for name, part in self.terms.items()))
        return loss, {f"loss_{name}": value.detach() for name, value in values.items()}

    def metrics(self, scores: PairScores) -> dict[str, Tensor]:
        """Return what the active terms report beside their loss: float[P] each."""
        found: dict[str, Tensor] = {}
        for part in self.terms.values():
            found.update(part.term.metrics(scores.seen_by(part.term)))
        return found

    def __repr__(self) -> str:
        return " + ".join(f"{part.weight:g} x {name}" for name, part in self.terms.items())


def pair_scores(
    batch: PackedBatch,
    output: PackedOutput,
    reference_logps: Tensor | None,
    reads: Sequence[AttentionRead] = (),
) -> PairScores:
    """Regroup float[R] values as chosen float[P] and rejected float[P, k] with a mask where k differs.

    The first response of a prompt is the chosen one, the others are rejected.
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
        formats=batch.labels,
    )
