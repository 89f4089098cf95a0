"""What must not change a pair's numbers: its neighbours, its order, who else is in the row."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from lookright.backbones.llava import LlavaBackbone
from lookright.packing.batch import PackedBatch, pack
from lookright.packing.forward import PackedOutput, packed_forward
from tests.compare import assert_close
from tests.conftest import WORDS
from tests.examples import LONG, backbone_in, lively_model, make_example
from tests.plain import plain_logps, stock_model

ROUNDING = "float64 with float32 norms inside; other shapes sum in another order"


@pytest.fixture(scope="module")
def model(llava: LlavaBackbone) -> PreTrainedModel:
    return lively_model(llava)


def run(backbone: LlavaBackbone, model: PreTrainedModel, batch: PackedBatch) -> PackedOutput:
    with torch.no_grad():
        return packed_forward(backbone, model, batch, backbone.encode_images(model, batch.pixels), [1, 4])


def test_a_pair_does_not_notice_its_neighbours_or_its_place(llava: LlavaBackbone, model: PreTrainedModel) -> None:
    examples = [make_example(llava, n, ["red", LONG], seed=n) for n in (2, 1, 5)]
    alone = [run(llava, model, pack([example])) for example in examples]
    for order in ([0, 1, 2], [2, 0, 1]):
        together = run(llava, model, pack([examples[place] for place in order]))
        logps = torch.cat([alone[place].logps for place in order])
        ratios = torch.cat([alone[place].attention_ratio for place in order])
        assert_close(together.logps, logps, atol=1e-5, why=ROUNDING, name="log-probabilities")
        assert_close(together.attention_ratio, ratios, atol=1e-6, why=ROUNDING, name="attention ratio")


def test_swapped_responses_swap_their_values(llava: LlavaBackbone, model: PreTrainedModel) -> None:
    one = run(llava, model, pack([make_example(llava, 3, ["red circle", LONG])]))
    other = run(llava, model, pack([make_example(llava, 3, [LONG, "red circle"])]))
    assert_close(other.logps, one.logps.flip(0), atol=1e-5, why=ROUNDING)


def test_a_response_does_not_notice_the_other(llava: LlavaBackbone, model: PreTrainedModel) -> None:
    several = run(llava, model, pack([make_example(llava, 2, ["red circle", "no", LONG, ""])]))
    single = run(llava, model, pack([make_example(llava, 2, ["red circle"])]))
    assert_close(several.logps[:1], single.logps, atol=1e-5, why=ROUNDING)
    assert_close(several.attention_ratio, single.attention_ratio, atol=1e-6, why=ROUNDING)


def test_permuted_pictures_follow_their_placeholders(llava: LlavaBackbone, model: PreTrainedModel) -> None:
    """A causal decoder with positions is not blind to order; the permuted row equals stock's permuted row."""
    example = make_example(llava, 3, ["red", "blue"])
    before = run(llava, model, pack([example]))
    example.pixels = [example.pixels[place] for place in (2, 0, 1)]
    after = run(llava, model, pack([example]))
    with torch.no_grad():
        wanted = plain_logps(stock_model(llava, model), [example])
    assert_close(after.logps, wanted, atol=1e-5, why=ROUNDING)
    assert (after.logps - before.logps).abs().max() > 0.01


def test_without_positions_and_causality_order_is_nothing(tmp_path: Path) -> None:
    """One decoder layer with all positions 0: the last prompt row sees a set of picture tokens.

    Pictures permuted with their coverage leave a one-token response and its ratio as they were: the only
    model that permits it, since from the second layer on keys depend on what came before them.
    """
    backbone = backbone_in(tmp_path, WORDS, layers=1)
    model = lively_model(backbone)

    def blind(order: list[int]) -> PackedOutput:
        example = make_example(backbone, 3, ["", ""], target=1)
        spans = example.prompt.image_spans
        parts = [example.coverage[start:stop].clone() for start, stop in spans]
        for (start, stop), place in zip(spans, order, strict=True):
            example.coverage[start:stop] = parts[place]
        example.pixels = [example.pixels[place] for place in order]
        batch = pack([example])
        batch.position_ids.zero_()
        with torch.no_grad():
            return packed_forward(backbone, model, batch, backbone.encode_images(model, batch.pixels), [0])

    straight, permuted = blind([0, 1, 2]), blind([2, 0, 1])
    assert_close(permuted.logps, straight.logps, atol=1e-6, why=ROUNDING)
    assert_close(permuted.attention_ratio, straight.attention_ratio, atol=1e-6, why=ROUNDING)
