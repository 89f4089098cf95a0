import torch

from lookright.backbones.base import EncodedPrompt
from lookright.losses.base import PairScores, SideScores
from lookright.losses.composite import pair_scores
from lookright.packing.batch import Example, Response, pack
from lookright.packing.forward import PackedOutput


def test_responses_become_pairs_by_hand() -> None:
    """Prompts with 1, 3 and 2 rejected: missing ones are masked and point at the chosen."""
    examples = [
        Example(
            id=str(count),
            prompt=EncodedPrompt(input_ids=torch.tensor([1, 2]), image_spans=[]),
            pixels=[],
            responses=[Response(token_ids=torch.tensor([3] * (number + 1))) for number in range(count + 1)],
        )
        for count in (1, 3, 2)
    ]
    batch = pack(examples)
    logps = torch.tensor([0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0])
    output = PackedOutput(logps=logps, num_tokens=batch.scored.counts())
    scores = pair_scores(batch, output, logps * 10)
    assert scores.policy_chosen.logps.tolist() == [0, -2, -6]
    assert scores.policy_chosen.num_tokens.tolist() == [1, 1, 1]
    assert scores.policy_rejected.mask.tolist() == [[True, False, False], [True, True, True], [True, True, False]]
    assert scores.policy_rejected.logps.tolist() == [[-1, 0, 0], [-3, -4, -5], [-7, -8, -6]]
    assert scores.policy_rejected.num_tokens.tolist() == [[2, 1, 1], [2, 3, 4], [2, 3, 1]]
    assert scores.reference_chosen.tolist() == [0, -20, -60]
    assert scores.reference_rejected.tolist() == [[-10, 0, 0], [-30, -40, -50], [-70, -80, -60]]
    assert pair_scores(batch, output, None).reference_chosen is None


def test_margins_are_means_over_the_rejected_that_are_there() -> None:
    """Chosen -1; rejected -3 and -5 of the first pair, -2 alone of the second, whose place beside it is padding."""
    policy = SideScores(logps=torch.tensor([-1.0, -1.0]), num_tokens=torch.ones(2))
    mask = torch.tensor([[True, True], [True, False]])
    rejected = SideScores(logps=torch.tensor([[-3.0, -5.0], [-2.0, 99.0]]), num_tokens=torch.ones(2, 2), mask=mask)
    alone = PairScores(policy_chosen=policy, policy_rejected=rejected)
    assert {name: values.tolist() for name, values in alone.logps_margins().items()} == {"logps_margin": [3.0, 1.0]}
    both = PairScores(
        policy_chosen=policy,
        policy_rejected=rejected,
        reference_chosen=torch.tensor([-2.0, -2.0]),
        reference_rejected=torch.tensor([[-1.0, -3.0], [-4.0, 0.0]]),
    )
    assert both.logps_margins()["reference_logps_margin"].tolist() == [0.0, 2.0]
