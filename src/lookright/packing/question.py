"""A prompt with its pictures, for one backbone."""

from dataclasses import dataclass

from torch import Tensor

from lookright.backbones.prompts import EncodedPrompt


@dataclass(slots=True, kw_only=True)
class DecoderInput:
    """A prompt to answer.

    `pixels`: one float32[3, H, W] a picture; `coverage`: float32[L, 2], share of each prompt token that the
    target and that all source images cover, None where that is unknown.
    """

    prompt: EncodedPrompt
    pixels: list[Tensor]
    coverage: Tensor | None = None
