"""Adapters added in one product are PEFT's own, and where they are more than that PEFT adds them."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from lookright.tuning.fused import fuse_adapters
from tests.compare import assert_close, assert_same_gradients
from tests.examples import gradients, shake_adapters


def make(dtype: torch.dtype = torch.float64, **options: object) -> PeftModel:
    """Two layers with adapters of rank 3, the second one with a bias."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9, bias=False), nn.SiLU(), nn.Linear(9, 5)).to(dtype)
    given = {"r": 3, "lora_alpha": 7, "target_modules": ["0", "2"], "lora_dropout": 0.0} | options
    return shake_adapters(get_peft_model(model, LoraConfig(**given))).to(dtype)


def both(**options: object) -> tuple[PeftModel, PeftModel]:
    """PEFT's own and the fused one, of the same weights."""
    plain = make(**options)
    fused = copy.deepcopy(plain)
    assert fuse_adapters(fused) == 2
    return plain, fused


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x.to(dtype).requires_grad_()


@pytest.mark.parametrize("options", [{}, {"lora_dropout": 0.4}, {"use_rslora": True}], ids=["plain", "dropout", "rs"])
def test_values_and_gradients_are_those_of_peft(options: dict) -> None:
    found = []
    for policy in both(**options):
        x = inputs()
        torch.manual_seed(1)  # of dropout
        output = policy.train()(x)
        value = output.pow(3).sum()
        # the input's gradient first: the other one frees the graph
        own = {"x": torch.autograd.grad(value, x, retain_graph=True)[0]}
        found.append((output, own | gradients(value, policy)))
    (wanted, wanted_gradients), (given, given_gradients) = found
    assert given.dtype == wanted.dtype
    assert_close(given, wanted, atol=1e-12, why="float64, one rounding in place of three")
    assert_same_gradients(given_gradients, wanted_gradients, rtol=1e-12, why="float64")


def test_under_autocast_it_is_as_close_to_the_truth_as_peft() -> None:
    plain, fused = both(dtype=torch.float32)
    truth = make(dtype=torch.float64)(inputs())
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = fused(inputs(torch.float32)), plain(inputs(torch.float32))
    assert ours.dtype == theirs.dtype == torch.bfloat16
    errors = [(side.double() - truth).abs().mean() for side in (ours, theirs)]
    assert errors[0] <= 1.1 * errors[1], f"mean error: ours {errors[0]:.2e}, PEFT {errors[1]:.2e}"


def test_float32_adapters_on_a_bfloat16_model_keep_its_type() -> None:
    """As without autocast a base model in 16 bits has them."""
    policy = make(dtype=torch.bfloat16)
    for name, parameter in policy.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    fused = copy.deepcopy(policy)
    fuse_adapters(fused)
    x = inputs(torch.bfloat16)
    assert fused(x).dtype == torch.bfloat16
    assert torch.equal(fused(x), policy(x))


def test_switched_off_it_is_the_base_model_to_the_last_bit() -> None:
    plain, fused = both(dtype=torch.float32)
    base = plain.unload()(inputs(torch.float32))
    with fused.disable_adapter():
        assert torch.equal(fused(inputs(torch.float32)), base)
    assert not torch.equal(fused(inputs(torch.float32)), base)


def test_a_fresh_adapter_changes_nothing_to_the_last_bit() -> None:
    fused = make(dtype=torch.float32)
    fuse_adapters(fused)
    for name, parameter in fused.named_parameters():
        if ".lora_B." in name:
            parameter.data.zero_()
    with fused.disable_adapter():
        base = fused(inputs(torch.float32))
    assert torch.equal(fused(inputs(torch.float32)), base)


def merged(policy: PeftModel) -> None:
    policy.merge_adapter()


def two_at_once(policy: PeftModel) -> None:
    policy.add_adapter("second", LoraConfig(r=2, lora_alpha=4, target_modules=["0", "2"], init_lora_weights=False))
    for name, parameter in policy.named_parameters():
        if ".second." in name:
            torch.manual_seed(len(name))
            parameter.data = torch.randn_like(parameter)
    policy.base_model.set_adapter(["default", "second"])


@pytest.mark.parametrize(
    ("options", "change"),
    [({"use_dora": True}, None), ({"lora_bias": True}, None), ({}, merged), ({}, two_at_once)],
    ids=["dora", "bias", "merged", "two"],
)
def test_what_is_more_than_one_product_stays_with_peft(options: dict, change: object) -> None:
    plain, fused = both(**options)
    for policy in (plain, fused) if change is not None else ():
        change(policy)
    x = inputs()
    assert torch.equal(fused(x), plain(x))


def test_a_copy_has_its_own_weights() -> None:
    """As the frozen reference of a policy that goes on from an adapter."""
    fused = make()
    fuse_adapters(fused)
    twin, x = copy.deepcopy(fused), inputs()
    before = twin(x)
    for parameter in fused.parameters():
        parameter.data.zero_()
    assert torch.equal(twin(x), before) and before.any()


class Kept:
    """The tensors that autograd keeps inside it."""

    def __enter__(self) -> list[Tensor]:
        kept: list[Tensor] = []
        self.hooks = torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part) or part, lambda part: part)
        self.hooks.__enter__()
        return kept

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)


def test_of_what_is_as_long_as_the_row_it_keeps_input_and_low_rank_product() -> None:
    layer = both(dtype=torch.float32)[1].base_model.model[0]
    x = inputs(torch.float32)
    with Kept() as kept:
        layer(x)
    rows = x.shape[0] * x.shape[1]
    assert sorted(part.shape[1] for part in kept if part.shape[0] == rows) == [3, 6]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_without_an_input_that_wants_a_gradient_the_adapter_gets_its_own(dropout: float) -> None:
    """As the first layer's, whose input is frozen."""
    found = []
    for policy in both(lora_dropout=dropout):
        torch.manual_seed(1)
        found.append(gradients(policy.train()(inputs().detach()).pow(3).sum(), policy))
    assert_same_gradients(found[1], found[0], rtol=1e-12, why="float64")


def test_a_base_layer_that_trains_gets_its_gradient() -> None:
    found = []
    for policy in both():
        policy.base_model.model[2].base_layer.weight.requires_grad_(True)
        found.append(gradients(policy(inputs()).pow(3).sum(), policy))
    assert any("base_layer.weight" in name for name in found[0])
    assert_same_gradients(found[1], found[0], rtol=1e-12, why="float64")


@pytest.mark.parametrize("seed", range(3))
def test_gradients_under_autocast_are_as_close_to_the_truth_as_those_of_peft(seed: int) -> None:
    """On wider layers and more rows, where the errors of single numbers average out."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 96, bias=False), nn.SiLU(), nn.Linear(96, 48))
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["0", "2"], lora_dropout=0.0)
    plain, x = shake_adapters(get_peft_model(model, config)), torch.randn(2, 100, 64)
    fused = copy.deepcopy(plain)
    fuse_adapters(fused)
    truth, errors = all_gradients(copy.deepcopy(plain).double(), x.double()), []
    for policy in (fused, plain):
        with torch.autocast("cpu", torch.bfloat16):
            found = all_gradients(policy, x)
        assert all(part.dtype == torch.float32 for part in found.values())
        errors.append(max(float((found[name].double() - truth[name]).norm() / truth[name].norm()) for name in truth))
    assert errors[0] <= 1.1 * errors[1], f"largest relative error: ours {errors[0]:.2e}, PEFT {errors[1]:.2e}"


def all_gradients(policy: PeftModel, x: Tensor) -> dict[str, Tensor]:
    """Of the input and of all that trains."""
    x = x.clone().requires_grad_()
    value = policy(x).to(torch.promote_types(x.dtype, torch.float32)).pow(3).sum()
    return {"x": torch.autograd.grad(value, x, retain_graph=True)[0]} | gradients(value, policy)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 0, 6), (2, 3, 4, 6)], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_inputs_of_any_shape(shape: tuple[int, ...], dropout: float) -> None:
    found, x = [], torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for policy in both(lora_dropout=dropout):
        torch.manual_seed(1)
        found.append(all_gradients(policy.train(), x))
    assert found[1]["x"].shape == shape
    for name, wanted in found[0].items():
        assert_close(found[1][name], wanted, rtol=1e-11, atol=1e-12, why="float64")


def test_twice_in_one_pass_with_gradients_and_inputs_of_other_layouts() -> None:
    """A transposed input, a transposed gradient and one that is a single number everywhere, of one layer."""
    found = []
    for policy in both():
        layer, x = policy.base_model.model[0], inputs()
        value = layer(x.transpose(0, 1)).transpose(0, 2).pow(3).sum() + layer(x * 2).sum()
        own = {"x": torch.autograd.grad(value, x, retain_graph=True)[0]}
        used = [part for part in layer.parameters() if part.requires_grad]
        found.append([own["x"], *torch.autograd.grad(value, used)])
    for given, wanted in zip(found[1], found[0], strict=True):
        assert_close(given, wanted, rtol=1e-11, atol=1e-12, why="float64")


def test_what_comes_out_can_be_written_into() -> None:
    found = []
    for policy in both():
        output = policy(inputs())
        found.append(gradients(output.mul_(3).pow(2).sum(), policy))
    assert_same_gradients(found[1], found[0], rtol=1e-12, why="float64")


def test_a_layer_that_is_wrapped_already_keeps_its_adapter() -> None:
    found = []
    for fuses in (False, True):
        torch.manual_seed(3)
        inner = make().base_model.model[0]
        outer = LoraLinear(inner, "default", config=LoraConfig(r=2, init_lora_weights=False), r=2, lora_alpha=4)
        outer.double()
        assert not fuses or fuse_adapters(outer) == 2
        found.append(outer(inputs()))
    assert_close(found[1], found[0], rtol=1e-12, atol=1e-12, why="float64")


def test_hooks_of_the_layer_inside_run() -> None:
    """As those of a profiler, or of weights that are loaded when a layer is called."""
    plain, fused = both()
    for policy in (plain, fused):
        policy.base_model.model[0].base_layer.register_forward_hook(lambda layer, given, output: output + 1)
    assert_close(fused(inputs()), plain(inputs()), rtol=1e-12, atol=1e-12, why="float64")


def test_autocast_leaves_float64_alone() -> None:
    plain, fused = both()
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = fused(inputs()), plain(inputs())
    assert ours.dtype == theirs.dtype == torch.float64
    assert_close(ours, theirs, rtol=1e-12, atol=1e-12, why="float64")


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_it_compiles_into_one_graph(dropout: float) -> None:
    """As a compiled feed-forward block must, whose element-wise steps would not fuse otherwise."""
    policy = both(lora_dropout=dropout)[1].train()
    model, found = policy.base_model.model, []
    for step in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        x = inputs()
        value = step(x).pow(3).sum()
        own = {"x": torch.autograd.grad(value, x, retain_graph=True)[0]}
        found.append(own | gradients(value, model))
    assert_same_gradients(found[1], found[0], rtol=1e-11, why="float64")
