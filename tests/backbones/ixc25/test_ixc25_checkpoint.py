"""The official folder: every key and byte of the 7B model, shards of both kinds, task LoRAs, errors, round trips."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lookright.backbones.ixc25 import Ixc25Config, Ixc25ForCausalLM
from lookright.backbones.ixc25.checkpoint import TASK_LORA, load_checkpoint, official_shapes, save_checkpoint
from lookright.backbones.ixc25.modeling import official_name, parameter_name
from lookright.errors import ConfigError
from tests.backbones.checkpoints import write_weights

OFFICIAL_CONFIG = {
    "architectures": ["InternLMXComposer2ForCausalLM"],
    "attn_implementation": "flash_attention_2",
    "auto_map": {"AutoModel": "modeling_internlm_xcomposer2.InternLMXComposer2ForCausalLM"},
    "bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_length": 16384,
    "max_position_embeddings": 24576,
    "model_type": "internlm2",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 2.0, "type": "dynamic"},
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "use_cache": False,
    "vocab_size": 92544,
}
LINEARS = {
    "attention.wqkv": (6144, 4096),
    "attention.wo": (4096, 4096),
    "feed_forward.w1": (14336, 4096),
    "feed_forward.w3": (14336, 4096),
    "feed_forward.w2": (4096, 14336),
}


def expected_7b() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official checkpoint, without the task LoRAs."""
    shapes = {
        "model.tok_embeddings.weight": (92544, 4096),
        "model.norm.weight": (4096,),
        "output.weight": (92544, 4096),
        "plora_glb_GN": (1, 1, 4096),
        "plora_sub_GN": (1, 1, 1, 4096),
    }
    for number in (0, 2):
        shapes |= {f"vision_proj.{number}.weight": (4096, 4096), f"vision_proj.{number}.bias": (4096,)}
    for i in range(32):
        for name, (out, width) in LINEARS.items():
            layer = f"model.layers.{i}.{name}"
            shapes |= {
                f"{layer}.weight": (out, width),
                f"{layer}.Plora_A.weight": (256, width),
                f"{layer}.Plora_B.weight": (out, 256),
            }
        shapes |= {f"model.layers.{i}.{norm}.weight": (4096,) for norm in ("attention_norm", "ffn_norm")}
    tower = "vit.vision_tower.vision_model."
    shapes |= {
        f"{tower}embeddings.class_embedding": (1024,),
        f"{tower}embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        f"{tower}embeddings.position_embedding.weight": (1601, 1024),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{tower}{norm}.{kind}": (1024,) for kind in ("weight", "bias")}
    for j in range(24):
        layer = f"{tower}encoder.layers.{j}."
        for name in "qkvo":
            projection = f"{layer}self_attn.{'out' if name == 'o' else name}_proj"
            shapes |= {f"{projection}.weight": (1024, 1024), f"{projection}.bias": (1024,)}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{norm}.{kind}": (1024,) for kind in ("weight", "bias")}
        shapes |= {f"{layer}mlp.fc1.weight": (4096, 1024), f"{layer}mlp.fc1.bias": (4096,)}
        shapes |= {f"{layer}mlp.fc2.weight": (1024, 4096), f"{layer}mlp.fc2.bias": (1024,)}
    return shapes


@pytest.fixture(scope="module")
def shapes_7b() -> dict[str, tuple[int, ...]]:
    """Of the model, on the meta device."""
    with torch.device("meta"):
        return official_shapes(Ixc25ForCausalLM(Ixc25Config(**OFFICIAL_CONFIG)))


def _count(shapes: dict[str, tuple[int, ...]], *parts: str) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if any(part in name for part in parts))


def test_keys_and_shapes_of_the_7b_model(shapes_7b: dict) -> None:
    assert shapes_7b == expected_7b()


def test_parameters_and_bytes_of_the_7b_model(shapes_7b: dict) -> None:
    assert _count(shapes_7b, "Plora_") == 603_979_776
    assert _count(shapes_7b, "vit.") == 304_556_032
    assert _count(shapes_7b, "vision_proj.") == 33_562_624
    assert _count(shapes_7b, "_GN") == 8_192
    language = {name: shape for name, shape in shapes_7b.items() if "Plora_" not in name}
    assert _count(language, "model.tok", "model.layers", "model.norm", "output.") == 7_737_708_544
    # three task LoRAs a linear layer: ranks 256, 256 and 512, each rank * (in + out)
    task = 32 * sum((256 + 256 + 512) * (out + width) for out, width in LINEARS.values())
    assert task == 2_415_919_104
    assert 2 * (sum(math.prod(shape) for shape in shapes_7b.values()) + task) == 22_191_468_544
    assert len(shapes_7b) + 32 * 5 * 6 == 1904


def test_the_official_configuration_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(OFFICIAL_CONFIG))
    config = Ixc25Config.from_pretrained(tmp_path)
    assert config.max_seq_length == 16384
    assert config.rope_parameters["rope_theta"] == 1e6
    assert (config.rope_parameters["rope_type"], config.rope_parameters["factor"]) == ("dynamic", 2.0)
    assert (config.tile_size, config.token_side, config.image_feature_size) == (560, 20, 4096)
    assert (config.vision_config.hidden_act, config.vision_config.layer_norm_eps) == ("quick_gelu", 1e-5)
    assert (config.plora_rank, config.plora_alpha, config.plora_dropout) == (256, 256.0, 0.05)
    written = config.to_official_dict()
    dropped = {"attn_implementation", "auto_map", "torch_dtype", "transformers_version"}
    assert written == {key: value for key, value in OFFICIAL_CONFIG.items() if key not in dropped}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"bias": True}, "bias=true is not supported"),
        ({"num_key_value_heads": 3}, "num_attention_heads=32 is not a multiple of num_key_value_heads=3"),
        ({"vision_config": {"image_size": 70}}, "image_size=70 is not a multiple of 2 x patch_size=28"),
        ({"image_token_id": 92544}, "image_token_id=92544 lies outside the vocabulary"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type='linear' is unknown"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        Ixc25Config(**sizes)


# ---- folders of a small model ----


@pytest.fixture()
def small(make_model: Callable) -> Ixc25ForCausalLM:
    return make_model(seed=9)


def official_state(model: Ixc25ForCausalLM, task_rank: int = 3) -> dict[str, Tensor]:
    """Tensors as the official folder has them, task LoRAs inside, keys sorted so that they mix."""
    state = {official_name(name): value.clone() for name, value in model.state_dict().items()}
    for name in [name for name in state if name.endswith(".Plora_A.weight")]:
        base = name.removesuffix(".Plora_A.weight")
        out, width = state[f"{base}.weight"].shape
        for kind in ("sft", "dpo", "web"):
            state[f"{base}.lora_{kind}_A.weight"] = torch.randn(task_rank, width)
            state[f"{base}.lora_{kind}_B.weight"] = torch.randn(out, task_rank)
    return dict(sorted(state.items()))


def write_folder(folder: Path, config: Ixc25Config, state: dict[str, Tensor], kind: str, shards: int = 3) -> None:
    """config.json, index and shards of a `kind` that `write_weights` knows."""
    (folder / "config.json").write_text(json.dumps(config.to_official_dict()))
    write_weights(folder, state, kind, shards)


def reload(folder: Path, dtype: torch.dtype = torch.float32) -> Ixc25ForCausalLM:
    return load_checkpoint(folder, Ixc25Config.from_pretrained(folder), dtype)


@pytest.mark.parametrize("kind", ["bin", "old.bin", "safetensors"])
def test_official_folders_load_without_their_task_loras(
    kind: str, small: Ixc25ForCausalLM, tmp_path: Path, pixels: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path, small.config, official_state(small), kind)
    with caplog.at_level(logging.INFO, logger="lookright"):
        loaded = reload(tmp_path)
    lines = [record.getMessage() for record in caplog.records if "task LoRA" in record.getMessage()]
    assert len(lines) == 1
    assert "skipped 90 tensors of the task LoRAs (30 dpo, 30 sft, 30 web)" in lines[0]
    for (name, ours), (other, theirs) in zip(small.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(ours, theirs), name
    count = len(small.encode_pictures([pixels(1, 1)])[0])
    inputs = {"input_ids": torch.tensor([[1, *[0] * count, 5]]), "pixels": [pixels(1, 1)]}
    assert not loaded.training
    assert torch.equal(loaded(**inputs).logits, small(**inputs).logits)


def test_dtype_is_what_is_asked_for(small: Ixc25ForCausalLM, tmp_path: Path) -> None:
    save_checkpoint(small.to(torch.bfloat16), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    for dtype in (torch.float32, torch.bfloat16):
        loaded = reload(tmp_path, dtype)
        assert {value.dtype for value in loaded.parameters()} == {dtype}
        assert loaded.dtype == dtype


def test_save_load_generate_is_identical(small: Ixc25ForCausalLM, tmp_path: Path, pixels: Callable) -> None:
    save_checkpoint(small, tmp_path, shard_bytes=20_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in small.state_dict().values())
    assert {name: (tmp_path / file).name for name, file in index["weight_map"].items()} == {
        name: file.name for file in files for name in _names(file)
    }
    assert set(index["weight_map"]) == {official_name(name) for name in small.state_dict()}
    for file in files:
        sizes = [tensor.nbytes for tensor in load_file(file).values()]
        assert sum(sizes) <= 20_000 or len(sizes) == 1
    count = len(small.encode_pictures([pixels(1, 2)])[0])
    ids = torch.tensor([[1, 7, *[0] * count, 5]])
    greedy = {"do_sample": False, "max_new_tokens": 10, "eos_token_id": None, "pad_token_id": 2}
    expected = small.generate(input_ids=ids, pixels=[pixels(1, 2)], **greedy)
    assert torch.equal(reload(tmp_path).generate(input_ids=ids, pixels=[pixels(1, 2)], **greedy), expected)


@pytest.mark.parametrize("head_dim", [8, 10, 128])
def test_the_width_of_a_head_is_written_where_it_does_not_follow(
    make_model: Callable, tmp_path: Path, head_dim: int
) -> None:
    """128, the large model's, too: there it is what 4096 / 32 gives, here it is not."""
    model = make_model(head_dim=head_dim)
    save_checkpoint(model, tmp_path)
    assert ("head_dim" in json.loads((tmp_path / "config.json").read_text())) == (head_dim != 32 // 4)
    ids = torch.tensor([[1, 5, 6]])
    assert torch.equal(reload(tmp_path)(input_ids=ids).logits, model(input_ids=ids).logits)


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as shard:
        return list(shard.keys())


def test_transformers_own_saving_and_loading_keep_the_official_names(small: Ixc25ForCausalLM, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path)
    Ixc25ForCausalLM.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(official_shapes(small))
    for loaded in (reload(tmp_path), Ixc25ForCausalLM.from_pretrained(tmp_path)):
        for name, value in small.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
        assert loaded.vit.vision_tower.embeddings.position_ids.tolist() == [list(range(37))]


def test_a_partial_lora_that_a_checkpoint_lacks_is_idle(small: Ixc25ForCausalLM, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "Plora_" not in name and "_GN" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    loaded = Ixc25ForCausalLM.from_pretrained(tmp_path)
    for name, value in loaded.named_parameters():
        if "Plora_B" in name or "_GN" in name:
            assert value.eq(0).all(), name
        elif "Plora_A" in name:
            assert value.abs().max() > 0, name


def test_names_turn_back() -> None:
    for name in expected_7b():
        assert official_name(parameter_name(name)) == name
    assert TASK_LORA.fullmatch("model.layers.0.attention.wqkv.lora_sft_A.weight")
    assert not TASK_LORA.fullmatch("model.layers.0.attention.wqkv.lora_other_A.weight")


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_every_misfit_is_named(kind: str, small: Ixc25ForCausalLM, tmp_path: Path) -> None:
    state = official_state(small)
    del state["vision_proj.2.bias"]
    state["model.layers.1.attention.wo.lora_other_A.weight"] = torch.zeros(2)
    state["output.weight"] = torch.zeros(3, 32)
    write_folder(tmp_path, small.config, state, kind)
    with pytest.raises(ConfigError) as caught:
        reload(tmp_path)
    message = str(caught.value)
    assert "vision_proj.2.bias is missing" in message
    assert "lora_other_A.weight in " in message
    assert "is (3, 32), config.json asks for (64, 32)" in message
    assert message.count("\n") == 3


def test_missing_files_are_named(small: Ixc25ForCausalLM, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no weights"):
        load_checkpoint(tmp_path, small.config, torch.float32)
    write_folder(tmp_path, small.config, official_state(small), "bin")
    (tmp_path / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(ConfigError, match="pytorch_model-00002-of-00003.bin, not in the folder"):
        reload(tmp_path)


def test_bin_shards_may_hold_tensors_alone(small: Ixc25ForCausalLM, tmp_path: Path) -> None:
    write_folder(tmp_path, small.config, official_state(small), "bin", shards=1)
    torch.save({"model.norm.weight": Path("x")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="pytorch_model.bin is no whole file of tensors .it asks for code"):
        reload(tmp_path)


def test_a_model_with_an_adapter_is_not_saved_as_a_checkpoint(small: Ixc25ForCausalLM, tmp_path: Path) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=2, target_modules=["wo"]), small)
    with pytest.raises(ConfigError, match="merge it or remove it"):
        save_checkpoint(small, tmp_path)
