"""What every backbone answers: tokens, pictures, geometry, and one decoder pass. It knows nothing of losses.

What the abstract methods cannot say, a backbone keeps too. `tests/backbones/contract.py` tries all of it; what is
marked * is checked in every packed pass, which raises BackboneError in place of wrong numbers.

The decoder, `language_model(model)`, is a stack in the manner of transformers:

- `use_lookright_attention(decoder)` has been called, and the stack hands unknown keyword arguments (`packed=`) through
  its layers to the attention function *, whose module tells its number in `layer_idx`, 0 to `num_layers` - 1 *.
- Attention is softmax(scaling q k) over what comes before: no dropout *, capped logits or sinks *; a sliding
  window may not be shorter than `max_length` *. Keys carry positions from `position_ids`, which repeat in a packed row.
- A mask of four dimensions is taken as ready made, as `transformers.masking_utils` takes it.
- It returns `last_hidden_state` behind its last norm: the whole row float[1, T, D], or in a packed pass the
  rows of `packed.layout.suffix_index` alone *. The second saves the last layer's work on rows that nobody reads:
  see `_last_layer_forward` of `backbones.llava`.
- It takes a cache of keys and values under the name `CACHE`, and `use_cache`, for answering.
- `decoder.layers` are its layers, and the attention module is the only child of a layer with a `layer_idx`, for
  `trainer.compile`.

The model around it has `generate`, `get_input_embeddings`, `get_output_embeddings`, and a `config` whose
`get_text_config()` and, if there is one, `vision_config` name their sizes as Llama's and CLIP's do (`hidden_size`,
`intermediate_size`, `num_attention_heads` ...), for `trainer.plan` and for caches.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask

from lookright.backbones.prompts import EncodedPrompt, check_placeholders, expand_images, shared_prompt
from lookright.backbones.shards import SHARD_BYTES
from lookright.backbones.tokenizer import TextTokenizer
from lookright.errors import RecordError
from lookright.types import IMAGE_PLACEHOLDER, Box, Footprint, Size, Turn

CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"
"""What transformers calls the cache of keys and values: `cache` from 5.24 on, `past_key_values` before."""


class TokenMap(ABC):
    """How the tokens of one picture see its pixels, after this backbone's resize, padding and tiling."""

    num_tokens: int

    @abstractmethod
    def coverage(self, box: Box) -> Tensor:
        """Share of each token's own picture area that `box` covers: float32[num_tokens] in [0, 1].

        A separator sees no pixel and has share 0.
        """

    @abstractmethod
    def footprints(self) -> list[Footprint | None]:
        """Tell what each token sees of the picture, and what share of the token that is.

        None for a separator and for a token that sees padding alone.
        """


class Backbone(ABC):
    """One family of vision-language models, at one size."""

    num_layers: int
    """Decoder layers."""
    end_token_ids: list[int]
    """Tokens that end an answer; training puts the first behind it."""
    pad_token_id: int
    bos_token_id: int | None
    """Token in front of every conversation, None where there is none."""
    image_token_id: int
    """What stands for a picture's rows in `input_ids`; no text gives it."""
    text_tokenizer: TextTokenizer
    max_length: int
    """Longest row in tokens, prompt and response together."""
    vision_prefix: str
    """Start of the vision tower's parameter names."""
    projector_prefix: str
    """Start of the names of the parameters between vision tower and decoder."""
    export_layouts: tuple[str, ...] = ("own",)
    """What `export` writes, the usual one first. `stock` is one that transformers' Auto classes load."""
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
    def conversation_text(self, prompt: str, answer: str | None, first: bool = True) -> str:
        """One user turn and its answer in the family's template, placeholders inside and no end token.

        With `answer=None` it ends where generation begins. A turn that is not the `first` begins right behind the
        end token of the one before.
        """

    def encode_prompt(self, prompt: str, sizes: Sequence[Size], history: Sequence[Turn] = ()) -> EncodedPrompt:
        """Chat template around a user turn after those of `history`, pictures expanded, for an answer to be generated.

        `sizes` are those of all pictures. Raises RecordError (reason `placeholders`) where placeholders and pictures
        differ in number.
        """
        return self._encode([*history, (prompt, None)], sizes)

    def encode_conversation(
        self, prompt: str, answers: Sequence[str], sizes: Sequence[Size], history: Sequence[Turn] = ()
    ) -> tuple[EncodedPrompt, list[Tensor]]:
        """The prompt that all answers share, and int64[N] for each answer with its end token.

        Prompt and answer are tokenised as one text, as in the training of both families: the ids of both, one
        after the other, are those of the whole conversation. Where a token reaches from the template into
        an answer, the shared prompt ends before it and all answers begin there, so that their log-probabilities
        speak of the same text. A turn of `history` has the ids that it had here with its answer.
        """
        end = torch.tensor(self.end_token_ids[:1])
        asked = self.encode_prompt(prompt, sizes, history)
        whole = [self._encode([*history, (prompt, answer)], sizes) for answer in answers]
        shared = shared_prompt([asked, *whole])
        start = len(shared.input_ids)
        return shared, [torch.cat([conversation.input_ids[start:], end]) for conversation in whole]

    def _encode(self, turns: Sequence[tuple[str, str | None]], sizes: Sequence[Size]) -> EncodedPrompt:
        """Questions and answers, split at pictures and end tokens; every stretch is tokenised by itself, BOS in front.

        The last turn has no end token.
        """
        asked = [self.conversation_text(prompt, None, place == 0) for place, (prompt, _) in enumerate(turns)]
        check_placeholders("".join(asked), len(sizes))
        ids: list[list[int]] = [[]]
        for place, (prompt, answer) in enumerate(turns):
            text = self.conversation_text(prompt, answer, place == 0)
            # the placeholders of a turn come first: one that its answer spells stays text
            start, *others = text.split(IMAGE_PLACEHOLDER, maxsplit=asked[place].count(IMAGE_PLACEHOLDER))
            if place == 0:
                ids[-1] += self.text_tokenizer.encode(start)
            else:
                ids[-1] += [self.end_token_ids[0], *self._encode_behind_end(start)]
            ids += [self.text_tokenizer.encode(stretch) for stretch in others]
        if any(self.image_token_id in part for part in ids):
            raise RecordError(
                "placeholders",
                f"the text {''.join(asked)[:80]!r} holds the token that stands for picture rows "
                f"(id {self.image_token_id}); take it out of the text",
            )
        opening = [] if self.bos_token_id is None else [self.bos_token_id]
        parts = [torch.tensor(part, dtype=torch.long) for part in (opening + ids[0], *ids[1:])]
        counts = [self.token_map(size, len(sizes)).num_tokens for size in sizes]
        return expand_images(parts, counts, self.image_token_id)

    def _encode_behind_end(self, text: str) -> list[int]:
        """Ids of a stretch between an end token and a picture or the next end token."""
        return self.text_tokenizer.encode(text)

    @abstractmethod
    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated ids, cut before the end token, stripped."""

    # ---- the model ----

    @abstractmethod
    def build(self, *, weights: bool = True, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """The model with its weights, or freshly initialised; the decoder uses our attention function."""

    @abstractmethod
    def language_model(self, model: PreTrainedModel) -> PreTrainedModel:
        """The decoder stack, stock or not, as the module's docstring describes it."""

    @abstractmethod
    def lora_targets(self) -> str:
        """Regular expression (full match, as PEFT takes it) of the linear layers that LoRA adapts."""

    @abstractmethod
    def encode_images(self, model: PreTrainedModel, pixels: Sequence[Tensor]) -> list[Tensor]:
        """Projected tokens of each picture: float[N_i, D]; `model` is the bare model, not a PEFT wrapper."""

    def merge_images(
        self, model: PreTrainedModel, input_ids: Tensor, image_mask: Tensor, features: Sequence[Tensor]
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

    @property
    def loaded_layout(self) -> str:
        """The one of `export_layouts` that the weights were found in."""
        return self.export_layouts[0]

    def export(
        self, model: PreTrainedModel, folder: Path, *, layout: str, home: Path, shard_bytes: int = SHARD_BYTES
    ) -> None:
        """Write what others load, in one of `export_layouts`, in files of at most `shard_bytes`.

        `home` is where the folder will lie. `model` is bare, and of no further use: it may be changed.
        """
        del layout, home, shard_bytes
        self.save_pretrained(model, folder)

    def reopened(self, folder: Path) -> "Backbone | None":
        """This backbone with its settings on what `export` wrote to `folder`; None where it cannot tell."""
        del folder
        return None
