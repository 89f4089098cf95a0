"""Gradient checkpointing changes nothing; bfloat16 autocast little."""

import pytest
import torch
from torch import Tensor

from lookright.attention.kernels import use_prefix_kernel
from lookright.backbones.llava import LlavaBackbone
from lookright.packing.batch import PackedBatch, move, pack
from lookright.packing.forward import RatioRead
from lookright.reference.base import ModelPair
from lookright.tuning.lora import LoraTuning
from tests.compare import assert_close, assert_same_gradients
from tests.examples import LONG, gradients, lively_model, make_example, shake_adapters
from tests.plain import plain_logps, stock_model

BANDS = [[], [2, 3], [0, 5]]


def make_pair(backbone: LlavaBackbone, dtype: torch.dtype = torch.float64) -> ModelPair:
    policy = LoraTuning(r=4, alpha=8, dropout=0.0).apply(backbone, lively_model(backbone, dtype))
    return ModelPair(backbone, shake_adapters(policy), None).train()


def make_batch(backbone: LlavaBackbone) -> PackedBatch:
    return pack([make_example(backbone, 2, ["red", LONG]), make_example(backbone, 1, ["blue circle", "no"], seed=5)])


def objective(pair: ModelPair, batch: PackedBatch, band: list[int]) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Everything that a loss may look at, and the gradient of a sum of it."""
    reads = [RatioRead(layers=tuple(band))] if band else []
    output = pair.score(batch, pair.image_features(batch), reads)
    values = output.logps if output.attention_ratio is None else torch.cat([output.logps, output.attention_ratio])
    weights = torch.linspace(0.5, 9.0, len(values), dtype=values.dtype, device=values.device)
    return values.detach(), gradients((values * weights).sum(), pair)


@pytest.mark.parametrize("band", BANDS, ids=["no_ratio", "band", "first_and_last"])
def test_gradient_checkpointing_changes_nothing(llava: LlavaBackbone, band: list[int]) -> None:
    pair, batch = make_pair(llava), make_batch(llava)
    values, wanted = objective(pair, batch, band)
    pair.model.gradient_checkpointing_enable({"use_reentrant": False})
    runs = count_layer_runs(pair)
    again, found = objective(pair.train(), batch, band)
    # 5 layers forward and once more backward; the trimmed last one keeps what it needs
    assert runs == {layer: 2 for layer in range(5)} | {5: 1}
    assert_close(again, values, atol=1e-12, why="the same operations")
    assert_same_gradients(found, wanted, rtol=1e-12, why="the same operations")


def count_layer_runs(pair: ModelPair) -> dict[int, int]:
    """How often each layer's MLP runs, filled as it does."""
    runs: dict[int, int] = {}
    for number, layer in enumerate(pair.backbone.language_model(pair.model).layers):
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: runs.update({number: runs.get(number, 0) + 1}))
    return runs


def test_bfloat16_autocast_is_as_close_as_the_stock_model(llava: LlavaBackbone) -> None:
    pair, batch = make_pair(llava, torch.float32), make_batch(llava)
    exact, exact_gradients = objective(pair, batch, [2, 3])
    pair.model.gradient_checkpointing_enable({"use_reentrant": False})
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_gradients = objective(pair.train(), batch, [2, 3])
    assert rough.isfinite().all() and all(value.isfinite().all() for value in rough_gradients.values())
    assert (rough[4:] - exact[4:]).abs().max() < 0.02, f"attention ratio: {rough[4:]} against {exact[4:]}"
    cosine = torch.cosine_similarity(*(flat(side) for side in (rough_gradients, exact_gradients)), dim=0)
    assert cosine > 0.98, f"gradients under autocast point elsewhere: cosine {cosine:.4f}"


@torch.no_grad()
def test_bfloat16_errors_are_those_of_the_stock_model(llava: LlavaBackbone) -> None:
    """8 bits of precision in every matmul: as far from float32 as stock's own rows, not further."""
    model = lively_model(llava, torch.float32)
    stock = stock_model(llava, model)
    examples = [make_example(llava, 2, ["red", LONG]), make_example(llava, 1, ["blue circle", "no"], seed=5)]
    pair = ModelPair(llava, model.requires_grad_(False), None)
    batch, wanted = pack(examples), plain_logps(stock, examples)
    with torch.autocast("cpu", torch.bfloat16):
        ours = pair.score(batch, pair.image_features(batch)).logps
        theirs = plain_logps(stock, examples)
    assert ours.dtype == torch.float32
    size = batch.scored.counts()
    our_error, their_error = ((side - wanted).abs() / size for side in (ours, theirs))
    assert our_error.max() <= 2 * their_error.max() + 0.01, f"per token: ours {our_error}, stock {their_error}"


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["auto", "sdpa", "varlen", "flash_attn"])
def test_a_step_on_cuda_is_the_step_on_the_cpu(llava: LlavaBackbone, kernel: str) -> None:
    """bfloat16 products on the card against float32 on the CPU; FlexAttention takes no heads of this width."""
    if kernel == "flash_attn":
        pytest.importorskip("flash_attn")
    pair, batch = make_pair(llava, torch.float32), make_batch(llava)
    exact, exact_gradients = objective(pair, batch, [2, 3])
    use_prefix_kernel(kernel)
    try:
        with torch.autocast("cuda", torch.bfloat16):
            rough, rough_gradients = objective(pair.to("cuda").train(), move(batch, torch.device("cuda")), [2, 3])
    finally:
        use_prefix_kernel("auto")
    assert (rough[4:].cpu() - exact[4:]).abs().max() < 0.02
    cosine = torch.cosine_similarity(flat(rough_gradients).cpu(), flat(exact_gradients), dim=0)
    assert cosine > 0.98, f"gradients on the card point elsewhere: cosine {cosine:.4f}"


def flat(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for value in values.values()])
