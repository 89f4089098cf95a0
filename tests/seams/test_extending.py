"""Every example of docs/extending.md is written to a folder and run, by the command that stands below it."""

import csv
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from lookright.commands.generate import generate
from lookright.commands.infer import infer
from lookright.commands.train import train
from lookright.common.answers import same_answer
from lookright.config.check import check_config
from lookright.config.entry import CONFIG_FOLDER
from lookright.errors import ConfigError
from lookright.records.records import write_jsonl
from lookright.reports.training import read_columns
from lookright.training.checkpoints import newest_whole
from lookright.types import Prompt, Region
from tests.seams.documented import COMMANDS, FILES, TEXT
from tests.seams.qwen_vl import __file__ as QWEN_FILE

NOT_FILTERED = ["filters.perplexity=null", "filters.length_ratio=null", "filters.edit_distance=null"]
Documented = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All files of the page, on Python's path."""
    folder = tmp_path_factory.mktemp("mine")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.fixture(scope="module")
def documented(mine: Path, composed: Callable[..., DictConfig]) -> Documented:
    """The config of the command of a section; further overrides take the place of its own."""
    del composed  # it registers the schemas

    def make(title: str, *overrides: str) -> DictConfig:
        command, given = COMMANDS[title]
        replaced = {override.split("=")[0] for override in overrides}
        kept = [override for override in given if override.split("=")[0] not in replaced]
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            search = f"hydra.searchpath=[file://{mine / 'conf'}]"
            return compose(command, overrides=[search, *kept, *overrides])

    return make


@pytest.fixture()
def one_step(small_run: list[str], tmp_path: Path) -> list[str]:
    return [*small_run, "data.val_fraction=0", "trainer.max_steps=1", f"output={tmp_path / 'run'}"]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory, llava_weights: Path) -> list[str]:
    """Overrides of infer.py about six pictures of one colour."""
    folder = tmp_path_factory.mktemp("questions")
    prompts = []
    for number in range(6):
        Image.new("RGB", (24, 20), ("red", "green", "blue")[number % 3]).save(folder / f"{number}.png")
        region = Region(picture=0, box=(0, 0, 24, 20), source=str(number))
        facts = {"images": [f"{number}.png"], "prompt": "<image>\nWhat color is it?", "format": "single_image"}
        prompts.append(Prompt(id=f"q{number}", ground_truth="red", target=0, regions=[region], **facts))
    write_jsonl(folder / "instructions.jsonl", prompts)
    return [
        f"data.path={folder / 'instructions.jsonl'}",
        f"backbone.path={llava_weights}",
        "decode.max_new_tokens=3",
        "overlays=0",
    ]


def first_values(run: Path) -> dict[str, float]:
    return {name: points[0][1] for name, points in read_columns(run / "metrics.csv").items()}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_the_table_names_every_section_and_classes_that_exist() -> None:
    sections = re.findall(r"^## (.+)$", TEXT, flags=re.MULTILINE)
    rows = re.findall(r"^\| \[[^\]]+\]\(#([a-z-]+)\) \| (.+?) \| (.+?) \|", TEXT, flags=re.MULTILINE)
    assert [anchor for anchor, *_ in rows] == [title.lower().replace(",", "").replace(" ", "-") for title in sections]
    assert list(COMMANDS) == sections
    for _, classes, folders in rows:
        module, _, name = re.findall(r"`((?:lookright|lightning|torch)\.[\w.]+)`", classes)[0].rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), type)
        for folder in re.findall(r"`([\w/]+)/`", folders):
            assert any(file.startswith(f"conf/{folder}/") for file in FILES), folder


@pytest.mark.parametrize("title", COMMANDS)
def test_a_command_composes_as_it_stands(title: str, documented: Documented) -> None:
    given = [] if any(override.startswith("output=") for override in COMMANDS[title][1]) else ["output=outputs/test"]
    check_config(documented(title, *given))


def test_a_loss_kind(documented: Documented, one_step: list[str], tmp_path: Path) -> None:
    train(documented("A loss kind", *one_step))
    # the policy starts as the reference: margin 0, so reach^2
    assert first_values(tmp_path / "run")["train/loss_squared_hinge"] == pytest.approx(4.0)


def test_a_loss_term(documented: Documented, one_step: list[str], tmp_path: Path) -> None:
    train(documented("A loss term", *one_step))
    found = first_values(tmp_path / "run")
    weights = {"dpo": 1.0, "sft": 0.1, "attention": 0.9, "early_look": 0.25}
    total = sum(weight * found[f"train/loss_{name}"] for name, weight in weights.items())
    assert found["train/loss"] == pytest.approx(total, rel=1e-5) and found["train/loss_early_look"] > 0


def test_a_format(documented: Documented, generating: list[str], tmp_path: Path) -> None:
    summary = generate(documented("A format", *generating, *NOT_FILTERED))
    prompts = lines_of(tmp_path / "out" / "instructions.jsonl")
    strips = [prompt for prompt in prompts if prompt["format"] == "film_strip"]
    assert 0 < len(strips) < len(prompts) == summary["answered"]
    assert all(prompt["regions"][2]["box"] == [0, 96, 48, 144] for prompt in strips)
    assert Image.open(tmp_path / "out" / strips[0]["images"][0]).size == (48, 144)


def test_a_source(documented: Documented, generating: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "quiz"
    folder.mkdir()
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "question", "answer"])
        for number in range(6):
            Image.new("RGB", (24, 20), ("red", "green", "blue")[number % 3]).save(folder / f"{number}.png")
            writer.writerow([f"{number}.png", "What color is it?", ("red", "green", "blue")[number % 3]])
    own = [override for override in generating if not override.startswith("source")]
    generate(documented("A source", *own, f"source.folder={folder}"))
    prompts = lines_of(tmp_path / "out" / "instructions.jsonl")
    assert len(prompts) == 12 and {prompt["provenance"]["source"] for prompt in prompts} == {"csv"}
    for prompt in prompts:
        shown = [int(region["source"].rpartition("/")[2]) for region in prompt["regions"]]
        assert prompt["ground_truth"] == ("red", "green", "blue")[shown[prompt["target"]] % 3]
    with pytest.raises(ConfigError, match=r"source\.folder=nowhere has no train\.csv"):
        generate(documented("A source", *own, "source.folder=nowhere"))


def test_a_companion_rule(documented: Documented, generating: list[str], tmp_path: Path) -> None:
    own = [override for override in generating if not override.startswith("companions")]
    generate(documented("A companion rule", *own))
    prompts = lines_of(tmp_path / "out" / "instructions.jsonl")
    assert prompts and {prompt["provenance"]["companions"] for prompt in prompts} == {"same_answer"}
    for prompt in prompts:
        answers = prompt["provenance"]["region_answers"]
        assert len(answers) > 1 and all(same_answer(answer, prompt["ground_truth"]) for answer in answers)
        assert len({region["source"].split("-")[0] for region in prompt["regions"]}) == len(answers)
    # three colours on twelve pictures: a prompt about five images finds three others of its colour
    skipped = [line for line in lines_of(tmp_path / "out" / "skipped.jsonl") if line["reason"] == "few_companions"]
    wanted = "fit the rule same_answer, .* needed; show fewer images"
    assert skipped and all(re.search(wanted, line["message"]) for line in skipped)


def test_a_decoder(documented: Documented, questions: list[str], tmp_path: Path) -> None:
    infer(documented("A decoder", *questions, "decode.forbidden=[]", f"output={tmp_path / 'any'}"))
    said = {line["prediction"] for line in lines_of(tmp_path / "any" / "predictions.jsonl")}
    infer(documented("A decoder", *questions, "decode=greedy", f"output={tmp_path / 'greedy'}"))
    assert said == {line["prediction"] for line in lines_of(tmp_path / "greedy" / "predictions.jsonl")}
    with pytest.raises(ConfigError, match="forbidden holds the end token"):
        infer(documented("A decoder", *questions, "decode.forbidden=[2]", f"output={tmp_path / 'end'}"))


def test_a_selection_rule_and_a_filter(documented: Documented, generating: list[str], tmp_path: Path) -> None:
    chosen = ["filters.length_ratio=null", "filters.edit_distance=null", "filters.wordy.maximum=1"]
    summary = generate(documented("A selection rule and a filter", *generating, *chosen))
    truth = {line["id"]: line["ground_truth"] for line in lines_of(tmp_path / "out" / "instructions.jsonl")}
    wrong = [
        line
        for line in lines_of(tmp_path / "out" / "answers.jsonl")
        if not same_answer(line["prediction"], truth[line["id"]])
    ]
    unsure = [line for line in wrong if line["perplexity"] > 1.5]
    short = {line["id"] for line in unsure if len(line["prediction"].split()) <= 1}
    assert {line["id"] for line in lines_of(tmp_path / "out" / "preferences.jsonl")} == short
    counts = [summary["dropped"].get(reason, 0) for reason in ("too_sure", "words")]
    assert counts == [len(wrong) - len(unsure), len(unsure) - len(short)] and sum(counts) > 0


def test_a_metric(documented: Documented, questions: list[str], tmp_path: Path) -> None:
    result = infer(documented("A metric", *questions, f"output={tmp_path / 'out'}"))
    lines = lines_of(tmp_path / "out" / "predictions.jsonl")
    assert [line["short"] for line in lines] == [len(line["prediction"]) <= 4 for line in lines]
    share = 100 * sum(line["short"] for line in lines) / len(lines)
    assert result["short"]["single_image"]["value"] == pytest.approx(share)
    assert "Short answers" in (tmp_path / "out" / "report.html").read_text()


def test_an_optimiser_and_a_schedule(documented: Documented, small_run: list[str], tmp_path: Path) -> None:
    own = [override for override in small_run if not override.startswith("optimizer.")]
    train(documented("An optimiser and a schedule", *own, "data.val_fraction=0", f"output={tmp_path / 'run'}"))
    # seven steps: one climbs, three of six are at the peak, and the last half goes down
    rates = [value for _, value in read_columns(tmp_path / "run" / "metrics.csv")["train/learning_rate"]]
    assert rates == pytest.approx([1e-3 * share for share in (1, 1, 1, 1, 1, 2 / 3, 1 / 3)])
    saved = torch.load(newest_whole(tmp_path / "run"), weights_only=True)
    assert {tuple(state) for state in saved["optimizer_states"][0]["state"].values()} == {("mean",)}
    with pytest.raises(ConfigError, match=r"optimizer\.beta does not exist; did you mean betas\?"):
        check_config(documented("An optimiser and a schedule", "+optimizer.beta=1", "output=x"))
    with pytest.raises(ConfigError, match=r"schedule\.warmup=1\.5; a share of the steps"):
        train(documented("An optimiser and a schedule", *own, "schedule.warmup=1.5", "output=x"))


def test_a_step_of_the_optimiser_by_hand(mine: Path) -> None:
    """Two steps of size 0.1 against the gradient's sign, though the second gradient is a thousandth of the first."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    optimizer = importlib.import_module("my_optimizers").Lion([weight], lr=0.1)
    for scale in (1.0, 1e-3):
        weight.grad = scale * torch.tensor([2.0, -3.0])
        optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.8, -0.8]))


def test_a_callback(documented: Documented, small_run: list[str], tmp_path: Path) -> None:
    train(documented("A callback", *small_run, f"output={tmp_path / 'run'}"))
    columns = read_columns(tmp_path / "run" / "metrics.csv")
    assert len(columns["train/grad_norm"]) == 6 and all(value > 0 for _, value in columns["train/grad_norm"])
    with pytest.raises(ConfigError, match=r"monitor='train/grad_nrom' is not measured; did you mean train/grad_norm\?"):
        wrong = "callbacks.early_stopping.monitor=train/grad_nrom"
        train(documented("A callback", *small_run, wrong, f"output={tmp_path / 'wrong'}"))


def test_a_reader(documented: Documented, one_step: list[str], tmp_path: Path) -> None:
    with (tmp_path / "quiz.jsonl").open("w") as file:
        for number, colour in enumerate(("red", "green", "blue")):
            Image.new("RGB", (24, 20), colour).save(tmp_path / f"{number}.png")
            row = {"quiz": "What color is it?", "good": colour, "bad": "circle", "image": f"{number}.png"}
            file.write(json.dumps(row) + "\n")
    summary = train(documented("A reader", *one_step, f"data.path={tmp_path / 'quiz.jsonl'}"))
    assert summary["examples"] == 3 and summary["steps"] == 1


def test_a_backbone(documented: Documented, one_step: list[str], qwen_folder: Path, tmp_path: Path) -> None:
    given = [override for override in one_step if not override.startswith("backbone.")]
    train(documented("A backbone", *given, f"backbone.path={qwen_folder}"))
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()


def test_the_backbone_is_the_one_that_the_contract_is_run_on() -> None:
    assert FILES["my_backbone.py"] == Path(QWEN_FILE).read_text(encoding="utf-8")


def test_a_misspelt_option_is_told(documented: Documented) -> None:
    with pytest.raises(ConfigError, match=r"loss\.kind\.raech does not exist; did you mean reach\?"):
        check_config(documented("A loss kind", "+loss.kind.raech=3", "output=x"))
