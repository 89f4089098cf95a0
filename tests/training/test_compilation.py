"""Compiled blocks compute what the plain ones do."""

import pytest
import torch

from lookright.backbones.llava import LlavaBackbone
from lookright.training.compilation import compile_blocks
from lookright.tuning.lora import LoraTuning
from tests.compare import assert_same_gradients
from tests.examples import gradients
from tests.training.parts import make_batch, make_module
from tests.weighted import make_loss


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_give_the_same_loss_and_gradients(llava: LlavaBackbone, checkpointing: bool) -> None:
    batch = make_batch(llava)
    found = []
    for compiles in (False, True):
        torch.manual_seed(0)
        module = make_module(
            llava,
            make_loss(threshold=1.0),
            tuning=LoraTuning(r=4, alpha=8, dropout=0.0),
            dtype=torch.float32,
        )
        if checkpointing:
            module.trained_model.gradient_checkpointing_enable({"use_reentrant": False})
        if compiles:
            # two norms and a feed-forward block a layer
            assert compile_blocks(llava.language_model(module.trained_model)) == 3 * llava.num_layers
        loss = module.score_batch(batch, read_attention=True)[0].mean()
        found.append((loss.detach(), gradients(loss, module.trained_model)))
    (plain, plain_gradients), (compiled, compiled_gradients) = found
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=0)
    assert_same_gradients(compiled_gradients, plain_gradients, rtol=1e-4, why="float32, fused steps round once")
