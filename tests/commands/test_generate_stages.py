"""What the three stages write, and what they refuse before they begin."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from PIL import Image

from lookright.backbones.llava import LlavaBackbone
from lookright.commands.generate import generate
from lookright.common.answers import same_answer
from lookright.errors import ConfigError, LookRightError, RecordError
from lookright.selection.attention import THRESHOLDS

Run = Callable[..., Path]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture()
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading weights fails the test."""

    def refuse(self: LlavaBackbone, **options: Any) -> None:
        raise AssertionError(f"weights were loaded: {options}")

    monkeypatch.setattr(LlavaBackbone, "build", refuse)


def test_files_agree_with_each_other_and_with_the_summary(unbroken: Path) -> None:
    prompts = {line["id"]: line for line in lines(unbroken / "instructions.jsonl")}
    answers = {line["id"]: line for line in lines(unbroken / "answers.jsonl")}
    preferences = {line["id"]: line for line in lines(unbroken / "preferences.jsonl")}
    skipped = lines(unbroken / "skipped.jsonl")
    assert list(prompts) == list(answers) and len(prompts) + len(skipped) == 20
    assert {line["reason"] for line in skipped} == {"few_companions"}

    def selected(line: dict[str, Any]) -> bool:
        answer, count = answers[line["id"]], len(line["regions"])
        limit = THRESHOLDS[line["format"]]
        limit = limit if isinstance(limit, float) else limit[count]
        ratio = answer["attention_ratio"]
        below = ratio <= limit if line["format"] == "sequence" else ratio < limit
        num_words = len(answer["prediction"].split())
        return (
            not same_answer(line["ground_truth"], answer["prediction"])
            and below
            and answer["perplexity"] > 1.1
            and num_words > 0
            and 0.33 <= len(line["ground_truth"].split()) / num_words <= 3.0
        )

    # answers of random weights are far from any colour, so the edit distance drops none
    kept = [key for key, line in prompts.items() if selected(line)]
    assert list(preferences) == kept and len(kept) > 0
    for key, pair in preferences.items():
        assert (pair["chosen"], pair["rejected"]) == (prompts[key]["ground_truth"], answers[key]["prediction"])
        for shared in ("images", "prompt", "format", "target", "regions"):
            assert pair[shared] == prompts[key][shared]
        assert pair["provenance"].pop("answered_by") and pair["provenance"] == prompts[key]["provenance"]
        assert pair["scores"]["attention_ratio"] == answers[key]["attention_ratio"]
        assert set(pair["scores"]) == {"attention_ratio", "even_ratio", "perplexity", "length_ratio", "edit_distance"}
        assert pair["scores"]["even_ratio"] == answers[key]["even_ratio"]
        for name in pair["images"]:
            Image.open(unbroken / name).verify()

    counts = summary(unbroken)
    assert (counts["answered"], counts["kept"]) == (len(prompts), len(kept))
    assert counts["kept"] + sum(counts["dropped"].values()) == counts["answered"]
    assert counts["skipped"] == dict(Counter(line["reason"] for line in skipped))
    assert counts["source"] == {"name": "llava_json", "rows": 24, "left_out": {}}
    cells = Counter((line["format"], len(line["regions"])) for line in prompts.values())
    assert {(cell["format"], cell["num_images"]): cell["answered"] for cell in counts["cells"]} == cells
    assert (unbroken / "report.html").read_text().count("data:image") >= 3


def test_random_selection_keeps_as_many_in_every_cell(run: Run, unbroken: Path, tmp_path: Path) -> None:
    for name in ("instructions.jsonl", "answers.jsonl", "skipped.jsonl", "config.yaml", "source.json"):
        (tmp_path / name).write_bytes((unbroken / name).read_bytes())
    shutil.copytree(unbroken / "images", tmp_path / "images")
    run(tmp_path, "stage=select", "selection=random")
    kept = {(cell["format"], cell["num_images"]): cell["kept"] for cell in summary(unbroken)["cells"]}
    assert {(cell["format"], cell["num_images"]): cell["kept"] for cell in summary(tmp_path)["cells"]} == kept
    run(tmp_path, "stage=select", "selection=none", "overwrite=true")
    assert set(summary(tmp_path)["dropped"]) <= {"same_answer", "length_ratio", "perplexity", "edit_distance"}


def test_compose_alone_takes_single_images_and_no_model(run: Run, tmp_path: Path, no_weights: None) -> None:
    formats = "formats=[sequence,grid_collage,pic_in_pic,single_image]"
    run(tmp_path, "stage=compose", formats, "num_prompts={sequence:3,single_image:2}", "companions=random")
    assert [line["format"] for line in lines(tmp_path / "instructions.jsonl")] == ["sequence"] * 3 + [
        "single_image"
    ] * 2
    assert summary(tmp_path)["composed"] == 5


def test_what_no_prompt_can_be_made_of_is_counted(
    composed: Callable[..., DictConfig], tmp_path: Path, no_weights: None
) -> None:
    """Of 40 rows 4 have too long an answer; of 36 targets 5 hold a box and 10 lie in a folder of 3 pictures."""
    rows = []
    for number in range(40):
        name = f"large/{number}.png" if number < 30 else f"small/{number % 3}.png"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16)).save(tmp_path / name)
        answer = "long " * 103 if number < 4 else "at [0.1, 0.2, 0.3, 0.4]" if number < 9 else "red"
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": answer}]
        rows.append({"id": f"{number}", "image": name, "conversations": turns})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    generate(
        composed(
            "generate",
            "source=llava_json",
            f"source.train_json={tmp_path / 'rows.json'}",
            f"source.image_folder={tmp_path}",
            "stage=compose",
            "formats=[grid_collage]",
            "composers.grid_collage.mixture={4:1}",
            "companions.within=folder",
            "num_prompts=36",
            f"output={tmp_path / 'out'}",
        )
    )
    counts = summary(tmp_path / "out")
    assert counts["source"]["left_out"] == {"long_answer": 4}
    assert counts["skipped"] == {"bounding_box": 5, "few_companions": 10}
    assert counts["composed"] == 21
    reasons = Counter(line["message"].partition("; ")[2] for line in lines(tmp_path / "out" / "skipped.jsonl"))
    assert reasons["set companions.within=split or companions.shortfall=fill, or show fewer images"] == 10
    for line in lines(tmp_path / "out" / "instructions.jsonl"):
        assert Image.open(tmp_path / "out" / line["images"][0]).size == (936, 976)
        assert line["provenance"]["composer_version"] == 2


def test_noise_is_written_down(run: Run, tmp_path: Path) -> None:
    noise = "noise={_target_:lookright.answering.noise.TargetNoise,std:{grid_collage:225}}"
    run(tmp_path, noise, "num_prompts={grid_collage:2,sequence:1}", "companions=random", "selection=none")
    noted = [line.get("noise") for line in lines(tmp_path / "answers.jsonl")]
    assert noted == [{"std": 225, "part": "target"}] * 2 + [None]
    for line in lines(tmp_path / "preferences.jsonl"):
        assert ("noise" in line["provenance"]) == (line["format"] == "grid_collage")


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["formats=[sequence,single_image]"], ["selection.thresholds has no format 'single_image'"]),
        (
            ["~selection.thresholds.pic_in_pic", "device=gpu7", "dtype=float8", "+filters.edit_distance.maximum=1"],
            [
                "set selection.thresholds.pic_in_pic",
                "filters.edit_distance.maximum does not exist",
                "device='gpu7'",
                "dtype='float8'",
            ],
        ),
        (["formats=[sequence,collage]"], ["formats=['sequence', 'collage']", "grid_collage"]),
        (["num_prompts={collage:3}"], ["num_prompts.collage"]),
        (["num_prompts=0"], ["num_prompts=0"]),
        (["stage=chose"], ["stage='chose'; valid: all, compose, answer, select"]),
        (["ratio_layer=6"], ["ratio_layer=6; this model has layers 0 to 5"]),
        (["shard.index=2", "shard.count=2"], ["shard.index=2"]),
        (["companions.within=disk"], ["companions.within='disk' does not fit; set split, folder"]),
        (["companions.shortfall=0"], ["companions.shortfall=0 does not fit; set skip, fill"]),
        (["+companions.answers=other"], ["companions.answers does not exist; valid names: ", "shortfall, "]),
        (["on_bad_record=ignore"], ["on_bad_record='ignore': valid are error, skip"]),
        (["source.image_folder=/nowhere", "adapter=/nowhere"], ["source.image_folder=/nowhere", "adapter=/nowhere"]),
        (["batch_size=0"], ["batch_size=0"]),
        (["filters.edit_distance.minimum=7"], ["filters.edit_distance.minimum=7"]),
        (["stage=select"], ["stage=select", "answers.jsonl is not there; run stage=compose and stage=answer first"]),
    ],
)
def test_config_that_cannot_run_is_refused_at_once(
    overrides: list[str], wanted: list[str], run: Run, tmp_path: Path, no_weights: None
) -> None:
    with pytest.raises(ConfigError) as error:
        run(tmp_path / "out", *overrides)
    for text in wanted:
        assert text in str(error.value)
    assert not (tmp_path / "out" / "instructions.jsonl").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_broken_source_picture_is_named_or_counted(
    run: Run, source_folder: Path, tmp_path: Path, no_weights: None
) -> None:
    for number in range(12):
        data = (source_folder / "pictures" / f"{number}.png").read_bytes()
        (tmp_path / f"{number}.png").write_bytes(data[:40] if number == 3 else data)
    broken = [f"source.image_folder={tmp_path}", "stage=compose"]
    with pytest.raises(RecordError, match=r"3\.png: broken picture .* on_bad_record=skip"):
        run(tmp_path / "error", *broken)
    counts = summary(run(tmp_path / "skip", *broken, "on_bad_record=skip"))
    assert counts["skipped"]["picture"] > 0
    assert counts["composed"] + sum(counts["skipped"].values()) == 20
    # the same run in worker processes, which send their errors back
    other = run(tmp_path / "workers", *broken, "on_bad_record=skip", "num_workers=1")
    for name in ("instructions.jsonl", "skipped.jsonl", "summary.json"):
        assert (other / name).read_bytes() == (tmp_path / "skip" / name).read_bytes()


def test_prompt_over_the_budget_is_named_before_weights_load(
    run: Run, composed: Callable[..., DictConfig], settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # two pictures of 9 tokens fit, three or more do not
    short = ["backbone.max_length=75", "companions=random", "formats=[sequence]"]
    with monkeypatch.context() as patch:
        patch.setattr(LlavaBackbone, "build", lambda self, **options: pytest.fail("weights were loaded"))
        with pytest.raises(LookRightError, match=r"tokens .* the limit is 75.*") as error:
            run(tmp_path / "error", *short)
    assert "on_bad_record=skip" in str(error.value) and "data.on_bad_record" not in str(error.value)
    folder = run(tmp_path / "skip", *short, "on_bad_record=skip", "selection=none")
    counts = summary(folder)
    assert 0 < counts["skipped"]["too_long"] < 20
    assert counts["answered"] == 20 - counts["skipped"]["too_long"] == len(lines(folder / "answers.jsonl"))
    assert len(lines(folder / "instructions.jsonl")) == 20
    before = (folder / "skipped.jsonl").read_bytes()
    generate(composed("generate", *settings, *short, "on_bad_record=skip", "selection=none", f"output={folder}"))
    assert (folder / "skipped.jsonl").read_bytes() == before and summary(folder) == counts


def test_another_config_in_the_same_folder_is_refused(run: Run, tmp_path: Path) -> None:
    run(tmp_path, "stage=compose", "num_prompts=3")
    with pytest.raises(ConfigError, match="num_prompts was 3, is 4"):
        run(tmp_path, "stage=compose", "num_prompts=4")
    changes = ["companions.within=folder", "companions.shortfall=fill", "composers.grid_collage.mixture={3:1}"]
    with pytest.raises(ConfigError) as error:
        run(tmp_path, "stage=compose", "num_prompts=3", *changes)
    assert (
        "(composers.grid_collage.mixture was None, is {3: 1}; companions.within was split, is folder; "
        "companions.shortfall was skip, is fill)"
    ) in str(error.value)
    with pytest.raises(ConfigError, match=r"companions._target_ was \S+SameQuestionCompanions, is \S+RandomComp"):
        run(tmp_path, "stage=compose", "num_prompts=3", "companions=random")
    with pytest.raises(ConfigError, match="resume=false"):
        run(tmp_path, "stage=compose", "num_prompts=3", "resume=false")
