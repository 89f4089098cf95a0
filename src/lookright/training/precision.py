"""bfloat16 on a CPU that has no units for it.

PyTorch then multiplies matrices of that type in plain loops, up to a hundred times slower than float32. The same
numbers come from float32 kernels: a product of two bfloat16 values is exact there, sums are kept in float32 either
way, and the result is rounded to bfloat16 once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
SLOW = {
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten.convolution_backward.default,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
}
"""Operators without a fast bfloat16 kernel there, all of whose results have the type of their arguments."""
IN_PLACE = {aten.addmm_.default: aten.addmm.default, aten.baddbmm_.default: aten.baddbmm.default}
"""Operators that write into their first argument, and those whose result is what they write."""


class Float32Kernels(TorchDispatchMode):
    """Inside it, bfloat16 matrix products, convolutions and gradients of attention run on float32 kernels."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Widen, run, round; every other operator as it is."""
        del types
        kwargs = kwargs or {}
        if func in IN_PLACE and args[0].dtype == torch.bfloat16:
            return args[0].copy_(self.__torch_dispatch__(IN_PLACE[func], (), args, kwargs))
        if func not in SLOW or args[0].dtype != torch.bfloat16:
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, Tensor.float, (args, kwargs))
        return tree_map_only(Tensor, Tensor.bfloat16, func(*args, **kwargs))


class _OnFloat32Kernels(Precision):
    """Passes forward and backward of a Lightning precision plugin inside `Float32Kernels`."""

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """The plugin's own, on float32 kernels."""
        with super().forward_context(), Float32Kernels():
            yield

    def backward(self, tensor: Tensor, model: LightningModule, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """The plugin's own, on float32 kernels."""
        with Float32Kernels():
            super().backward(tensor, model, optimizer, *args, **kwargs)


class MixedOnFloat32Kernels(_OnFloat32Kernels, MixedPrecision):
    """`bf16-mixed`."""


class TrueOnFloat32Kernels(_OnFloat32Kernels, HalfPrecision):
    """`bf16-true`."""


def cpu_has_bfloat16() -> bool:
    """Whether PyTorch multiplies bfloat16 matrices with this CPU's vector units."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def cpu_precision(precision: str) -> Precision | None:
    """The plugin for bfloat16 on this CPU; None where Lightning's own will do."""
    if not precision.startswith("bf16") or cpu_has_bfloat16():
        return None
    rank_zero_info(
        f"precision: {precision} on a CPU without bfloat16 units; products run in float32 and are "
        "rounded: not faster than trainer.precision=32-true, and less exact"
    )
    if precision == "bf16-mixed":
        return MixedOnFloat32Kernels("bf16-mixed", "cpu")
    return TrueOnFloat32Kernels("bf16-true")
