"""What a job of a sweep takes, from its config; contradictions are refused before anything is submitted."""

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from lookright.errors import ConfigError
from lookright.launching.jobs import Resources

KEY = "hydra.launcher.gpus_per_node"


def resources_of(config: DictConfig, gpus_per_node: int | None, offers_gpus: Callable[[], bool]) -> Resources:
    """Nodes, processes and GPUs of a job. Raises ConfigError where the config contradicts itself or does not say.

    `gpus_per_node` is the launcher's own key, None to follow the config; `offers_gpus` tells whether there are any
    where the job is to run, and is asked only where the config leaves the device to the machine.
    """
    trainer = config.get("trainer")
    if trainer is None:
        return _of_device(str(config.device), gpus_per_node, offers_gpus)
    accelerator, devices = trainer.accelerator, trainer.devices
    if accelerator not in ("cpu", "gpu", "cuda"):
        raise ConfigError(
            f"trainer.accelerator={accelerator} does not say what to ask for; set trainer=gpu or trainer=cpu"
        )
    count = _count(devices)
    if accelerator == "cpu":
        if gpus_per_node:
            raise ConfigError(f"{KEY}={gpus_per_node} and trainer.accelerator=cpu; set trainer=gpu, or {KEY}=null")
        return Resources(nodes=trainer.num_nodes, tasks_per_node=count or 1)
    if count is None and not gpus_per_node:
        raise ConfigError(
            f"trainer.devices={devices} does not say how many GPUs to ask for; set trainer.devices=N, or {KEY}=N"
        )
    if gpus_per_node is not None and count not in (None, gpus_per_node):
        raise ConfigError(
            f"{KEY}={gpus_per_node} and trainer.devices={devices} ask for different numbers of GPUs; set one of them"
        )
    number = gpus_per_node if count is None else count
    assert number is not None, "one of them was asked for above"
    return Resources(nodes=trainer.num_nodes, tasks_per_node=number, gpus_per_node=number)


def _of_device(device: str, gpus_per_node: int | None, offers_gpus: Callable[[], bool]) -> Resources:
    """Of a command that runs in one process on one device."""
    if gpus_per_node is not None and gpus_per_node > 1:
        raise ConfigError(f"{KEY}={gpus_per_node}; this command uses one GPU: set 1, 0 or null, and shards for more")
    if device == "cpu":
        if gpus_per_node:
            raise ConfigError(f"{KEY}={gpus_per_node} and device=cpu; set device=cuda, or {KEY}=null")
        return Resources()
    if device != "auto":
        if gpus_per_node == 0:
            raise ConfigError(f"{KEY}=0 and device={device}; set device=cpu, or {KEY}=null")
        return Resources(gpus_per_node=1)
    return Resources(gpus_per_node=int(offers_gpus()) if gpus_per_node is None else gpus_per_node)


def _count(devices: Any) -> int | None:
    """Processes of a node, None where all that are there are meant."""
    if str(devices) in ("auto", "-1"):
        return None
    if not str(devices).isdecimal() or int(devices) < 1:
        raise ConfigError(f"trainer.devices={devices}; a launched job takes a number of devices, or auto")
    return int(devices)
