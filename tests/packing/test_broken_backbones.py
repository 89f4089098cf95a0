"""A backbone that breaks its contract ends in an error that says what is amiss, never in wrong numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lookright.attention import ImageScaling, scaled_image_attention
from lookright.attention.interface import lookright_attention
from lookright.backbones.llava import LlavaBackbone
from lookright.errors import BackboneError
from lookright.packing.batch import pack
from lookright.packing.forward import packed_forward
from tests.examples import lively_model, make_example


class Around(nn.Module):
    """A decoder whose arguments and rows somebody changes."""

    def __init__(self, decoder: nn.Module, arguments: Callable[[dict], dict], rows: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.decoder, self.arguments, self.rows = decoder, arguments, rows

    def forward(self, **kwargs: object) -> object:
        output = self.decoder(**self.arguments(kwargs))
        output.last_hidden_state = self.rows(output.last_hidden_state)
        return output


class Changed(LlavaBackbone):
    """The LLaVA with something around its decoder."""

    arguments = staticmethod(lambda kwargs: kwargs)
    rows = staticmethod(lambda states: states)

    def language_model(self, model: nn.Module) -> nn.Module:
        return Around(super().language_model(model), self.arguments, self.rows)


@pytest.fixture()
def model(llava: LlavaBackbone) -> PreTrainedModel:
    return lively_model(llava, torch.float32)


@torch.no_grad()
def score(backbone: LlavaBackbone, model: nn.Module, layers: tuple[int, ...] = ()) -> Tensor:
    batch = pack([make_example(backbone, 2, ["red", "blue circle"])])
    return packed_forward(backbone, model, batch, backbone.encode_images(model, batch.pixels), layers).logps


def changed(llava: LlavaBackbone, **parts: Callable) -> Changed:
    backbone = Changed(path=llava.path)
    vars(backbone).update(parts)
    return backbone


def test_a_wrapper_alone_is_no_error(llava: LlavaBackbone, model: PreTrainedModel) -> None:
    assert torch.equal(score(changed(llava), model, (1,)), score(llava, model, (1,)))


def test_neither_count_of_rows(llava: LlavaBackbone, model: PreTrainedModel) -> None:
    backbone = changed(llava, rows=lambda states: states[:, 1:])
    with pytest.raises(BackboneError, match=r"Changed: the decoder returned \d+ rows for a packed row of \d+ tokens"):
        score(backbone, model)


@pytest.mark.parametrize("layers", [(), (2,)], ids=["plain", "recorded"])
def test_a_stack_that_drops_the_packed_call(
    llava: LlavaBackbone, model: PreTrainedModel, layers: tuple[int, ...]
) -> None:
    backbone = changed(llava, arguments=lambda kwargs: {k: v for k, v in kwargs.items() if k != "packed"})
    with pytest.raises(BackboneError, match=r"did not reach the attention of layers \[0, 1, 2, 3, 4, 5\] of 6"):
        score(backbone, model, layers)


def test_a_depth_that_is_not_the_decoders(llava: LlavaBackbone, model: PreTrainedModel) -> None:
    with pytest.raises(BackboneError, match=r"layers \[6\] of 7"):
        score(changed(llava, num_layers=7), model)


def test_layers_of_the_same_number(llava: LlavaBackbone, model: PreTrainedModel) -> None:
    for layer in llava.language_model(model).layers:
        layer.self_attn.layer_idx = 0
    with pytest.raises(BackboneError, match=r"layers \[1, 2, 3, 4, 5\] of 6"):
        score(llava, model)


def test_a_module_without_its_number(llava: LlavaBackbone, model: PreTrainedModel) -> None:
    llava.language_model(model).layers[1].self_attn.layer_idx = None
    with pytest.raises(BackboneError, match="LlamaAttention has layer_idx=None"):
        score(llava, model)


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias"])
def test_attention_of_another_kind(name: str) -> None:
    """What an own softmax leaves out is refused; where transformers' function is asked it is its to refuse."""
    states = torch.randn(1, 1, 3, 2)
    module = nn.Module()
    module.layer_idx, module.is_causal = 0, True
    lookright_attention(module, states, states, states, None, **{name: None})
    scaling = ImageScaling(factors=torch.ones(1, 3), coverage=torch.ones(1, 3, 2))
    with scaled_image_attention(scaling), pytest.raises(BackboneError, match=f"Module attends with {name}"):
        lookright_attention(module, states[:, :, -1:], states, states, None, **{name: 30.0})
