"""The packed row against one stock row a response: values, gradients, the ragged cases."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from lookright.backbones.llava import LlavaBackbone
from lookright.packing.batch import Example, pack
from lookright.packing.forward import decoder_rows, packed_forward
from lookright.tuning.lora import LoraTuning
from tests.compare import assert_close, assert_same_gradients
from tests.conftest import WORDS
from tests.examples import LONG, backbone_in, gradients, lively_model, make_example, response_after, shake_adapters
from tests.plain import plain_logps, stock_model, stock_policy

FLOAT64 = "stock eager attention and RMSNorm round to float32 inside, also in a float64 model"
FLOAT32 = "float32 sums in another order; responses of up to 30 tokens at about 5 nats each"

RAGGED = [(1, ["red", "blue"]), (5, [LONG, "", "no"]), (3, ["", "yes"]), (2, ["a", "b", "c", LONG])]

Sides = tuple[LlavaBackbone, PreTrainedModel, PreTrainedModel]


@pytest.fixture(scope="module")
def sides(llava: LlavaBackbone) -> Sides:
    """Ours and the stock model in float64, with grouped heads."""
    model = lively_model(llava)
    return llava, model, stock_model(llava, model)


def make_examples(backbone: LlavaBackbone, cases: list) -> list[Example]:
    return [make_example(backbone, n, texts, target=n - 1, seed=10 * i) for i, (n, texts) in enumerate(cases)]


def packed_logps(backbone: LlavaBackbone, model: torch.nn.Module, examples: list) -> torch.Tensor:
    batch = pack(examples)
    return packed_forward(backbone, model, batch, backbone.encode_images(model, batch.pixels)).logps


@torch.no_grad()
def test_logps_equal_the_plain_rows_in_float64(sides: Sides) -> None:
    """transformers' own way from `input_ids` and `pixel_values`; every ragged case is the backbones' contract."""
    backbone, model, stock = sides
    examples = make_examples(backbone, RAGGED)
    found, wanted = packed_logps(backbone, model, examples), plain_logps(stock, examples)
    assert_close(found, wanted, atol=2e-5, why=FLOAT64, name="log-probabilities")


@pytest.mark.parametrize("key_heads", [1, 4], ids=["single_key_head", "every_head"])
@torch.no_grad()
def test_logps_equal_the_plain_rows_with_other_key_heads(tmp_path: Path, key_heads: int) -> None:
    backbone = backbone_in(tmp_path, WORDS, key_heads=key_heads)
    examples = make_examples(backbone, RAGGED)
    model = lively_model(backbone)
    found, wanted = packed_logps(backbone, model, examples), plain_logps(stock_model(backbone, model), examples)
    assert_close(found, wanted, atol=2e-5, why=FLOAT64, name="log-probabilities")


def test_logps_equal_the_plain_rows_in_float32(llava: LlavaBackbone) -> None:
    examples = make_examples(llava, RAGGED)
    model = lively_model(llava, torch.float32)
    with torch.no_grad():
        found = packed_logps(llava, model, examples)
        wanted = plain_logps(stock_model(llava, model), examples)
    assert_close(found, wanted, atol=1e-4, why=FLOAT32, name="log-probabilities")


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
def test_lora_gradients_equal_those_of_the_plain_rows(llava: LlavaBackbone, dtype: torch.dtype, rtol: float) -> None:
    """Of a sum that weighs every response differently, so that no error can cancel."""
    examples = make_examples(llava, RAGGED)
    base = lively_model(llava, dtype)
    plain = stock_model(llava, base)
    policy = shake_adapters(LoraTuning(r=4, alpha=8, dropout=0.0).apply(llava, base))
    twin = stock_policy(llava, plain, policy)
    found, wanted = packed_logps(llava, policy.get_base_model(), examples), plain_logps(twin, examples)
    weights = torch.linspace(-1.0, 1.5, len(wanted), dtype=dtype)
    assert_close(found, wanted, atol=1e-4, rtol=1e-6, why=FLOAT32, name="log-probabilities of the adapted model")
    assert (plain_logps(plain, examples) - wanted).abs().max() > 0.5, "the adapters change nothing"
    assert_same_gradients(
        gradients((found * weights).sum(), policy), gradients((wanted * weights).sum(), twin), rtol=rtol, why=FLOAT32
    )


def test_all_weights_get_the_gradients_of_the_plain_rows(sides: Sides) -> None:
    """Embeddings, tower and projector too: pictures encoded once give the gradient of all their uses."""
    backbone, model, stock = sides
    examples = make_examples(backbone, RAGGED)
    found = gradients(packed_logps(backbone, model, examples).sum(), model)
    wanted = gradients(plain_logps(stock, examples).sum(), stock)
    # the bias of keys moves all logits of a row alike: its gradient is zero up to rounding, and so is its direction
    found, wanted = ({k: v for k, v in side.items() if "k_proj.bias" not in k} for side in (found, wanted))
    assert_same_gradients(found, wanted, rtol=1e-5, why=FLOAT64)


def test_the_comparison_notices_a_wrong_position(sides: Sides) -> None:
    """The models of these tests are sharp enough: a rejected side that does not restart its positions is found."""
    llava, model, _ = sides
    batch = pack([make_example(llava, 2, [LONG, LONG])])
    with torch.no_grad():
        features = llava.encode_images(model, batch.pixels)
        right = packed_forward(llava, model, batch, features).logps
        batch.position_ids = torch.arange(batch.input_ids.shape[1])[None]
        wrong = packed_forward(llava, model, batch, features).logps
    assert right[0] == wrong[0] and (right[1] - wrong[1]).abs() > 0.01


@torch.no_grad()
def test_context_of_a_response_is_seen_and_not_scored(sides: Sides) -> None:
    llava, model, stock = sides
    example = make_example(llava, 2, ["red", "blue"])
    further = response_after(llava, "In Image2, is there a circle?", "yes")
    example.responses.append(further)
    batch = pack([example])
    found = packed_forward(llava, model, batch, llava.encode_images(model, batch.pixels))
    wanted = plain_logps(stock, [example])
    assert found.num_tokens.tolist() == [len(r.token_ids) for r in example.responses[:2]] + [
        len(further.token_ids) - further.num_unscored
    ]
    assert_close(found.logps, wanted, atol=2e-5, why=FLOAT64)


@torch.no_grad()
def test_the_last_layer_returns_suffix_rows_alone(sides: Sides) -> None:
    """Trimming leaves out what nothing reads: the rows that stay are those of the whole stock stack."""
    llava, model, stock = sides
    example = make_example(llava, 2, ["red circle", LONG])
    batch = pack([example])
    length = len(example.prompt.input_ids)
    first = len(example.responses[0].token_ids) - 1
    rows = decoder_rows(llava, model, batch, llava.encode_images(model, batch.pixels))
    inputs = {"pixel_values": torch.stack(example.pixels).double()}
    ids = [torch.cat([example.prompt.input_ids, response.token_ids])[None] for response in example.responses]
    chosen, rejected = (stock.model(input_ids=row, **inputs).last_hidden_state[0] for row in ids)
    assert len(rows) == batch.layout.groups[0].num_suffix == 1 + sum(len(r.token_ids) - 1 for r in example.responses)
    wanted = torch.cat([chosen[length - 1 : length + first], rejected[length:-1]])
    assert_close(rows, wanted, atol=2e-5, why=FLOAT64, name="suffix rows")
