"""What every backbone answers: tokens, pictures, geometry, and one decoder pass. It knows nothing of losses."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from lookright.types import Box, Size


@dataclass(slots=True, frozen=True, kw_only=True)
class EncodedPrompt:
    """A prompt as the decoder sees it.

    `input_ids` is int64[L], pictures already expanded to their tokens; `image_spans` gives the
    half-open token range of each picture, in order.
    """

    input_ids: Tensor
    image_spans: list[tuple[int, int]]


class TokenMap(ABC):
    """How the tokens of one picture see its pixels, after this backbone's resize, padding and tiling."""

    num_tokens: int

    @abstractmethod
    def coverage(self, box: Box) -> Tensor:
        """Share of each token's own picture area that `box` covers: float32[num_tokens] in [0, 1].

        A separator sees no pixel and has share 0.
        """

    @abstractmethod
    def footprints(self) -> list[Box | None]:
        """Pixel rectangle of the picture that each token sees, cut at the picture's edges.

        None for a separator and for a token that sees padding alone.
        """


class Backbone(ABC):
    """One family of vision-language models, at one size."""

    num_layers: int
    """Decoder layers."""
    end_token_ids: list[int]
    """Tokens that end an answer; `encode_response` appends the first."""
    pad_token_id: int
    max_length: int
    """Longest row in tokens, prompt and response together."""
    vision_prefix: str
    """Start of the vision tower's parameter names."""
    projector_prefix: str
    """Start of the names of the parameters between vision tower and decoder."""
    quantization: str | None = None
    """How the frozen layers of the decoder are held: None as they are, `4bit`."""

    # ---- text and pictures, before any weights are loaded ----

    @abstractmethod
    def token_map(self, size: Size, num_pictures: int) -> TokenMap:
        """Token geometry of one picture of `size` in a prompt with `num_pictures` pictures."""

    @abstractmethod
    def preprocess(self, image: Image.Image, num_pictures: int) -> Tensor:
        """Model input of one picture: float32[3, H, W], normalised."""

    @abstractmethod
    def encode_prompt(self, prompt: str, sizes: Sequence[Size]) -> EncodedPrompt:
        """Chat template around one user turn, pictures expanded.

        Raises RecordError (reason `placeholders`) where placeholders and pictures differ in number.
        """

    @abstractmethod
    def encode_continuation(self, text: str) -> Tensor:
        """Further user text of the same turn plus the opening of the assistant's turn: int64[N]."""

    @abstractmethod
    def encode_prefix(self, prompt: str, sizes: Sequence[Size]) -> EncodedPrompt:
        """As `encode_prompt` but the user turn stays open, for `encode_continuation` to close."""

    @abstractmethod
    def encode_response(self, text: str) -> Tensor:
        """Assistant answer with its end token: int64[N]."""

    @abstractmethod
    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated ids, cut before the end token, stripped."""

    # ---- the model ----

    @abstractmethod
    def build(self, *, weights: bool = True, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """The model with its weights, or freshly initialised; the decoder uses our attention function."""

    @abstractmethod
    def language_model(self, model: nn.Module) -> nn.Module:
        """The stock decoder stack: takes inputs_embeds, position_ids, returns last_hidden_state."""

    @abstractmethod
    def lora_targets(self) -> str:
        """Regular expression (full match, as PEFT takes it) of the linear layers that LoRA adapts."""

    @abstractmethod
    def encode_images(self, model: nn.Module, pixels: Sequence[Tensor]) -> list[Tensor]:
        """Projected tokens of each picture: float[N_i, D]; `model` is the bare model, not a PEFT wrapper."""

    def merge_images(
        self, model: nn.Module, input_ids: Tensor, image_mask: Tensor, features: Sequence[Tensor]
    ) -> Tensor:
        """Token embeddings int64[B, L] -> float[B, L, D] with image rows replaced, in row-major order."""
        embeds = model.get_input_embeddings()(input_ids)
        flat = torch.cat(list(features)).to(embeds.dtype) if features else embeds.new_zeros(0, embeds.shape[-1])
        return embeds.masked_scatter(image_mask[..., None], flat)

    def decoder_kwargs(self, image_mask: Tensor) -> dict[str, Tensor]:
        """Extra keyword arguments of the decoder's forward (partial LoRA masks and the like)."""
        del image_mask
        return {}

    @abstractmethod
    def save_pretrained(self, model: PreTrainedModel, folder: Path) -> None:
        """Write weights, tokenizer and processor so that `path=folder` loads them."""
