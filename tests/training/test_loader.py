"""How many processes read pictures, that batches do not depend on them, and that none outlives its parent."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from lookright.backbones.llava import LlavaBackbone
from lookright.errors import ConfigError
from lookright.packing.batch import PackedBatch
from lookright.training.datamodule import PreferenceData
from lookright.training.loader import sharing_ranks, workers_of
from lookright.training.trainer import TrainerSettings
from tests.examples import write_pairs

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("processors", "num_ranks", "wanted"), [(1, 1, 0), (2, 1, 1), (4, 1, 3), (16, 1, 4), (16, 8, 1), (4, 8, 0)]
)
def test_workers_follow_the_processors(
    processors: int, num_ranks: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(processors)))
    assert workers_of(GPU, num_ranks) == wanted and workers_of(CPU, num_ranks) == 0


def test_ranks_that_a_cluster_started_have_processors_of_their_own() -> None:
    def trainer(environment: Any) -> Any:
        return SimpleNamespace(strategy=SimpleNamespace(cluster_environment=environment), num_devices=4)

    assert sharing_ranks(trainer(LightningEnvironment())) == 4 and sharing_ranks(trainer(None)) == 4
    assert sharing_ranks(trainer(SLURMEnvironment())) == 1 and sharing_ranks(None) == 1


@pytest.mark.parametrize(("given", "workers"), [(None, 3), (0, 0), (2, 2)])
def test_what_is_set_wins_and_a_gpu_gets_pinned_batches(
    given: int | None, workers: int, llava: LlavaBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(4)))
    data = PreferenceData(str(write_pairs(tmp_path, 4)), val_fraction=0.0, num_workers=given)
    data.prepare(llava, needs_target=True)
    assert not data.train_dataloader().pin_memory
    strategy = SimpleNamespace(root_device=GPU, cluster_environment=None)
    data.trainer = SimpleNamespace(strategy=strategy, num_devices=1, overfit_batches=0, global_rank=0, world_size=1)
    loader = data.train_dataloader()
    assert loader.pin_memory and loader.num_workers == workers
    with pytest.raises(ConfigError, match="data.num_workers=-1; set 0 or more, or null"):
        PreferenceData("x", num_workers=-1)


def flat(value: Any) -> list[Any]:
    """Tensors and other values of a batch, in order."""
    if dataclasses.is_dataclass(value):
        return [item for field in dataclasses.fields(value) for item in flat(getattr(value, field.name))]
    return [item for one in value for item in flat(one)] if isinstance(value, list) else [value]


def test_batches_do_not_depend_on_the_workers(llava: LlavaBackbone, tmp_path: Path) -> None:
    path = write_pairs(tmp_path, 9)

    def batches(num_workers: int) -> list[PackedBatch]:
        data = PreferenceData(str(path), val_fraction=0.0, batch_size=2, num_workers=num_workers)
        data.prepare(llava, needs_target=True)
        loader = data.train_dataloader()
        return [*loader, *loader]

    alone = batches(0)
    for num_workers in (1, 3):
        for one, other in zip(alone, batches(num_workers), strict=True):
            for wanted, found in zip(flat(one), flat(other), strict=True):
                assert torch.equal(wanted, found) if isinstance(wanted, torch.Tensor) else wanted == found


def test_every_tensor_of_a_batch_is_pinned(
    llava: LlavaBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PreferenceData(str(write_pairs(tmp_path, 2)), val_fraction=0.0, batch_size=2)
    data.prepare(llava, needs_target=True)
    loader = data.train_dataloader()
    collated = loader.collate_fn(data.train_set.__getitems__([0, 1]))
    asked: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: asked.append(tensor) or tensor.clone())
    pinned = collated.pin_memory()
    before, after = flat(collated.batch), flat(pinned.batch)
    tensors = [one for one in before if isinstance(one, torch.Tensor)]
    assert tensors and [id(one) for one in asked] == [id(one) for one in tensors]
    assert not {id(one) for one in after if isinstance(one, torch.Tensor)} & {id(one) for one in tensors}
    assert pinned.left_out == collated.left_out and pinned.batch.ids == collated.batch.ids


LOADING = """
import sys, time
from lookright.backbones.llava import LlavaBackbone
from lookright.training.datamodule import PreferenceData

data = PreferenceData(sys.argv[2], val_fraction=0.0, num_workers=2)
data.prepare(LlavaBackbone(path=sys.argv[1]), needs_target=True)
loader = iter(data.train_dataloader())
next(loader)
print("loading", flush=True)
time.sleep(300)
"""


def children(process: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def ends(process: int, seconds: float) -> bool:
    """Whether a process is gone, or waits to be taken away, within so many seconds."""
    state = Path(f"/proc/{process}/stat")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not state.is_file() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.2)
    return False


@pytest.mark.slow
def test_workers_go_with_a_parent_that_is_killed(
    llava_folder: Path, pairs: Callable[..., Path], tmp_path: Path
) -> None:
    path = pairs(tmp_path, 40)
    command = [sys.executable, "-c", LOADING, str(llava_folder), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "loading\n"
        workers = children(process.pid)
        assert len(workers) >= 2
        os.kill(process.pid, signal.SIGKILL)
    # torch's workers look after their parent every five seconds
    assert all(ends(worker, 20) for worker in workers)


def test_a_gpu_without_bfloat16_is_refused_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda *_: "Tesla T4")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    with pytest.raises(ConfigError) as error:
        TrainerSettings(accelerator="gpu", precision="bf16-mixed", model_dtype="bfloat16")
    assert str(error.value) == (
        "trainer.precision=bf16-mixed, trainer.model_dtype=bfloat16: Tesla T4 has no units for bfloat16; set "
        "trainer.precision=16-mixed trainer.model_dtype=float16 for adapters, or trainer.precision=32-true "
        "trainer.model_dtype=float32"
    )
    TrainerSettings(accelerator="gpu", precision="16-mixed", model_dtype="float16")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))
    TrainerSettings(accelerator="gpu", precision="bf16-mixed", model_dtype="bfloat16")
