"""Adaptive decoding against plain greedy decoding, and against two whole generations.

python -m benchmarks.adaptive --backbone tiny_llava --prompts 200
python -m benchmarks.adaptive --workload outputs/benchmarks/workload --prompts 16

Prompts of 3 images one at a time. Timed with 32 new tokens (no end token ends an answer); the tokens of the adaptive
answers are compared with those of two generations on every prompt, with the model's own end tokens.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from benchmarks.two_generations import answer_twice, use_two_generations
from benchmarks.workload import SEED, Workload
from lookright.answering.adaptive import AdaptiveDecoder
from lookright.answering.decoder import Decoder
from lookright.attention import use_lookright_attention
from lookright.backbones.base import Backbone
from lookright.config.entry import CONFIG_FOLDER
from lookright.config.schema import register
from lookright.packing.encode import encode_question
from lookright.packing.question import DecoderInput
from lookright.records.pictures import PictureFolder
from lookright.records.readers import load_preferences
from lookright.records.records import read_prompts

NUM_IMAGES = 3
NUM_TOKENS = 32
SCALE = {"threshold": 0.5, "alpha_low": 0.7, "alpha_high": 2.0}
SOURCES = ("easy_vqa", "fashion_mnist")


def main() -> None:
    """Print one line of json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=["tiny_llava", "tiny_ixc25"])
    parser.add_argument("--workload", type=Path)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--timed", type=int, default=20, help="prompts that are timed")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if (arguments.backbone is None) == (arguments.workload is None):
        parser.error("give either --backbone or --workload")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    if arguments.workload is None:
        backbone = _named(arguments.backbone)
        questions = _sequences(backbone, arguments.prompts)
    else:
        workload = Workload(folder=arguments.workload)
        backbone = workload.backbone()
        questions = _pairs(backbone, workload)
    model = backbone.build().eval()
    items = [question for question, _ in zip(questions, range(arguments.prompts), strict=False)]
    print(json.dumps(_same_tokens(backbone, model, items) | _timed(backbone, model, items[: arguments.timed])))


def _same_tokens(backbone: Backbone, model: nn.Module, items: list[DecoderInput]) -> dict[str, int]:
    """In how many prompts both ways give the same tokens, and in how many scaling changed any."""
    ours = [AdaptiveDecoder(NUM_TOKENS, **SCALE).answer(backbone, model, [item])[0].token_ids for item in items]
    plain = [Decoder(NUM_TOKENS).answer(backbone, model, [item])[0].token_ids for item in items]
    use_two_generations(backbone, model)
    theirs = [_twice(backbone, model, item) for item in items]
    use_lookright_attention(backbone.language_model(model))
    return {
        "prompts": len(items),
        "equal_to_two_generations": sum(one == other for one, other in zip(ours, theirs, strict=True)),
        "changed_by_scaling": sum(one != other for one, other in zip(ours, plain, strict=True)),
    }


def _timed(backbone: Backbone, model: nn.Module, items: list[DecoderInput]) -> dict[str, float]:
    """Medians over prompts, the three ways in turn on each; no token ends an answer."""
    ends, backbone.end_token_ids = backbone.end_token_ids, [-1]
    decoders = {"greedy": Decoder(NUM_TOKENS), "adaptive": AdaptiveDecoder(NUM_TOKENS, **SCALE)}
    found: dict[str, list[float]] = {"greedy": [], "adaptive": [], "two_generations": []}
    for item in items[:1] + items:  # the first prompt once more, to warm up
        for name, decoder in decoders.items():
            found[name].append(_seconds(lambda decoder=decoder, item=item: decoder.answer(backbone, model, [item])))
        use_two_generations(backbone, model)
        found["two_generations"].append(_seconds(lambda item=item: _twice(backbone, model, item)))
        use_lookright_attention(backbone.language_model(model))
    backbone.end_token_ids = ends
    medians = {f"{name}_seconds": statistics.median(seconds[1:]) for name, seconds in found.items()}
    ratios = {
        f"{name}_over_greedy": statistics.median(
            one / other for one, other in zip(found[name][1:], found["greedy"][1:], strict=True)
        )
        for name in ("adaptive", "two_generations")
    }
    return medians | ratios


def _twice(backbone: Backbone, model: nn.Module, item: DecoderInput) -> list[int]:
    return answer_twice(backbone, model, item, NUM_TOKENS, SCALE["threshold"], SCALE["alpha_low"], SCALE["alpha_high"])


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _named(name: str) -> Backbone:
    """A backbone of the package."""
    register()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return instantiate(compose("infer", [f"backbone={name}", "data.path=unused"]).backbone)


def _sequences(backbone: Backbone, count: int) -> Iterator[DecoderInput]:
    """Test prompts of three images, half of each source, made by generate.py."""
    for source in SOURCES:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                "generate.py",
                "stage=compose",
                f"source={source}",
                "split=test",
                "formats=[sequence]",
                f"composers.sequence.mixture={{{NUM_IMAGES}:1.0}}",
                f"num_prompts={-(-count // len(SOURCES))}",
                f"output={folder}",
            ]
            root = Path(__file__).parents[1]
            subprocess.run([sys.executable, *command], cwd=root, check=True, capture_output=True)
            pictures = PictureFolder(Path(folder))
            for prompt in read_prompts(Path(folder) / "instructions.jsonl"):
                yield encode_question(backbone, prompt, pictures)


def _pairs(backbone: Backbone, workload: Workload) -> Iterator[DecoderInput]:
    """The prompts of the pairs of three images."""
    loaded = load_preferences(workload.pairs(NUM_IMAGES))
    for record in loaded.records:
        yield encode_question(backbone, record, loaded.pictures)


if __name__ == "__main__":
    main()
