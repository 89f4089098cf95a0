"""One left-padded pass over a batch of prompts, whose keys and values every decoder goes on from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from lookright.answering.cache import roomy_cache
from lookright.backbones.base import CACHE, Backbone
from lookright.backbones.prompts import EncodedPrompt
from lookright.packing.question import DecoderInput


@dataclass(slots=True, kw_only=True)
class Prefill:
    """B prompts after their pass: `input_ids`, `attention_mask` int64[B, L], `image_mask` bool[B, L],
    `coverage` float32[B, L, 2] (0 where unknown), `logits` float32[B, V] of the first answer token, and the cache."""

    input_ids: Tensor
    attention_mask: Tensor
    image_mask: Tensor
    coverage: Tensor
    logits: Tensor
    cache: DynamicCache

    @property
    def confidence(self) -> Tensor:
        """Largest probability of the first answer token: float32[B]."""
        return self.logits.softmax(-1).amax(-1)

    def repeated(self, count: int) -> "Prefill":
        """Every prompt `count` times, beside each other; the cache is this one's, grown."""
        self.cache.batch_repeat_interleave(count)
        rows = (self.input_ids, self.attention_mask, self.image_mask, self.coverage, self.logits)
        input_ids, attention_mask, image_mask, coverage, logits = (one.repeat_interleave(count, 0) for one in rows)
        return Prefill(
            input_ids=input_ids,
            attention_mask=attention_mask,
            image_mask=image_mask,
            coverage=coverage,
            logits=logits,
            cache=self.cache,
        )


@torch.no_grad()
def prefill(backbone: Backbone, model: PreTrainedModel, inputs: Sequence[DecoderInput]) -> Prefill:
    """Run the prompts through the bare `model` once, pictures encoded once each."""
    device = next(model.parameters()).device
    length = max(len(item.prompt.input_ids) for item in inputs)
    rows = [item.prompt.input_ids for item in inputs]
    input_ids = torch.stack([_left_pad(row, length, backbone.pad_token_id) for row in rows]).to(device)
    attention_mask = torch.stack([_left_pad(torch.ones_like(row), length, 0) for row in rows]).to(device)
    image_mask = torch.stack([_left_pad(_image_mask(item.prompt), length, False) for item in inputs]).to(device)
    features = backbone.encode_images(model, [pixels.to(device) for item in inputs for pixels in item.pixels])
    cache = roomy_cache(model)
    output = backbone.language_model(model)(
        inputs_embeds=backbone.merge_images(model, input_ids, image_mask, features),
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0),
        use_cache=True,
        **{CACHE: cache},
        **backbone.decoder_kwargs(image_mask),
    )
    return Prefill(
        input_ids=input_ids,
        attention_mask=attention_mask,
        image_mask=image_mask,
        coverage=torch.stack([_coverage(item, length) for item in inputs]).to(device),
        logits=model.get_output_embeddings()(output.last_hidden_state[:, -1]).float(),
        cache=cache,
    )


def _left_pad(row: Tensor, length: int, value: int | bool) -> Tensor:
    return F.pad(row, (length - len(row), 0), value=value)


def _image_mask(prompt: EncodedPrompt) -> Tensor:
    mask = torch.zeros(len(prompt.input_ids), dtype=torch.bool)
    for start, stop in prompt.image_spans:
        mask[start:stop] = True
    return mask


def _coverage(item: DecoderInput, length: int) -> Tensor:
    covered = torch.zeros(len(item.prompt.input_ids), 2) if item.coverage is None else item.coverage
    return F.pad(covered, (0, 0, length - len(covered), 0))
