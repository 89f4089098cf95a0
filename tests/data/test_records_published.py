import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lookright.data.readers import load_preferences, load_prompts
from lookright.errors import LookRightError
from lookright.types import Preference


def load_one(folder: Path, text: str, sizes: list[tuple[int, int]], **keys: Any) -> Preference:
    names = [f"{n}.png" for n in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        Image.new("RGB", size).save(folder / name)
    data = {"id": 5, "image": names, "prompt": text, "chosen": "a", "rejected": "b", "extra": 1} | keys
    (folder / "mia.json").write_text(json.dumps([data]))
    return load_preferences(folder / "mia.json").records[0]


def test_several_pictures_are_a_sequence(tmp_path: Path) -> None:
    found = load_one(tmp_path, "Image1: <image>\nImage2: <image>\nIn Image2, what?", [(20, 10), (8, 30)])
    assert (found.id, found.format, found.target) == ("5", "sequence", 1)
    assert [(region.picture, region.box) for region in found.regions] == [(0, (0, 0, 20, 10)), (1, (0, 0, 8, 30))]
    assert found.provenance == {"geometry": "inferred"}


def test_one_picture_with_a_number_is_a_collage(tmp_path: Path) -> None:
    """1424 x 976 is the layout of six: the cell of Image5 starts at 488, 488 + 40."""
    found = load_one(tmp_path, "<image>\nIn Image5, what?", [(1424, 976)])
    assert (found.format, found.target, found.num_images) == ("grid_collage", 4, 6)
    assert found.regions[4].box == (488, 528, 936, 976)


def test_a_collage_of_another_size_has_no_geometry(tmp_path: Path) -> None:
    found = load_one(tmp_path, "<image>\nIn Image2, what?", [(1000, 500)])
    assert (found.format, found.target, found.regions) == ("grid_collage", None, None)


def test_one_picture_without_a_number_is_pic_in_pic(tmp_path: Path) -> None:
    found = load_one(tmp_path, "<image>\nAs for the subplot in the middle, what?", [(100, 50)], image="0.png")
    assert (found.format, found.target) == ("pic_in_pic", 1)
    assert [region.box for region in found.regions] == [(0, 0, 100, 50), (15, 7, 85, 42)]


def test_a_number_beyond_the_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LookRightError, match=r"record 0 \(id 5\): target=2 but the record has 2 regions"):
        load_one(tmp_path, "<image><image>In Image3, what?", [(20, 10), (8, 30)])


def test_what_was_inferred_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    load_one(tmp_path, "<image>\nIn Image2, what?", [(1000, 500)])
    load_one(tmp_path, "Image1: <image>\nImage2: <image>\nIn Image2, what?", [(20, 10), (8, 30)])
    collage, sequence = (record.message for record in caplog.records if "inferred" in record.message)
    assert "mia.json: 1 records name no format" in collage and "1 grid_collage; 1 of them without" in collage
    assert "1 sequence; 0 of them without a target region" in sequence


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompt": "<ImageHere>In Image1, what?"}, "the prompt holds <ImageHere>"),
        ({"chosen": None}, "prompt, chosen and rejected are texts"),
        ({"image": []}, r"no image \[no_image\]"),
        ({"image": [3]}, "neither a path nor a list of paths"),
        ({"image": ["/data/0.png"]}, r"leaves .* \[path\]"),
    ],
)
def test_defects_are_named(tmp_path: Path, keys: dict, message: str) -> None:
    with pytest.raises(LookRightError, match=message):
        load_one(tmp_path, "<image>In Image1, what?", [(20, 10)], **keys)


def test_llava_rows_are_prompts(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "A dog."}]
    several = [{"from": "human", "value": "<image><image>In Image2, what?"}, turns[1]]
    rows = [
        {"id": "x", "image": "a.png", "conversations": turns},
        {"id": "y", "image": ["a.png", "a.png"], "conversations": several},
        {"id": "z", "image": ["a.png", "a.png"], "conversations": [turns[0], turns[1]]},
        {"id": "w", "conversations": turns},
    ]
    (tmp_path / "llava.json").write_text(json.dumps(rows))
    loaded = load_prompts(tmp_path / "llava.json", on_bad_record="skip")
    single, sequence = loaded.records
    assert (single.prompt, single.answer, single.format) == ("What?\n<image>", "A dog.", "single_image")
    assert (single.target, single.regions[0].box) == (0, (0, 0, 20, 10))
    assert (sequence.format, sequence.target) == ("sequence", 1)
    assert loaded.dropped == {"placeholders": 1, "no_image": 1}
    with pytest.raises(LookRightError, match="is a prompt, not a preference"):
        load_preferences(tmp_path / "llava.json")
