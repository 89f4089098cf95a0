"""A LLaVA-1.5 in memory, written in either published layout, whichever it was read from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LlavaForConditionalGeneration, LlavaImageProcessorPil

from lookright.backbones.llava_original import CHOICES, CLIP_TOWER, SIZES, TOWER, official_name
from lookright.backbones.llava_stock import TOKENIZER_FILES, copy_files, write_processor
from lookright.backbones.shards import check_bare, dtype_name, write_json, write_shards
from lookright.backbones.stock_tokenizer import write_stock_tokenizer
from lookright.backbones.tokenizer import TextTokenizer
from lookright.errors import ConfigError
from lookright.types import IMAGE_PLACEHOLDER

TOWER_FOLDER = "vision_tower"
STOCK_NAMES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}
ROWS = 64
"""Rows of embeddings come in multiples of it, as in llava-hf's own conversion (32,000 pieces become 32,064 rows)."""


@dataclass(slots=True, kw_only=True)
class LlavaExport:
    """A bare model and what its tokenizer and settings are; writing may change the model."""

    model: LlavaForConditionalGeneration
    folder: Path
    shard_bytes: int
    tokenizer_file: Path
    text_tokenizer: TextTokenizer
    end_token_ids: Sequence[int]
    pad_token_id: int
    max_length: int

    def write_stock(self, processor: LlavaImageProcessorPil, system_prompt: str) -> None:
        """Write what AutoProcessor, AutoModelForImageTextToText and the pipeline load, and tokenise as we do.

        The authors' layout has no token for pictures, and gets one behind the vocabulary.
        """
        model, config = self.model, self.model.config
        check_bare(model.state_dict())
        image_id = self.text_tokenizer.piece_id(IMAGE_PLACEHOLDER)
        if image_id is None:
            image_id = self._add_picture_token()
        config.image_token_id = image_id
        bos_id: int = config.text_config.bos_token_id
        model.generation_config = GenerationConfig(
            bos_token_id=bos_id, eos_token_id=list(self.end_token_ids), pad_token_id=self.pad_token_id
        )
        state = model.state_dict()
        write_shards({_stock_name(name): value for name, value in state.items()}, self.folder, self.shard_bytes)
        config.architectures = ["LlavaForConditionalGeneration"]
        config.dtype = next(iter(state.values())).dtype
        config.save_pretrained(self.folder)
        model.generation_config.save_pretrained(self.folder)
        write_stock_tokenizer(
            self.tokenizer_file,
            self.folder,
            self.text_tokenizer,
            bos_id=bos_id,
            end_id=self.end_token_ids[0],
            pad_id=self.pad_token_id,
            image_id=image_id,
            limit=self.max_length,
        )
        write_processor(config, self.folder, processor, system_prompt)

    def write_original(self, processor: LlavaImageProcessorPil, home: Path, image_aspect: str) -> None:
        """Write the authors' names and keys; the tower is a CLIP folder inside, by whose path at `home` it is named.

        A row of embeddings that the picture token had stays, and is of no use there.
        """
        model, folder = self.model, self.folder
        state = model.state_dict()
        check_bare(state)
        kept = {official_name(name): value for name, value in state.items() if not name.startswith(TOWER)}
        write_shards(kept, folder, self.shard_bytes)
        config = _original_config(model, image_aspect) | {
            "mm_vision_tower": str((home / TOWER_FOLDER).absolute()),
            "torch_dtype": dtype_name(kept),
        }
        write_json(folder / "config.json", config)
        ids = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
        write_json(folder / "generation_config.json", ids | {"pad_token_id": self.pad_token_id})
        copy_files(str(self.tokenizer_file.parent), folder, TOKENIZER_FILES)
        self._write_tower(state, processor)

    def _write_tower(self, state: dict[str, Tensor], processor: LlavaImageProcessorPil) -> None:
        folder = self.folder / TOWER_FOLDER
        tower = {
            CLIP_TOWER + name.removeprefix(TOWER): value for name, value in state.items() if name.startswith(TOWER)
        }
        write_shards(tower, folder, self.shard_bytes)
        vision = self.model.config.vision_config.to_diff_dict()
        write_json(
            folder / "config.json", vision | {"architectures": ["CLIPVisionModel"], "torch_dtype": dtype_name(tower)}
        )
        side = self.model.config.vision_config.image_size
        settings = {
            "crop_size": {"height": side, "width": side},
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "image_mean": list(processor.image_mean),
            "image_processor_type": "CLIPImageProcessor",
            "image_std": list(processor.image_std),
            "resample": int(processor.resample),
            "size": {"shortest_edge": side},
        }
        write_json(folder / "preprocessor_config.json", settings)

    def _add_picture_token(self) -> int:
        """The id of a token behind the vocabulary, which cannot be answered: its logit is that of the unknown piece.

        The rows up to the next multiple of `ROWS` are the same. Greedy answers stay what they were: of two equal
        logits the first is taken.
        """
        config = self.model.config
        unknown, size = config.image_token_id, self._vocabulary_size()
        head = self.model.get_output_embeddings()
        rows = head.weight.shape[0]
        if size >= rows:
            wanted = (size // ROWS + 1) * ROWS
            for part in (self.model.get_input_embeddings(), head):
                row = part.weight.data[unknown].expand(wanted - rows, -1)
                part.weight = nn.Parameter(torch.cat([part.weight.data, row]), requires_grad=False)
            config.text_config.vocab_size = self.model.get_input_embeddings().num_embeddings = wanted
            head.out_features = wanted
        return size

    def _vocabulary_size(self) -> int:
        """Ids that the tokenizer's pieces and special tokens take up, without holes."""
        if self.tokenizer_file.suffix == ".model":
            # here, since it is of use to this form alone
            import sentencepiece

            return sentencepiece.SentencePieceProcessor(model_file=str(self.tokenizer_file)).get_piece_size()
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.tokenizer_file)).get_vocab_size(with_added_tokens=True)


def _stock_name(name: str) -> str:
    """The name that llava-hf publishes a parameter under; every release of transformers reads those."""
    return next(stock + name.removeprefix(ours) for ours, stock in STOCK_NAMES.items() if name.startswith(ours))


def _original_config(model: LlavaForConditionalGeneration, image_aspect: str) -> dict[str, Any]:
    """The authors' keys. Raises ConfigError for what their layout cannot say."""
    config, text = model.config, model.config.text_config
    problems = []
    if config.projector_hidden_act != "gelu" or not getattr(config, "multimodal_projector_bias", True):
        problems.append("its projector is not two linear layers with biases around a gelu")
    if not isinstance(config.vision_feature_layer, int):
        problems.append(f"it reads the tower at several layers ({config.vision_feature_layer})")
    if problems:
        raise ConfigError(f"layout=original cannot hold this model: {'; '.join(problems)}; set layout=stock")
    rope = dict(text.rope_parameters)
    scaled = rope.get("rope_type", "default") != "default"
    derived = {
        "rope_theta": rope.get("rope_theta", 10000.0),
        "rope_scaling": {key: value for key, value in rope.items() if key != "rope_theta"} if scaled else None,
    }
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        **{key: getattr(text, key) for key in (*SIZES, *CHOICES) if key not in derived},
        **derived,
        "tie_word_embeddings": False,
        "image_aspect_ratio": "pad" if image_aspect == "pad" else None,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": config.vision_feature_layer,
        "use_mm_proj": True,
    }
