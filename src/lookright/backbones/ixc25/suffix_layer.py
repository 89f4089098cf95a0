"""The last decoder layer in a packed pass: only the rows that are scored need more than keys and values."""

from typing import Any

import torch
from torch import Tensor

from lookright.attention import PackedCall, suffix_attention
from lookright.backbones.ixc25.decoder import Ixc25DecoderLayer


def suffix_layer_forward(
    self: Ixc25DecoderLayer, hidden_states: Tensor, packed: PackedCall | None = None, **kwargs: Any
) -> Tensor:
    """float[1, T, C] -> float[1, sum S, C]; without `packed` it is the layer's own forward, all rows."""
    if packed is None:
        return type(self).forward(self, hidden_states, **kwargs)
    attention, rows, image_rows = self.attention, packed.layout.suffix_index, kwargs["image_rows"]
    normed = self.attention_norm(hidden_states)
    query, key, value = attention.query_key_value(normed, kwargs["position_embeddings"], image_rows)
    output = suffix_attention(query[:, :, rows], key, value, attention.scaling, attention.layer_idx, packed)
    kept = None if image_rows is None else torch.isin(rows, image_rows).nonzero().squeeze(-1)
    hidden_states = hidden_states[:, rows] + attention.wo(output.flatten(2), image_rows=kept)
    return hidden_states + self.feed_forward(self.ffn_norm(hidden_states), image_rows=kept)
