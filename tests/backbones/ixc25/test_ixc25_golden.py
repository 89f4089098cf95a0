"""Values that the official code computed: the small case that is published with formulas for weights and pictures."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lookright.backbones.ixc25 import Ixc25Config, Ixc25ForCausalLM
from lookright.backbones.ixc25.checkpoint import official_shapes
from lookright.backbones.ixc25.modeling import parameter_name

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-4  # float32; two versions of the official stack agree to 1e-5
NORMS = ("norm.weight", "layrnorm.weight", "layernorm.weight", "layer_norm1.weight", "layer_norm2.weight")


def weight(name: str, shape: tuple[int, ...], phase: float) -> Tensor:
    """sin(0.7390851 i + 0.618 c + phase) * scale, c the checksum of the name; norms are shifted by one."""
    index = np.arange(np.prod(shape), dtype=np.float64)
    wave = np.sin(0.7390851 * index + 0.618 * (zlib.crc32(name.encode()) % 9973) + phase)
    scale = 0.05
    if len(shape) > 1:
        scale = 0.5 if "tok_embeddings" in name else 0.05 if "embed" in name else shape[-1] ** -0.5
    values = wave * scale + name.endswith(NORMS)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def picture(number: int, down: int, across: int, tile: int = 560) -> Tensor:
    """Two waves per channel over down x across tiles: float32[3, down * tile, across * tile]."""
    y, x = np.mgrid[: down * tile, : across * tile].astype(np.float64)
    channels = [
        np.sin(0.013 * c * x + 0.017 * y + number + 1) + 0.5 * np.cos(0.031 * y - 0.007 * c * x) for c in (1, 2, 3)
    ]
    return torch.from_numpy(np.stack(channels).astype(np.float32))


@pytest.fixture(scope="module")
def golden_model() -> Ixc25ForCausalLM:
    sizes = dict(GOLDEN["config"])
    model = Ixc25ForCausalLM(Ixc25Config(vision_config=sizes.pop("vision"), **sizes)).eval()
    shapes = official_shapes(model)
    state = {parameter_name(name): weight(name, shape, GOLDEN["phase"]) for name, shape in shapes.items()}
    model.load_state_dict(state)
    return model


@pytest.fixture(scope="module")
def features(golden_model: Ixc25ForCausalLM) -> list[Tensor]:
    pictures = [picture(number, *tiles) for number, tiles in enumerate(GOLDEN["tiles"])]
    with torch.no_grad():
        return golden_model.encode_pictures(pictures)


@pytest.fixture(scope="module")
def sequence(features: list[Tensor]) -> Tensor:
    """Some ids, picture 1, as many ids, picture 2, the rest; 0 at image rows: int64[1, L]."""
    step, ids, row = GOLDEN["text_tokens_before_each_image"], GOLDEN["ids"], []
    for number, rows in enumerate(features):
        row += ids[number * step : (number + 1) * step] + [0] * len(rows)
    return torch.tensor([row + ids[len(features) * step :]])


def _embeds(model: Ixc25ForCausalLM, sequence: Tensor, features: list[Tensor]) -> Tensor:
    text = model.get_input_embeddings()(sequence)
    return text.masked_scatter((sequence == 0)[..., None], torch.cat(features))


def test_projected_rows(features: list[Tensor]) -> None:
    assert [len(rows) for rows in features] == GOLDEN["split"]
    rows = torch.cat(features)
    for index, expected in GOLDEN["projected_rows"].items():
        difference = (rows[int(index), :8] - torch.tensor(expected)).abs().max()
        assert difference < TOLERANCE, f"row {index}: {difference}"


def test_logits(golden_model: Ixc25ForCausalLM, features: list[Tensor], sequence: Tensor) -> None:
    assert sequence.shape == (1, GOLDEN["length"])
    with torch.no_grad():
        embeds = _embeds(golden_model, sequence, features)
        logits = golden_model(inputs_embeds=embeds, im_mask=sequence == 0).logits[0]
        plain = golden_model(inputs_embeds=embeds).logits[0]
    for index, expected in GOLDEN["logits"].items():
        difference = (logits[int(index)] - torch.tensor(expected)).abs().max()
        assert difference < TOLERANCE, f"position {index}: {difference}"
    assert logits.abs().mean() == pytest.approx(GOLDEN["logits_mean_abs"], abs=1e-5)
    assert (logits - plain).abs().mean() == pytest.approx(GOLDEN["no_plora_mean_abs_diff"], abs=1e-5)


def test_pixels_and_embeddings_are_two_ways_to_one_result(
    golden_model: Ixc25ForCausalLM, features: list[Tensor], sequence: Tensor
) -> None:
    pictures = [picture(number, *tiles) for number, tiles in enumerate(GOLDEN["tiles"])]
    with torch.no_grad():
        direct = golden_model(input_ids=sequence, pixels=pictures, logits_to_keep=3).logits
        split = golden_model(
            inputs_embeds=_embeds(golden_model, sequence, features), im_mask=sequence == 0, logits_to_keep=3
        ).logits
    assert torch.equal(direct, split)
