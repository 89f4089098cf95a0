"""The attention-aware step as it is usually written: eager attention, maps of every layer, rows side by side.

Chosen and rejected are two padded rows with pictures of their own, the reference is a second pass of both without
adapters, and every layer returns its whole map so that the hinge can take the target's share out of it.
"""

import argparse
from collections.abc import Iterator

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from benchmarks.turns import Turns
from benchmarks.workload import BETA, LEARNING_RATE, SEED, Workload, plain_lora
from lookright.attention.band import layer_band
from lookright.losses.attention import AttentionLoss
from lookright.packing.batch import Example
from lookright.training.datamodule import PreferenceData

ATTENTION_WEIGHT = 0.9


def run(workload: Workload, options: argparse.Namespace, turns: Turns) -> None:
    """DPO with the hinge on the target's share until told to end."""
    backbone = workload.backbone()
    data = PreferenceData(path=str(workload.pairs(options.images)), val_fraction=0.0)
    data.prepare(backbone, needs_target=True)
    data.train_sampler.shuffle = False
    model = LlavaForConditionalGeneration.from_pretrained(workload.model, dtype=torch.float32)
    model.set_attn_implementation("eager")
    torch.manual_seed(SEED)
    policy = get_peft_model(model, plain_lora(backbone))
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=LEARNING_RATE, weight_decay=0)
    band = layer_band(backbone.num_layers)
    turns.ready()
    for example in _examples(data):
        loss = eager_loss(policy, example, band)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        turns.finish(float(loss.detach()))


def eager_loss(policy: PeftModel, example: Example, band: list[int]) -> Tensor:
    """-log sigmoid(beta margin) + 0.9 max(0, 0.75 - ratio) of one pair by stock passes."""
    start = len(example.prompt.input_ids)
    rows = [torch.cat([example.prompt.input_ids, response.token_ids]) for response in example.responses]
    length = max(map(len, rows))
    ids = torch.stack([F.pad(row, (0, length - len(row))) for row in rows])
    mask = torch.stack([F.pad(torch.ones_like(row), (0, length - len(row))) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.stack(example.pixels * 2)}
    output = policy(**inputs, use_cache=False, output_attentions=True)
    chosen, rejected = _logps(output.logits, ids, mask, start)
    with torch.no_grad(), policy.disable_adapter():
        reference = _logps(policy(**inputs, use_cache=False).logits, ids, mask, start)
    margin = BETA * ((chosen - reference[0]) - (rejected - reference[1]))
    ratio = _ratio(output.attentions, example, band)
    return -F.logsigmoid(margin) + ATTENTION_WEIGHT * (AttentionLoss().threshold - ratio).relu()


def _logps(logits: Tensor, ids: Tensor, mask: Tensor, start: int) -> Tensor:
    """Summed over response tokens: float[2]."""
    scored = logits[:, :-1].float().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    return (scored * mask[:, 1:])[:, start - 1 :].sum(1)


def _ratio(maps: tuple[Tensor, ...], example: Example, band: list[int]) -> Tensor:
    """The target's share of the chosen rows' attention on source images, a mean over the band's layers."""
    start, count = len(example.prompt.input_ids), len(example.responses[0].token_ids)
    shares = []
    for layer in band:
        rows = maps[layer][0].mean(0)[start - 1 : start - 1 + count, :start].mean(0)
        on_target, on_sources = (rows @ example.coverage).unbind(-1)
        shares.append(on_target / on_sources)
    return torch.stack(shares).mean()


def _examples(data: PreferenceData) -> Iterator[Example]:
    """One pair after the other, in the order of our trainer."""
    epoch = 0
    while True:
        data.train_sampler.set_epoch(epoch)
        for batch in data.train_sampler:
            yield from (data.train_set[index] for index in batch)
        epoch += 1
