"""Compiling the parts of a decoder that treat each token by itself."""

from typing import Any


def compile_blocks(decoder: Any) -> int:
    """Compile norms and feed-forward blocks of every layer in place; returns how many.

    Their element-wise steps (norm, activation, product, adapter, residual of the adapter) fuse. Attention stays as
    it is: its kernels are fused already, and it records rows as it runs. Lengths are dynamic, so that one
    compilation serves all batches. Parameter names do not change.
    """
    blocks = [block for layer in decoder.layers for block in layer.children() if not hasattr(block, "layer_idx")]
    for block in blocks:
        block.compile(dynamic=True)
    return len(blocks)
