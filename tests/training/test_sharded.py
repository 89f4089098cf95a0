"""FSDP on two processes (gloo), below Lightning, which refuses a CPU: what is wrapped, computed and gathered."""

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from torch.distributed.fsdp import FullyShardedDataParallel

from lookright.backbones.llava import LlavaBackbone
from lookright.reference.frozen_copy import FrozenCopy
from lookright.training.preference import PreferenceModule
from lookright.training.sharded import gathered, wraps
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from tests.training.parts import make_batch, make_module

TUNINGS = {"lora": LoraTuning(r=4, alpha=8, dropout=0.0), "full": FullTuning()}


def small_module(folder: str, tuning: str) -> PreferenceModule:
    torch.manual_seed(0)
    reference = FrozenCopy() if tuning == "full" else None
    return make_module(LlavaBackbone(path=folder), tuning=TUNINGS[tuning], reference=reference, dtype=torch.float32)


class Steps(torch.nn.Module):
    """The pass of a training step, as a strategy sends it through FSDP."""

    def __init__(self, module: PreferenceModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: object) -> torch.Tensor:
        return self.module.score_batch(batch, read_attention=True)[0].mean()


def stepped(model: torch.nn.Module, batch: object) -> float:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss = model(batch)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def rank_of_two(rank: int, folder: str, tuning: str, target: Path) -> None:
    """One process: a step, then gathering."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{target}.meeting", rank=rank, world_size=2)
    module = small_module(folder, tuning)
    model = FullyShardedDataParallel(
        Steps(module), auto_wrap_policy=wraps, use_orig_params=True, device_id=torch.device("cpu")
    )
    num_units = sum(isinstance(one, FullyShardedDataParallel) for one in model.modules())
    loss = stepped(model, make_batch(module.pair.backbone))
    state = gathered(model)
    # whoever leaves first takes the other's last message along
    torch.distributed.barrier()
    if rank == 0:
        torch.save({"loss": loss, "state": state, "num_units": num_units}, target)
    else:
        assert state == {}


def ranks_of_two(folder: str, target: str) -> None:
    """Both processes of each tuning, out of one that has imported all."""
    for tuning in TUNINGS:
        pids = []
        for rank in range(2):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    rank_of_two(rank, folder, tuning, Path(target) / tuning)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            pids.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert codes == [0, 0], (tuning, codes)


@pytest.fixture(scope="module")
def found(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, "-m", "tests.training.test_sharded", str(llava_folder), str(folder)], check=True)
    return folder


@pytest.mark.parametrize("tuning", TUNINGS)
def test_two_ranks_step_and_gather_as_one_process(llava_folder: Path, found: Path, tuning: str) -> None:
    module = small_module(str(llava_folder), tuning)
    loss = stepped(Steps(module), make_batch(module.pair.backbone))
    ranks = torch.load(found / tuning, weights_only=True)
    # the whole, and six decoder layers; a reference that is a copy is no part of the module
    assert ranks["num_units"] == 7 and ranks["loss"] == pytest.approx(loss, abs=1e-6)
    expected = {f"module.{name}": p.detach() for name, p in module.named_parameters() if p.requires_grad}
    assert ranks["state"].keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ranks["state"][name], value, atol=1e-6, rtol=1e-5, msg=name)


if __name__ == "__main__":
    ranks_of_two(*sys.argv[1:])
