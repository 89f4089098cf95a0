"""The attention ratio against the whole maps of eager attention, and where its gradient goes."""

import math

import pytest
import torch

from lookright.attention import attention_ratio
from lookright.attention.band import layer_band
from lookright.backbones.llava import LlavaBackbone
from lookright.packing.batch import Example, pack
from lookright.packing.forward import packed_forward
from lookright.tuning.lora import LoraTuning
from tests.compare import assert_close, assert_same_gradients
from tests.examples import LONG, gradients, lively_model, make_example, response_after, shake_adapters
from tests.plain import plain_ratios, stock_model, stock_policy

ROUNDING = "stock eager attention takes its softmax in float32, ours keeps the ratio in float32"


def ragged_examples(backbone: LlavaBackbone) -> list[Example]:
    """One, three and five pictures; a chosen response of one token and a long one."""
    return [
        make_example(backbone, 3, ["red", LONG], target=1),
        make_example(backbone, 1, [LONG, "no"], seed=3),
        make_example(backbone, 5, ["", "blue", "green"], target=4, seed=9),
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@torch.no_grad()
def test_ratio_equals_eager_maps_in_every_layer_and_band(llava: LlavaBackbone, dtype: torch.dtype) -> None:
    examples = ragged_examples(llava)
    model = lively_model(llava, dtype)
    stock = stock_model(llava, model)
    batch = pack(examples)
    features = llava.encode_images(model, batch.pixels)
    wanted = torch.stack([plain_ratios(stock, example, example.responses[0]) for example in examples])
    bands = [[layer] for layer in range(6)] + [layer_band(6), [0, 5], list(range(6))]
    found = torch.stack([packed_forward(llava, model, batch, features, band).attention_ratio for band in bands], 1)
    means = torch.stack([wanted[:, band].mean(1) for band in bands], 1)
    assert_close(found, means, atol=1e-5, why=ROUNDING, name="attention ratio")
    assert wanted[0].std() > 0.01 and wanted[2].std() > 0.01, "layers do not differ: the test would prove little"


@torch.no_grad()
def test_every_response_has_its_own_ratio(llava: LlavaBackbone) -> None:
    examples = ragged_examples(llava)
    model = lively_model(llava)
    batch = pack(examples)
    output = packed_forward(llava, model, batch, llava.encode_images(model, batch.pixels), [1, 5])
    stock = stock_model(llava, model)
    maps = [plain_ratios(stock, example, response) for example in examples for response in example.responses]
    (ratios,) = output.response_ratios
    assert_close(ratios, torch.stack(maps)[:, [1, 5]].mean(1), atol=1e-5, why=ROUNDING)
    owners = [number for number, example in enumerate(examples) for _ in example.responses]
    assert batch.prompt_of_response().tolist() == owners and len(owners) > len(examples)
    assert torch.equal(output.attention_ratio, ratios[batch.first_response])


@torch.no_grad()
def test_ratio_of_some_rows_alone(llava: LlavaBackbone) -> None:
    """The row that decides the first answer token, and all but it; also after a further question."""
    examples = ragged_examples(llava)
    examples[0].responses[0] = response_after(llava, "In Image2, is there a circle?", "no")
    model = lively_model(llava)
    batch = pack(examples)
    features = llava.encode_images(model, batch.pixels)
    stock = stock_model(llava, model)
    for rows, name in ((slice(1), "first"), (slice(None), "response"), (slice(1, None), "generated")):
        found = packed_forward(llava, model, batch, features, [1, 5], name).attention_ratio
        # a response of one token has its first row alone
        taken = [slice(1) if name == "generated" and number == 2 else rows for number in range(len(examples))]
        pairs = zip(examples, taken, strict=True)
        maps = [plain_ratios(stock, example, example.responses[0], rows) for example, rows in pairs]
        wanted = torch.stack(maps)[:, [1, 5]].mean(1)
        assert_close(found, wanted, atol=1e-5, why=ROUNDING, name=f"ratio of the rows {name}")


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
def test_gradient_equals_that_of_eager_maps_in_every_layer(
    llava: LlavaBackbone, dtype: torch.dtype, rtol: float
) -> None:
    """Of a weighted sum over three pairs to all adapters, the trimmed last layer included."""
    examples = ragged_examples(llava)
    base = lively_model(llava, dtype)
    stock = stock_model(llava, base)
    policy = shake_adapters(LoraTuning(r=2, alpha=4, dropout=0.0).apply(llava, base))
    twin = stock_policy(llava, stock, policy)
    batch = pack(examples)
    features = llava.encode_images(policy.get_base_model(), batch.pixels)
    weights = torch.tensor([1.0, 0.0, -2.0], dtype=dtype)
    maps = torch.stack([plain_ratios(twin, example, example.responses[0]) for example in examples])
    for layer in (0, 3, 5):
        ratio = packed_forward(llava, policy.get_base_model(), batch, features, [layer]).attention_ratio
        assert_close(ratio, maps[:, layer], atol=1e-5, why=ROUNDING, name=f"ratio of layer {layer}")
        found = gradients((ratio * weights).sum(), policy)
        trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
        wanted = torch.autograd.grad((maps[:, layer] * weights).sum(), trained, retain_graph=True, allow_unused=True)
        assert_same_gradients(found, dict(zip(found, wanted, strict=True)), rtol=rtol, why=ROUNDING)


def test_layers_above_the_band_get_no_gradient(llava: LlavaBackbone) -> None:
    """And in its last layer only queries and keys do: nothing of what comes after the probabilities."""
    policy = shake_adapters(LoraTuning(r=2, alpha=4, dropout=0.0).apply(llava, lively_model(llava, torch.float32)))
    batch = pack(ragged_examples(llava)[:1])
    features = llava.encode_images(policy.get_base_model(), batch.pixels)
    ratio = packed_forward(llava, policy.get_base_model(), batch, features, [2, 3]).attention_ratio
    reached = set()
    for name, value in gradients(ratio.sum(), policy).items():
        layer, _, part = name.split(".layers.")[1].partition(".")
        if value is not None and value.any():
            reached.add((int(layer), part.split(".")[1]))
    every = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert reached == {(layer, part) for layer in range(3) for part in every} | {(3, "q_proj"), (3, "k_proj")}


def test_ratio_by_hand() -> None:
    """Two layers, two responses: A is summed over rows first, the ratio is taken per layer, then averaged."""
    masses = torch.tensor(
        [
            [[0.1, 0.4], [0.3, 0.4], [0.0, 0.5]],
            [[0.2, 0.2], [0.0, 0.6], [0.5, 0.5]],
        ]
    )
    rows, owner = torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1])
    found = attention_ratio(masses, rows, owner, 3)
    # response 0: (0.1 + 0.3) / (0.4 + 0.4) = 0.5 and 0.2 / 0.8 = 0.25; response 1: 0 and 1
    assert_close(found[:2], torch.tensor([0.375, 0.5]), atol=1e-7, why="float32")
    assert math.isnan(found[2])


def test_a_prompt_without_a_target_has_no_ratio_and_no_gradient(llava: LlavaBackbone) -> None:
    examples = ragged_examples(llava)[:2]
    examples[1].coverage = None
    policy = shake_adapters(LoraTuning(r=2, alpha=4, dropout=0.0).apply(llava, lively_model(llava)))
    model, batch = policy.get_base_model(), pack(examples)
    ratio = packed_forward(llava, model, batch, llava.encode_images(model, batch.pixels), [2]).attention_ratio
    assert 0 < ratio[0] < 1 and math.isnan(ratio[1])
    alone = pack(examples[:1])
    single = packed_forward(llava, model, alone, llava.encode_images(model, alone.pixels), [2]).attention_ratio
    found, wanted = gradients(ratio.nansum(), policy), gradients(single.sum(), policy)
    assert_same_gradients(found, wanted, rtol=1e-6, why="float32 ratio")


def test_a_target_that_is_every_picture_has_ratio_one(llava: LlavaBackbone) -> None:
    example = ragged_examples(llava)[0]
    for start, stop in example.prompt.image_spans:
        example.coverage[start:stop] = 1.0
    model, batch = lively_model(llava), pack([example])
    ratio = packed_forward(llava, model, batch, llava.encode_images(model, batch.pixels), [0, 3]).attention_ratio
    assert_close(ratio, torch.ones(1), atol=1e-6, why="float32")
