"""Every file of experiments/ takes a real optimiser step on a small backbone, and says what a reader needs of it."""

import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors.torch import load_file

from lookright.backbones.ixc25.image_transform import plan_tiles, tile_budget
from lookright.commands.train import train
from lookright.config.check import check_config
from lookright.config.manual import EXPERIMENT_FOLDER

NAMES = sorted(path.stem for path in EXPERIMENT_FOLDER.glob("*.yaml"))
PAPERS = [name for name in NAMES if name != "demo"]


def header(name: str) -> str:
    """The comment that opens a file, without its signs."""
    lines = (EXPERIMENT_FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    end = next(place for place, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end])


def commands(name: str) -> list[tuple[str, list[str]]]:
    """Commands of the header with their overrides; a line that ends in a backslash goes on."""
    text = header(name).replace("\\\n", " ")
    found = re.findall(r"^python (\w+)\.py(.*)$", text, flags=re.MULTILINE)
    return [(command, shlex.split(arguments)) for command, arguments in found]


@pytest.mark.parametrize("name", NAMES)
def test_a_step_on_a_small_backbone(
    name: str, composed: Callable[..., DictConfig], pairs_file: Path, tmp_path: Path
) -> None:
    own = composed("train", f"experiment={name}", "data.path=x")
    small = "tiny_ixc25" if own.backbone._target_.endswith("Ixc25Backbone") else "tiny_llava"
    config = composed(
        "train",
        f"experiment={name}",
        # what a test machine has in place of the model, its length and eight GPUs; all else is the file's
        f"backbone={small}",
        "backbone.max_length=2048",
        "trainer=cpu",
        "trainer.devices=1",
        "trainer.accumulate_grad_batches=1",
        "trainer.max_epochs=1",
        "trainer.max_steps=1",
        "trainer.progress_bar=false",
        f"data.path={pairs_file}",
        "data.batch_size=2",
        "data.num_workers=0",
        "tuning.r=2",
        "tuning.alpha=4",
        f"output={tmp_path}",
    )
    assert config.loss == own.loss
    metrics = train(config)["metrics"]

    loss = instantiate(own.loss, _convert_="all")
    # a new adapter changes nothing, so policy and reference are one in the first step
    assert ("train/loss_dpo" in metrics) == (own.loss.alpha > 0)
    assert metrics.get("train/loss_dpo", math.log(2)) == pytest.approx(math.log(2), abs=1e-5)
    assert {f"train/loss_{term}" for term in loss.terms} == {key for key in metrics if key.startswith("train/loss_")}
    parts = sum(part.weight * metrics[f"train/loss_{term}"] for term, part in loss.terms.items())
    assert metrics["train/loss"] == pytest.approx(parts, rel=1e-5)
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    moved = [value.abs().max().item() for key, value in adapter.items() if "lora_B" in key]
    assert max(moved) > 0, "the step moved nothing"
    assert math.isfinite(max(moved))


@pytest.mark.parametrize("name", PAPERS)
def test_the_header_has_what_a_reader_needs(name: str) -> None:
    text = header(name)
    first = text.splitlines()[1]
    assert ("arXiv" in first or "AA-DPO" in first) and ("LLaVA-1.5-7B" in first or "InternLM-XC2.5-7B" in first)
    assert [command for command, _ in commands(name)] == ["generate", "train", "infer"]
    for word in ("Hardware: ", "Hours: ", "Published: "):
        assert f"\n{word}" in text
    assert max(len(line) for line in (EXPERIMENT_FOLDER / f"{name}.yaml").read_text().splitlines()) <= 120


@pytest.mark.parametrize(("name", "number"), [(name, number) for name in PAPERS for number in range(3)])
def test_its_commands_compose(name: str, number: int, composed: Callable[..., DictConfig]) -> None:
    command, overrides = commands(name)[number]
    config = composed(command, *overrides)
    check_config(config)
    if command == "train":
        assert f"experiment={name}" in overrides
        assert config.trainer.devices * config.trainer.accumulate_grad_batches * config.data.batch_size == 64
        assert (config.trainer.precision, config.trainer.model_dtype) == ("bf16-mixed", "bfloat16")
        assert config.trainer.gradient_checkpointing and config.trainer.strategy == "deepspeed_stage_2"
        assert (config.tuning.r, config.tuning.alpha, config.tuning.dropout) == (128, 256, 0.05)


@pytest.mark.parametrize("backbone", ["llava15_7b", "ixc25_7b"])
def test_losses_are_those_of_the_papers(backbone: str, composed: Callable[..., DictConfig]) -> None:
    wanted = {
        "mia_dpo": (1.0, 0.1, 0.0),
        "aa_dpo_sft_attention": (0.0, 1.0, 0.9),
        "aa_dpo_dpo_attention": (1.0, 0.0, 0.9),
    }
    for paper, weights in wanted.items():
        loss = composed("train", f"experiment={paper}_{backbone}", "data.path=x").loss
        assert (loss.alpha, loss.gamma, loss.attention.weight) == weights
        assert (loss.kind.beta, loss.attention.threshold, loss.attention.layers) == (0.1, 0.75, None)


def test_tokens_of_the_large_internlm_are_as_the_files_say() -> None:
    def tokens(size: tuple[int, int]) -> int:
        return plan_tiles(size, "inference", tile_budget("inference", 2), 560).num_tokens(20)

    # (tiles + 1) x 400, a separator a line and one between the views
    assert tokens((640, 480)) == 2061 == (2 * 2 + 1) * 400 + 1 + 3 * 20
    assert 5 * tokens((1280, 720)) == 14305 < 16384
    assert 2 * tokens((640, 480)) > 4096
