"""bfloat16 on a CPU without units for it: float32 kernels, rounded once, in every pass of a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lookright.backbones.llava import LlavaBackbone
from lookright.errors import ConfigError
from lookright.reference.cached import CachedLogps
from lookright.training import precision, trainer
from lookright.training.precision import IN_PLACE, SLOW, Float32Kernels
from lookright.training.preference import prepare_reference
from lookright.training.trainer import TrainerSettings
from lookright.tuning.lora import LoraTuning
from tests.compare import assert_close, assert_same_gradients
from tests.examples import gradients
from tests.training.parts import make_batch, make_module
from tests.training.test_fit import make_data
from tests.weighted import make_loss


class SlowKernels(TorchDispatchMode):
    """Lists the slow operators that arrive in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (func in SLOW or func in IN_PLACE) and args[0].dtype == torch.bfloat16:
            self.found.add(func)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def without_units(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (precision, trainer):
        monkeypatch.setattr(module, "cpu_has_bfloat16", lambda: False)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


@pytest.mark.parametrize(
    ("operation", "shapes"),
    [
        (torch.mm, [(7, 5), (5, 3)]),
        (torch.bmm, [(2, 7, 5), (2, 5, 3)]),
        (lambda *parts: torch.addmm(*parts, alpha=0.5), [(3,), (7, 5), (5, 3)]),
        (lambda *parts: torch.baddbmm(*parts, alpha=0.5), [(2, 1, 3), (2, 7, 5), (2, 5, 3)]),
        (lambda *parts: F.conv2d(*parts, stride=2), [(2, 3, 8, 8), (4, 3, 2, 2), (4,)]),
    ],
    ids=["mm", "bmm", "addmm", "baddbmm", "convolution"],
)
def test_results_are_float32_results_rounded_once(operation: Any, shapes: list[tuple[int, ...]]) -> None:
    parts = [random(*shape) for shape in shapes]
    with Float32Kernels(), SlowKernels() as seen:
        found = operation(*parts)
    assert seen.found, "the operation is none of the slow ones"
    assert torch.equal(found, operation(*(part.float() for part in parts)).bfloat16())


@pytest.mark.parametrize(("name", "batch"), [("baddbmm", (2,)), ("addmm", ())])
def test_in_place_products_write_what_the_others_return(name: str, batch: tuple[int, ...]) -> None:
    parts = [random(*batch, 7, 3), random(*batch, 7, 5), random(*batch, 5, 3)]
    wanted = getattr(torch, name)(*(part.float() for part in parts), alpha=0.5).bfloat16()
    with Float32Kernels(), SlowKernels() as seen:
        given = getattr(parts[0], f"{name}_")(*parts[1:], alpha=0.5)
    assert seen.found == {getattr(torch.ops.aten, f"{name}_").default}
    assert given is parts[0] and torch.equal(given, wanted)


def test_gradients_of_attention_are_those_of_float32() -> None:
    """The forward pass keeps its own kernel; the log-sum that it hands on stays float32."""
    parts = [random(1, 2, 300, 16).requires_grad_() for _ in range(3)]
    wide = [part.detach().float().requires_grad_() for part in parts]
    with Float32Kernels():
        F.scaled_dot_product_attention(*parts, is_causal=True).float().square().sum().backward()
    F.scaled_dot_product_attention(*wide, is_causal=True).square().sum().backward()
    for part, exact in zip(parts, wide, strict=True):
        error = (part.grad.float() - exact.grad).norm() / exact.grad.norm()
        assert part.grad.dtype == torch.bfloat16 and error < 0.02, f"relative error {error:.4f}; bfloat16 has 8 bits"


def test_float32_and_integers_pass_untouched() -> None:
    left, right = torch.randn(4, 4), torch.randn(4, 4)
    with Float32Kernels():
        product, whole = left @ right, torch.arange(4)[None] @ torch.arange(4)[:, None]
    assert torch.equal(product, left @ right) and whole.item() == 14


@pytest.mark.usefixtures("without_units")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_mixed_step_is_the_step_on_bfloat16_kernels(llava: LlavaBackbone, checkpointing: bool) -> None:
    batch = make_batch(llava)
    plugin = precision.cpu_precision("bf16-mixed")
    found = []
    for context in (plugin.forward_context, lambda: torch.autocast("cpu", torch.bfloat16)):
        torch.manual_seed(0)
        tuning = LoraTuning(r=4, alpha=8, dropout=0.0)
        module = make_module(llava, make_loss(), tuning=tuning, dtype=torch.float32)
        if checkpointing:
            module.trained_model.gradient_checkpointing_enable({"use_reentrant": False})
        with context():
            loss = module.score_batch(batch, read_attention=True)[0].mean()
            found.append((loss.detach(), gradients(loss, module.trained_model)))
    (ours, our_gradients), (native, native_gradients) = found
    assert_close(ours, native, atol=2e-3, why="bfloat16 products of both, summed in another order")
    assert_same_gradients(our_gradients, native_gradients, rtol=0.1, why="8 bits a product, 6 layers deep")


@pytest.mark.usefixtures("without_units")
@pytest.mark.parametrize("name", ["bf16-mixed", "bf16-true"])
def test_no_pass_of_a_run_meets_a_slow_kernel(llava: LlavaBackbone, tmp_path: Path, name: str) -> None:
    """Filling the cache, the check at start, forward, backward, and the optimiser."""
    settings = TrainerSettings(precision=name, max_steps=1, progress_bar=False)
    data = make_data(tmp_path, llava)
    reference = CachedLogps(str(tmp_path / "logps"))
    module = make_module(llava, reference=reference, dtype=torch.float32)
    built = settings.build(tmp_path, False, seed=0, has_validation=False, idle_parameters=False)
    with SlowKernels() as seen:
        prepare_reference(module, data, built)
        built.fit(module, datamodule=data)
    assert built.global_step == 1 and built.precision == name
    assert seen.found == set(), f"ran in bfloat16: {seen.found}"


def test_cpus_with_units_and_other_types_keep_lightnings_own(
    monkeypatch: pytest.MonkeyPatch, without_units: None
) -> None:
    assert precision.cpu_precision("32-true") is None and precision.cpu_precision("16-mixed") is None
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    assert precision.cpu_precision("bf16-mixed") is None


@pytest.mark.usefixtures("without_units")
def test_compiled_blocks_in_bfloat16_are_refused_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no bfloat16 units.*set trainer.precision=32-true or trainer.compile=false"):
        TrainerSettings(precision="bf16-mixed", compile=True)
    monkeypatch.setattr(trainer, "cpu_has_bfloat16", lambda: True)
    TrainerSettings(precision="bf16-mixed", compile=True)
