import pytest
import torch

from lookright.backbones.base import EncodedPrompt
from lookright.backbones.llava import LlavaBackbone
from lookright.packing.batch import Example, PackedBatch, Response, move, pack
from tests.compare import assert_close
from tests.examples import LONG, make_example


def by_hand() -> PackedBatch:
    """Prompt 10 11 12 (11 a picture token) with responses 20 21 22 and 30; prompt 40 with 50 51."""
    first = Example(
        id="a",
        prompt=EncodedPrompt(input_ids=torch.tensor([10, 11, 12]), image_spans=[(1, 2)]),
        pixels=[torch.zeros(3, 2, 2)],
        responses=[Response(token_ids=torch.tensor([20, 21, 22])), Response(token_ids=torch.tensor([30]))],
        coverage=torch.tensor([[0.0, 0.0], [0.25, 0.75], [0.0, 0.0]]),
        label="sequence",
    )
    second = Example(
        id="b",
        prompt=EncodedPrompt(input_ids=torch.tensor([40]), image_spans=[]),
        pixels=[],
        responses=[Response(token_ids=torch.tensor([50, 51]), num_unscored=1)],
    )
    return pack([first, second])


def test_the_row_by_hand() -> None:
    batch = by_hand()
    # the last token of a response predicts nothing and is not in the row
    assert batch.input_ids.tolist() == [[10, 11, 12, 20, 21, 40, 50]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1]]
    assert batch.image_mask.tolist() == [[False, True, False, False, False, False, False]]
    assert batch.coverage.tolist() == [[0, 0], [0.25, 0.75], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert batch.even_ratio[0] == pytest.approx(1 / 3) and batch.even_ratio[1].isnan()
    assert batch.has_target.tolist() == [True, False] and batch.labels == ["sequence", ""]
    assert len(batch.pixels) == 1 and batch.num_prompts == 2


def test_scored_rows_by_hand() -> None:
    """Suffix rows are 12 20 21 | 40 50; each response's first token is predicted by its prompt's last."""
    scored = by_hand().scored
    assert scored.rows.tolist() == [0, 1, 2, 0, 4]
    assert scored.targets.tolist() == [20, 21, 22, 30, 51]
    assert scored.owner.tolist() == [0, 0, 0, 1, 2]
    assert scored.counts().tolist() == [3, 1, 1]
    assert by_hand().first_response.tolist() == [0, 2]


def test_positions_restart_for_every_response(llava: LlavaBackbone) -> None:
    example = make_example(llava, 2, ["red", LONG, "blue"])
    positions = pack([example]).position_ids[0].tolist()
    length, place = len(example.prompt.input_ids), len(example.prompt.input_ids)
    assert positions[:length] == list(range(length))
    for response in example.responses:
        inputs = len(response.token_ids) - 1
        assert positions[place : place + inputs] == list(range(length, length + inputs))
        place += inputs
    assert place == len(positions) == example.num_tokens


def test_moving_reaches_every_tensor() -> None:
    batch = by_hand()
    moved = move(batch, torch.device("meta"))
    tensors = [moved.input_ids, moved.coverage, moved.scored.rows, moved.layout.suffix_index, *moved.layout.visible]
    assert all(tensor.device.type == "meta" for tensor in [*tensors, *moved.pixels])
    assert moved.ids == batch.ids and moved.layout.groups == batch.layout.groups


def test_coverage_lies_on_the_targets_tokens(llava: LlavaBackbone) -> None:
    examples = [make_example(llava, 2, ["red", "blue"]), make_example(llava, 3, ["red", "blue"], target=2)]
    batch = pack(examples)
    covered, sources = batch.coverage.unbind(1)
    start, stop = examples[1].prompt.image_spans[2]
    offset = examples[0].num_tokens
    outside = torch.ones(len(covered), dtype=torch.bool)
    outside[offset + start : offset + stop] = False
    outside[:offset] = False
    assert covered[offset:].sum() > 0 and covered[offset:][outside[offset:]].sum() == 0
    assert (covered <= sources).all() and (sources <= batch.image_mask[0]).all()
    assert_close(batch.image_mask.sum(), torch.tensor(5.0 * 9), atol=0, why="counts")
