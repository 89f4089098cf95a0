"""`backbone=llava15_7b` and `llava15_13b` compose, and build at their real size on the meta device."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from lookright.backbones.llava import LlavaBackbone
from lookright.tuning.lora import LoraTuning
from recipes.tiny.folders import write_llava_folder
from tests.conftest import WORDS

# Vicuna 1.5 with 64 added rows, and CLIP-L/14 at 336 pixels
CLIP = {
    "image_size": 336,
    "patch_size": 14,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
VOCABULARY = 32064
# hidden width, MLP width, layers, heads, parameters: published count of Llama 2, added rows of both
# embeddings, tower, two layers of the projector
SIZES = {
    "llava15_7b": (4096, 11008, 32, 32, 6_738_415_616 + 2 * 64 * 4096 + 303_507_456 + (1025 + 4097) * 4096),
    "llava15_13b": (5120, 13824, 40, 40, 13_015_864_320 + 2 * 64 * 5120 + 303_507_456 + (1025 + 5121) * 5120),
}


@pytest.fixture(scope="module", params=SIZES)
def sized(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, composed: Callable[..., DictConfig]
) -> tuple[LlavaBackbone, int, int]:
    """The backbone from its config file and a folder of the real sizes; layers and parameters expected."""
    hidden, intermediate, layers, heads, parameters = SIZES[request.param]
    folder: Path = tmp_path_factory.mktemp(request.param)
    text = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
    }
    write_llava_folder(folder, [WORDS], vocab_size=330, text=text, vision=CLIP)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = VOCABULARY
    (folder / "config.json").write_text(json.dumps(config))
    config = composed("train", f"backbone={request.param}", f"backbone.path={folder}", "data.path=none")
    return instantiate(config.backbone), layers, parameters


def test_parameters_and_adapters_at_real_size(sized: tuple[LlavaBackbone, int, int]) -> None:
    backbone, layers, parameters = sized
    with torch.device("meta"):
        model = backbone.build(weights=False, dtype=torch.bfloat16)
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
        policy = LoraTuning(r=128, alpha=256).apply(backbone, model)
    adapted = [module for module in policy.modules() if hasattr(module, "lora_A")]
    assert backbone.num_layers == layers and len(adapted) == 7 * layers
    text = backbone.config.text_config
    # attention: 4 square matrices; MLP: 3 of hidden x intermediate
    rank_units = 4 * 2 * text.hidden_size + 3 * (text.hidden_size + text.intermediate_size)
    trained = sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad)
    assert trained == 128 * layers * rank_units
    names = [name for name, _ in policy.get_base_model().named_parameters()]
    assert any(name.startswith(backbone.vision_prefix) for name in names)
    assert any(name.startswith(backbone.projector_prefix) for name in names)


def test_every_picture_costs_576_tokens(sized: tuple[LlavaBackbone, int, int]) -> None:
    backbone, _, _ = sized
    sizes = [(336, 336), (1000, 200), (33, 700)]
    prompt = backbone.encode_prompt("<image><image><image>\nIn Image2, red?", sizes)
    assert [stop - start for start, stop in prompt.image_spans] == [576] * 3
    assert [backbone.token_map(size, 3).num_tokens for size in sizes] == [576] * 3
    assert backbone.preprocess(Image.new("RGB", (1000, 200)), 3).shape == (3, 336, 336)
    assert "A chat between a curious user" in backbone.text_tokenizer.decode(prompt.input_ids)
