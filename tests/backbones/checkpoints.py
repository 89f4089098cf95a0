"""Checkpoints of LLaVA-1.5 as they are published: every name and shape from the sizes, and folders that hold them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import WORDS

Shapes = dict[str, tuple[int, ...]]
AUTHORS_TOWER = "model.vision_tower.vision_tower.vision_model."


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """LLaMA's width, MLP, layers, heads and vocabulary; CLIP's width, MLP, layers, heads, picture and patch."""

    hidden: int
    middle: int
    layers: int
    heads: int
    vocabulary: int
    clip_hidden: int = 1024
    clip_middle: int = 4096
    clip_layers: int = 24
    clip_heads: int = 16
    image: int = 336
    patch: int = 14

    @property
    def text_config(self) -> dict[str, Any]:
        """As a LLaMA's config.json names them."""
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.middle,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
        }

    @property
    def vision_config(self) -> dict[str, Any]:
        """As CLIP's config.json names them."""
        return {
            "hidden_size": self.clip_hidden,
            "image_size": self.image,
            "intermediate_size": self.clip_middle,
            "model_type": "clip_vision_model",
            "num_attention_heads": self.clip_heads,
            "num_hidden_layers": self.clip_layers,
            "patch_size": self.patch,
            "projection_dim": 768,
            "vocab_size": 32000,
        }


SMALL = Sizes(
    hidden=32,
    middle=48,
    layers=3,
    heads=4,
    vocabulary=400,
    clip_hidden=24,
    clip_middle=40,
    clip_layers=3,
    clip_heads=2,
    image=42,
)


def language_shapes(sizes: Sizes, start: str) -> Shapes:
    """The LLaMA without its head, names opened by `start`."""
    wide, middle = sizes.hidden, sizes.middle
    shapes: Shapes = {f"{start}embed_tokens.weight": (sizes.vocabulary, wide), f"{start}norm.weight": (wide,)}
    for number in range(sizes.layers):
        layer = f"{start}layers.{number}."
        shapes |= {f"{layer}self_attn.{name}_proj.weight": (wide, wide) for name in "qkvo"}
        shapes |= {f"{layer}mlp.{name}_proj.weight": (middle, wide) for name in ("gate", "up")}
        shapes |= {f"{layer}mlp.down_proj.weight": (wide, middle)}
        shapes |= {f"{layer}{name}_layernorm.weight": (wide,) for name in ("input", "post_attention")}
    return shapes


def tower_shapes(sizes: Sizes, start: str) -> Shapes:
    """The vision part of CLIP, names opened by `start`; the misspelt `pre_layrnorm` is its own."""
    wide, middle = sizes.clip_hidden, sizes.clip_middle
    shapes: Shapes = {
        f"{start}embeddings.class_embedding": (wide,),
        f"{start}embeddings.patch_embedding.weight": (wide, 3, sizes.patch, sizes.patch),
        f"{start}embeddings.position_embedding.weight": ((sizes.image // sizes.patch) ** 2 + 1, wide),
    }
    norms = [f"{start}pre_layrnorm", f"{start}post_layernorm"]
    linears: Shapes = {}
    for number in range(sizes.clip_layers):
        layer = f"{start}encoder.layers.{number}."
        norms += [f"{layer}layer_norm1", f"{layer}layer_norm2"]
        linears |= {f"{layer}self_attn.{name}_proj": (wide, wide) for name in ("q", "k", "v", "out")}
        linears |= {f"{layer}mlp.fc1": (middle, wide), f"{layer}mlp.fc2": (wide, middle)}
    for name in norms:
        shapes |= {f"{name}.weight": (wide,), f"{name}.bias": (wide,)}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def projector_shapes(sizes: Sizes, first: str, second: str) -> Shapes:
    """The two linear layers between tower and LLaMA."""
    return {
        f"{first}.weight": (sizes.hidden, sizes.clip_hidden),
        f"{first}.bias": (sizes.hidden,),
        f"{second}.weight": (sizes.hidden, sizes.hidden),
        f"{second}.bias": (sizes.hidden,),
    }


def authors_shapes(sizes: Sizes, tower: bool = False) -> Shapes:
    """`liuhaotian/llava-v1.5`; `tower` adds the CLIP that some folders hold."""
    shapes = language_shapes(sizes, "model.") | {"lm_head.weight": (sizes.vocabulary, sizes.hidden)}
    shapes |= projector_shapes(sizes, "model.mm_projector.0", "model.mm_projector.2")
    return shapes | (tower_shapes(sizes, AUTHORS_TOWER) if tower else {})


def authors_state(inside: bool = False) -> dict[str, Tensor]:
    """Weights of the small checkpoint; a tower inside is another than that of the CLIP folder beside it."""
    return random_state(authors_shapes(SMALL, tower=inside))


def stock_shapes(sizes: Sizes, old: bool) -> Shapes:
    """transformers' layout, in the names of 4.36 (as `llava-hf/llava-1.5` has them) or in today's."""
    head = "language_model.lm_head.weight" if old else "lm_head.weight"
    start = "" if old else "model."
    shapes = language_shapes(sizes, "language_model.model." if old else "model.language_model.")
    shapes |= {head: (sizes.vocabulary, sizes.hidden)}
    projector = f"{start}multi_modal_projector.linear_"
    shapes |= projector_shapes(sizes, f"{projector}1", f"{projector}2")
    return shapes | tower_shapes(sizes, "vision_tower.vision_model." if old else "model.vision_tower.")


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a size that makes every tensor matter; norms stay near one."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        is_norm = len(shape) == 1 and name.endswith("weight")
        width = 1 if len(shape) == 1 or "embed_tokens" in name else noise[0].numel()
        state[name] = noise * (0.1 if len(shape) == 1 else width**-0.5) + is_norm
    return state


def write_weights(folder: Path, state: Mapping[str, Tensor], kind: str, shards: int) -> None:
    """Shards with their index, a single file where `shards` is 1.

    `kind`: `bin`, `safetensors`, or `old.bin` (torch's format before zip files).
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    names, weight_map = list(state), {}
    for number in range(shards):
        part = names[number::shards]
        file = f"{stem}.{suffix}" if shards == 1 else f"{stem}-{number + 1:05d}-of-{shards:05d}.{suffix}"
        tensors = {name: state[name] for name in part}
        if kind == "safetensors":
            save_file(tensors, folder / file, metadata={"format": "pt"})
        else:
            torch.save(tensors, folder / file, _use_new_zipfile_serialization=kind == "bin")
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        write_json(folder / f"{stem}.{suffix}.index.json", {"metadata": {}, "weight_map": weight_map})


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2))


def write_sentencepiece(folder: Path, vocabulary: int) -> None:
    """A `tokenizer.model` trained as LLaMA's was: bytes for what it does not know, a dummy prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "corpus.txt"
    text.write_text(f"{WORDS}\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=vocabulary,
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        model_type="bpe",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    text.unlink()
    (folder / "tokenizer.vocab").unlink()


def authors_config(sizes: Sizes, tower: str) -> dict[str, Any]:
    """The config.json of `liuhaotian/llava-v1.5-7b`, sizes aside."""
    return {
        "_name_or_path": "llava-v1.5",
        "architectures": ["LlavaLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "hidden_act": "silu",
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "max_length": 4096,
        "max_position_embeddings": 4096,
        "mm_hidden_size": sizes.clip_hidden,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": tower,
        "model_type": "llava",
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
        "tune_mm_mlp_adapter": False,
        "unfreeze_mm_vision_tower": False,
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": sizes.vocabulary,
    } | sizes.text_config


def stock_config(sizes: Sizes, image_token: int, seven: bool = False) -> dict[str, Any]:
    """The config.json of `llava-hf/llava-1.5`, of transformers 4.36; that of the 7B leaves LLaMA's own sizes out."""
    text = {
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": sizes.vocabulary,
    }
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": image_token,
        "model_type": "llava",
        "pad_token_id": image_token + 1,
        "projector_hidden_act": "gelu",
        "text_config": text if seven else text | sizes.text_config,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.36.0.dev0",
        "vision_config": sizes.vision_config,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": sizes.vocabulary,
    }


def clip_preprocessor(sizes: Sizes) -> dict[str, Any]:
    """CLIP's preprocessor_config.json as it was published, with a mean and spread of its own."""
    return {
        "crop_size": sizes.image,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48, 0.46, 0.41],
        "image_std": [0.27, 0.26, 0.28],
        "resample": 3,
        "size": sizes.image,
    }


def write_tower(folder: Path, sizes: Sizes, tower: Mapping[str, Tensor], form: str = "clip", **layout: Any) -> None:
    """A CLIP folder. `tower` has names without a prefix; `form`: `clip` whole, `vision` part, `bare` of its level."""
    config: dict[str, Any] = sizes.vision_config
    state = {name if form == "bare" else f"vision_model.{name}": value for name, value in tower.items()}
    if form == "clip":
        config = {"model_type": "clip", "architectures": ["CLIPModel"], "vision_config": config, "text_config": {}}
        state |= {
            "logit_scale": torch.tensor(2.0),
            "text_model.embeddings.position_ids": torch.arange(7)[None],
            "text_model.embeddings.token_embedding.weight": torch.randn(9, 5),
            "text_projection.weight": torch.randn(4, 5),
            "vision_model.embeddings.position_ids": torch.arange(10)[None],
            "visual_projection.weight": torch.randn(4, sizes.clip_hidden),
        }
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", clip_preprocessor(sizes))
    write_weights(folder, state, layout.get("kind", "bin"), layout.get("shards", 1))


def edit_config(folder: Path, **keys: Any) -> None:
    """Change keys of a config.json; None takes one out."""
    config = json.loads((folder / "config.json").read_text()) | keys
    write_json(folder / "config.json", {key: value for key, value in config.items() if value is not None})
