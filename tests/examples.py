"""Small prompts, pairs and models whose numbers are far from trivial."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from lookright.backbones.base import Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.packing.batch import Example, Response
from lookright.packing.encode import look_coverage
from lookright.packing.question import DecoderInput
from lookright.records.records import write_jsonl
from lookright.types import Preference, Region, Size
from recipes.tiny.folders import write_llava_folder

SIZES: list[Size] = [(50, 40), (40, 64), (42, 42), (80, 30), (57, 41)]
LONG = "no, Image2: is there a blue circle here? red"


def noise(size: Size, seed: int) -> Image.Image:
    """A picture of random pixels."""
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))


def backbone_in(folder: Path, words: str, *, heads: int = 4, key_heads: int = 4, layers: int = 6) -> LlavaBackbone:
    """A LLaVA of other heads or depth than the fixture's."""
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
    }
    vision = {
        "image_size": 42,
        "patch_size": 14,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    write_llava_folder(folder, [words], vocab_size=330, text=text, vision=vision)
    return LlavaBackbone(path=str(folder))


def lively_model(backbone: Backbone, dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel:
    """A model whose attention and answers are sharp, so that a wrong mask or position shows in every number.

    The usual initialisation makes all logits nearly equal, which hides most mistakes.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = backbone.build(weights=False, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        gain = 1.6 if "q_proj" in name or "k_proj" in name else 3.0 if "lm_head" in name else 1.0
        fan_in = 1 if "embed" in name else parameter[0].numel()
        parameter.data = torch.randn(parameter.shape, generator=generator) * gain * fan_in**-0.5
    return model.to(dtype).eval()


def shake_adapters(policy: nn.Module, seed: int = 1, size: float = 0.3) -> nn.Module:
    """Draw the second matrices of all adapters, which start at zero: the policy leaves the base model."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if ".lora_B." in name:  # not the partial LoRA of XComposer2.5, Plora_B
            parameter.data = (torch.randn(parameter.shape, generator=generator) * size).to(parameter.dtype)
    return policy


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What an optimiser would step."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def gradients(value: Tensor, model: nn.Module) -> dict[str, Tensor | None]:
    """Of a scalar to everything in the model that trains."""
    trained = trained_parameters(model)
    return dict(zip(trained, torch.autograd.grad(value, list(trained.values()), allow_unused=True), strict=True))


def question_text(num_images: int, target: int = 0) -> str:
    """The prompt of `make_input`."""
    shown = "\n".join(f"Image{number + 1}:<image>" for number in range(num_images))
    return f"{shown}\nIn Image{target + 1}, what color is the shape?"


def make_input(backbone: Backbone, num_images: int, target: int = 0, seed: int = 0) -> DecoderInput:
    """A question about one of several noise pictures of different shapes."""
    sizes = SIZES[:num_images]
    prompt = backbone.encode_prompt(question_text(num_images, target), sizes)
    # the boxes leave a margin, so that some tokens are covered in part and some image tokens by no source at all
    regions = [
        Region(picture=number, box=(5, 3, width - 4, height), source="s")
        for number, (width, height) in enumerate(sizes)
    ]
    return DecoderInput(
        prompt=prompt,
        pixels=[backbone.preprocess(noise(size, seed + number), num_images) for number, size in enumerate(sizes)],
        coverage=look_coverage(backbone, prompt, regions, target, sizes),
    )


def make_example(
    backbone: Backbone, num_images: int, texts: Sequence[str], target: int = 0, seed: int = 0, label: str = "sequence"
) -> Example:
    """`make_input` with responses; the text "" is a response of the end token alone."""
    question = make_input(backbone, num_images, target, seed)
    _, answers = backbone.encode_conversation(question_text(num_images, target), texts, SIZES[:num_images])
    end = torch.tensor(backbone.end_token_ids[:1])
    return Example(
        id=f"{num_images}-{target}-{seed}",
        prompt=question.prompt,
        pixels=question.pixels,
        responses=[Response(token_ids=ids if text else end) for text, ids in zip(texts, answers, strict=True)],
        coverage=question.coverage,
        label=label,
    )


def response_after(backbone: Backbone, context: str, answer: str) -> Response:
    """An answer behind further text of the user, which is seen and not scored."""
    question, (response,) = backbone.encode_conversation(context, [answer], [])
    rest = question.input_ids[1:]  # without BOS
    return Response(token_ids=torch.cat([rest, response]), num_unscored=len(rest))


def write_pairs(folder: Path, num_pairs: int, *, formats: Sequence[str] = ("sequence",), geometry: bool = True) -> Path:
    """A `preferences.jsonl` with its pictures: pairs of 1 to 3 pictures, answers of different length."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(SIZES):
        noise(size, number).save(folder / f"{number}.png")
    records = []
    for number in range(num_pairs):
        count = number % 3 + 1
        names = [f"{(number + place) % len(SIZES)}.png" for place in range(count)]
        regions = [
            Region(picture=place, box=(0, 0, *SIZES[(number + place) % len(SIZES)]), source=name)
            for place, name in enumerate(names)
        ]
        shown = "\n".join(f"Image{place + 1}:<image>" for place in range(count))
        records.append(
            Preference(
                id=f"pair-{number}",
                images=names,
                prompt=f"{shown}\nIn Image{count}, what color is the shape?",
                chosen=["red", "blue circle", "no"][number % 3],
                rejected=["a green triangle", "yes"][: 1 + number % 2],
                format=formats[number % len(formats)],
                target=count - 1 if geometry else None,
                regions=regions if geometry else None,
            )
        )
    write_jsonl(folder / "preferences.jsonl", records)
    return folder / "preferences.jsonl"
