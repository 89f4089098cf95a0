"""What a job asks for follows its config, and contradictions are refused."""

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig

from lookright.errors import ConfigError
from lookright.launching.jobs import Resources
from lookright.launching.resources import resources_of

GPU = ["trainer=gpu"]


@pytest.mark.parametrize(
    ("command", "given", "own", "offered", "expected"),
    [
        ("train", [], None, False, {}),
        # a GPU that is there is not asked for by a trainer of the CPU
        ("train", [], None, True, {}),
        ("train", ["trainer.devices=3", "trainer.num_nodes=2"], None, False, {"nodes": 2, "tasks_per_node": 3}),
        ("train", ["trainer.devices=auto"], None, False, {}),
        ("train", GPU, None, False, {"gpus_per_node": 1}),
        ("train", GPU, 1, False, {"gpus_per_node": 1}),
        ("train", ["trainer=ddp"], 4, False, {"tasks_per_node": 4, "gpus_per_node": 4}),
        ("train", ["trainer=ddp", "trainer.devices=-1"], 2, False, {"tasks_per_node": 2, "gpus_per_node": 2}),
        (
            "train",
            ["trainer=fsdp", "trainer.devices=8", "trainer.num_nodes=2"],
            None,
            False,
            {"nodes": 2, "tasks_per_node": 8, "gpus_per_node": 8},
        ),
        ("generate", ["device=cpu"], None, True, {}),
        ("generate", ["device=cuda"], None, False, {"gpus_per_node": 1}),
        ("infer", [], None, True, {"gpus_per_node": 1}),
        ("infer", [], None, False, {}),
        ("infer", [], 0, True, {}),
        ("tune_adaptive", [], 1, False, {"gpus_per_node": 1}),
    ],
)
def test_they_follow_the_config(
    command: str,
    given: list[str],
    own: int | None,
    offered: bool,
    expected: dict[str, Any],
    composed: Callable[..., DictConfig],
) -> None:
    assert resources_of(composed(command, *given), own, lambda: offered) == Resources(**expected)


@pytest.mark.parametrize(
    ("command", "given", "own", "message"),
    [
        ("train", [], 1, "hydra.launcher.gpus_per_node=1 and trainer.accelerator=cpu; set trainer=gpu"),
        ("train", ["trainer=ddp"], None, "trainer.devices=auto does not say how many GPUs to ask for"),
        ("train", ["trainer=ddp"], 0, "trainer.devices=auto does not say how many GPUs to ask for"),
        ("train", ["trainer=ddp", "trainer.devices=2"], 4, "gpus_per_node=4 and trainer.devices=2 ask for different"),
        ("train", [*GPU, "trainer.devices='0,1'"], None, "trainer.devices=0,1; a launched job takes a number"),
        ("train", ["trainer.devices=0"], None, "trainer.devices=0; a launched job takes a number"),
        ("train", ["trainer.accelerator=auto"], None, "trainer.accelerator=auto does not say what to ask for"),
        ("infer", ["device=cpu"], 1, "hydra.launcher.gpus_per_node=1 and device=cpu"),
        ("infer", ["device=cuda"], 0, "hydra.launcher.gpus_per_node=0 and device=cuda"),
        ("generate", [], 2, "hydra.launcher.gpus_per_node=2; this command uses one GPU"),
    ],
)
def test_contradictions(
    command: str, given: list[str], own: int | None, message: str, composed: Callable[..., DictConfig]
) -> None:
    with pytest.raises(ConfigError, match=message):
        resources_of(composed(command, *given), own, lambda: True)
