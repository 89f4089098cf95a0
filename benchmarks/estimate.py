"""The estimate of `trainer.plan=true` against what the operating system counts.

python -m benchmarks.estimate --workload outputs/benchmarks/workload

Every case is a process of its own: two steps on one batch, peak resident memory above what the libraries take. glibc's
mmap threshold is fixed there, without which freed blocks stay with the process; THP is left to lookright.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.turns import peak_mib
from benchmarks.workload import LORA_RANK, SEED, Workload, optimization
from lookright.backbones.llava import LlavaBackbone
from lookright.losses.attention import AttentionLoss
from lookright.losses.composite import CompositeLoss, Weighted
from lookright.losses.preference.dpo import DPOLoss
from lookright.losses.sft import SFTLoss
from lookright.packing.batch import PackedBatch, Response, pack
from lookright.packing.encode import encode_preference
from lookright.records.readers import load_preferences
from lookright.reference.adapter_off import AdapterOff
from lookright.reference.base import ModelPair
from lookright.reference.frozen_copy import FrozenCopy
from lookright.training.memory import StepSettings, peak_memory
from lookright.training.preference import PreferenceModule
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning

CASES: dict[str, dict[str, int | bool]] = {
    "3 images": {"images": 3},
    "3 images, gradient checkpointing": {"images": 3, "checkpointing": True},
    "3 images, no dropout": {"images": 3, "no_dropout": True},
    "5 images": {"images": 5},
    "3 images, 200-token answers": {"images": 3, "repeats": 5},
    "3 images, two pairs, gradient checkpointing": {"images": 3, "pairs": 2, "checkpointing": True},
    "1 image, gradient checkpointing": {"images": 1, "checkpointing": True},
    "3 images, full tuning with a frozen copy": {"images": 3, "full": True},
}
MIB = 2**20


def main() -> None:
    """Print one line of json: for every case estimate and peak in MiB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--case", choices=CASES, help="this one, in this process")
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(measure(Workload(folder=arguments.workload), **CASES[arguments.case])))
        return
    print(json.dumps({case: _apart(arguments.workload, case) for case in CASES}))


def _apart(workload: Path, case: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.estimate", "--workload", str(workload), "--case", case]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def measure(
    workload: Workload,
    images: int,
    pairs: int = 1,
    repeats: int = 1,
    checkpointing: bool = False,
    no_dropout: bool = False,
    full: bool = False,
) -> dict[str, float]:
    """Two steps with the adapter off, or of full tuning beside a frozen copy; `repeats` makes answers longer."""
    torch.set_num_threads(2)
    torch.manual_seed(SEED)
    backbone = workload.backbone()
    batch = _batch(backbone, workload, images, pairs, repeats)
    before = peak_mib()
    tuning = FullTuning() if full else LoraTuning(r=LORA_RANK, alpha=2 * LORA_RANK, dropout=0.0 if no_dropout else 0.05)
    pair = ModelPair(
        backbone, tuning.apply(backbone, backbone.build(weights=False)), FrozenCopy() if full else AdapterOff()
    )
    terms = {"preference": Weighted(1.0, DPOLoss()), "sft": Weighted(0.1, SFTLoss())}
    loss = CompositeLoss(terms | {"attention": Weighted(0.9, AttentionLoss())})
    module = PreferenceModule(pair, loss, optimization(), num_steps=10)
    if checkpointing:
        module.trained_model.gradient_checkpointing_enable({"use_reentrant": False})
    module.train()
    optimizer = module.configure_optimizers()["optimizer"]
    for _ in range(2):
        loss = module.score_batch(batch, read_attention=False)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    settings = StepSettings(compute_bytes=4, mask_bytes=4, gradient_checkpointing=checkpointing, copies_policy=full)
    estimate = sum(peak_memory(backbone, pair.policy, pair.model, batch, settings).values())
    return {"estimate_mib": estimate / MIB, "measured_mib": peak_mib() - before}


def _batch(backbone: LlavaBackbone, workload: Workload, images: int, pairs: int, repeats: int) -> PackedBatch:
    loaded = load_preferences(workload.pairs(images))
    examples = [encode_preference(backbone, record, loaded.pictures) for record in loaded.records[:pairs]]
    for example in examples:
        example.responses = [Response(token_ids=each.token_ids.repeat(repeats)) for each in example.responses]
    return pack(examples)


if __name__ == "__main__":
    main()
