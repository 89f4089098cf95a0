"""Partial LoRA: a low-rank addition that acts on image rows alone (InternLM-XComposer2, arXiv 2401.16420, eq. 1)."""

from torch import Tensor, nn


def image_rows(im_mask: Tensor | None) -> Tensor | None:
    """Indices of the True rows of bool[B, L], flattened: int64[K]; None stays None (no picture anywhere)."""
    return None if im_mask is None else im_mask.flatten().nonzero().squeeze(-1)


class IdleLinear(nn.Linear):
    """A linear layer that starts at zero wherever it is made: the model, or weights that a checkpoint lacks."""


class PartialLoraLinear(nn.Linear):
    """`y = x W^T`, plus `dropout(x) A^T B^T * alpha / rank` on image rows; dropout in train mode alone.

    A subclass of nn.Linear, so that PEFT wraps it: an adapter then acts on all rows and hands `image_rows` on.
    """

    def __init__(self, in_features: int, out_features: int, *, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.Plora_A = nn.Linear(in_features, rank, bias=False)
        self.Plora_B = IdleLinear(rank, out_features, bias=False)
        self.plora_dropout = nn.Dropout(dropout)
        self.plora_scale = alpha / rank

    def forward(self, x: Tensor, image_rows: Tensor | None = None) -> Tensor:
        """float[..., in] -> float[..., out]; `image_rows` int64[K] indexes the rows of x flattened."""
        return add_on_image_rows(self, super().forward(x), x, image_rows)


def add_on_image_rows(layer: nn.Module, output: Tensor, x: Tensor, image_rows: Tensor | None) -> Tensor:
    """A layer's plain `output` for `x`, plus what its partial LoRA adds on `image_rows`, in place."""
    if image_rows is None:
        return output
    # an empty index still runs: under sharded training every rank has to ask for the same parameters
    picked = x.reshape(-1, layer.in_features).index_select(0, image_rows)
    added = layer.Plora_B(layer.Plora_A(layer.plora_dropout(picked))) * layer.plora_scale
    output.view(-1, layer.out_features).index_add_(0, image_rows, added.to(output.dtype))
    return output
