import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lookright.errors import ConfigError, LookRightError
from lookright.records.readers import load_preferences, load_prompts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of 20 x 10, a PNG and a JPEG, a BMP, and cut copies of all."""
    image = Image.effect_noise((20, 10), 50).convert("RGB")
    for name in ("one.png", "two.jpg", "three.bmp"):
        image.save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "text.png").write_text("not a picture")
    return tmp_path


def record(**keys: Any) -> dict[str, Any]:
    region = [{"picture": n, "box": [0, 0, 20, 10], "source": f"s/{n}"} for n in range(2)]
    return {
        "id": "r1",
        "images": ["one.png", "two.jpg"],
        "prompt": "Image1:<image>\nImage2:<image>\nIn Image1, what?",
        "chosen": "a dog",
        "rejected": "a cat",
        "format": "sequence",
        "target": 0,
        "regions": region,
    } | keys


def write(folder: Path, *records: Any) -> Path:
    path = folder / "preferences.jsonl"
    path.write_text("".join(f"{item if isinstance(item, str) else json.dumps(item)}\n" for item in records))
    return path


def box(*sides: float, picture: int = 1) -> list[dict[str, Any]]:
    return [record()["regions"][0], {"picture": picture, "box": list(sides), "source": "s"}]


BAD = [
    ("{", "json", "not valid json"),
    (record(choosen="x"), "malformed", "unknown key 'choosen'"),
    (record(history=[]), "malformed", "unknown key 'history'"),
    (record(id=""), "malformed", "the id is empty"),
    (record(prompt="<image>\nWhat?"), "placeholders", "2 pictures but 1 <image> in the prompt"),
    (record(prompt="What?"), "placeholders", "2 pictures but 0 <image>"),
    (record(prompt="<ImageHere><ImageHere> What?"), "placeholders", "the prompt holds <ImageHere>"),
    (record(prompt="<img><|image|>What?"), "placeholders", r"the prompt holds <img>, <\|image\|>"),
    (record(chosen="<image> a dog"), "placeholders", "an answer holds <image>"),
    (record(images=[], prompt="What?", regions=None, target=None), "no_image", "no picture"),
    (record(prompt="<image>\n<image>\n "), "empty_prompt", "holds no text"),
    (record(chosen=" "), "empty_answer", "chosen or rejected is empty"),
    (record(rejected=""), "empty_answer", "chosen or rejected is empty"),
    (record(rejected=[]), "empty_answer", "chosen or rejected is empty"),
    (record(rejected=["a cat", " a dog\n"]), "chosen_equals_rejected", "the same: 'a dog'"),
    (record(images=["one.png", "gone.png"]), "picture", r"cannot read the picture .*gone.png .*data.image_root"),
    (record(images=["one.png", "cut_one.png"]), "picture", "broken picture cut_one.png"),
    (record(images=["one.png", "cut_two.jpg"]), "picture", "broken picture cut_two.jpg"),
    (record(images=["one.png", "cut_three.bmp"]), "picture", "broken picture cut_three.bmp"),
    (record(images=["one.png", "text.png"]), "picture", "broken picture text.png of 13 bytes"),
    (record(images=["one.png", "../x.png"]), "path", "leaves"),
    (record(images=["one.png", "/etc/x.png"]), "path", "leaves"),
    (record(target=2), "target", "target=2 but the record has 2 regions"),
    (record(target=-1), "target", "target=-1"),
    (record(regions=None), "target", "target=0 but the record has 0 regions"),
    (record(regions=box(0, 0, 21, 10)), "region", r"regions\[1\] has the box \[0, 0, 21, 10\].* 20 x 10 pixels"),
    (record(regions=box(-1, 0, 20, 10)), "region", r"regions\[1\] has the box"),
    (record(regions=box(5, 2, 5, 9)), "region", r"regions\[1\] has the box"),
    (record(regions=box(0, 0, float("nan"), 10)), "json", "not valid json .NaN is no json number"),
    (record(regions=box(0, 0, 1, 1, picture=2)), "region", r"regions\[1\] lies on picture 2 of 2"),
]


@pytest.mark.parametrize(("bad", "reason", "message"), BAD)
def test_each_defect_is_named_and_counted(folder: Path, bad: Any, reason: str, message: str) -> None:
    path = write(folder, record(id="good"), bad)
    with pytest.raises(
        LookRightError, match=rf"(?s)1 of 2 records.*{path}:2.*{message}.*\[{reason}\].*on_bad_record=skip"
    ):
        load_preferences(path)
    loaded = load_preferences(path, on_bad_record="skip")
    assert [item.id for item in loaded.records] == ["good"]
    assert loaded.dropped == {reason: 1}


def test_a_good_record_comes_out_whole(folder: Path) -> None:
    loaded = load_preferences(write(folder, record()))
    assert loaded.records[0].rejected == ["a cat"]
    assert loaded.records[0].regions[1].box == (0, 0, 20, 10)
    assert loaded.dropped == {}
    assert loaded.pictures.size("two.jpg") == (20, 10)
    assert loaded.pictures.open("two.jpg").mode == "RGB"


def test_an_id_used_twice_is_told_with_both_places(folder: Path) -> None:
    path = write(folder, record(), record(chosen="other"))
    with pytest.raises(LookRightError, match=rf"{path}:2 \(id r1\): the id was already used at {path}:1"):
        load_preferences(path)
    loaded = load_preferences(path, on_bad_record="skip")
    assert [item.chosen for item in loaded.records] == ["a dog"]
    assert loaded.dropped == {"duplicate_id": 1}


def test_all_problems_at_once_but_twenty_at_most(folder: Path) -> None:
    path = write(folder, *(record(id=str(n), chosen="") for n in range(25)), record())
    with pytest.raises(LookRightError) as error:
        load_preferences(path)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("25 of 26 records")
    assert len(lines) == 1 + 20 + 1 + 1
    assert lines[21] == "... and 5 more"


def test_nothing_left_is_an_error_even_when_skipping(folder: Path) -> None:
    with pytest.raises(LookRightError, match="1 of 1 records cannot be used .none is left") as error:
        load_preferences(write(folder, record(chosen="")), on_bad_record="skip")
    assert "on_bad_record" not in str(error.value)


def test_wrong_files_and_choices_are_named(folder: Path) -> None:
    path = write(folder, record())
    with pytest.raises(ConfigError, match="data.on_bad_record='ignore': valid are error, skip"):
        load_preferences(path, on_bad_record="ignore")
    with pytest.raises(ConfigError, match=r"data.path=.*none.json: no such file"):
        load_preferences(folder / "none.json")
    with pytest.raises(ConfigError, match=r"one.png: not a .jsonl or .json file"):
        load_preferences(folder / "one.png")
    with pytest.raises(ConfigError, match="neither parquet files nor a saved dataset"):
        load_preferences(folder)
    with pytest.raises(ConfigError, match="data.image_root=.*nowhere: no such folder"):
        load_preferences(path, image_root=folder / "nowhere")
    with pytest.raises(ConfigError, match=r"data.path=.*\.jsonl: the file holds no record"):
        load_preferences(write(folder))


def test_paths_start_from_image_root(folder: Path) -> None:
    (folder / "sub").mkdir()
    path = write(folder / "sub", record())
    assert len(load_preferences(path, image_root=folder).records) == 1


def test_prompts_are_checked_alike(folder: Path) -> None:
    data = {key: value for key, value in record().items() if key not in ("chosen", "rejected")} | {"answer": "a dog"}
    path = write(folder, data, data | {"id": "r2", "answer": ""}, data | {"id": "r3", "target": 5})
    loaded = load_prompts(path, on_bad_record="skip")
    assert [item.ground_truth for item in loaded.records] == ["a dog"]
    assert loaded.dropped == {"empty_answer": 1, "target": 1}
