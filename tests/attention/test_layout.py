import torch

from lookright.attention import build_layout


def test_groups_lie_one_after_another() -> None:
    layout = build_layout([4, 1, 3], [[2, 0], [1], [0, 0, 3]])
    spans = [(group.start, group.split, group.stop) for group in layout.groups]
    # prefix of prompt length - 1, suffix of the last prompt token and all response inputs
    assert spans == [(0, 3, 6), (6, 6, 8), (8, 10, 14)]
    assert layout.num_tokens == 14
    assert layout.suffix_index.tolist() == [3, 4, 5, 6, 7, 10, 11, 12, 13]


def test_a_response_sees_the_last_prompt_token_and_itself() -> None:
    (visible,) = build_layout([5], [[2, 1]]).visible
    assert visible.int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 0, 0, 1],
    ]


def test_responses_of_one_token_have_no_input() -> None:
    layout = build_layout([2], [[0, 0]])
    assert layout.num_tokens == 2 and layout.visible[0].tolist() == [[True]]
    assert layout.suffix_index.dtype == torch.int64
