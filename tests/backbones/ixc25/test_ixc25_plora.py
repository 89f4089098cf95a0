"""The partial LoRA acts on image rows and nowhere else; adapters, dropout and checkpointing leave it alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from lookright.backbones.ixc25 import Ixc25Backbone, Ixc25ForCausalLM
from lookright.backbones.ixc25.plora import PartialLoraLinear, image_rows


@pytest.fixture()
def inputs(model: Ixc25ForCausalLM, pixels: Callable) -> dict:
    """Two rows, one with a picture."""
    pictures = [pixels(1, 2)]
    count = len(model.encode_pictures(pictures)[0])
    image = model.config.image_token_id
    ids = torch.tensor([[1, 7, *[image] * count, 20, 33], list(range(8, 12 + count))])
    ids[1][ids[1] == image] = 6
    return {"input_ids": ids, "pixels": pictures}


@pytest.fixture()
def lora(ixc25: Ixc25Backbone) -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules=ixc25.lora_targets(), lora_dropout=0.0)


def _disturb(model: nn.Module, names: str, size: float = 0.3) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if names in name:
                parameter += size * torch.randn_like(parameter)


def test_linear_by_hand() -> None:
    layer = PartialLoraLinear(3, 2, rank=1, alpha=2.0, dropout=0.5).eval()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
        layer.Plora_A.weight.copy_(torch.tensor([[1.0, 1, 1]]))
        layer.Plora_B.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.tensor([[[1.0, 2, 3], [4, 5, 6]], [[7, 8, 9], [1, 1, 1]]])
    mask = torch.tensor([[False, True], [False, True]])
    # rows in the mask: plus 2 * (sum of the row) on the first channel, minus on the second
    expected = torch.tensor([[[1.0, 2], [4 + 30, 5 - 30]], [[7, 8], [1 + 6, 1 - 6]]])
    assert torch.equal(layer(x, image_rows=image_rows(mask)), expected)
    assert torch.equal(layer(x), x[..., :2])
    assert torch.equal(layer(x, image_rows=image_rows(mask & False)), x[..., :2])


def test_dropout_acts_in_train_mode_alone_and_on_the_low_rank_input_alone() -> None:
    layer = PartialLoraLinear(64, 8, rank=4, alpha=4.0, dropout=0.5)
    x = torch.randn(1, 6, 64)
    rows = torch.tensor([1, 4])
    layer.eval()
    assert torch.equal(layer(x, image_rows=rows), layer(x, image_rows=rows))
    layer.train()
    first, second = layer(x, image_rows=rows), layer(x, image_rows=rows)
    same = (first == second).all(-1)[0]
    assert same.tolist() == [True, False, True, True, False, True]


def test_gradients_equal_the_masked_formula() -> None:
    layer = PartialLoraLinear(5, 4, rank=2, alpha=3.0, dropout=0.0).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    weights = [layer.weight, layer.Plora_A.weight, layer.Plora_B.weight]
    plain = x @ weights[0].T + mask[..., None] * ((x @ weights[1].T) @ weights[2].T) * 1.5
    ours = torch.autograd.grad(layer(x, image_rows=image_rows(mask)).pow(3).sum(), [x, *weights])
    for a, b in zip(ours, torch.autograd.grad(plain.pow(3).sum(), [x, *weights]), strict=True):
        assert (a - b).abs().max() < 1e-10


@torch.no_grad()
def test_text_does_not_see_the_partial_lora(model: Ixc25ForCausalLM, inputs: dict) -> None:
    before = model(**inputs).logits
    alone = model(input_ids=inputs["input_ids"][1:]).logits
    _disturb(model, "Plora_")
    after = model(**inputs).logits
    assert torch.equal(model(input_ids=inputs["input_ids"][1:]).logits, alone)
    assert torch.equal(before[1], after[1])
    # tokens before the picture too; the picture and what follows it change
    assert torch.equal(before[0, :2], after[0, :2])
    assert (before[0, 2:] - after[0, 2:]).abs().amax(-1).min() > 1e-3


def test_an_adapter_trains_itself_alone_and_reaches_all_rows(
    model: Ixc25ForCausalLM, inputs: dict, lora: LoraConfig
) -> None:
    peft = get_peft_model(model, lora)
    trained = {name for name, parameter in peft.named_parameters() if parameter.requires_grad}
    assert len(trained) == 3 * 5 * 2
    assert all(".lora_A.default." in name or ".lora_B.default." in name for name in trained)
    frozen = {name: value.clone() for name, value in peft.named_parameters() if name not in trained}
    start = peft(**inputs).logits.detach()
    optimizer = torch.optim.SGD([p for p in peft.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # the first step moves B alone, A has no gradient while B is zero
        optimizer.zero_grad()
        peft(**inputs).logits.logsumexp(-1).sum().backward()
        optimizer.step()
    assert (peft(**inputs).logits - start).abs().amax(-1).min() > 1e-4
    for name, value in peft.named_parameters():
        assert (name in trained) or torch.equal(value, frozen[name]), name


def test_an_adapter_saves_loads_and_merges(
    ixc25: Ixc25Backbone, model: Ixc25ForCausalLM, inputs: dict, lora: LoraConfig, tmp_path: Path
) -> None:
    with torch.no_grad():
        base = model(**inputs).logits
        peft = get_peft_model(model, lora).eval()
        assert torch.equal(peft(**inputs).logits, base)
        _disturb(peft, ".lora_B.")
        tuned = peft(**inputs).logits
        with peft.disable_adapter():
            assert torch.equal(peft(**inputs).logits, base)
        peft.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(ixc25.build(), tmp_path)
        assert torch.equal(loaded(**inputs).logits, tuned)
        saved = torch.cat([value.flatten() for value in _adapter_file(tmp_path).values()])
        assert saved.numel() == sum(p.numel() for n, p in peft.named_parameters() if ".default." in n)
        partial = {name: value.clone() for name, value in model.named_parameters() if "Plora_" in name}
        merged = loaded.merge_and_unload()
        difference = (merged(**inputs).logits - tuned).abs().max()
        assert difference < 2e-5, difference  # float32: W + BA rounded once
        left = dict(merged.named_parameters())
        assert not [name for name in left if "lora_A" in name.replace("Plora_A", "")]
        assert {name.replace(".base_layer", "") for name in partial} == {name for name in left if "Plora_" in name}
        ixc25.save_pretrained(merged, tmp_path / "merged")
        again = Ixc25Backbone(path=str(tmp_path / "merged")).build()
        assert torch.equal(again(**inputs).logits, merged(**inputs).logits)


def _adapter_file(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    assert not [name for name in tensors if "Plora" in name or "plora" in name]
    return tensors


@pytest.mark.parametrize("adapter", [False, True])
def test_gradient_checkpointing_changes_nothing(
    adapter: bool, model: Ixc25ForCausalLM, inputs: dict, lora: LoraConfig
) -> None:
    trained = model
    if adapter:
        trained = get_peft_model(model, lora)
        _disturb(trained, ".lora_B.")
        model.enable_input_require_grads()
    trained.train()

    def gradients() -> dict[str, Tensor]:
        trained.zero_grad()
        trained(**inputs).logits.logsumexp(-1).mean().backward()
        return {name: p.grad.clone() for name, p in trained.named_parameters() if p.grad is not None}

    plain = gradients()
    trained.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert all(layer.gradient_checkpointing for layer in model.model.layers)
    checkpointed = gradients()
    assert plain.keys() == checkpointed.keys()
    assert any(grad.abs().max() > 1e-5 for grad in plain.values())
    for name, grad in plain.items():
        assert (grad - checkpointed[name]).abs().max() < 1e-6, name
