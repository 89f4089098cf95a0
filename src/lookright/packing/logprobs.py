"""The one home of the shift by one, the response rows and the float32 log-softmax."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lookright.errors import ConfigError

RATIO_ROWS = ("response", "generated", "first")
"""Rows that an attention ratio may be read from: all that predict a token of the response; those whose query is a
generated token, so all but the first (the released selection, by which an answer of one word is judged where its end
is predicted); the first alone."""


def check_rows(kind: str, key: str = "ratio_rows") -> str:
    """Return `kind`; raises ConfigError naming `key` where it is none of `RATIO_ROWS`."""
    if kind not in RATIO_ROWS:
        raise ConfigError(f"{key}={kind!r}; valid: {', '.join(RATIO_ROWS)}")
    return kind


@dataclass(slots=True, kw_only=True)
class ScoredTokens:
    """Which rows predict which tokens, over all responses of a batch.

    `rows`: int64[N], index among the rows that the decoder returns; `targets`: int64[N], the token that
    follows in its response; `owner`: int64[N], the response it belongs to, in 0 .. num_responses - 1.
    """

    rows: Tensor
    targets: Tensor
    owner: Tensor
    num_responses: int

    def firsts(self) -> Tensor:
        """True where a response's first scored token is predicted: bool[N]."""
        return torch.cat([torch.ones_like(self.owner[:1], dtype=torch.bool), self.owner[1:] != self.owner[:-1]])

    def rows_of(self, kind: str) -> Tensor:
        """True for the rows of a kind in `RATIO_ROWS`: bool[N]. A response of one token has its first row alone."""
        assert kind in RATIO_ROWS, kind
        if kind == "response":
            return torch.ones_like(self.owner, dtype=torch.bool)
        firsts = self.firsts()
        return firsts if kind == "first" else ~firsts | (self.counts()[self.owner] == 1)

    def counts(self) -> Tensor:
        """Scored tokens of each response: int64[num_responses]."""
        return torch.bincount(self.owner, minlength=self.num_responses)


def scored_tokens(response: Tensor, num_unscored: int, first_input: int) -> tuple[Tensor, Tensor]:
    """The shift by one for a single response.

    `response`: int64[n], its tokens; the first `num_unscored` are context only. `first_input` is the suffix
    row of response token 0; token 0 itself is predicted by suffix row 0, the last prompt token. Returns
    (rows, targets), int64[n - num_unscored] each, rows counted within the group's suffix.
    """
    rows = torch.arange(first_input - 1, first_input - 1 + len(response))
    rows[0] = 0
    return rows[num_unscored:], response[num_unscored:]


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target in nats: float[N, V], int64[N] -> float32[N] (float64 stays)."""
    return _TokenLogps.apply(logits if logits.dtype == torch.float64 else logits.float(), targets)


class _TokenLogps(torch.autograd.Function):
    """One value of a log-softmax a row; its gradient is made in one buffer as large as the logits, not in two."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets: Tensor) -> Tensor:
        logps_NV = torch.log_softmax(logits_NV, dim=-1)
        ctx.save_for_backward(logps_NV, targets)
        return logps_NV.gather(1, targets[:, None]).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logps_NV, targets = ctx.saved_tensors
        of_logits_NV = logps_NV.exp().mul_(-gradient[:, None])
        return of_logits_NV.scatter_add_(1, targets[:, None], gradient[:, None]), None


def sum_by_response(values: Tensor, scored: ScoredTokens) -> Tensor:
    """Sum token values over each response: float[N] -> float[num_responses]."""
    return values.new_zeros(scored.num_responses).index_add(0, scored.owner, values)
