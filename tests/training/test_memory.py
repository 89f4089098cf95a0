"""The estimate of peak memory against what the operating system counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lookright.backbones.llava import LlavaBackbone
from lookright.packing.batch import PackedBatch, pack
from lookright.training.memory import StepSettings, compute_bytes, peak_memory
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from tests.examples import LONG, make_example

MEASURE = """
import json, resource, sys
from pathlib import Path
import torch
from lookright.backbones.llava import LlavaBackbone
from recipes.tiny.folders import write_llava_folder
from lookright.packing.batch import pack
from lookright.reference.adapter_off import AdapterOff
from lookright.reference.base import ModelPair
from lookright.reference.frozen_copy import FrozenCopy
from lookright.training.memory import StepSettings, peak_memory
from lookright.training.preference import PreferenceModule
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from tests.examples import LONG, make_example
from tests.training.parts import make_optimization
from tests.weighted import make_loss

folder, tuning, checkpointing = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
sizes = {"num_hidden_layers": 4, "num_attention_heads": 4}
text = {"hidden_size": 256, "intermediate_size": 688, "num_key_value_heads": 2, **sizes}
vision = {"image_size": 336, "patch_size": 14, "hidden_size": 64, "intermediate_size": 128, **sizes}
write_llava_folder(folder, [LONG], vocab_size=330, text=text, vision=vision)
backbone = LlavaBackbone(path=str(folder))
batch = pack([make_example(backbone, 2, ["red circle", LONG])])
with open("/proc/self/statm") as file:
    before = int(file.read().split()[1]) * resource.getpagesize()
chosen = FullTuning() if tuning == "full" else LoraTuning(r=16, alpha=32, dropout=0.05)
reference = FrozenCopy() if tuning == "full" else AdapterOff()
pair = ModelPair(backbone, chosen.apply(backbone, backbone.build(weights=False)), reference)
module = PreferenceModule(pair, make_loss(), make_optimization(), 10)
if checkpointing:
    module.trained_model.gradient_checkpointing_enable({"use_reentrant": False})
module.train()
optimizer = module.configure_optimizers()["optimizer"]
for _ in range(2):
    loss = module.score_batch(batch, read_attention=True)[0].mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
settings = StepSettings(
    compute_bytes=4, mask_bytes=4, gradient_checkpointing=checkpointing, copies_policy=tuning == "full"
)
# not getrusage: a child's ru_maxrss starts at what its parent held when it was forked
with open("/proc/self/status") as file:
    highest = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) * 1024
print(json.dumps({
    "peak": highest - before,
    "estimate": sum(peak_memory(backbone, pair.policy, pair.model, batch, settings).values()),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("tuning", "checkpointing"), [("lora", False), ("lora", True), ("full", False)])
def test_estimate_is_near_the_peak_of_a_process(tmp_path: Path, tuning: str, checkpointing: bool) -> None:
    # the allocator otherwise keeps freed blocks of up to 32 MiB, which no estimate can know
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    environment["PYTHONPATH"] = os.pathsep.join([str(root / "src"), str(root)])
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "model"), tuning, str(checkpointing)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found = json.loads(output.splitlines()[-1])
    # what torch itself loads and holds on its first step is some 40 MiB, a good part of models as small as this
    missing = found["peak"] - found["estimate"]
    assert abs(missing - 40 * 2**20) < 0.25 * found["peak"], found


def settings(**options: object) -> StepSettings:
    given = {"compute_bytes": 4, "mask_bytes": 4, "gradient_checkpointing": False, "copies_policy": False}
    return StepSettings(**(given | options))


def plan(backbone: LlavaBackbone, batch: PackedBatch, tuning: object = None, **options: object) -> dict[str, int]:
    """On a model without memory of its own, as in a dry run."""
    with torch.device("meta"):
        model = backbone.build(weights=False)
        policy = (LoraTuning(r=4, alpha=8, dropout=0.5) if tuning is None else tuning).apply(backbone, model)
    return peak_memory(backbone, policy, model, batch, settings(**options))


@pytest.fixture(scope="module")
def batch(llava: LlavaBackbone) -> PackedBatch:
    return pack([make_example(llava, 3, ["red", LONG])])


def test_activations_grow_with_tokens_and_shrink_with_checkpointing(llava: LlavaBackbone, batch: PackedBatch) -> None:
    once = plan(llava, batch)
    twice = plan(llava, pack([make_example(llava, 3, ["red", LONG])] * 2))
    assert twice["activations"] == 2 * once["activations"], "pairs are independent"
    assert twice["weights"] == once["weights"]
    assert plan(llava, batch, gradient_checkpointing=True)["activations"] < once["activations"] / 2
    assert plan(llava, batch, compute_bytes=2)["activations"] < once["activations"]
    assert plan(llava, batch, mask_bytes=1)["activations"] < once["activations"]


def test_weights_count_a_copy_twice_and_four_bits_as_what_they_are(llava: LlavaBackbone, batch: PackedBatch) -> None:
    plain = plan(llava, batch)
    assert plan(llava, batch, copies_policy=True)["weights"] == 2 * plain["weights"]
    four_bit = LlavaBackbone(path=llava.path, quantization="4bit")
    layers = sum(p.numel() for p in llava.language_model(llava.build(weights=False)).layers.parameters() if p.ndim == 2)
    saved = plain["weights"] - plan(four_bit, batch)["weights"]
    assert saved == pytest.approx(layers * (4 - 4.127 / 8), rel=1e-3)


def test_trained_weights_cost_gradient_and_two_moments(llava: LlavaBackbone, batch: PackedBatch) -> None:
    model = llava.build(weights=False)
    decoder = [p for name, p in model.named_parameters() if "vision_tower" not in name and "projector" not in name]
    found = plan(llava, batch, FullTuning())["gradients_and_optimizer"]
    assert found == 3 * 4 * sum(parameter.numel() for parameter in decoder)


def test_products_in_sixteen_bits_take_two_bytes() -> None:
    assert compute_bytes("bf16-mixed", torch.float32) == compute_bytes("16-true", torch.float32) == 2
    assert compute_bytes("32-true", torch.float32) == 4 and compute_bytes("32-true", torch.bfloat16) == 2
