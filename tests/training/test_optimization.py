import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, ReduceLROnPlateau, SequentialLR, StepLR

from lookright.backbones.llava import LlavaBackbone
from lookright.errors import ConfigError
from lookright.training.optimization import Constant, Cosine, Linear, Optimization, Schedule, count_steps, limited
from lookright.tuning.lora import LoraTuning
from tests.training.parts import make_optimization

SCHEDULES = {"linear": Linear, "cosine": Cosine, "constant": Constant}


def factors(schedule: str, warmup: float, num_steps: int) -> list[float]:
    made = SCHEDULES[schedule](warmup)
    return [made.factor(step, num_steps) for step in range(num_steps)]


def rates(optimization: Optimization, num_steps: int) -> list[float]:
    """Of one parameter, at each step."""
    optimizer, scheduler = optimization.build(nn.Linear(1, 1, bias=False), "projector", num_steps)
    seen = []
    for _ in range(num_steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def torch_rates(make: Callable, num_steps: int, rate: float = 5e-5) -> list[float]:
    optimizer = AdamW(nn.Linear(1, 1, bias=False).parameters(), lr=rate)
    scheduler = make(optimizer)
    seen = []
    for _ in range(num_steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


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


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("warmup", "num_steps"), [(0.1, 25), (0.0, 7), (0.37, 10), (0.9, 3), (0.1, 1)])
def test_the_rate_is_the_formula_to_the_last_bit(name: str, warmup: float, num_steps: int) -> None:
    """Peak x min(1, (t + 1) / w) before w = ceil(warmup N) steps, then the shape of (t - w) / (N - w)."""
    climb = math.ceil(warmup * num_steps)
    after = {
        "linear": lambda share: 1.0 - share,
        "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share)),
        "constant": lambda share: 1.0,
    }[name]
    expected = [
        3e-4 * ((step + 1) / climb if step < climb else after((step - climb) / (num_steps - climb)))
        for step in range(num_steps)
    ]
    assert rates(make_optimization(3e-4, schedule=SCHEDULES[name](warmup)), num_steps) == expected


def test_rates_are_those_of_torchs_own_schedulers() -> None:
    """Where they say the same: no warm-up, or a climb that begins at one of w steps."""
    plain = {
        "linear": partial(LinearLR, start_factor=1.0, end_factor=0.0, total_iters=20),
        "cosine": partial(CosineAnnealingLR, T_max=20),
    }
    for name, scheduler in plain.items():
        found = rates(make_optimization(5e-5, schedule=SCHEDULES[name](0.0)), 20)
        # theirs multiply up from step to step
        assert found == pytest.approx(torch_rates(scheduler, 20), rel=1e-12), name

    def climbing(optimizer: AdamW) -> SequentialLR:
        up = LinearLR(optimizer, start_factor=0.25, end_factor=1.0, total_iters=3)
        return SequentialLR(optimizer, [up, LinearLR(optimizer, 1.0, 0.0, total_iters=16)], milestones=[4])

    assert rates(make_optimization(5e-5, schedule=Linear(0.2)), 20) == pytest.approx(
        torch_rates(climbing, 20), rel=1e-12
    )


def test_steps_past_the_end_do_not_turn_round() -> None:
    assert Linear().factor(12, 10) == 0 and Cosine().factor(12, 10) == pytest.approx(0)


def test_one_step_trains_at_the_peak() -> None:
    assert Linear().factor(0, 1) == 1


def test_two_learning_rates_where_the_projector_trains(llava: LlavaBackbone) -> None:
    policy = LoraTuning(r=2, alpha=4, train_projector=True).apply(llava, llava.build(weights=False))
    settings = make_optimization(5e-5, 2e-5, Linear(0.5), betas=(0.8, 0.9), weight_decay=0.1)
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
    peaks = [group["initial_lr"] for group in optimizer.param_groups]
    assert seen == [pytest.approx([rate * factor for rate in peaks]) for factor in (0.5, 1, 1, 0.5)]


def test_a_projector_without_its_own_rate_takes_that_of_the_rest(llava: LlavaBackbone) -> None:
    policy = LoraTuning(r=2, alpha=4, train_projector=True).apply(llava, llava.build(weights=False))
    optimizer, _ = make_optimization(3e-4, None).build(policy.get_base_model(), llava.projector_prefix, 4)
    assert [(group["initial_lr"], len(group["params"])) for group in optimizer.param_groups] == [(3e-4, 88)]


def test_a_projector_that_rests_has_no_rate(llava: LlavaBackbone) -> None:
    policy = LoraTuning(r=2, alpha=4).apply(llava, llava.build(weights=False))
    optimizer, _ = make_optimization().build(policy.get_base_model(), llava.projector_prefix, 4)
    assert [(group["initial_lr"], len(group["params"])) for group in optimizer.param_groups] == [(5e-5, 84)]


def test_the_files_are_adamw_with_the_papers_settings(composed: Callable[..., DictConfig]) -> None:
    """The step itself against AdamW as it is written, without a config: bitwise."""
    config = composed("train", "optimizer.weight_decay=0.1", "optimizer.betas=[0.8,0.9]")
    assert (config.optimizer.lr, config.projector_lr, config.schedule.warmup) == (5e-5, 2e-5, 0.1)
    made = {name: instantiate(config[name], _convert_="all") for name in ("optimizer", "schedule")}
    weights = []
    for build in (
        lambda model: Optimization(**made, projector_lr=2e-5).build(model, "0.", 10),
        lambda model: by_hand(model, 10),
    ):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
        optimizer, scheduler = build(model)
        for _ in range(10):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
            scheduler.step()
        weights.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*weights)


def by_hand(model: nn.Sequential, num_steps: int) -> tuple[AdamW, LambdaLR]:
    groups = [{"params": list(model[0].parameters()), "lr": 2e-5}, {"params": list(model[1].parameters()), "lr": 5e-5}]
    optimizer = AdamW(groups, betas=(0.8, 0.9), weight_decay=0.1)
    return optimizer, LambdaLR(optimizer, lambda step: (step + 1) if step < 1 else 1 - (step - 1) / (num_steps - 1))


def test_an_optimiser_and_a_scheduler_of_torch() -> None:
    settings = Optimization(
        optimizer=partial(SGD, lr=0.4, momentum=0.9), schedule=partial(StepLR, step_size=2, gamma=0.5)
    )
    settings.check()
    assert rates(settings, 5) == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.1])


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


@pytest.mark.parametrize(("limit", "expected"), [(2, 2), (20, 10), (1.0, 10), (0.25, 2), (0, 0), (1, 1)])
def test_a_limit_is_a_number_or_a_share(limit: int | float, expected: int) -> None:
    assert limited(10, limit) == expected


@pytest.mark.parametrize("warmup", [1.0, -0.1])
@pytest.mark.parametrize("schedule", SCHEDULES.values())
def test_refused_warmup(schedule: type[Schedule], warmup: float) -> None:
    with pytest.raises(ConfigError, match=f"warmup={warmup}; a share of the steps in"):
        schedule(warmup)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": partial(AdamW, lr=0.0)}, "optimizer.lr=0.0; set a number above 0"),
        ({"optimizer": partial(AdamW, lr="fast")}, "optimizer.lr='fast'; set a number above 0"),
        ({"projector_lr": -1.0}, "projector_lr=-1.0; set a number above 0"),
        ({"optimizer": partial(AdamW, lr=1e-3, betas=(0.9, 1.5))}, "optimizer, schedule: Invalid beta"),
        ({"optimizer": partial(SGD, lr=1e-3, momentum=-1.0)}, "Invalid momentum"),
        ({"optimizer": lambda groups: nn.Linear(1, 1)}, "gives a Linear; name a torch.optim.Optimizer"),
        ({"schedule": partial(ReduceLROnPlateau, patience=2)}, "a ReduceLROnPlateau; name a subclass"),
        ({"schedule": partial(StepLR)}, "step_size"),
    ],
)
def test_refused_settings(options: dict, words: str) -> None:
    settings = {"optimizer": partial(AdamW, lr=5e-5), "schedule": Linear(), "projector_lr": 2e-5} | options
    with pytest.raises(ConfigError, match=words):
        Optimization(**settings).check()
