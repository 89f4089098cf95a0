"""Several drawn answers to a prompt: what is written, that it depends on seed and id alone, and one row of it."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from lookright.answering.answerer import Answerer, answers_of
from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.loading import load_policy
from lookright.commands.generate_parts import GenerationParts
from lookright.common.answers import same_answer
from lookright.errors import ConfigError, RecordError
from lookright.packing.encode import encode_question
from lookright.records.pictures import PictureFolder
from lookright.records.readers import load_preferences
from lookright.records.records import read_prompts
from tests.commands.test_generate_resume import Killed, assert_same_files, kill_after

Run = Callable[..., Path]
NUM_ANSWERS = 4
SEVERAL = ["decode=sample", "decode.max_new_tokens=1", "decode.sampling.top_p=1", f"num_answers={NUM_ANSWERS}"]
# all but an empty answer
LENGTHS = ["filters.length_ratio.minimum=0.01", "filters.length_ratio.maximum=100", "filters.edit_distance=null"]
NAIVE = ["selection=none", *LENGTHS]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def several(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers of one token, of a small set: some are drawn twice."""
    return run(tmp_path_factory.mktemp("several"), *SEVERAL, "decode.sampling.temperature=0.5", *NAIVE)


@pytest.fixture(scope="module")
def again(run: Run) -> Run:
    def make(folder: Path, *overrides: str) -> Path:
        return run(folder, *SEVERAL, "decode.sampling.temperature=0.5", *NAIVE, *overrides)

    return make


def test_every_answer_is_written_with_its_own_numbers(several: Path) -> None:
    prompts, answers = lines(several / "instructions.jsonl"), lines(several / "answers.jsonl")
    assert [line["id"] for line in answers] == [prompt["id"] for prompt in prompts]
    for line in answers:
        assert len(line["answers"]) == NUM_ANSWERS and set(line) == {"id", "even_ratio", "confidence", "answers"}
        for one in line["answers"]:
            assert set(one) == {"prediction", "num_tokens", "attention_ratio", "perplexity"}
            assert one["perplexity"] >= 1 and 0 < one["attention_ratio"] < 1 and one["num_tokens"] == 1
            # of one token it is 1 / p, and no token is likelier than the confidence says
            assert one["perplexity"] >= (1 - 1e-4) / line["confidence"]


def test_numbers_are_those_of_each_answer_alone(
    composed: Callable[..., DictConfig], settings: list[str], several: Path
) -> None:
    """Against a pass over the prompt with one answer, as a run with one answer scores it."""
    parts = GenerationParts(
        composed("generate", *settings, *SEVERAL, "decode.max_new_tokens=5", "stage=answer", f"output={several}")
    )
    answerer = Answerer(
        backbone=parts.backbone,
        policy=load_policy(parts.backbone, None, parts.device, parts.dtype),
        decoder=parts.decoder,
        ratio_layer=parts.ratio_layer,
        batch_size=1,
    )
    pictures = PictureFolder(several)
    prompts = list(read_prompts(several / "instructions.jsonl"))[:4]
    found = list(answerer.several(prompts, pictures, NUM_ANSWERS))
    assert [item.prompt.id for items in found for item in items] == [p.id for p in prompts for _ in range(NUM_ANSWERS)]
    for prompt, items in zip(prompts, found, strict=True):
        question = encode_question(parts.backbone, prompt, pictures)
        for item in items:
            ((alone,),) = answerer._scored([prompt], [question], [[item.answer]])
            assert item.attention_ratio == pytest.approx(alone.attention_ratio, rel=1e-4)
            assert item.perplexity == pytest.approx(alone.perplexity, rel=1e-4)
        assert len({round(item.attention_ratio, 6) for item in items}) > 1


def test_one_row_a_prompt_with_each_different_wrong_answer(several: Path) -> None:
    prompts = {line["id"]: line for line in lines(several / "instructions.jsonl")}
    wanted: dict[str, list[dict[str, Any]]] = {}
    reasons: Counter[str] = Counter()
    for line in lines(several / "answers.jsonl"):
        taken: list[dict[str, Any]] = []
        for one in line["answers"]:
            if same_answer(one["prediction"], prompts[line["id"]]["ground_truth"]):
                reasons["same_answer"] += 1
            elif any(same_answer(one["prediction"], earlier["prediction"]) for earlier in taken):
                reasons["repeated_answer"] += 1
            else:
                taken.append(one)
        unsure = [one for one in taken if one["perplexity"] > 1.1]
        spoken = [one for one in unsure if one["prediction"].strip()]
        reasons["perplexity"] += len(taken) - len(unsure)
        reasons["length_ratio"] += len(unsure) - len(spoken)
        if spoken:
            wanted[line["id"]] = spoken
    rows = {line["id"]: line for line in lines(several / "preferences.jsonl")}
    assert list(rows) == list(wanted)
    for key, row in rows.items():
        texts = [one["prediction"] for one in wanted[key]]
        assert row["rejected"] == (texts[0] if len(texts) == 1 else texts)
        for name in ("attention_ratio", "perplexity"):
            values = [one[name] for one in wanted[key]]
            assert row["scores"][name] == (values[0] if len(values) == 1 else values)
    numbers = Counter(len(found) for found in wanted.values())
    assert len(numbers) > 1 and reasons["repeated_answer"] > 0, numbers
    counts = json.loads((several / "summary.json").read_text())
    assert counts["dropped"] == {reason: number for reason, number in sorted(reasons.items()) if number}
    assert (counts["prompts"], counts["preferences"]) == (len(prompts), len(rows))
    assert counts["answered"] == NUM_ANSWERS * len(prompts)
    assert counts["kept"] == sum(map(len, wanted.values())) == counts["answered"] - sum(counts["dropped"].values())


def test_training_reads_the_rows(several: Path) -> None:
    records = load_preferences(str(several / "preferences.jsonl")).records
    rows = lines(several / "preferences.jsonl")
    assert [record.rejected if len(record.rejected) > 1 else record.rejected[0] for record in records] == [
        row["rejected"] for row in rows
    ]
    assert [record.scores for record in records] == [row["scores"] for row in rows]


def test_page_counts_prompts_and_answers(several: Path) -> None:
    page = (several / "report.html").read_text()
    counts = json.loads((several / "summary.json").read_text())
    for number in (counts["prompts"], counts["answered"], counts["kept"]):
        assert f">{number}<" in page
    assert f"{100 * counts['preferences'] / counts['prompts']:.1f} %" in page
    assert "Repeated answer" in page and f"3 of {counts['answered']}, drawn" in page


def test_killed_run_goes_on(several: Path, again: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for num_lines in (25, 3):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, num_lines)
            again(tmp_path)
    again(tmp_path)
    assert_same_files(tmp_path, several)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_and_shards_change_no_byte(batch_size: int, several: Path, again: Run, tmp_path: Path) -> None:
    for index in (1, 0):
        again(tmp_path, f"batch_size={batch_size}", "shard.count=2", f"shard.index={index}")
    again(tmp_path, f"batch_size={batch_size}", "shard.count=2", "stage=select")
    assert_same_files(tmp_path, several)


def test_another_seed_draws_others(several: Path, again: Run, tmp_path: Path) -> None:
    again(tmp_path, "stage=compose")
    again(tmp_path, "stage=answer", "decode.sampling.seed=1")
    drawn = [
        [one["prediction"] for line in lines(folder / "answers.jsonl") for one in line["answers"]]
        for folder in (several, tmp_path)
    ]
    assert len(drawn[0]) == len(drawn[1]) and drawn[0] != drawn[1]
    assert json.loads((tmp_path / "summary.json").read_text())["answered"] == len(drawn[0])
    with pytest.raises(ConfigError, match="num_answers was 4, is 3"):
        again(tmp_path, "stage=answer", "decode.sampling.seed=1", "num_answers=3")


def test_random_draw_of_as_many_answers_as_the_rule_keeps(run: Run, several: Path, tmp_path: Path) -> None:
    for name in ("instructions.jsonl", "answers.jsonl", "skipped.jsonl", "config.yaml", "source.json"):
        (tmp_path / name).write_bytes((several / name).read_bytes())
    shutil.copytree(several / "images", tmp_path / "images")
    limits = "{sequence:0.25,grid_collage:0.25,pic_in_pic:0.25}"
    kept = []
    for rule in (
        ["selection=attention", f"selection.thresholds={limits}"],
        ["selection=random", f"+selection.match.thresholds={limits}"],
    ):
        run(tmp_path, *SEVERAL, "decode.sampling.temperature=0.5", *LENGTHS, "stage=select", *rule, "overwrite=true")
        counts = json.loads((tmp_path / "summary.json").read_text())
        kept.append([cell["kept"] for cell in counts["cells"]])
    assert kept[0] == kept[1] and 0 < sum(kept[0]) < counts["answered"]


def test_folders_of_earlier_versions_go_on(run: Run, unbroken: Path, tmp_path: Path) -> None:
    """Their config has no num_answers, and their lines hold one answer."""
    for name in ("instructions.jsonl", "answers.jsonl", "skipped.jsonl", "source.json"):
        (tmp_path / name).write_bytes((unbroken / name).read_bytes())
    shutil.copytree(unbroken / "images", tmp_path / "images")
    config = OmegaConf.load(unbroken / "config.yaml")
    del config["num_answers"]
    OmegaConf.save(config, tmp_path / "config.yaml")
    assert_same_files(run(tmp_path, "stage=select"), unbroken)


def test_one_line_is_its_own_answer() -> None:
    line = {"id": "a", "prediction": "red", "attention_ratio": 0.5}
    assert answers_of(line) == [line]
    assert answers_of({"id": "a", "even_ratio": 0.5, "answers": [{"prediction": "red"}, {"prediction": "blue"}]}) == [
        {"id": "a", "even_ratio": 0.5, "prediction": "red"},
        {"id": "a", "even_ratio": 0.5, "prediction": "blue"},
    ]
    # lines of earlier versions
    assert answers_of({"id": "a", "answer": "red"}) == [{"id": "a", "prediction": "red"}]


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["num_answers=2"], "num_answers=2, but without decode.sampling .* set decode=sample, or num_answers=1"),
        (["num_answers=2", "decode.num_beams=3"], "num_answers=2"),
        (["num_answers=2", "decode=adaptive"], "num_answers=2"),
        (["num_answers=0"], "num_answers=0; set 1 or more"),
    ],
)
def test_refused_before_weights_load(
    overrides: list[str], wanted: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlavaBackbone, "build", lambda self, **options: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError, match=wanted):
        run(tmp_path / "out", *overrides)
    assert not (tmp_path / "out").exists()


def test_confusion_needs_companions_before_weights_load(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single image has none."""
    with monkeypatch.context() as patch:
        patch.setattr(LlavaBackbone, "build", lambda self, **options: pytest.fail("weights were loaded"))
        alone = ["formats=[single_image]", "+selection.thresholds.single_image=1"]
        with pytest.raises(RecordError, match=r"prompt \S+: .* set companions=same_question") as error:
            run(tmp_path / "error", "selection=confusion", *alone)
        assert error.value.reason == "no_companion_answers"
    folder = run(tmp_path / "known", "selection=confusion", "num_prompts=4")
    counts = json.loads((folder / "summary.json").read_text())
    assert set(counts["dropped"]) <= {"same_answer", "attention_ratio", "no_confusion"} and counts["answered"] > 0
