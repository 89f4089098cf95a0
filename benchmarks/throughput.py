"""Tokens a second that a model of a published shape answers with, greedy and adaptive, alone and in a batch.

python -m benchmarks.throughput --workload DIR --images 5 --device cuda --dtype bfloat16

Weights are drawn on the device; no token ends an answer, so that every prompt gets as many.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from benchmarks.shapes import fresh_model
from benchmarks.turns import device_peak
from benchmarks.workload import Workload
from lookright.answering.adaptive import AdaptiveDecoder
from lookright.answering.decoder import Decoder
from lookright.backbones.loading import DTYPES
from lookright.packing.encode import encode_question
from lookright.records.readers import load_preferences

SCALE = {"threshold": 0.5, "alpha_low": 0.7, "alpha_high": 2.0}


def main() -> None:
    """Print one line of json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="prompts that are answered together")
    parser.add_argument("--tokens", type=int, default=64, help="of every answer")
    parser.add_argument("--repeats", type=int, default=3)
    print(json.dumps(measure(parser.parse_args())))


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Median seconds and tokens a second of every decoder and batch; the prompts' pass is part of it."""
    workload = Workload(folder=options.workload)
    backbone = workload.backbone()
    model = fresh_model(backbone, torch.device(options.device), DTYPES[options.dtype]).eval().requires_grad_(False)
    backbone.end_token_ids = [-1]
    loaded = load_preferences(workload.pairs(options.images))
    questions = [encode_question(backbone, one, loaded.pictures) for one in loaded.records[: max(options.batches)]]
    decoders = {"greedy": Decoder(options.tokens), "adaptive": AdaptiveDecoder(options.tokens, **SCALE)}
    rows = []
    for batch in options.batches:
        for name, decoder in decoders.items():
            seconds = []
            for _ in range(1 + options.repeats):  # the first to warm up
                started = time.perf_counter()
                # token ids on the CPU: nothing is left to wait for
                answers = decoder.answer(backbone, model, questions[:batch])
                seconds.append(time.perf_counter() - started)
            median = statistics.median(seconds[1:])
            tokens = sum(len(answer.token_ids) for answer in answers)
            rows.append({"decode": name, "batch": batch, "seconds": median, "tokens_per_second": tokens / median})
    return {"prompt_tokens": len(questions[0].prompt.input_ids), "rows": rows} | device_peak()


if __name__ == "__main__":
    main()
