"""Where training starts, what a step moves, and what must not matter."""

import math

import pytest
import torch
from torch import Tensor

from lookright.backbones.llava import LlavaBackbone
from lookright.losses.attention import AttentionLoss
from lookright.losses.base import PairScores
from lookright.losses.composite import CompositeLoss, Weighted
from lookright.packing.batch import pack
from lookright.packing.forward import packed_forward
from lookright.reference.base import Reference
from lookright.reference.frozen_copy import FrozenCopy
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from tests.compare import assert_close
from tests.examples import LONG, make_example, shake_adapters
from tests.training.parts import make_batch, make_module, moved, snapshot, take_steps
from tests.weighted import make_loss

DPO_ALONE = {"alpha": 1.0, "gamma": 0.0, "attention": 0.0}


@pytest.mark.parametrize("reference", [None, FrozenCopy()], ids=["adapter_off", "frozen_copy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_step_zero_is_log_two_with_adapter_dropout_on(
    llava: LlavaBackbone, dtype: torch.dtype, reference: Reference | None
) -> None:
    module = make_module(llava, make_loss(**DPO_ALONE), reference=reference, dtype=dtype)
    dropouts = [part for name, part in module.named_modules() if name.endswith("lora_dropout.default")]
    assert len(dropouts) == 42 and all(part.training and part.p == 0.5 for part in dropouts)
    loss, metrics = module.score_batch(make_batch(llava), read_attention=False)
    # the same operations on the same numbers: not a bit may differ
    assert torch.equal(metrics["reward_margin"], torch.zeros_like(loss))
    assert_close(loss, torch.full_like(loss, math.log(2)), atol=1e-7, why="float32 logarithm")


def test_adapter_dropout_acts_in_training_and_rests_in_evaluation(llava: LlavaBackbone) -> None:
    module = make_module(llava)
    shake_adapters(module.pair.policy)
    batch = make_batch(llava)

    def logps() -> Tensor:
        with torch.no_grad():
            return module.pair.score(batch, module.pair.image_features(batch)).logps

    assert not torch.equal(logps(), logps())
    module.eval()
    assert torch.equal(logps(), logps())


def test_two_steps_move_every_adapter_and_nothing_else(llava: LlavaBackbone) -> None:
    """Two, since the first matrices get no gradient while the second are zero."""
    module = make_module(llava)
    before = snapshot(module)
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    losses = take_steps(module, make_batch(llava), 2)
    changed = moved(module, before)
    assert len(changed) == 2 * 7 * 6 and changed == {name for name in before if ".lora_" in name}
    assert all(torch.equal(value, buffers[name]) for name, value in module.named_buffers())
    assert losses[0] != losses[1]


def test_a_trained_projector_moves_and_the_tower_does_not(llava: LlavaBackbone) -> None:
    tuning = LoraTuning(r=2, alpha=4, dropout=0.0, train_projector=True)
    module = make_module(llava, tuning=tuning, reference=FrozenCopy())
    before = snapshot(module)
    batch = make_batch(llava)
    start = module.pair.reference_logps(batch, module.pair.image_features(batch))
    take_steps(module, batch, 2)
    changed = moved(module, before)
    projector = {name for name in before if ".multi_modal_projector.modules_to_save." in name}
    assert len(projector) == 4 and changed == projector | {name for name in before if ".lora_" in name}
    # the copy encodes the pictures with its own projector, which stands still
    assert torch.equal(module.pair.reference_logps(batch, module.pair.image_features(batch)), start)


@pytest.mark.parametrize(
    ("options", "moving"),
    [
        ({}, ()),
        ({"train_projector": True}, ("projector",)),
        ({"train_projector": True, "train_vision": True}, ("projector", "vision")),
    ],
    ids=["decoder", "projector", "vision"],
)
def test_full_tuning_moves_what_it_says(llava: LlavaBackbone, options: dict, moving: tuple[str, ...]) -> None:
    module = make_module(llava, tuning=FullTuning(**options), reference=FrozenCopy())
    before = snapshot(module.pair.model)
    batch = make_batch(llava)
    start = module.pair.reference_logps(batch, module.pair.image_features(batch))
    take_steps(module, batch)
    changed = moved(module.pair.model, before)
    groups = {
        "vision": {name for name in before if name.startswith(llava.vision_prefix)},
        "projector": {name for name in before if name.startswith(llava.projector_prefix)},
    }
    decoder = before.keys() - groups["vision"] - groups["projector"]
    assert changed & decoder == decoder
    for name, group in groups.items():
        assert bool(changed & group) == (name in moving)
    # all of the projector, and the tower up to the layer that is read: the last and the final norm are not
    unread = {name for name in groups["vision"] if ".layers.2." in name or ".post_layernorm." in name}
    assert changed == decoder | set().union(*(groups[name] for name in moving)) - unread
    assert torch.equal(module.pair.reference_logps(batch, module.pair.image_features(batch)), start)


def test_frozen_copy_starts_as_the_policy_and_stays(llava: LlavaBackbone) -> None:
    """Also where training goes on from an adapter: the copy keeps it."""
    base = LoraTuning(r=4, alpha=8, dropout=0.0)

    class Continued:
        def apply(self, backbone: LlavaBackbone, model: torch.nn.Module) -> torch.nn.Module:
            return shake_adapters(base.apply(backbone, model))

    module = make_module(llava, tuning=Continued(), reference=FrozenCopy())
    batch = make_batch(llava)
    features = module.pair.image_features(batch)
    start = module.pair.reference_logps(batch, features)
    with torch.no_grad():
        assert torch.equal(module.pair.score(batch, features).logps, start)
    take_steps(module, batch, 2)
    assert torch.equal(module.pair.reference_logps(batch, features), start)
    with torch.no_grad():
        assert (module.pair.score(batch, features).logps - start).abs().max() > 1e-3
    assert not any("_copy" in name for name, _ in module.named_parameters())


def test_loss_falls_over_steps(llava: LlavaBackbone) -> None:
    module = make_module(llava, tuning=LoraTuning(r=4, alpha=8, dropout=0.0), rate=3e-3)
    losses = take_steps(module, make_batch(llava), 6)
    assert losses[-1] < losses[0] - 0.1, losses


def test_swapped_sides_flip_the_margin(llava: LlavaBackbone) -> None:
    module = make_module(llava, make_loss(**DPO_ALONE)).eval()
    shake_adapters(module.pair.policy)

    def margin(texts: list[str]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            loss, metrics = module.score_batch(pack([make_example(llava, 2, texts)]), read_attention=False)
        return loss, metrics["reward_margin"]

    (loss, straight), (swapped_loss, swapped) = margin(["red", LONG]), margin([LONG, "red"])
    assert straight.abs() > 0.1
    assert_close(swapped, -straight, atol=1e-6, why="float64 with float32 norms inside")
    # -log sigmoid(m) + log sigmoid(-m) = -m
    assert_close(loss - swapped_loss, -straight, atol=1e-6, why="float64 with float32 norms inside")


def test_several_rejected_are_the_mean_of_their_pairs(llava: LlavaBackbone) -> None:
    module = make_module(llava, make_loss(**DPO_ALONE)).eval()
    shake_adapters(module.pair.policy)
    with torch.no_grad():
        together, _ = module.score_batch(pack([make_example(llava, 2, ["red", "no", LONG])]), read_attention=False)
        singles = pack([make_example(llava, 2, ["red", "no"]), make_example(llava, 2, ["red", LONG])])
        alone, _ = module.score_batch(singles, read_attention=False)
    assert_close(together[0], alone.mean(), atol=1e-6, why="float64 with float32 norms inside")


def test_a_loss_without_reference_runs_none(llava: LlavaBackbone) -> None:
    class Never(Reference):
        def attach(self, pair: object) -> None: ...

        def describe(self) -> str:
            return ""

        def logps(self, *_: object) -> Tensor:
            raise AssertionError("the reference ran")

    module = make_module(llava, make_loss(alpha=0.0, gamma=1.0, attention=0.0), reference=Never())
    loss, metrics = module.score_batch(make_batch(llava), read_attention=False)
    assert set(metrics) == {"loss_sft"} and loss.isfinite().all()


def test_two_terms_read_attention_where_each_says(llava: LlavaBackbone) -> None:
    early, late = AttentionLoss(1.0, layers=[0, 1]), AttentionLoss(0.9, layers=[1, 4], positions="first")
    loss = CompositeLoss({"early": Weighted(1.0, early), "late": Weighted(3.0, late)})
    module, batch = make_module(llava, loss).eval(), make_batch(llava)
    with torch.no_grad():
        total, metrics = module.score_batch(batch, read_attention=True)
        features = module.pair.image_features(batch)
        first = packed_forward(llava, module.pair.model, batch, features, [0, 1]).attention_ratio
        second = packed_forward(llava, module.pair.model, batch, features, [1, 4], "first").attention_ratio
    # the pass that reads for both gives bitwise what a pass for each gives
    assert torch.equal(metrics["attention_ratio"], first) and torch.equal(metrics["attention_ratio_late"], second)
    assert torch.equal(metrics["loss_early"], (1.0 - first).relu()) and (first - second).abs().min() > 1e-6
    assert torch.equal(total, (1.0 - first).relu() + 3.0 * (0.9 - second).relu())


def test_both_of_two_attention_terms_train(llava: LlavaBackbone) -> None:
    """The later term alone reaches layer 4, the earlier one ends below it."""

    def moved_layers(weights: tuple[float, float]) -> set[int]:
        terms = {
            "early": Weighted(weights[0], AttentionLoss(1.0, layers=[1])),
            "late": Weighted(weights[1], AttentionLoss(1.0, layers=[4])),
        }
        module = make_module(llava, CompositeLoss(terms), tuning=LoraTuning(r=2, alpha=4, dropout=0.0))
        before = snapshot(module)
        take_steps(module, make_batch(llava), 1)
        return {int(name.split(".layers.")[1].split(".")[0]) for name in moved(module, before)}

    assert moved_layers((1.0, 0.0)) == {0, 1} and moved_layers((1.0, 1.0)) == {0, 1, 2, 3, 4}


class WrongSign(AttentionLoss):
    """What the released code of the method did: the hinge replaced by a term that rewards looking away."""

    def __call__(self, scores: PairScores) -> Tensor:
        return scores.attention_ratio - 1.0 + self.threshold


@pytest.mark.parametrize(("term", "direction"), [(AttentionLoss(threshold=1.0), 1), (WrongSign(threshold=1.0), -1)])
@pytest.mark.parametrize("num_images", [2, 5])
def test_one_step_on_attention_alone_moves_the_ratio(
    llava: LlavaBackbone, num_images: int, term: AttentionLoss, direction: int
) -> None:
    """The term raises the target's share; the same check tells a wrong sign, which lowers it."""
    loss = CompositeLoss({"attention": Weighted(1.0, term)})
    module = make_module(llava, loss, tuning=LoraTuning(r=4, alpha=8, dropout=0.0))
    batch = pack([make_example(llava, num_images, ["red circle", "no"], target=num_images - 1)])

    def ratio() -> float:
        with torch.no_grad():
            return float(module.score_batch(batch, read_attention=True)[1]["attention_ratio"])

    before = ratio()
    take_steps(module, batch)
    assert direction * (ratio() - before) > 1e-4, f"ratio {before} -> {ratio()}"
    # nothing above the band moved: layers 2 to 4 of 6 are read, 5 is above
    above = [value for name, value in module.named_parameters() if ".layers.5." in name and "lora_B" in name]
    assert (
        [read.layers for read in module.ratio_reads.values()] == [(2, 3, 4)]
        and len(above) == 7
        and not any(value.any() for value in above)
    )


def test_attention_above_the_threshold_trains_nothing(llava: LlavaBackbone) -> None:
    loss = CompositeLoss({"attention": Weighted(1.0, AttentionLoss(threshold=0.01))})
    module = make_module(llava, loss)
    before = snapshot(module)
    take_steps(module, make_batch(llava))
    assert not moved(module, before)
