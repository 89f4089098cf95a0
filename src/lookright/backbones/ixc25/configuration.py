"""Configuration of InternLM-XComposer2.5; reads the official config.json as it is and writes it back."""

from typing import Any

from transformers import CLIPVisionConfig, PreTrainedConfig

from lookright.errors import ConfigError

OFFICIAL_ARCHITECTURE = "InternLMXComposer2ForCausalLM"
OFFICIAL_ROPE_SCALING = {"type": "dynamic", "factor": 2.0}


class Ixc25VisionConfig(CLIPVisionConfig):
    """CLIP ViT-L/14 at 560 pixels; the official config.json says nothing of it. `image_size` is a tile's side."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int | list[int] | tuple[int, int] | None = 560
    patch_size: int | list[int] | tuple[int, int] | None = 14


class Ixc25Config(PreTrainedConfig):
    """Sizes of the 7B model by default.

    `max_seq_length` is the official `max_length`, a name that transformers keeps for generation.
    `image_token_id` fills the rows of a picture in `input_ids`; it lies inside the vocabulary and no text
    produces it (the official pieces fall back to bytes, so the unknown piece is free).
    `vision_select_layer` indexes the ViT's hidden states. `plora_*` describe the partial LoRA of image rows.
    Raises ConfigError for sizes that do not fit together.
    """

    model_type = "internlm2"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]
    default_theta = 1_000_000.0
    sub_configs_defaults = {"vision_config": Ixc25VisionConfig}

    vocab_size: int = 92544
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    head_dim: int | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    max_position_embeddings: int = 24576
    max_seq_length: int = 16384
    rope_parameters: dict | None = None
    bias: bool = False
    attention_dropout: float = 0.0
    use_cache: bool = True
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 2
    tie_word_embeddings: bool = False
    image_token_id: int = 0
    vision_select_layer: int = -1
    plora_rank: int = 256
    plora_alpha: float = 256.0
    plora_dropout: float = 0.05
    vision_config: dict | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Take the official names of a few keys, fill in what follows from others, check."""
        self.max_seq_length = kwargs.pop("max_length", None) or self.max_seq_length
        if self.rope_parameters is None and "rope_scaling" not in kwargs:
            self.rope_parameters = {"rope_type": "dynamic", "factor": OFFICIAL_ROPE_SCALING["factor"]}
        if kwargs.get("rope_scaling") is not None:
            kwargs["rope_scaling"] = dict(kwargs["rope_scaling"])  # transformers writes into it
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        for key in ("attn_implementation", "auto_map"):  # the official code's own attention and files
            kwargs.pop(key, None)
        super().__post_init__(**kwargs)
        problems = self._problems()
        if problems:
            raise ConfigError("config.json of the InternLM-XC2.5 model: " + "; ".join(problems))

    @property
    def tile_size(self) -> int:
        """Side of a square tile in pixels."""
        return self.vision_config.image_size

    @property
    def token_side(self) -> int:
        """Tokens along one side of a tile, after the 2x2 merge."""
        return self.vision_config.image_size // self.vision_config.patch_size // 2

    @property
    def image_feature_size(self) -> int:
        """Width of a merged vision token, the projector's input."""
        return 4 * self.vision_config.hidden_size

    def to_official_dict(self) -> dict[str, Any]:
        """The keys of the official config.json, and those of ours that differ from the official model."""
        rope = self.rope_parameters
        dynamic = rope["rope_type"] == "dynamic"
        official = {
            "architectures": [OFFICIAL_ARCHITECTURE],
            "model_type": self.model_type,
            "max_length": self.max_seq_length,
            "rope_theta": rope["rope_theta"],
            "rope_scaling": {"type": "dynamic", "factor": rope["factor"]} if dynamic else None,
        }
        official |= {key: getattr(self, key) for key in _OFFICIAL_KEYS}
        reference = type(self)()
        official |= {key: getattr(self, key) for key in _OWN_KEYS if getattr(self, key) != getattr(reference, key)}
        if self.head_dim != self.hidden_size // self.num_attention_heads:
            official["head_dim"] = self.head_dim
        vision = {key: getattr(self.vision_config, key) for key in _VISION_KEYS}
        if vision != {key: getattr(reference.vision_config, key) for key in _VISION_KEYS}:
            official["vision_config"] = vision
        return official

    def _problems(self) -> list[str]:
        """What does not fit together, one sentence each."""
        tile, patch = self.vision_config.image_size, self.vision_config.patch_size
        rope_type = self.rope_parameters["rope_type"]
        checks = [
            (self.bias, "bias=true is not supported; the linear layers of this model have none"),
            (
                self.num_attention_heads % self.num_key_value_heads != 0,
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}",
            ),
            (self.head_dim % 2 != 0, f"head_dim={self.head_dim} is odd; rotary embedding needs pairs"),
            (
                tile % (2 * patch) != 0,
                f"vision_config.image_size={tile} is not a multiple of 2 x patch_size={2 * patch}; "
                "patches are merged two by two",
            ),
            (
                not 0 <= self.image_token_id < self.vocab_size,
                f"image_token_id={self.image_token_id} lies outside the vocabulary of {self.vocab_size}",
            ),
            (self.plora_rank < 1, f"plora_rank={self.plora_rank} must be at least 1"),
            (rope_type not in ("default", "dynamic"), f"rope_type={rope_type!r} is unknown; valid: default, dynamic"),
        ]
        return [message for wrong, message in checks if wrong]


_OFFICIAL_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "rms_norm_eps", "initializer_range", "max_position_embeddings", "bias",
    "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "use_cache",
)  # fmt: skip
_OWN_KEYS = (
    "image_token_id", "vision_select_layer", "plora_rank", "plora_alpha", "plora_dropout",
    "attention_dropout",
)  # fmt: skip
_VISION_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size",
    "hidden_act", "layer_norm_eps",
)  # fmt: skip
