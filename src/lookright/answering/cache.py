"""Keys and values of earlier tokens, with room for those that come: transformers copies all of them for each token."""

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens that fit behind those of a prompt before anything is copied again."""


class RoomyLayer(DynamicLayer):
    """What transformers' layer holds, keys and values of shape [B, H, L, D/H], as the start of longer tensors.

    Whatever else changes them (a beam's order, repeated rows) makes tensors of its own, which get room anew.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._whole: dict[str, Tensor] = {}

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Put L' tokens, [B, H, L', D/H], behind those that are there; returns all keys and all values."""
        if not self.get_seq_length():
            return super().update(key_states, value_states, *args, **kwargs)
        self.keys = self._behind("keys", self.keys, key_states)
        self.values = self._behind("values", self.values, value_states)
        return self.keys, self.values

    def reset(self) -> None:
        """Forget everything."""
        self._whole.clear()
        super().reset()

    def _behind(self, name: str, held: Tensor, new: Tensor) -> Tensor:
        length = held.shape[-2] + new.shape[-2]
        whole = self._whole.get(name)
        if whole is None or whole.shape[-2] < length or not _is_start(held, whole):
            whole = held.new_empty(*held.shape[:-2], length + ROOM, held.shape[-1])
            whole[..., : held.shape[-2], :] = held
            self._whole[name] = whole
        whole[..., held.shape[-2] : length, :] = new
        return whole[..., :length, :]


def _is_start(held: Tensor, whole: Tensor) -> bool:
    """Whether a tensor is a view of the first tokens of the other."""
    return (
        held.data_ptr() == whole.data_ptr() and held.stride() == whole.stride() and held.shape[:-2] == whole.shape[:-2]
    )


def roomy_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for a model's decoder; layers of other kinds, such as sliding windows, are transformers' own."""
    cache = DynamicCache(config=model.config.get_text_config())
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
