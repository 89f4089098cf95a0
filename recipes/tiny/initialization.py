"""Weights to start from at small width, where the usual standard deviation of 0.02 leaves attention flat."""

import torch
from torch import nn

RESIDUAL_OUTPUTS = ("o_proj", "down_proj", "out_proj", "fc2", "wo", "w2")
"""Last parts of the names of linear layers that add to the residual stream."""
LOW_RANK_OUTPUTS = ("Plora_B",)
"""Second factors of low-rank additions, which add nothing until they are trained."""
POSITION_STD = 0.3
EMBEDDING_STD = 0.5


@torch.no_grad()
def initialise(model: nn.Module, num_layers: int) -> None:
    """Draw every matrix with standard deviation 1/sqrt(inputs), less by sqrt(2 layers) where it adds to the residual.

    Token and position embeddings get a size at which they matter beside pictures; biases start at 0.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
            shrink = (2 * num_layers) ** 0.5 if name.rpartition(".")[2] in RESIDUAL_OUTPUTS else 1.0
            module.weight.normal_(0.0, fan_in**-0.5 / shrink)
            if name.endswith(LOW_RANK_OUTPUTS):
                module.weight.zero_()
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, POSITION_STD if "position" in name else EMBEDDING_STD)
