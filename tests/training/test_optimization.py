import math

import pytest
import torch

from lookright.backbones.llava import LlavaBackbone
from lookright.errors import ConfigError
from lookright.training.optimization import Optimization, count_steps
from lookright.tuning.lora import LoraTuning


def factors(schedule: str, warmup: float, num_steps: int) -> list[float]:
    settings = Optimization(schedule=schedule, warmup=warmup)
    return [settings.factor(step, num_steps) for step in range(num_steps)]


def test_linear_schedule_by_hand() -> None:
    """Ten steps, two of them climb: 1/2, 1, then 8 steps down to 1/8 of the peak at the last."""
    assert factors("linear", 0.2, 10) == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


def test_warmup_is_rounded_up() -> None:
    assert factors("constant", 0.1, 25)[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_no_warmup_starts_at_the_peak() -> None:
    assert factors("linear", 0.0, 4) == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4])


def test_cosine_and_constant_by_hand() -> None:
    assert factors("cosine", 0.0, 4) == pytest.approx([1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)])
    assert factors("constant", 0.0, 3) == [1, 1, 1]


def test_steps_past_the_end_do_not_turn_round() -> None:
    assert Optimization().factor(12, 10) == 0 and Optimization(schedule="cosine").factor(12, 10) == pytest.approx(0)


def test_one_step_trains_at_the_peak() -> None:
    assert Optimization().factor(0, 1) == 1


def test_two_learning_rates_where_the_projector_trains(llava: LlavaBackbone) -> None:
    policy = LoraTuning(r=2, alpha=4, train_projector=True).apply(llava, llava.build(weights=False))
    rates = {"learning_rate": 5e-5, "projector_learning_rate": 2e-5}
    settings = Optimization(**rates, weight_decay=0.1, betas=[0.8, 0.9], warmup=0.5)
    optimizer, schedule = settings.build(policy.get_base_model(), llava.projector_prefix, 4)
    assert isinstance(optimizer, torch.optim.AdamW)
    sizes = {group["initial_lr"]: len(group["params"]) for group in optimizer.param_groups}
    assert sizes == {5e-5: 2 * 7 * 6, 2e-5: 4}
    assert all(group["betas"] == (0.8, 0.9) and group["weight_decay"] == 0.1 for group in optimizer.param_groups)
    seen = []
    for _ in range(4):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    rates = [group["initial_lr"] for group in optimizer.param_groups]
    assert seen == [pytest.approx([rate * factor for rate in rates]) for factor in (0.5, 1, 1, 0.5)]


def test_a_projector_that_rests_has_no_rate(llava: LlavaBackbone) -> None:
    policy = LoraTuning(r=2, alpha=4).apply(llava, llava.build(weights=False))
    optimizer, _ = Optimization().build(policy.get_base_model(), llava.projector_prefix, 4)
    assert [(group["initial_lr"], len(group["params"])) for group in optimizer.param_groups] == [(5e-5, 84)]


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ((10, 1, 1, -1), 10),
        ((10, 4, 1, -1), 3),  # the last, partial accumulation steps too
        ((10, 4, 2, -1), 6),
        ((10, 4, 2, 5), 5),
        ((10, 4, 2, 500), 6),
        ((10, 1, None, 7), 7),
        ((10, 1, -1, 7), 7),
    ],
)
def test_count_steps(arguments: tuple, steps: int) -> None:
    assert count_steps(*arguments) == steps


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "stairs"}, "schedule='stairs'; valid: linear, cosine, constant"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"warmup": -0.1}, "warmup=-0.1"),
        ({"learning_rate": 0.0}, "must be above 0"),
        ({"projector_learning_rate": -1.0}, "must be above 0"),
    ],
)
def test_refused_settings(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Optimization(**options)
