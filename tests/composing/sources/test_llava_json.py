import json
from array import array
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lookright.composing.sources.llava_json import LlavaJson
from lookright.errors import ConfigError, RecordError


def row(question: Any = "<image>\nWhat is it?", answer: Any = "A dog.", **keys: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "x1", "image": "a/one.jpg", "conversations": turns} | keys


def write(folder: Path, rows: Any, name: str = "data.json") -> Path:
    (folder / "a").mkdir(exist_ok=True)
    Image.new("L", (12, 8), 77).save(folder / "a" / "one.jpg")
    path = folder / name
    path.write_text(json.dumps(rows))
    return path


def test_the_first_turn_without_its_placeholder(tmp_path: Path) -> None:
    more = [{"from": "human", "value": "And then?"}, {"from": "gpt", "value": "Nothing."}]
    rows = [row(), row("What is it?\n<image>", conversations=row()["conversations"] + more)]
    source = LlavaJson(write(tmp_path, rows), tmp_path)
    found = source.rows("train")
    assert [item.id for item in found] == ["llava_json/train/x1-0", "llava_json/train/x1-1"]
    assert {(item.question, item.answer, item.picture) for item in found} == {("What is it?", "A dog.", "a/one.jpg")}
    assert source.dropped == {"further_turns": 1}
    picture = source.open(found[0])
    assert (picture.size, picture.mode) == ((12, 8), "RGB")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"id": "t", "conversations": row()["conversations"]}, "no_image"),
        (row(image=["a.jpg", "b.jpg"]), "several_images"),
        (row("<image><image> Which?"), "several_images"),
        (row(image="/etc/passwd"), "path"),
        (row(image="a/../../b.jpg"), "path"),
        (row(image="..\\b.jpg"), "path"),
        (row(image="C:/b.jpg"), "path"),
        (row(conversations=[]), "malformed"),
        (row(conversations=row()["conversations"][::-1]), "malformed"),
        (row(answer=None), "malformed"),
        ("text", "malformed"),
        (row("<image>\n "), "empty"),
        (row(answer=" "), "empty"),
        (row(answer="a" * 512), "long_answer"),
    ],
)
def test_rows_that_cannot_be_used_are_counted(tmp_path: Path, bad: Any, reason: str) -> None:
    source = LlavaJson(write(tmp_path, [bad, row(answer="b" * 511)]), tmp_path)
    assert [item.answer for item in source.rows("train")] == ["b" * 511]
    assert source.dropped == {reason: 1}


def test_a_row_with_a_bounding_box_is_kept(tmp_path: Path) -> None:
    source = LlavaJson(write(tmp_path, [row(answer="[0.1, 0.2, 0.3, 0.4]")]), tmp_path)
    assert len(source.rows("train")) == 1


def test_held_out_pictures_fall_on_one_side(tmp_path: Path) -> None:
    """A share of 0.3 of 1,000 pictures within five deviations (72); both rows of a picture on one side."""
    rows = [row(id=str(n), image=f"a/{n % 1000}.jpg") for n in range(2000)]
    source = LlavaJson(write(tmp_path, rows), tmp_path, test_share=0.3)
    train, test = source.rows("train"), source.rows("test")
    assert len(train) + len(test) == 2000
    assert not {item.picture for item in train} & {item.picture for item in test}
    assert abs(len(test) / 2 - 300) < 72
    assert all(item.id.startswith("llava_json/test/") for item in test)


def test_an_explicit_test_file(tmp_path: Path) -> None:
    train = write(tmp_path, [row(), row()])
    test = write(tmp_path, [row(id=7)], "test.json")
    source = LlavaJson(train, tmp_path, test_json=test)
    assert [item.id for item in source.rows("test")] == ["llava_json/test/7-0"]
    assert len(source.rows("train")) == 2


def test_json_lines_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, [])
    lines = path.with_suffix(".jsonl")
    lines.write_text("\n".join(json.dumps(row(id=str(n))) for n in range(3)))
    assert len(LlavaJson(lines, tmp_path).rows("train")) == 3


def test_configuration_errors_name_key_and_path(tmp_path: Path) -> None:
    path = write(tmp_path, [row()])
    with pytest.raises(
        ConfigError, match=r"(?s)source.train_json=.*no.json: no such file.*source.image_folder=.*nowhere"
    ):
        LlavaJson(tmp_path / "no.json", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="source.test_share=1.5"):
        LlavaJson(path, tmp_path, test_share=1.5)
    with pytest.raises(ConfigError, match="not used where source.test_json"):
        LlavaJson(path, tmp_path, test_json=path, test_share=0.1)
    with pytest.raises(ConfigError, match="no test split: set source.test_json or source.test_share"):
        LlavaJson(path, tmp_path).rows("test")
    with pytest.raises(ConfigError, match="found a json dict"):
        LlavaJson(write(tmp_path, {}), tmp_path).rows("train")
    path.write_text("[{")
    with pytest.raises(ConfigError, match="not valid json"):
        LlavaJson(path, tmp_path).rows("train")


def test_a_missing_and_a_broken_picture_are_named(tmp_path: Path) -> None:
    source = LlavaJson(write(tmp_path, [row(image="a/two.jpg"), row()]), tmp_path)
    missing, broken = source.rows("train")
    with pytest.raises(RecordError, match=r"row llava_json/train/x1-0: cannot read the picture .*two.jpg"):
        source.open(missing)
    data = (tmp_path / "a" / "one.jpg").read_bytes()
    (tmp_path / "a" / "one.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(RecordError, match=r"one.jpg: broken picture of \d+ bytes") as error:
        source.open(broken)
    assert error.value.reason == "picture"


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_a_picture_of_16_bits_keeps_its_shades(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(exist_ok=True)
    name = f"a/deep.{suffix}"
    values = array("H", [0, 256, 32768, 65535])
    Image.frombytes("I;16", (4, 1), values.tobytes()).save(tmp_path / name)
    source = LlavaJson(write(tmp_path, [row(image=name)]), tmp_path)
    picture = source.open(source.rows("train")[0])
    assert [picture.getpixel((x, 0)) for x in range(4)] == [(shade,) * 3 for shade in (0, 1, 128, 255)]


BRIEFLY = "Answer the question using a single word or phrase."


def talk(*turns: tuple[str, str], **keys: Any) -> dict[str, Any]:
    said = [("human" if place == 0 else "gpt", text) for turn in turns for place, text in enumerate(turn)]
    return row(conversations=[{"from": role, "value": text} for role, text in said]) | keys


def file_of_llava() -> list[Any]:
    """A dozen rows as in LLaVA-665k: 8 with one picture, of which 5 have further turns, 12 in all."""
    first = ("<image>\nWhat is it?", "A dog.")
    return [
        talk(first, id="000000033471"),
        talk(first, ("What color is the sky?", "Blue."), ("Why is that?", "It is day."), id="000000033471"),
        talk((f"What is it?\n{BRIEFLY}\n<image>", "Dog"), ("What color is the sky?", "Blue"), id="VG_1_2"),
        talk(first, ("Where is the dog?", "b" * 600), ("Is the dog old?", "No"), image="ocr_vqa/images/1.gif", id=17),
        talk(first, ("And then?", "x"), ("What is he doing?", "x"), ("Is it raining?", "No"), id=17),
        talk(first, ("Is the dog old?", ""), ("What breed is the dog?", "Pug"), id="t"),
        talk(first, ("How many <image><image> dogs are there?", "1"), id="u"),
        talk(first, image="textvqa/train_images/gone.jpg", id="missing"),
        {"id": "wgByO4Y_0", "model": "", "conversations": talk(first)["conversations"]},
        talk(first, image=["a/one.jpg", "a/one.jpg"], id="several"),
        talk(("<image>", "x"), ("Is it raining?", "No"), id="empty"),
        {"id": "broken", "image": "a/one.jpg", "conversations": [{"from": "gpt", "value": "x"}]},
    ]


def test_the_first_turn_of_every_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source = LlavaJson(write(tmp_path, file_of_llava()), tmp_path)
    found = source.rows("train")
    keys = ["000000033471-0", "000000033471-1", "VG_1_2-2", "17-3", "17-4", "t-5", "u-6", "missing-7"]
    assert [item.id for item in found] == [f"llava_json/train/{key}" for key in keys]
    assert source.dropped == {"further_turns": 11, "no_image": 1, "several_images": 1, "empty": 1, "malformed": 1}
    assert "8 questions; left out: 1 empty, 11 further_turns" in caplog.text and "source.turns=all" in caplog.text


def test_all_turns_that_stand_alone(tmp_path: Path) -> None:
    source = LlavaJson(write(tmp_path, file_of_llava()), tmp_path, turns="all")
    later = [item for item in source.rows("train") if "-turn" in item.id]
    assert [(item.id.removeprefix("llava_json/train/"), item.question, item.answer) for item in later] == [
        ("000000033471-1-turn2", "What color is the sky?", "Blue."),
        ("VG_1_2-2-turn2", f"What color is the sky?\n{BRIEFLY}", "Blue"),
        ("17-3-turn3", "Is the dog old?", "No"),
        ("17-4-turn4", "Is it raining?", "No"),
        ("t-5-turn3", "What breed is the dog?", "Pug"),
    ]
    assert len({item.id for item in source.rows("train")}) == len(source.rows("train")) == 13
    # the first turn of a row without a question leaves no turn of it
    assert source.dropped == {
        "follow_up_turn": 3,
        "long_answer": 1,
        "empty": 2,
        "several_images": 2,
        "no_image": 1,
        "malformed": 1,
    }


def test_turns_of_a_row_fall_on_one_side(tmp_path: Path) -> None:
    rows = [talk(("What is it?", "x"), ("Is it raining?", "y"), image=f"a/{n}.jpg", id=n) for n in range(200)]
    source = LlavaJson(write(tmp_path, rows), tmp_path, test_share=0.3, turns="all")
    train, test = ({item.picture for item in source.rows(split)} for split in ("train", "test"))
    assert not train & test and len(source.rows("train")) + len(source.rows("test")) == 400


def test_unknown_turns_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="source.turns='last': valid are first, all"):
        LlavaJson(write(tmp_path, [row()]), tmp_path, turns="last")


def test_paths_from_another_machine_are_moved(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    Image.new("L", (5, 5), 7).save(tmp_path / "far" / "x.png")
    rows = [
        row(image="/mnt/old/one.jpg"),
        row(image="/mnt/far/x.png"),
        row(image="/mnt/far/../far/x.png"),
        row(image="/else/y.jpg"),
    ]
    moved = {"/mnt/old": "a", "/mnt/far": str(tmp_path / "far")}
    source = LlavaJson(write(tmp_path, rows), tmp_path, path_map=moved)
    assert [source.open(item).size for item in source.rows("train")] == [(12, 8), (5, 5)]
    assert source.dropped == {"path": 2}
    with pytest.raises(ConfigError, match="source.path_map: no image path begins with '/odd'"):
        LlavaJson(write(tmp_path, rows), tmp_path, path_map=moved | {"/odd": "a"}).rows("train")
