"""`infer.py` as a function: predictions, metrics against a count by hand, heat maps, resume, what it refuses."""

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from lookright.backbones.llava import LlavaBackbone
from lookright.commands.infer import infer
from lookright.common.jsonl import AppendOnly
from lookright.config.made_by import read_made_by
from lookright.errors import ConfigError, LookRightError, Stopped
from lookright.evaluation.accuracy import chance
from lookright.records.records import read_prompts, write_jsonl
from lookright.reports.compared_examples import compared_examples, draw_evenly
from lookright.reports.comparison import write_comparison
from lookright.tuning.lora import LoraTuning
from lookright.types import Prompt, Region

Run = Callable[..., dict[str, Any]]
FORMATS = ("sequence", "grid_collage", "pic_in_pic", "single_image")


def question(folder: Path, number: int) -> Prompt:
    """Formats in turn; pictures of noise."""
    name = FORMATS[number % 4]
    count = {"sequence": 2 + number % 3, "single_image": 1}.get(name, 2)
    size = {"sequence": (20, 16), "single_image": (16, 16)}.get(name, (40, 16))
    names = [f"images/{number}_{place}.png" for place in range(count if name == "sequence" else 1)]
    for index, file in enumerate(names):
        data = random.Random(f"{number}/{index}").randbytes(size[0] * size[1] * 3)
        Image.frombytes("RGB", size, data).save(folder / file)
    if name == "sequence":
        regions = [Region(picture=place, box=(0, 0, *size), source=f"{place}") for place in range(count)]
    else:
        width = size[0] / count
        regions = [Region(picture=0, box=(width * k, 0, width * (k + 1), 16), source=f"{k}") for k in range(count)]
    lead = "".join(f"Image{place + 1}:<image>\n" for place in range(len(names))) if name == "sequence" else "<image>\n"
    return Prompt(
        id=f"q{number}",
        images=names,
        prompt=f"{lead}In Image1, what color is the shape?",
        ground_truth="red",
        format=name,
        target=0,
        regions=regions,
        provenance={"source": "noise", "region_answers": ["red", *["blue"] * (count - 1)]},
    )


@pytest.fixture(scope="module")
def questions_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    (folder / "images").mkdir()
    write_jsonl(folder / "instructions.jsonl", [question(folder, number) for number in range(14)])
    return folder / "instructions.jsonl"


@pytest.fixture(scope="module")
def run(composed: Callable[..., DictConfig], llava_weights: Path, questions_file: Path) -> Run:
    """Run infer.py into a folder: run(folder, "decode=sample")."""

    def make(folder: Path, *overrides: str) -> dict[str, Any]:
        settings = [f"backbone.path={llava_weights}", "decode.max_new_tokens=3", "batch_size=4", "overlays=0"]
        given = [f"data.path={questions_file}", *settings, f"output={folder}", *overrides]
        return infer(composed("infer", *given))

    return make


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Greedy answers of the base model, with heat maps."""
    folder = tmp_path_factory.mktemp("plain")
    run(folder, "overlays=5")
    return folder


def test_metrics_against_a_count_by_hand(run: Run, plain: Path, questions_file: Path, tmp_path: Path) -> None:
    """Answers are set to what the model says, so that right and wrong are known."""
    said = {line["id"]: line["prediction"] for line in predictions(plain)}
    right, confused = {"q0", "q1", "q5", "q3", "q7", "q11"}, {"q4", "q2"}
    prompts = []
    for prompt in read_prompts(questions_file):
        answers = ["red"] + ["blue"] * (prompt.num_sources - 1)
        if prompt.id in right:
            answers[0] = said[prompt.id]
        elif prompt.id in confused:
            answers[1] = said[prompt.id]
        prompts.append(
            replace(prompt, ground_truth=answers[0], provenance=prompt.provenance | {"region_answers": answers})
        )
    shutil.copytree(questions_file.parent / "images", tmp_path / "images")
    write_jsonl(tmp_path / "known.jsonl", prompts)
    result = run(tmp_path / "out", f"data.path={tmp_path / 'known.jsonl'}")

    lines = predictions(tmp_path / "out")
    assert {line["id"] for line in lines if line["correct"]} == right
    assert {line["id"] for line in lines if line["error_kind"] == "sequence_confusion"} == confused
    # q0 q4 q8 q12; q1 q5 q9 q13; q2 q6 q10; q3 q7 q11
    accuracy = result["accuracy"]
    counts = {"sequence": (1, 4), "grid_collage": (2, 4), "pic_in_pic": (0, 3), "single_image": (3, 3)}
    for name, (hits, asked) in counts.items():
        assert accuracy[name]["value"] == pytest.approx(100 * hits / asked)
        assert accuracy[name]["num_questions"] == asked
    assert accuracy["multi_image"]["value"] == pytest.approx((25 + 50 + 0) / 3)
    # Wilson's interval at 95 %, E. B. Wilson, 1927, for 1 of 4
    z, share, number = 1.959964, 0.25, 4
    centre = (share + z * z / (2 * number)) / (1 + z * z / number)
    half = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number**2)) / (1 + z * z / number)
    assert accuracy["sequence"]["low"] == pytest.approx(100 * (centre - half), abs=1e-3)
    assert accuracy["sequence"]["high"] == pytest.approx(100 * (centre + half), abs=1e-3)
    ratios = [line["attention_ratio"] for line in lines if line["format"] == "grid_collage"]
    assert result["attention_ratio"]["grid_collage"]["value"] == pytest.approx(sum(ratios) / 4)
    # the only image gets all the attention; it is square, so no token shows padding
    assert result["attention_ratio"]["single_image"]["value"] == pytest.approx(1.0, abs=1e-6)
    assert result["errors"]["multi_image"]["num_wrong"] == 8
    assert result["errors"]["multi_image"]["sequence_confusion"]["value"] == pytest.approx(100 * 2 / 8)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == result
    # q0 q4 q8 q12 show 2, 3, 4 and 2 images (the model's answer to q4 is not red)
    assert [line["chance"] for line in lines if line["format"] == "sequence"] == [1 / 2, 1 / 3, 1 / 4, 1 / 2]
    assert accuracy["sequence"]["chance"] == pytest.approx(100 * (1 / 2 + 1 / 3 + 1 / 4 + 1 / 2) / 4)
    assert accuracy["single_image"]["chance"] is None
    assert {line["source"] for line in lines} == {"noise"}


def test_run_says_what_made_it(plain: Path, llava_weights: Path, questions_file: Path) -> None:
    record = read_made_by(plain)
    assert str(llava_weights) in record.model and record.data == str(questions_file)
    assert record.decoding == "Decoder, max_new_tokens=3, num_beams=1"


@pytest.mark.parametrize(
    ("answers", "wanted"), [(["red", "blue", "Red."], 2 / 3), (["red", None], None), (["red"], None)]
)
def test_chance_is_the_share_of_shown_images_with_the_answer(
    answers: list[str | None], wanted: float | None, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    assert chance(replace(question(tmp_path, 0), provenance={"region_answers": answers})) == wanted


def test_report_shows_pictures_with_heat(plain: Path) -> None:
    page = (plain / "report.html").read_text()
    assert page.count("<article") == 5 and page.count("data:image") >= 5


@pytest.mark.parametrize("decode", ["decode=greedy", "decode=sample", "decode=adaptive"])
def test_killed_run_goes_on_to_the_same_predictions(
    decode: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", decode)
    add, count = AppendOnly.add, []

    def dying(self: AppendOnly, line: dict[str, Any]) -> None:
        if len(count) == 6:
            self._file.write('{"id": "q6", "pre')
            self._file.flush()
            raise KeyboardInterrupt
        count.append(line)
        add(self, line)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="go on with"):
        patch.setattr(AppendOnly, "add", dying)
        run(tmp_path / "cut", decode)
    run(tmp_path / "cut", decode)
    for name in ("predictions.jsonl", "metrics.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    if decode == "decode=adaptive":
        assert all(line["factor"] in (0.7, 2.0) for line in predictions(tmp_path / "cut"))


def test_tuned_model_answers_with_its_adapter(
    run: Run,
    composed: Callable[..., DictConfig],
    llava_weights: Path,
    questions_file: Path,
    plain: Path,
    tmp_path: Path,
) -> None:
    backbone = LlavaBackbone(path=str(llava_weights))
    policy = LoraTuning(r=2).apply(backbone, backbone.build())
    torch.manual_seed(0)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    policy.save_pretrained(tmp_path / "run" / "adapter")
    OmegaConf.save(
        {"backbone": composed("infer", f"backbone.path={llava_weights}").backbone}, tmp_path / "run" / "config.yaml"
    )
    run(tmp_path / "adapter", f"adapter={tmp_path / 'run' / 'adapter'}")
    with_run = [f"run={tmp_path / 'run'}", f"data.path={questions_file}", "decode.max_new_tokens=3", "batch_size=4"]
    infer(composed("infer", *with_run, "overlays=0", f"output={tmp_path / 'with_run'}"))
    tuned = (tmp_path / "adapter" / "predictions.jsonl").read_bytes()
    assert tuned == (tmp_path / "with_run" / "predictions.jsonl").read_bytes()
    assert tuned != (plain / "predictions.jsonl").read_bytes()
    # a clock that was set says nothing
    weights = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    later = os.stat(tmp_path / "adapter" / "config.yaml").st_mtime + 5
    os.utime(weights, (later, later))
    run(tmp_path / "adapter", f"adapter={weights.parent}")
    # the same folder again after the adapter was trained on, with a clock that went back
    with torch.no_grad():
        next(one for name, one in policy.named_parameters() if "lora_B" in name).add_(1)
    policy.save_pretrained(weights.parent)
    os.utime(weights, (later - 3600, later - 3600))
    with pytest.raises(ConfigError, match=f"adapter: {weights.parent} is not what output={tmp_path / 'adapter'} was"):
        run(tmp_path / "adapter", f"adapter={weights.parent}")


def test_other_questions_under_the_ids_of_answered_ones_are_refused(
    composed: Callable[..., DictConfig], llava_weights: Path, tmp_path: Path
) -> None:
    """Their answers would be taken for answers to what is asked now."""
    (tmp_path / "images").mkdir()
    path = tmp_path / "questions.jsonl"
    asked = [question(tmp_path, number) for number in range(3)]
    given = [f"backbone.path={llava_weights}", f"data.path={path}", "decode.max_new_tokens=2", "overlays=0"]

    def answer() -> None:
        write_jsonl(path, asked)
        infer(composed("infer", *given, f"output={tmp_path / 'out'}"))

    answer()
    before = [(tmp_path / "out" / name).read_bytes() for name in ("made_by.json", "predictions.jsonl", "metrics.json")]
    asked[1] = replace(asked[1], ground_truth="something else")
    with pytest.raises(ConfigError, match=f"data.path: {path} is not what output=.*out was made of .*another output"):
        answer()
    after = [(tmp_path / "out" / name).read_bytes() for name in ("made_by.json", "predictions.jsonl", "metrics.json")]
    assert after == before
    asked[1] = question(tmp_path, 1)
    answer()


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["run=/nowhere"], ["run=/nowhere holds no config.yaml"]),
        (["run=/nowhere", "adapter=/other"], ["run=/nowhere and adapter=/other are both set"]),
        (["adapter=/other", "dtype=half", "ratio_layer=9"], ["adapter=/other", "dtype='half'", "ratio_layer=9"]),
        (["decode=adaptive", "decode.layers=[6]", "batch_size=0"], ["decode.layers=[6]: 6 is not a", "batch_size=0"]),
        (["data.path=/nowhere.jsonl"], ["data.path=/nowhere.jsonl: no such file"]),
        (["data.limit=0", "batch_size=0"], ["data.limit=0", "batch_size=0"]),
        (["backbone.max_length=20"], ["the limit is 20"]),
    ],
)
def test_what_cannot_run_is_refused_before_weights_load(
    overrides: list[str], wanted: list[str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlavaBackbone, "build", lambda self, **options: pytest.fail("weights were loaded"))
    with pytest.raises(LookRightError) as error:
        run(tmp_path, *overrides)
    for text in wanted:
        assert text in str(error.value)
    assert not (tmp_path / "predictions.jsonl").exists()


def test_another_config_in_the_same_folder_is_refused(run: Run, plain: Path) -> None:
    with pytest.raises(ConfigError, match=r"predictions of another config \(decode differ\)"):
        run(plain, "decode.max_new_tokens=2")


def test_examples_are_drawn_evenly_over_outcomes(questions_file: Path) -> None:
    """Of 30 gained, 3 lost and 2 both wrong, all formats alike: as many of each as there are, by a hash of the id."""
    prompts = [replace(question(questions_file.parent, 0), id=f"x{number}") for number in range(35)]
    single = replace(question(questions_file.parent, 3), id="single")
    before = {prompt.id: {"correct": 30 <= number < 33} for number, prompt in enumerate([*prompts, single])}
    after = {prompt.id: {"correct": number < 30} for number, prompt in enumerate([*prompts, single])}
    drawn = [
        prompt.id for _, prompt in draw_evenly([(None, prompt) for prompt in [*prompts, single]], before, after, 9)
    ]
    numbers = [int(name[1:]) for name in drawn]
    assert sum(number < 30 for number in numbers) == 4 and {30, 31, 32, 33, 34} <= set(numbers)
    again = draw_evenly([(None, prompt) for prompt in [single, *prompts[::-1]]], before, after, 9)
    assert [prompt.id for _, prompt in again] == drawn


def test_compared_examples_show_all_runs_and_where_two_look(run: Run, plain: Path, tmp_path: Path) -> None:
    run(tmp_path / "sampled", "decode=sample", "decode.sampling.temperature=5.0")
    runs = {"base": plain, "again": plain, "sampled": tmp_path / "sampled"}
    lines = {line["id"]: line for line in predictions(tmp_path / "sampled")}
    examples = compared_examples(runs, "base", "sampled", num_examples=4)
    assert len(examples) == 4 and all(example.prompt.num_sources > 1 for example in examples)
    for example in examples:
        assert list(example.answers) == ["base", "again", "sampled"] and example.outcome == "both wrong"
        assert example.answers["sampled"].text == lines[example.prompt.id]["prediction"]
        heat = example.answers["sampled"].heat
        assert len(heat) == len(example.prompt.images) and example.answers["again"].heat is None
        # shares of what the answer's rows give to all tokens
        assert 0 < sum(weight for values in heat for _, weight in values) < 1
    page = tmp_path / "comparison.html"
    write_comparison(page, runs, "base", examples=examples)
    assert page.read_text().count("sampled looks here") == 4
    with pytest.raises(ConfigError, match="tuned is none of the runs base, again, sampled"):
        compared_examples(runs, "base", "tuned")


def test_the_attention_ratio_means_the_same_with_every_decoder(run: Run, plain: Path, tmp_path: Path) -> None:
    """Scaling changes answers; where it does not, the ratio is that of the same plain pass over the same answer."""
    scaling = ["decode=adaptive", "decode.alpha_low=1.5", "decode.alpha_high=1.5"]
    result = run(tmp_path / "out", *scaling, "overlays=14")
    lines, greedy = predictions(tmp_path / "out"), predictions(plain)
    same = [(one, other) for one, other in zip(lines, greedy, strict=True) if one["prediction"] == other["prediction"]]
    assert len(same) >= 3
    for one, other in same:
        assert one["attention_ratio"] == pytest.approx(other["attention_ratio"], abs=1e-5)
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-5)
    several = [line for line in lines if line["num_images"] > 1]
    assert max(abs(line["scaled_ratio"] - line["attention_ratio"]) for line in several) > 1e-3
    for name in ("scaled_ratio", "confidence"):
        mean = sum(line[name] for line in several) / len(several)
        assert result[name]["multi_image"]["value"] == pytest.approx(mean)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("scaled ratio ") == page.count("factor 1.50") == 14 and "Scaled ratio</th>" in page
    assert all(line["scaled_ratio"] is None and line["factor"] == 1.0 for line in greedy)
    assert "Scaled ratio" not in (plain / "report.html").read_text()


def test_scaled_ratio_and_attention_ratio_are_of_one_layer(run: Run, tmp_path: Path) -> None:
    """Logits of factor 1 in the row of the first token alone are what a plain pass has in that row."""
    unscaled = ["decode=adaptive", "decode.alpha_low=1", "decode.alpha_high=1", "ratio_rows=first"]
    for layer in (1, 4):
        run(tmp_path / str(layer), *unscaled, f"ratio_layer={layer}")
        for line in predictions(tmp_path / str(layer)):
            assert line["scaled_ratio"] == pytest.approx(line["attention_ratio"], abs=1e-5)
    one, other = (predictions(tmp_path / str(layer)) for layer in (1, 4))
    assert max(abs(a["scaled_ratio"] - b["scaled_ratio"]) for a, b in zip(one, other, strict=True)) > 1e-3
