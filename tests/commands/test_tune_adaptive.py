"""`tune_adaptive.py` as a function: every arm against infer.py, the files it writes, a kill, what it refuses."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from lookright.answering.adaptive_grid import AdaptiveGrid, told_of_setting
from lookright.backbones.llava import LlavaBackbone
from lookright.commands.infer import infer
from lookright.commands.tune_adaptive import tune_adaptive
from lookright.common.jsonl import AppendOnly
from lookright.config.check import check_config
from lookright.config.entry import CONFIG_FOLDER
from lookright.config.made_by import read_made_by
from lookright.errors import LookRightError, Stopped
from lookright.records.records import read_prompts, write_jsonl
from lookright.types import Prompt
from tests.commands.test_infer import question
from tests.examples import lively_model

Run = Callable[..., dict[str, Any]]
GRID = [
    "grid.thresholds=[0.02,0.5]",
    "grid.alpha_low=[0.3,1.0]",
    "grid.alpha_high=[1.0,3.0]",
    "grid.layers=[null,[1,2]]",
    "grid.max_new_tokens=3",
]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def weights(llava: LlavaBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that looks at something, so that scaling changes what it says."""
    folder = tmp_path_factory.mktemp("weights")
    llava.save_pretrained(lively_model(llava, torch.float32), folder)
    return folder


@pytest.fixture(scope="module")
def questions_file(
    tmp_path_factory: pytest.TempPathFactory, composed: Callable[..., DictConfig], weights: Path
) -> Path:
    """Questions of a training split, some of whose answers are what the random model says."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "images").mkdir()
    prompts = [question(folder, number) for number in range(12)]
    write_jsonl(folder / "asked.jsonl", prompts)
    settings = [f"backbone.path={weights}", "decode.max_new_tokens=3", "batch_size=4", "overlays=0"]
    said = {}
    for name, decode in (("greedy", []), ("sharp", ["decode=adaptive", "decode.alpha_low=3", "decode.alpha_high=3"])):
        given = [*settings, *decode, f"data.path={folder / 'asked.jsonl'}", f"output={folder / name}"]
        infer(composed("infer", *given))
        said[name] = {line["id"]: line["prediction"] for line in lines_of(folder / name / "predictions.jsonl")}
    known = [
        replace(
            prompt,
            ground_truth=said["sharp" if number % 3 else "greedy"][prompt.id],
            provenance={"source": "noise", "split": "train", "source_picture": f"train/{number // 2}"},
        )
        for number, prompt in enumerate(prompts)
    ]
    write_jsonl(folder / "instructions.jsonl", known)
    return folder / "instructions.jsonl"


@pytest.fixture(scope="module")
def run(composed: Callable[..., DictConfig], weights: Path, questions_file: Path) -> Run:
    def make(folder: Path, *overrides: str) -> dict[str, Any]:
        given = [f"backbone.path={weights}", f"data.path={questions_file}", "batch_size=4", *GRID]
        return tune_adaptive(composed("tune_adaptive", *given, f"output={folder}", *overrides))

    return make


@pytest.fixture(scope="module")
def tuned(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    run(folder)
    return folder


def test_every_setting_is_what_infer_says(
    tuned: Path, composed: Callable[..., DictConfig], weights: Path, questions_file: Path, tmp_path: Path
) -> None:
    grid = OmegaConf.to_container(OmegaConf.load(tuned / "config.yaml").grid)
    grid.pop("_target_")
    built = AdaptiveGrid(**grid)
    lines = lines_of(tuned / "answers.jsonl")
    assert len(lines[0]["right"]) == 1 + len(built.arms)
    picked = [None, *built.settings[:: len(built.settings) // 5]]
    found = set()
    for number, setting in enumerate(picked):
        decode = ["decode=greedy"]
        if setting is not None:
            values = {key: "null" if value is None else value for key, value in setting.options().items()}
            decode = ["decode=adaptive", *(f"decode.{key}={value}" for key, value in values.items())]
        settings = [f"backbone.path={weights}", "decode.max_new_tokens=3", "batch_size=4", "overlays=0"]
        given = [*settings, *decode, f"data.path={questions_file}", f"output={tmp_path / str(number)}"]
        infer(composed("infer", *given))
        wanted = [line["correct"] for line in lines_of(tmp_path / str(number) / "predictions.jsonl")]
        right = [line["right"] for line in lines]
        if setting is None:
            assert [row[0] for row in right] == wanted
        else:
            assert told_of_setting(setting, built.arms, [line["confidence"] for line in lines], right) == wanted
        found.add(tuple(wanted))
    assert len(found) > 2, "all settings answer alike: nothing is proven"


def test_infer_takes_what_it_writes(tuned: Path, run: Run, tmp_path: Path) -> None:
    result = json.loads((tuned / "tuning.json").read_text())["all"]
    assert not result["helps"] and result["recommended"] == "decode=greedy", "6 questions confirm nothing at 5 %"
    best = result["best"]["setting"]
    for name, wanted in (("recommended_all", {}), ("best_all", best)):
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            search = f"hydra.searchpath=[file://{tuned}]"
            config = compose("infer", [search, f"decode={name}", "data.path=x.jsonl", f"output={tmp_path}"])
        check_config(config)
        found = OmegaConf.to_container(config.decode)
        assert {key: found[key] for key in wanted} == wanted and found["max_new_tokens"] == 3
        assert found["_target_"].endswith("AdaptiveDecoder" if wanted else "decoder.Decoder")
    assert "greedy decoding is best" in (tuned / "decode" / "recommended_all.yaml").read_text()
    # the confirming half is asked to say more than noise, or may say anything
    lenient = run(tmp_path / "lenient", "significance=1.0")["all"]
    (greedy, *others), chosen = lenient["trials"], lenient["best"]
    assert chosen["choosing"] == max(trial["choosing"] for trial in others) > greedy["choosing"]
    confirmed = chosen["confirmed"]
    assert lenient["helps"] == (confirmed["gained"] > confirmed["lost"] and confirmed["p_value"] < 1)


def test_a_scope_that_is_told_the_target_is_chosen_by_itself(tuned: Path) -> None:
    """One that knows more must not be held against one that does not: both write what they found."""
    result = json.loads((tuned / "tuning.json").read_text())
    for scope in ("all", "target"):
        scaled = [trial["setting"] for trial in result[scope]["trials"][1:]]
        assert {setting["scope"] for setting in scaled} == {scope}
        best = OmegaConf.load(tuned / "decode" / f"best_{scope}.yaml")
        assert best.scope == scope == result[scope]["best"]["setting"]["scope"]
    assert result["all"]["trials"][0] == result["target"]["trials"][0]
    page = (tuned / "tuning.md").read_text()
    assert "scope target: told which image is meant, which greedy decoding is not" in page


def test_killed_run_goes_on_to_the_same_answers(
    run: Run, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, count = AppendOnly.add, []

    def dying(self: AppendOnly, line: dict[str, Any]) -> None:
        if len(count) == 6:
            raise KeyboardInterrupt
        count.append(line)
        add(self, line)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="go on with"):
        patch.setattr(AppendOnly, "add", dying)
        run(tmp_path / "cut")
    run(tmp_path / "cut")
    for name in ("answers.jsonl", "tuning.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tuned / name).read_bytes()
    with pytest.raises(LookRightError, match="another config .grid differ."):
        run(tmp_path / "cut", "grid.alpha_low=[0.3]")


def test_answers_are_right_by_the_rule_of_infer(
    run: Run, composed: Callable[..., DictConfig], weights: Path, questions_file: Path, tmp_path: Path
) -> None:
    """Ground truths are now a part of what greedy decoding says: contained in it, and not equal to it."""
    said = {line["id"]: line["prediction"] for line in lines_of(questions_file.parent / "greedy" / "predictions.jsonl")}
    parts = [replace(one, ground_truth=said[one.id].split()[0]) for one in read_prompts(questions_file)]
    shutil.copytree(questions_file.parent / "images", tmp_path / "images")
    write_jsonl(tmp_path / "parts.jsonl", parts)
    given = [f"data.path={tmp_path / 'parts.jsonl'}", "grid.scopes=[all]"]
    plain = {}
    for rule in ("contained", "exact"):
        by_rule = [*given, f"metrics.accuracy.rules={{parts: {rule}}}"]
        result = run(tmp_path / rule, *by_rule)
        lines = lines_of(tmp_path / rule / "answers.jsonl")
        assert {line["rule"] for line in lines} == {rule}
        plain[rule] = [line["right"][0] for line in lines]
        settings = [f"backbone.path={weights}", "decode.max_new_tokens=3", "batch_size=4", "overlays=0"]
        output = tmp_path / f"infer_{rule}"
        infer(composed("infer", *settings, given[0], by_rule[-1], f"output={output}"))
        assert plain[rule] == [line["correct"] for line in lines_of(output / "predictions.jsonl")]
        assert result["matching"] == {"rule": "contained", "rules": {"parts": rule}}
        option = (tmp_path / rule / "decode" / "best_all.yaml").read_text()
        assert f"; {rule} in parts." in option and f"; {rule} in parts." in (tmp_path / rule / "tuning.md").read_text()
    assert sum(plain["contained"]) > sum(plain["exact"])
    with pytest.raises(LookRightError, match="another config .metrics differ."):
        run(tmp_path / "exact", *given)


def test_a_rule_that_gives_parts_has_scores(run: Run, questions_file: Path, tmp_path: Path) -> None:
    """Of ten annotators two give what greedy decoding says: 0.6, and right."""
    said = {line["id"]: line["prediction"] for line in lines_of(questions_file.parent / "greedy" / "predictions.jsonl")}
    rows = [json.loads(line) for line in questions_file.read_text().splitlines()]
    for row in rows:
        row["ground_truth"] = [said[row["id"]]] * 2 + [f"else{number}" for number in range(8)]
    shutil.copytree(questions_file.parent / "images", tmp_path / "images")
    (tmp_path / "annotated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"data.path={tmp_path / 'annotated.jsonl'}", "grid.scopes=[all]", "metrics.accuracy.rule=vqa"]
    result = run(tmp_path / "out", *given)
    lines = lines_of(tmp_path / "out" / "answers.jsonl")
    assert all(line["scores"][0] == pytest.approx(0.6) and line["right"][0] for line in lines)
    assert {len(line["scores"]) for line in lines} == {len(lines[0]["right"])}
    greedy = result["all"]["trials"][0]
    assert [greedy["choosing"], greedy["confirming"]] == pytest.approx([60.0, 60.0])


def as_test(prompt: Prompt) -> Prompt:
    return replace(prompt, provenance=prompt.provenance | {"split": "test"})


def test_test_questions_are_refused(
    run: Run, questions_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlavaBackbone, "build", lambda self, **options: pytest.fail("weights were loaded"))
    first, second, *others = read_prompts(questions_file)
    shutil.copytree(questions_file.parent / "images", tmp_path / "images")
    write_jsonl(tmp_path / "mixed.jsonl", [first, as_test(second), *others])
    with pytest.raises(LookRightError, match="1 of 12 questions are of a test split .q1 first.*split=train"):
        run(tmp_path / "out", f"data.path={tmp_path / 'mixed.jsonl'}")
    assert not (tmp_path / "out" / "answers.jsonl").exists()


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["grid.layers=[[6]]", "batch_size=0"], ["grid.layers=[6]: 6 is not a layer", "batch_size=0"]),
        (["grid.layers=[3]"], ["grid.layers: 3 is no list"]),
        (["grid.thresholds=[]"], ["grid.thresholds is empty"]),
        (["grid.thresholds=[1.5]"], ["grid.thresholds=1.5"]),
        (["grid.steps=[last]"], ["grid.steps='last'"]),
        (["significance=0"], ["significance=0.0"]),
        (["metrics.accuracy.rule=judge"], ["metrics.accuracy.rule=judge: a question has many answers here"]),
        (["metrics.accuracy.rules={easy_vqa: judge}"], ["metrics.accuracy.rules.easy_vqa=judge: "]),
        (["metrics.accuracy.rule=letter"], ["metrics.accuracy.rule='letter'; valid: contained"]),
        (["metrics.accuracy.rules={lettres: choice}"], ["metrics.accuracy.rules.lettres: no question is of such"]),
        (["grid.alpha=[1]"], ["grid.alpha does not exist; did you mean alpha_low?"]),
    ],
)
def test_what_cannot_run_is_refused_before_weights_load(
    overrides: list[str], wanted: list[str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlavaBackbone, "build", lambda self, **options: pytest.fail("weights were loaded"))
    overrides = [f"+{one}" if one.startswith("grid.alpha=") else one for one in overrides]
    with pytest.raises(LookRightError) as error:
        run(tmp_path, *overrides)
    for text in wanted:
        assert text in str(error.value)


def test_a_target_that_is_not_known_is_refused(
    run: Run, questions_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlavaBackbone, "build", lambda self, **options: pytest.fail("weights were loaded"))
    row = {"id": 7, "image": ["0_0.png", "0_1.png"], "prompt": "<image><image>\nWhich is red?", "answer": "one"}
    (tmp_path / "unknown.json").write_text(json.dumps([row]))
    given = [f"data.path={tmp_path / 'unknown.json'}", f"data.image_root={questions_file.parent / 'images'}"]
    with pytest.raises(LookRightError, match=r"grid.scopes=target: record 7 .*set grid.scopes=\[all\]"):
        run(tmp_path / "out", *given, "grid.scopes=[all,target]")


@pytest.mark.slow
def test_the_command_line_takes_and_tells_the_folder(
    tuned: Path, weights: Path, questions_file: Path, tmp_path: Path
) -> None:
    root = CONFIG_FOLDER.parent
    given = [f"backbone.path={weights}", f"data.path={questions_file}", "overlays=0", f"output={tmp_path / 'out'}"]
    command = [sys.executable, "infer.py", "--config-dir", str(tuned), "decode=best_all", *given]
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    best = json.loads((tuned / "tuning.json").read_text())["all"]["best"]["setting"]
    # asked about the very questions that the values were chosen on
    assert "12 of 12 questions (q0 first) are among those that the values of decode were chosen on" in done.stdout
    factors = {line["factor"] for line in lines_of(tmp_path / "out" / "predictions.jsonl")}
    assert factors and factors <= {best["alpha_low"], best["alpha_high"]}
    record = read_made_by(tmp_path / "out")
    assert record.command.startswith(f"python infer.py --config-dir {tuned} decode=best_all ")
    assert record.decoding.startswith("best_all, ") and f"threshold={best['threshold']}" in record.decoding
