"""Where a model answers and in which type."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lookright.backbones.ixc25.backbone import Ixc25Backbone
from lookright.backbones.loading import DTYPES, describe_weights, dtype_key, placing
from lookright.errors import ConfigError
from recipes.tiny.ixc25_folder import write_ixc25_folder


def card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    """A GPU as torch tells of it."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Tesla T4")


def test_a_cpu_answers_in_float32_unless_told_otherwise() -> None:
    cpu = torch.device("cpu")
    assert placing("cpu", "auto") == (cpu, torch.float32)
    assert placing("cpu", "bfloat16") == (cpu, torch.bfloat16)
    assert placing("cpu", "float64") == (cpu, torch.float64)


def test_a_gpu_answers_in_bfloat16_where_it_has_that(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, (9, 0))
    assert placing("auto", "auto") == (torch.device("cuda"), torch.bfloat16)
    assert placing("cuda:0", "float32") == (torch.device("cuda:0"), torch.float32)
    card(monkeypatch, (7, 5))
    assert placing("auto", "auto") == (torch.device("cuda"), torch.float32)
    assert placing("cuda", "float16") == (torch.device("cuda"), torch.float16)


def test_bfloat16_on_a_gpu_without_it_is_refused_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, (7, 5))
    with pytest.raises(ConfigError, match="dtype=bfloat16, but Tesla T4 has no units for it; set dtype=float16 or"):
        placing("cuda", "bfloat16")


def test_both_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        placing("gpu", "half")
    assert str(error.value).splitlines() == [
        "device='gpu'; valid: auto, cpu, cuda, cuda:0 ...",
        "dtype='half'; valid: float32, bfloat16, float16, float64, auto",
    ]


def test_a_type_is_saved_under_the_name_that_a_config_takes() -> None:
    assert {dtype_key(value) for value in DTYPES.values()} == set(DTYPES)


@pytest.fixture
def ixc25(tmp_path: Path) -> Iterator[Ixc25Backbone]:
    """Of random weights in bfloat16, in a folder of its own."""
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"image_size": 56, "patch_size": 14, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes = {"text": text | {"num_key_value_heads": 2, "plora_rank": 4}, "vision": vision | {"num_attention_heads": 2}}
    write_ixc25_folder(tmp_path / "model", ["USER: what is it?"], vocab_size=300, **sizes)
    backbone = Ixc25Backbone(path=str(tmp_path / "model"))
    backbone.save_pretrained(backbone.build(weights=False, dtype=torch.bfloat16), tmp_path / "model")
    yield backbone


def is_mapped(backbone: Ixc25Backbone) -> bool:
    """Whether this process reads the weights from their file, as others then do from the same memory."""
    return any(f"{backbone.path}/model-" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_weights_for_a_gpu_stay_in_the_file_s_map(ixc25: Ixc25Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ixc25.build(dtype=torch.bfloat16)
    assert not is_mapped(ixc25), "on a CPU the file may be written again"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    shared = ixc25.build(dtype=torch.bfloat16)
    assert is_mapped(ixc25)
    kept = {name: value.clone() for name, value in own.state_dict().items()}
    for name, value in shared.state_dict().items():
        assert torch.equal(value, kept[name]), name
    # written anew beside the old one, whose map stays what it was
    with torch.no_grad():
        own.output.weight.add_(1.0)
    ixc25.save_pretrained(own, Path(ixc25.path))
    assert torch.equal(shared.output.weight, kept["output.weight"])
    assert torch.equal(ixc25.build(dtype=torch.bfloat16).output.weight, own.output.weight)


def test_the_log_says_what_weights_take() -> None:
    model = torch.nn.Linear(2**15, 2**12, bias=False, device="meta", dtype=torch.bfloat16)
    assert describe_weights(model, torch.device("cuda:0")) == "weights: 0.25 GiB in bfloat16 on cuda:0"
    packed = torch.nn.Parameter(torch.zeros(2**29, device="meta", dtype=torch.uint8), requires_grad=False)
    model.register_parameter("packed", packed)
    assert describe_weights(model, torch.device("cpu")) == ("weights: 0.50 GiB in 4 bits, 0.25 GiB in bfloat16 on cpu")
