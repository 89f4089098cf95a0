import pytest
import torch
from transformers import PreTrainedModel

from lookright.backbones.llava import LlavaBackbone
from lookright.packing.question import DecoderInput
from tests.answering.slow import slow_model
from tests.examples import lively_model, make_input


@pytest.fixture(scope="module")
def model(llava: LlavaBackbone) -> PreTrainedModel:
    """Ours, float64: no two tokens are so close that rounding would choose between them."""
    return lively_model(llava)


@pytest.fixture(scope="module")
def slow(llava: LlavaBackbone, model: PreTrainedModel) -> PreTrainedModel:
    """The stock twin without cache."""
    return slow_model(llava, model)


@pytest.fixture()
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every seed that is set from here on."""
    found: list[int] = []
    manual_seed = torch.manual_seed

    def spy(seed: int) -> torch.Generator:
        found.append(seed)
        return manual_seed(seed)

    monkeypatch.setattr(torch, "manual_seed", spy)
    return found


@pytest.fixture(scope="module")
def inputs(llava: LlavaBackbone) -> list[DecoderInput]:
    """Prompts with 3, 1, 5 and 2 pictures: lengths differ, so all but one are padded in a batch."""
    return [make_input(llava, n, target=n - 1, seed=20 * n) for n in (3, 1, 5, 2)]
