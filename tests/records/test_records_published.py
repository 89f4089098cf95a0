import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lookright.common.path_map import PathMap
from lookright.errors import LookRightError
from lookright.records.readers import RecordSet, load_preferences, load_prompts
from lookright.records.records import write_jsonl
from lookright.types import Preference
from tests.published import GRID, OLD, blobs, pair, write_published


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
    assert (found.format, found.target, found.num_sources) == ("grid_collage", 4, 6)
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
    assert (single.prompt, single.ground_truth, single.format) == ("What?\n<image>", "A dog.", "single_image")
    assert (single.target, single.regions[0].box) == (0, (0, 0, 20, 10))
    assert (sequence.format, sequence.target) == ("sequence", 1)
    assert loaded.dropped == {"placeholders": 1, "no_image": 1}
    with pytest.raises(LookRightError, match="is a prompt, not a preference"):
        load_preferences(tmp_path / "llava.json")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published"))


def test_the_published_pairs_as_they_are(pairs: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    loaded = load_preferences(pairs, path_map=PathMap({OLD: "new"}))
    records = loaded.records
    assert len(records) == 32 and loaded.dropped == {}
    counts = Counter((record.format, record.num_sources) for record in records)
    assert counts == {
        **{("grid_collage", count): 2 for count in GRID},
        **{("sequence", count): 3 for count in range(2, 6)},
        ("pic_in_pic", 2): 6,
        ("single_image", 1): 4,
    }
    assert all(record.target is not None and record.provenance["geometry"] == "inferred" for record in records)
    assert all(name.startswith("new/") for record in records for name in record.images)
    told = [record.message for record in caplog.records if str(pairs) in record.message]
    assert len(told) == 2 and "10 grid_collage, 6 pic_in_pic, 12 sequence, 4 single_image; 0 of them" in told[0]
    # 12 different ids
    assert "20 records have an id that came before" in told[1]


def test_regions_of_a_published_collage(pairs: Path) -> None:
    """Saved as JPEG: pictures of 320 x 448 and 448 x 300 at the top left of their cells."""
    record = load_preferences(pairs, path_map=PathMap({OLD: "new"})).records[0]
    first, second = (region.box for region in record.regions)
    assert first == pytest.approx((0, 40, 320, 488), abs=4) and second == pytest.approx((488, 40, 936, 340), abs=4)


def test_repeated_ids_are_told_apart_by_their_place(pairs: Path) -> None:
    records = load_preferences(pairs, path_map=PathMap({OLD: "new"})).records
    ids = [record.id for record in records]
    assert len(set(ids)) == 32
    # collages 2 2 3 3 4 4 6 6 9 9, sequences 2_77 three times and so on, insets 0 0 1 1 2 2
    assert ids[:4] == ["2", "2#2", "3", "3#2"] and ids[10:13] == ["2_77", "2_77#2", "2_77#3"]
    assert ids[22:] == ["0", "0#2", "1", "1#2", "2#3", "2#4", "single", "single#2", "single#3", "single#4"]
    assert records[1].provenance["original_id"] == "2" and "original_id" not in records[0].provenance


def test_ids_do_not_depend_on_what_is_left_out(tmp_path: Path) -> None:
    rows = [pair(7, "p.png", "<image>What?", chosen=chosen) for chosen in ("a", "", "c")]
    blobs((9, 9), 0).save(tmp_path / "p.png")
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    loaded = load_preferences(tmp_path / "pairs.json", on_bad_record="skip")
    assert [record.id for record in loaded.records] == ["7", "7#3"] and loaded.dropped == {"empty_answer": 1}


@pytest.mark.parametrize(
    ("prompt", "count", "wanted", "how"),
    [
        ("<image-placeholder>\nIn Image1, what?", 1, "<image>\nIn Image1, what?", "renamed"),
        (
            "Image1:<image-placeholder>Image2:<image>In Image1, what?",
            2,
            "Image1:<image>Image2:<image>In Image1, what?",
            "renamed",
        ),
        ("What is it?", 1, "<image>\nWhat is it?", "placed"),
        ("What is it?\n<image>", 1, "What is it?\n<image>", None),
    ],
)
def test_placeholders_of_published_prompts(
    tmp_path: Path, prompt: str, count: int, wanted: str, how: str | None
) -> None:
    found = load_one(tmp_path, prompt, [(20, 10)] * count)
    assert found.prompt == wanted and found.provenance.get("placeholders") == how


def test_several_pictures_without_placeholders_are_an_error(tmp_path: Path) -> None:
    """Where they belong is not known."""
    with pytest.raises(LookRightError, match=r"2 pictures but 0 <image>.*\[placeholders\]"):
        load_one(tmp_path, "In Image2, what?", [(20, 10)] * 2)


def test_paths_into_a_folder_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "records").mkdir()
    blobs((9, 9), 0).save(tmp_path / "far" / "p.png")
    blobs((9, 9), 0).save(tmp_path / "secret.png")
    moved = {"/mnt/old": str(tmp_path / "far")}

    def load(name: str) -> RecordSet:
        (tmp_path / "records" / "pairs.json").write_text(json.dumps([pair(1, name, "<image>What?")]))
        return load_preferences(tmp_path / "records" / "pairs.json", path_map=PathMap(moved))

    loaded = load("/mnt/old/p.png")
    assert loaded.pictures.open(loaded.records[0].images[0]).size == (9, 9)
    for name in (
        "/mnt/old/../secret.png",
        str(tmp_path / "secret.png"),
        str(tmp_path / "far" / "p.png"),
        "../secret.png",
    ):
        with pytest.raises(LookRightError, match=r"leaves .*\[path\]"):
            load(name)


def test_our_own_records_are_moved_too(tmp_path: Path) -> None:
    blobs((9, 9), 0).save(tmp_path / "p.png")
    record = Preference(id="r", images=["/mnt/old/p.png"], prompt="<image>What?", chosen="a", rejected=["b"])
    write_jsonl(tmp_path / "p.jsonl", [record])
    assert load_preferences(tmp_path / "p.jsonl", path_map=PathMap({"/mnt/old": "."})).records[0].images == ["p.png"]


def test_questions_of_aa_dpo(tmp_path: Path) -> None:
    for number in range(2):
        blobs((20, 10 + number), number).save(tmp_path / f"{number}.png")
    both, url = ["0.png", "1.png"], {"image_url": "http://example.org/0.png"}
    rows = [
        {"id": 1, "image": both, "prompt": "Image1:<image>\nImage2:<image>\nIn Image2, what?", "answer": "red"} | url,
        {"id": 1, "image": both, "prompt": "<image-placeholder><image-placeholder>\nWhat differs?", "answer": "no"}
        | url,
        {"id": 2, "image": "0.png", "prompt": "What is it?", "answer": "a dog"} | url,
    ]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    named, unnamed, single = load_prompts(tmp_path / "test.json").records
    assert (named.id, named.format, named.target, named.regions[1].box) == ("1", "sequence", 1, (0, 0, 20, 11))
    assert (unnamed.id, unnamed.format, unnamed.target, unnamed.regions) == ("1#2", "sequence", None, None)
    assert (unnamed.num_sources, unnamed.ground_truth) == (2, "no")
    assert (single.prompt, single.format, single.target) == ("<image>\nWhat is it?", "single_image", 0)


def test_further_turns_of_a_llava_question_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    blobs((9, 9), 0).save(tmp_path / "p.png")
    turn = [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "A dog."}]
    rows = [{"id": 1, "image": "p.png", "conversations": turn * count} for count in (1, 3, 2)]
    (tmp_path / "llava.json").write_text(json.dumps(rows))
    loaded = load_prompts(tmp_path / "llava.json")
    assert [record.id for record in loaded.records] == ["1", "1#2", "1#3"] and loaded.dropped == {"further_turns": 3}
    assert "3 further turns are left out" in caplog.text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"id": 1, "question": "x"},
            r"no form has the keys id, question; known are: pairs of this package \(id, images",
        ),
        ({"id": 1, "image": "p.png", "prompt": "<image>x", "answer": "y"}, "are prompts, not pairs"),
        ({"id": [1], "image": "p.png", "prompt": "<image>x", "chosen": "y", "rejected": "z"}, r"id=\[1\] is list"),
        (["id"], "a record is a json object, found list"),
    ],
)
def test_unknown_forms_are_told_with_the_known_ones(tmp_path: Path, data: Any, message: str) -> None:
    (tmp_path / "p.json").write_text(json.dumps([data]))
    with pytest.raises(LookRightError, match=message):
        load_preferences(tmp_path / "p.json")


def test_pairs_are_no_questions(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps([pair(1, "p.png", "<image>x")]))
    with pytest.raises(LookRightError, match=r"pairs of MIA-DPO and AA-DPO .* are pairs to train on"):
        load_prompts(tmp_path / "p.json")
