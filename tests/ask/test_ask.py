"""`python -m lookright.ask`: answers are those of `Model.ask`; what cannot be asked is told in a sentence, early."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image

import lookright
from lookright.ask.__main__ import question_of
from lookright.ask.command import ask
from lookright.backbones.llava import LlavaBackbone
from lookright.errors import ConfigError, LookRightError
from tests.examples import SIZES, noise

Compose = Callable[..., DictConfig]
QUESTION = "In Image2, what color is the shape?"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate(SIZES[:3]):
        noise(size, number).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(3)]


def images(files: Sequence[Path]) -> str:
    return f"images=[{','.join(map(str, files))}]"


def test_the_answer_is_that_of_python(
    composed: Compose, llava_weights: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = lookright.load("tiny_llava", path=llava_weights, decode=lookright.Decoder(max_new_tokens=4))
    reply = model.ask(files, QUESTION)
    config = composed("ask", f"backbone.path={llava_weights}", images(files), "decode.max_new_tokens=4")
    config.question, config.output, config.heat_side = QUESTION, str(tmp_path / "out"), 40
    told = ask(config)
    (answer,) = told["answers"]
    assert (answer["text"], answer["confidence"]) == (reply.text, reply.confidence)
    assert answer["attention_ratio"] == reply.attention_ratio == pytest.approx(answer["shares"][1], abs=2e-6)
    assert answer["shares"] == reply.shares().shares and told["even_shares"] == reply.shares().even
    assert told["target"] == 1 and sum(answer["shares"]) == pytest.approx(1, abs=1e-5)
    assert json.loads((tmp_path / "out" / "answer.json").read_text()) == told
    for name, wanted in zip(told["heat"][0], reply.heat_maps(40), strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / name)), np.asarray(wanted))
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == reply.text
    (row,) = [line for line in shown if line.startswith(">")]
    assert row.split() == [">", "2", str(files[1]), f"{answer['shares'][1]:.2f}", f"{told['even_shares'][1]:.2f}"]


def test_maps_of_an_earlier_question_do_not_stay_beside_the_answer(
    composed: Compose, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "my_heat_image1.png").touch()
    for count, several in ((3, []), (3, ["num_answers=2", "decode=sample"]), (1, [])):
        config = composed("ask", images(files[:count]), "decode.max_new_tokens=1", f"output={tmp_path}", *several)
        config.question = "In Image1, what?"
        told = ask(config)
        names = {name for own in told["heat"] for name in own}
        assert {path.name for path in tmp_path.iterdir()} == names | {"answer.json", "my_heat_image1.png"}


@pytest.mark.parametrize(
    ("question", "target"),
    [
        ("In Image2, what?", 1),
        ("In image 3, what?", 2),
        ("What color is the second picture?", 1),
        ("In the last image, what?", 2),
        ("What is in the 1st photo?", 0),
        ("Is the first picture the same as the second picture?", None),
        ("What is alike in all of them?", None),
        ("At first, what?", None),
    ],
)
def test_which_image_is_asked_about(composed: Compose, files: list[Path], question: str, target: int | None) -> None:
    config = composed("ask", images(files), "decode.max_new_tokens=1")
    config.question = question
    told = ask(config)
    assert told["target"] == target and (told["answers"][0]["attention_ratio"] is None) == (target is None)
    assert len(told["answers"][0]["shares"]) == 3
    config.target = 0
    assert ask(config)["target"] == 0


def test_several_answers_and_adaptive_decoding(
    composed: Compose, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["num_answers=3", "decode=sample", "decode.max_new_tokens=3", "format=json", f"output={tmp_path}"]
    config = composed("ask", images(files), *given, "decode.sampling.temperature=3")
    config.question = QUESTION
    told = ask(config)
    assert json.loads(capsys.readouterr().out) == told, "one line of json and nothing else"
    assert len(told["answers"]) == 3 and len({answer["perplexity"] for answer in told["answers"]}) > 1
    assert len(list(tmp_path.glob("answer*_heat_image*.png"))) == 9
    config = composed("ask", images(files), "decode=adaptive", "decode.max_new_tokens=3")
    config.question = QUESTION
    assert ask(config)["answers"][0]["factor"] in (0.7, 2.0)


def test_an_answer_without_words_is_told(
    composed: Compose, files: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LlavaBackbone, "decode", lambda self, ids: "")
    config = composed("ask", images(files), "decode.max_new_tokens=1")
    config.question = QUESTION
    assert ask(config)["answers"][0]["text"] == ""
    assert capsys.readouterr().out.startswith("(no words)\n\nconfidence ")


def test_a_question_is_an_argument_among_overrides() -> None:
    said = "Is 2 + 2=4, in Image2? {it's}, ${x}"
    assert question_of(["a=1", said, "--config-dir", "mine/conf", "+b.c=2", "~d"]) == (
        said,
        ["a=1", "--config-dir", "mine/conf", "+b.c=2", "~d"],
    )
    assert question_of([f"question={said}", "a=1"]) == (said, ["a=1"])
    assert question_of(["describe"]) == ("describe", [])
    with pytest.raises(ConfigError, match="2 questions: 'In', 'Image2'; put one into quotes"):
        question_of(["In", "Image2"])


def test_what_cannot_be_asked_is_told_before_weights_load(composed: Compose, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    cases = {
        "question is not set": ("", [images(files)]),
        "images is not set; set images=": (QUESTION, []),
        f"images\\[1\\]={tmp_path}/gone.png is no file": (QUESTION, [images([files[0], tmp_path / "gone.png"])]),
        "images=\\[\\]; set one path": (QUESTION, ["images=[]"]),
        "images\\[1\\].*broken picture of 10 bytes": (QUESTION, [images([files[0], tmp_path / "no.png"])]),
        "3 pictures but 2 <image> in the prompt": ("<image> <image> what?", [images(files)]),
        "target": ("In Image7, what?", [images(files)]),
        "format='xml'; valid: text, json": (QUESTION, [images(files), "format=xml"]),
        "num_answers=2, but without decode.sampling": (QUESTION, [images(files), "num_answers=2"]),
        "set backbone.max_length higher": (QUESTION, [images(files), "backbone.max_length=50"]),
        "decode.scope=target: record question has no target": (
            "what?",
            [images(files), "decode=adaptive", "decode.scope=target"],
        ),
        "adapter=.* holds no adapter_config.json": (QUESTION, [images(files), f"adapter={tmp_path}"]),
    }
    for message, (question, given) in cases.items():
        # of a folder without weights
        config = composed("ask", *given)
        config.question = question
        with pytest.raises(LookRightError, match=message):
            ask(config)


@pytest.mark.slow
def test_a_command_line(files: list[Path], tmp_path: Path) -> None:
    """Through Hydra, with a sentence that its grammar refuses; a fault is one sentence and needs no torch."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(*arguments: str, code: str = "import lookright.ask.__main__ as a; a.main()") -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment
        )

    done = run(images(files[:2]), "In Image2, what's {it}?", "format=json", "decode.max_new_tokens=2")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["question"] == "In Image2, what's {it}?"
    assert list(tmp_path.iterdir()) == [], "nothing is written"
    code = (
        "import sys, lookright.ask.__main__ as a\n"
        "try:\n    a.main()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    done = run("images=gone.png", "what?", code=code)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-2:]
    assert last == ["error: images[0]=gone.png is no file; set images to files that are there", "False"], "no torch"
    assert "Traceback" not in done.stderr
