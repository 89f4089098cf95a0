"""A form of rows from outside the package: one class and one YAML, for questions and for pairs."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from lookright.commands.infer import infer
from lookright.config.entry import CONFIG_FOLDER
from lookright.errors import ConfigError, LookRightError
from lookright.evaluation.questions import Questions
from lookright.training.datamodule import PreferenceData

MODULE = '''
from lookright.errors import RecordError
from lookright.records.forms import Form, Row
from lookright.types import Preference, Prompt


class QuizPrompt(Form[Prompt]):
    """{"quiz": question, "solution": text, "image": path}."""

    title = "quizzes"
    keys = "quiz, solution, image"

    def matches(self, data):
        return "quiz" in data and "solution" in data

    def read(self, row: Row) -> Prompt:
        if not isinstance(row.data["quiz"], str):
            raise RecordError("malformed", "quiz is a text")
        return Prompt(
            id=row.id, images=row.images(), prompt=f"<image>\\n{row.data['quiz']}",
            ground_truth=row.data["solution"], format="quiz", target=None, regions=None,
        )


class QuizPair(Form[Preference]):
    title = "pairs of quizzes"
    keys = "quiz, good, bad, image"

    def matches(self, data):
        return {"quiz", "good", "bad"} <= data.keys()

    def read(self, row):
        data = row.data
        return Preference(
            id=row.id, images=row.images(), prompt=f"<image>\\n{data['quiz']}", chosen=data["good"],
            rejected=[data["bad"]], format="quiz",
        )
'''


@pytest.fixture()
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module, its YAML, three pictures, and rows about them."""
    folder = tmp_path / "outside"
    (folder / "conf" / "data" / "forms").mkdir(parents=True)
    (folder / "reader_from_outside.py").write_text(MODULE)
    (folder / "conf" / "data" / "forms" / "quiz.yaml").write_text("quiz:\n  _target_: reader_from_outside.QuizPrompt\n")
    monkeypatch.syspath_prepend(str(folder))
    rows = []
    for number, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (24, 16), colour).save(folder / f"{number}.png")
        rows.append({"quiz": "What color is it?", "solution": colour, "image": f"{number}.png"})
    write(folder / "quiz.jsonl", rows)
    write(folder / "pairs.jsonl", [row | {"good": row["solution"], "bad": "circle"} for row in rows])
    yield folder
    sys.modules.pop("reader_from_outside", None)


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_questions_of_a_form_in_a_search_path(llava_weights: Path, outside: Path, tmp_path: Path) -> None:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        config = compose(
            "infer",
            overrides=[
                f"hydra.searchpath=[{outside / 'conf'}]",
                "+data/forms=quiz",
                f"data.path={outside / 'quiz.jsonl'}",
                f"backbone.path={llava_weights}",
                "decode.max_new_tokens=2",
                "overlays=1",
                f"output={tmp_path / 'out'}",
            ],
        )
    result = infer(config)
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open()]
    assert [(line["id"], line["format"], line["ground_truth"]) for line in lines] == [
        ("0", "quiz", "red"),
        ("1", "quiz", "blue"),
        ("2", "quiz", "green"),
    ]
    assert result["accuracy"]["quiz"]["num_questions"] == 3
    assert "Quiz" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    "forms",
    [
        "+data.forms.mine={_target_: reader_from_outside.QuizPair}",
        "data.forms={mine: {_target_: reader_from_outside.QuizPair}}",
        "data.forms=[{_target_: reader_from_outside.QuizPair}]",
        None,
    ],
)
def test_pairs_of_a_form_on_the_command_line(
    forms: str | None, composed: Callable[..., DictConfig], outside: Path, llava: object
) -> None:
    given = [
        f"data.path={outside / 'pairs.jsonl'}",
        "data.val_fraction=0",
        *([] if forms is None else [forms]),
    ]
    data: PreferenceData = instantiate(composed("train", *given).data, _convert_="all")
    if forms is None:
        with pytest.raises(LookRightError, match="no form has the keys quiz, solution, image, good, bad"):
            data.prepare(llava, needs_target=False)
        return
    data.prepare(llava, needs_target=False)
    assert [record.chosen for record in data.train_set.records] == ["red", "blue", "green"]
    assert {record.rejected[0] for record in data.train_set.records} == {"circle"}


def test_a_list_of_forms_and_what_is_none(outside: Path, llava: object) -> None:
    from reader_from_outside import QuizPrompt

    questions = Questions(str(outside / "quiz.jsonl"), forms=[QuizPrompt()])
    questions.prepare(llava)
    ((_, prompts),) = questions.groups()
    assert [prompt.prompt for prompt in prompts] == ["<image>\nWhat color is it?"] * 3
    with pytest.raises(ConfigError, match="data.forms: 0 is a str, not a lookright.records.forms.Form"):
        Questions("x", forms=["QuizPrompt"])


def test_a_faulty_row_is_told_with_its_place(outside: Path, llava: object) -> None:
    from reader_from_outside import QuizPrompt

    write(outside / "bad.jsonl", [{"quiz": 3, "solution": "red", "image": "0.png"}])
    with pytest.raises(LookRightError, match=r"bad\.jsonl:1: quiz is a text \[malformed\]"):
        Questions(str(outside / "bad.jsonl"), forms={"quiz": QuizPrompt()}).prepare(llava)
