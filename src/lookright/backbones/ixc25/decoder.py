"""The InternLM2 decoder of XComposer2.5: packed q/k/v, grouped queries, partial LoRA on every linear layer.

Shape letters: B batch, L tokens, C hidden width, H query heads, G key/value groups, S = H/G + 2, D head width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from lookright.backbones.base import CACHE
from lookright.backbones.elementwise import SILU, gated_silu
from lookright.backbones.ixc25.configuration import Ixc25Config
from lookright.backbones.ixc25.plora import IdleLinear, PartialLoraLinear, image_rows
from lookright.backbones.ixc25.rotary import apply_rotary, rotary_tables


def split_qkv(packed: Tensor, num_groups: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Output of wqkv, float[B, L, G*S*D] -> query float[B, H, L, D], key and value float[B, G, L, D].

    A group's block holds its H/G queries, then its key, then its value; query head g * H/G + j is number
    j of group g.
    """
    packed_BLGSD = packed.unflatten(-1, (num_groups, -1, head_dim))
    query = packed_BLGSD[..., :-2, :].flatten(2, 3).transpose(1, 2)
    return query, packed_BLGSD[..., -2, :].transpose(1, 2), packed_BLGSD[..., -1, :].transpose(1, 2)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Plain attention that also returns its map: float[B, L, H, D], float[B, H, L, K]; softmax in float32."""
    del kwargs
    repeats = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(repeats, dim=1).transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value.repeat_interleave(repeats, dim=1)).transpose(1, 2), weights


class Ixc25RMSNorm(nn.Module):
    """Root mean square norm, computed in float32, cast back, then weighted."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """float[..., C] -> float[..., C]."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


def _linear(config: Ixc25Config, in_features: int, out_features: int) -> PartialLoraLinear:
    return PartialLoraLinear(
        in_features, out_features, rank=config.plora_rank, alpha=config.plora_alpha, dropout=config.plora_dropout
    )


class Ixc25Attention(nn.Module):
    """Self-attention through transformers' attention interface; further keyword arguments reach the function."""

    def __init__(self, config: Ixc25Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_heads = config.num_key_value_heads
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        width = config.num_attention_heads * config.head_dim
        packed_width = width + 2 * config.num_key_value_heads * config.head_dim
        self.wqkv = _linear(config, config.hidden_size, packed_width)
        self.wo = _linear(config, width, config.hidden_size)

    def query_key_value(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], image_rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated query float[B, H, L, D], rotated key and plain value float[B, G, L, D]."""
        packed = self.wqkv(hidden_states, image_rows=image_rows)
        query, key, value = split_qkv(packed, self.num_key_value_heads, self.head_dim)
        cos, sin = position_embeddings
        return apply_rotary(query, cos, sin), apply_rotary(key, cos, sin), value

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        image_rows: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """float[B, L, C] -> float[B, L, C] and the attention map where the attention function gives one."""
        query, key, value = self.query_key_value(hidden_states, position_embeddings, image_rows)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        dropout = self.attention_dropout if self.training else 0.0
        output, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.wo(output.flatten(2), image_rows=image_rows), weights


class Ixc25FeedForward(nn.Module):
    """`w2(act(w1 x) * w3 x)`."""

    def __init__(self, config: Ixc25Config) -> None:
        super().__init__()
        self.w1 = _linear(config, config.hidden_size, config.intermediate_size)
        self.w3 = _linear(config, config.hidden_size, config.intermediate_size)
        self.w2 = _linear(config, config.intermediate_size, config.hidden_size)
        self.act_fn = ACT2FN[config.hidden_act]
        self.is_silu = config.hidden_act in SILU

    def forward(self, x: Tensor, image_rows: Tensor | None = None) -> Tensor:
        """float[..., C] -> float[..., C]."""
        gate, up = self.w1(x, image_rows=image_rows), self.w3(x, image_rows=image_rows)
        gated = gated_silu(gate, up) if self.is_silu else self.act_fn(gate) * up
        return self.w2(gated, image_rows=image_rows)


class Ixc25DecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward with residuals."""

    def __init__(self, config: Ixc25Config, layer_idx: int) -> None:
        super().__init__()
        self.attention = Ixc25Attention(config, layer_idx)
        self.feed_forward = Ixc25FeedForward(config)
        self.attention_norm = Ixc25RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.ffn_norm = Ixc25RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        image_rows: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """float[B, L, C] -> float[B, L, C]."""
        attended, _ = self.attention(
            self.attention_norm(hidden_states),
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            image_rows=image_rows,
            **kwargs,
        )
        hidden_states = hidden_states + attended
        return hidden_states + self.feed_forward(self.ffn_norm(hidden_states), image_rows=image_rows)


class Ixc25PreTrainedModel(PreTrainedModel):
    """What transformers needs to know of both the decoder and the whole model."""

    config: Ixc25Config
    config_class = Ixc25Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Ixc25DecoderLayer", "CLIPEncoderLayer"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": Ixc25DecoderLayer, "attentions": Ixc25Attention}

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights; a fresh partial LoRA adds nothing until it is trained, fresh separators are zero."""
        super()._init_weights(module)
        if isinstance(module, PartialLoraLinear):
            init.kaiming_uniform_(module.Plora_A.weight, a=5**0.5)
        if isinstance(module, IdleLinear):
            init.zeros_(module.weight)
        for name in ("plora_glb_GN", "plora_sub_GN"):
            if isinstance(parameter := getattr(module, name, None), nn.Parameter):
                init.zeros_(parameter)


class Ixc25Model(Ixc25PreTrainedModel):
    """The decoder stack."""

    def __init__(self, config: Ixc25Config) -> None:
        super().__init__(config)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        layers = [Ixc25DecoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = Ixc25RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.tok_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings."""
        self.tok_embeddings = value

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], *args: Any, **kwargs: Any) -> None:
        """As transformers has it, for the decoder alone: its configuration describes the vision tower too."""
        if isinstance(attn_implementation, str):
            vision = self.config.vision_config._attn_implementation
            attn_implementation = {"": attn_implementation, "vision_config": vision}
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        im_mask: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """One pass over int64[B, L] ids or float[B, L, C] embeddings.

        `im_mask`: bool[B, L], True on image rows of this pass, None where it has none. `position_ids`:
        int64[B, L], by default counted on from the cache. `cache`: the newer name of `past_key_values`.
        """
        past_key_values = cache if past_key_values is None else past_key_values
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, not both and not neither")
        if inputs_embeds is None:
            inputs_embeds = self.tok_embeddings(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = torch.arange(seen, seen + inputs_embeds.shape[1], device=inputs_embeds.device)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE: past_key_values},
        )
        shared = {
            "attention_mask": mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            "position_embeddings": rotary_tables(self.config, position_ids, inputs_embeds.dtype),
            "image_rows": image_rows(im_mask),
        }
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(hidden_states, **shared, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **{CACHE: past_key_values})
