"""InternLM-XComposer2.5 as a transformers model, parameters under their official names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple

from lookright.backbones.base import CACHE
from lookright.backbones.ixc25.configuration import Ixc25Config
from lookright.backbones.ixc25.decoder import Ixc25Model, Ixc25PreTrainedModel
from lookright.backbones.ixc25.vision import Ixc25VisionTower, picture_rows

_TOWER = "vit.vision_tower."


class Ixc25ForCausalLM(Ixc25PreTrainedModel, GenerationMixin):
    """Decoder, head, ViT, projector and the two separators.

    Pictures come in three ways: `pixels` with `input_ids` that hold `config.image_token_id` at image rows;
    `image_embeds`, projected rows already at their places; or `inputs_embeds` with `im_mask`.
    """

    _tied_weights_keys: dict[str, str] = {}
    _keys_to_ignore_on_load_unexpected = [r"\.lora_(sft|dpo|web)_[AB]\.weight$"]

    def __init__(self, config: Ixc25Config) -> None:
        super().__init__(config)
        width = config.image_feature_size
        self.model = Ixc25Model(config)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.vit = Ixc25VisionTower(config)
        self.vision_proj = nn.Sequential(
            nn.Linear(width, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)
        )
        self.plora_glb_GN = nn.Parameter(torch.zeros(1, 1, width))
        self.plora_sub_GN = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.post_init()
        self.generation_config.use_cache = True  # the official config.json turns it off, for training

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.model.tok_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings."""
        self.model.tok_embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        """The language model head."""
        return self.output

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the language model head."""
        self.output = new_embeddings

    def encode_pictures(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        """Preprocessed pictures float[3, H_i, W_i] -> projected rows float[N_i, C], separators included."""
        if not pixels:
            return []
        # not by its place: PEFT puts a wrapper around a projector that trains
        device = next(self.vision_proj.parameters()).device
        moved = [picture.to(device) for picture in pixels]
        rows = picture_rows(self.vit, moved, self.plora_glb_GN, self.plora_sub_GN)
        return list(self.vision_proj(torch.cat(rows)).split([len(part) for part in rows]))

    def place_pictures(self, pixels: Sequence[Tensor], im_mask: Tensor) -> Tensor:
        """Projected rows of all pictures, in reading order, at the True places of bool[B, L]: float[B, L, C].

        Raises ValueError where pictures and mask differ in rows.
        """
        features = self.encode_pictures(pixels)
        num_rows, num_places = sum(len(part) for part in features), int(im_mask.sum())
        if num_rows != num_places:
            raise ValueError(
                f"the pictures make {num_rows} tokens but {num_places} places are marked for them; "
                "expand every picture to as many image tokens as its tiles make"
            )
        weight = self.get_input_embeddings().weight
        empty = weight.new_zeros(*im_mask.shape, self.config.hidden_size)
        flat = torch.cat(features).to(weight.dtype) if features else weight.new_zeros(0)
        return empty.masked_scatter(im_mask[..., None], flat)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixels: Sequence[Tensor] | None = None,
        im_mask: Tensor | None = None,
        image_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits float32[B, L, vocabulary], or of the rows that `logits_to_keep` names.

        `pixels`: preprocessed pictures float[3, H, W] of the whole batch in reading order. `im_mask`:
        bool[B, L], True on image rows; by default where `input_ids` hold the image token. `image_embeds`:
        float[B, L, C], used where `im_mask` is True. `labels`: int64[B, L], -100 is left out.
        `cache`: the newer name of `past_key_values`.
        """
        if pixels is not None and input_ids is not None:
            im_mask = self._picture_mask(input_ids) if im_mask is None else im_mask
            image_embeds = self.place_pictures(pixels, im_mask)
        elif pixels is not None:
            raise ValueError("pixels need input_ids; give inputs_embeds with im_mask, or pixels with input_ids")
        if image_embeds is not None:
            text = self.get_input_embeddings()(input_ids)
            inputs_embeds, input_ids = torch.where(im_mask[..., None], image_embeds.to(text.dtype), text), None
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache if past_key_values is None else past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            im_mask=im_mask,
            return_dict=True,
            **kwargs,
        )
        logits = self.output(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE: getattr(outputs, CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def save_pretrained(
        self, save_directory: str | Path, *args: Any, state_dict: dict[str, Tensor] | None = None, **kwargs: Any
    ) -> None:
        """transformers' saving, in official names whether the model was loaded or made afresh."""
        state = self.state_dict() if state_dict is None else state_dict
        named = {official_name(name): tensor for name, tensor in state.items()}
        super().save_pretrained(save_directory, *args, state_dict=named, save_original_format=False, **kwargs)

    def _picture_mask(self, input_ids: Tensor) -> Tensor:
        return input_ids == self.config.image_token_id

    def _refuse_lone_image_tokens(self, input_ids: Tensor | None) -> None:
        if input_ids is not None and bool(self._picture_mask(input_ids).any()):
            raise ValueError(
                f"input_ids hold image tokens (id {self.config.image_token_id}) but there are no pictures; "
                "give pixels, or the cache of a prompt that was read before"
            )

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *args: Any,
        pixels: Sequence[Tensor] | None = None,
        im_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """transformers' generate; pictures are encoded once and laid out along the prompt.

        `pixels`, `im_mask`: as in `forward`, for the whole prompt. A cache that already holds the prompt
        but its last token needs neither. Raises ValueError for image tokens that no picture stands behind.
        """
        input_ids = kwargs.get("input_ids", inputs)
        if pixels is not None:
            im_mask = self._picture_mask(input_ids) if im_mask is None else im_mask
            kwargs |= {"im_mask": im_mask, "image_embeds": self.place_pictures(pixels, im_mask)}
        elif im_mask is not None:
            kwargs["im_mask"] = im_mask
        elif all(kwargs.get(name) is None for name in ("cache", "past_key_values", "inputs_embeds")):
            self._refuse_lone_image_tokens(input_ids)
        return super().generate(inputs, *args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        im_mask: Tensor | None = None,
        image_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """transformers' inputs of one pass, with the picture rows that belong to it; decoded tokens are text."""
        model_inputs = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        if im_mask is None:
            return model_inputs
        embeds = model_inputs.get("inputs_embeds")
        # the cache tells where this pass begins: input_ids may be a chunk of the prompt, or decoded tokens alone
        start = 0 if (cache := kwargs.get(CACHE)) is None else int(cache.get_seq_length())
        stop = start + (model_inputs["input_ids"] if embeds is None else embeds).shape[1]
        if start < im_mask.shape[1] and bool((mask := _window(im_mask, start, stop)).any()):
            model_inputs["im_mask"] = mask
            if image_embeds is not None and embeds is None:
                model_inputs["image_embeds"] = _window(image_embeds, start, stop)
        return model_inputs


def _window(along_prompt: Tensor, start: int, stop: int) -> Tensor:
    """Columns start:stop of [B, L, ...], zero (False) beyond the prompt."""
    inside = along_prompt[:, start:stop]
    missing = (stop - start) - inside.shape[1]
    if not missing:
        return inside
    return torch.cat([inside, inside.new_zeros(inside.shape[0], missing, *inside.shape[2:])], dim=1)


def official_name(name: str) -> str:
    """Checkpoint name of one of our parameters: the official ViT has a level `vision_model` more than transformers'."""
    return name.replace(_TOWER, f"{_TOWER}vision_model.", 1) if name.startswith(_TOWER) else name


def parameter_name(name: str) -> str:
    """Our parameter for a checkpoint name, the inverse of `official_name`."""
    return name.replace(f"{_TOWER}vision_model.", _TOWER, 1)
