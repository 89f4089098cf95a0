"""One side of the preference-step benchmark, in a process of its own; prints one line of json.

python -m benchmarks.step packed --steps 5      # or: plain

Model: LLaVA architecture, CLIP 336/14, hidden 512, 8 layers, LoRA r 16, random weights; one pair of 3 pictures
and answers of about 40 tokens a step, adapter-off reference, float32, without gradient checkpointing.
`plain` is the usual way: two rows through stock transformers for the policy and two for the reference, every
row with its own pictures, logits for every token.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.tiny import write_llava_folder
from lookright.decoding.prefill import DecoderInput
from lookright.losses.build import build_loss
from lookright.packed.batch import Example, Response, pack
from lookright.reference.adapter_off import AdapterOff
from lookright.reference.base import ModelPair
from lookright.training.optimization import Optimization
from lookright.training.preference import PreferenceModule
from lookright.tuning.lora import LoraTuning

NUM_IMAGES = 3
ANSWER = "the shape is a red circle on a grey ground and "


def make_backbone(folder: Path) -> LlavaBackbone:
    """The benchmark's architecture without weights."""
    write_llava_folder(
        folder,
        [ANSWER],
        vocab_size=32000,
        text={
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
        },
        vision={
            "image_size": 336,
            "patch_size": 14,
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
        },
    )
    return LlavaBackbone(path=str(folder))


def make_example(backbone: LlavaBackbone) -> Example:
    """A pair of about 40 tokens an answer."""
    pictures = [Image.new("RGB", (400, 300), (60 * number, 90, 120)) for number in range(NUM_IMAGES)]
    text = "\n".join(f"Image{number + 1}:<image>" for number in range(NUM_IMAGES)) + "\nIn Image2, what is it?"
    prompt = backbone.encode_prompt(text, [picture.size for picture in pictures])
    question = DecoderInput(prompt=prompt, pixels=[backbone.preprocess(picture, NUM_IMAGES) for picture in pictures])
    answers = [backbone.encode_response(ANSWER * count)[:41] for count in (6, 7)]
    return Example(
        id="pair",
        prompt=question.prompt,
        pixels=question.pixels,
        responses=[Response(token_ids=answer) for answer in answers],
    )


def packed_step(pair: ModelPair, example: Example) -> Callable[[], Tensor]:
    """Ours: loss of one pair."""
    module = PreferenceModule(pair, build_loss(attention={"weight": 0.0}), Optimization(), 1)
    batch = pack([example])
    return lambda: module.losses(batch, read_attention=False)[0].mean()


def plain_step(pair: ModelPair, example: Example) -> Callable[[], Tensor]:
    """The usual way: the same loss of the same pair by stock forward passes."""
    pair.backbone.language_model(pair.model).set_attn_implementation("sdpa")
    rows = [torch.cat([example.prompt.input_ids, response.token_ids]) for response in example.responses]
    length, start = max(map(len, rows)), len(example.prompt.input_ids)
    ids = torch.stack([F.pad(row, (0, length - len(row))) for row in rows])
    mask = torch.stack([F.pad(torch.ones_like(row), (0, length - len(row))) for row in rows])
    pixels = torch.stack(example.pixels * 2)

    def logps() -> Tensor:
        logits = pair.model(input_ids=ids, attention_mask=mask, pixel_values=pixels, use_cache=False).logits
        scored = logits[:, start - 1 : -1].log_softmax(-1).gather(2, ids[:, start:, None])[..., 0]
        return (scored * mask[:, start:]).sum(1)

    def step() -> Tensor:
        policy = logps()
        with torch.no_grad(), pair.policy.disable_adapter():
            reference = logps()
        chosen, rejected = policy - reference
        num_chosen = int(mask[0, start:].sum())
        return -F.logsigmoid(0.1 * (chosen - rejected)) - 0.1 * policy[0] / num_chosen

    return step


def main() -> None:
    """Time the steps of one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["packed", "plain"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        backbone = make_backbone(Path(folder))
        policy = LoraTuning(r=16, alpha=32, dropout=0.0).apply(backbone, backbone.build(weights=False))
        pair = ModelPair(backbone, policy, AdapterOff())
        example = make_example(backbone)
    step = (packed_step if arguments.side == "packed" else plain_step)(pair, example)
    optimizer = torch.optim.AdamW([value for value in policy.parameters() if value.requires_grad], lr=1e-4)
    seconds, losses = [], []
    for _ in range(arguments.steps + 1):
        started = time.perf_counter()
        loss = step()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        losses.append(float(loss.detach()))
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024
    print(json.dumps({"side": arguments.side, "seconds": seconds[1:], "losses": losses, "peak_mib": round(peak)}))


if __name__ == "__main__":
    main()
