"""One small packed row whose logits say whether two states of a model answer alike."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from lookright.backbones.base import Backbone
from lookright.backbones.loading import bare_model
from lookright.composing.formats.sequence import labelled_pictures
from lookright.packing.batch import PackedBatch, move, pack
from lookright.packing.encode import encode_answer
from lookright.packing.forward import decoder_rows
from lookright.records.held_pictures import HeldPictures
from lookright.types import Prompt

QUESTION = "In Image2, what color is the shape?"
ANSWER = "The shape is red, not blue."
SIZES = ((64, 48), (40, 56))
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Largest difference in logits, as a share of the largest logit, that is put down to rounding.

Of two ways to compute the same: attention kernels, and a product and a sum for each adapter against one product.
"""


@dataclass(slots=True, frozen=True, kw_only=True)
class Difference:
    """Of two float32[R, V]: `largest` absolute difference, the `largest_logit`, rows whose most likely token is one."""

    largest: float
    largest_logit: float
    same_tokens: int
    rows: int

    def within(self, dtype: torch.dtype) -> bool:
        """Whether rounding in `dtype` explains it; NaN never is."""
        return self.largest <= ROUNDING[dtype] * max(1.0, self.largest_logit)

    def __str__(self) -> str:
        same = f"{self.same_tokens} of {self.rows} most likely tokens are the same"
        return f"{self.largest:.3g} at most (logits reach {self.largest_logit:.3g}), {same}"

    def line(self) -> dict[str, Any]:
        """For `export.json`."""
        return {
            "largest": self.largest,
            "largest_logit": self.largest_logit,
            "same_tokens": self.same_tokens,
            "rows": self.rows,
        }


def difference(one: Tensor, other: Tensor) -> Difference:
    """Compare the logits of two states, float32[R, V] each."""
    same = one.argmax(-1) == other.argmax(-1)
    return Difference(
        largest=float((one - other).abs().max()),
        largest_logit=float(torch.maximum(one.abs(), other.abs()).max()),
        same_tokens=int(same.sum()),
        rows=len(one),
    )


class Probe:
    """Two pictures of noise, a question about the second, and an answer to it."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.pictures = [
            Image.frombytes("RGB", size, random.Random(number).randbytes(size[0] * size[1] * 3))
            for number, size in enumerate(SIZES)
        ]
        held = HeldPictures(self.pictures)
        self.text = labelled_pictures(len(self.pictures)) + QUESTION
        prompt = Prompt(
            id="probe",
            images=held.names,
            prompt=self.text,
            ground_truth="",
            format="sequence",
            target=None,
            regions=None,
        )
        self.batch: PackedBatch = pack([encode_answer(backbone, prompt, ANSWER, held)])
        self.prompt_ids = backbone.encode_prompt(self.text, [picture.size for picture in self.pictures]).input_ids

    @torch.no_grad()
    def logits(self, policy: nn.Module) -> Tensor:
        """What a model of ours, with or without adapters, says at the answer's rows: float32[R, V] on the CPU."""
        model = bare_model(policy)
        batch = move(self.batch, next(model.parameters()).device)
        rows = decoder_rows(self.backbone, model, batch, self.backbone.encode_images(model, batch.pixels))
        return model.get_output_embeddings()(rows).float().cpu()

    @torch.no_grad()
    def stock_logits(self, model: PreTrainedModel, image_token_id: int) -> Tensor:
        """The same of a model that transformers made by itself, from ids and pixels: float32[R, V] on the CPU."""
        batch = move(self.batch, next(model.parameters()).device)
        ids = batch.input_ids.masked_fill(batch.image_mask, image_token_id)
        output = model(input_ids=ids, pixel_values=torch.stack(batch.pixels).to(model.dtype))
        return output.logits[0, batch.layout.suffix_index].float().cpu()

    def message(self) -> list[dict[str, Any]]:
        """The user's turn as chat templates of transformers take it."""
        content: list[dict[str, Any]] = []
        for number, picture in enumerate(self.pictures, start=1):
            content += [{"type": "text", "text": f"Image{number}:"}, {"type": "image", "image": picture}]
        return [{"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}]

    def misfits(self, inputs: dict[str, Tensor], image_token_id: int) -> Sequence[str]:
        """In which way what a stock processor made of `message` is not what our backbone makes of the same."""
        mask = self.batch.image_mask[0, : len(self.prompt_ids)]
        wanted = self.prompt_ids.masked_fill(mask, image_token_id)
        found = []
        if inputs["input_ids"][0].tolist() != wanted.tolist():
            found.append("its prompt has other tokens than ours")
        if not torch.equal(inputs["pixel_values"], torch.stack(self.batch.pixels)):
            found.append("its pictures have other pixels than ours")
        return found
