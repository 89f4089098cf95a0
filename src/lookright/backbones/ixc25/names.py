"""Official checkpoint names against ours: the ViT there has a level `vision_model` that transformers dropped."""

import torch

_TOWER = "vit.vision_tower."


def official_name(name: str) -> str:
    """Checkpoint name of one of our parameters."""
    return name.replace(_TOWER, f"{_TOWER}vision_model.", 1) if name.startswith(_TOWER) else name


def parameter_name(name: str) -> str:
    """Our parameter for a checkpoint name, the inverse of `official_name`."""
    return name.replace(f"{_TOWER}vision_model.", _TOWER, 1)


def official_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Checkpoint names and shapes of a model, which may lie on the meta device."""
    return {official_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
