"""Preference rows of TRL, ms-swift and LLaMA-Factory, each form as a file of a dozen rows."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

from lookright.errors import ConfigError, LookRightError
from lookright.records.readers import RecordSet, load_preferences
from lookright.types import Preference
from tests.published import blobs


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def spoken(role: str, value: str) -> dict[str, str]:
    return {"from": role, "value": value}


def user(content: Any) -> list[dict[str, Any]]:
    return [said("user", content)]


def told(content: Any) -> list[dict[str, Any]]:
    return [said("assistant", content)]


def encoded() -> bytes:
    file = io.BytesIO()
    blobs((6, 4), 3).save(file, "PNG")
    return file.getvalue()


BASE64 = base64.b64encode(encoded()).decode()
ONE, TWO = ["a.png"], ["a.png", "b.png"]
ASKED = "<image>\nWhat is it?"
BOTH = "Image1:<image>\nImage2:<image>\nIn Image2, what?"
PARTS = [{"type": "image"}, {"type": "text", "text": "What is it?"}]

TRL = [
    {"images": ONE, "prompt": ASKED, "chosen": "red", "rejected": "blue"},
    {"image": "a.png", "prompt": ASKED, "chosen": "red", "rejected": "blue"},
    {"images": ONE, "prompt": "What is it?", "chosen": "red", "rejected": "blue"},
    {"images": ONE, "prompt": user("What is it?"), "chosen": told("red"), "rejected": told("blue")},
    {"images": ONE, "prompt": user(PARTS), "chosen": told([{"type": "text", "text": "red"}]), "rejected": told("blue")},
    {"images": ONE, "chosen": user(ASKED) + told("red"), "rejected": user(ASKED) + told("blue")},
    {
        "images": ONE,
        "prompt": "What is it?",
        "chosen": user(ASKED) + told("red"),
        "rejected": user(ASKED) + told("blue"),
    },
    {"images": ONE, "prompt": [said("system", ""), *user(ASKED)], "chosen": told("red"), "rejected": told("blue")},
    {"images": [{"path": "a.png"}], "prompt": ASKED, "chosen": "red", "rejected": "blue"},
    {"images": [{"bytes": BASE64, "path": None}], "prompt": ASKED, "chosen": "red", "rejected": "blue"},
    {"images": [f"data:image/png;base64,{BASE64}"], "prompt": ASKED, "chosen": "red", "rejected": "blue"},
    {"id": "x", "images": ONE, "prompt": ASKED, "chosen": "red", "rejected": "blue", "score_chosen": 8.5},
]
SWIFT = [
    {"messages": user(ASKED) + told("red"), "rejected_response": "blue", "images": ONE},
    {"messages": user("What is it?") + told("red"), "rejected_response": "blue", "images": ONE},
    {"messages": [said("system", " "), *user(ASKED)] + told("red"), "rejected_response": "blue", "images": ONE},
    {"messages": user(ASKED) + told("red"), "rejected_response": ["blue"], "images": "a.png"},
    {"messages": user(ASKED) + told("red"), "rejected_messages": user(ASKED) + told("blue"), "images": ONE},
    {
        "messages": user(ASKED) + told("red"),
        "rejected_messages": user(ASKED) + told("blue"),
        "images": ONE,
        "rejected_images": ONE,
    },
    {"messages": user(PARTS) + told("red"), "rejected_response": "blue", "images": [{"bytes": BASE64}]},
]
ANSWERS = {"chosen": spoken("gpt", "red"), "rejected": spoken("gpt", "blue"), "images": ONE}
SHAREGPT = [
    {"conversations": [spoken("human", ASKED)]} | ANSWERS,
    {"conversations": [spoken("human", "What is it?")]} | ANSWERS,
    {"conversations": [spoken("system", ""), spoken("human", ASKED)]} | ANSWERS,
    {"conversations": user(ASKED), "chosen": told("red")[0], "rejected": told("blue")[0], "images": ONE, "system": ""},
]
ALPACA = [
    {"instruction": ASKED, "input": "", "chosen": "red", "rejected": "blue", "images": ONE},
    {
        "instruction": "<image>",
        "input": "What is it?",
        "chosen": "red",
        "rejected": "blue",
        "images": ONE,
        "history": [],
    },
    {"instruction": "What is it?", "chosen": "red", "rejected": "blue", "images": ONE, "system": None},
]


def load(folder: Path, rows: list[dict[str, Any]], name: str = "rows.json", **options: Any) -> RecordSet[Preference]:
    for number, picture in enumerate(TWO):
        blobs((20, 10 + number), number).save(folder / picture)
    lines = "\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows)
    (folder / name).write_text(lines)
    return load_preferences(folder / name, **options)


@pytest.mark.parametrize("rows", [TRL, SWIFT, SHAREGPT, ALPACA], ids=["trl", "swift", "sharegpt", "alpaca"])
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_all_rows_of_a_form_say_the_same(tmp_path: Path, rows: list[dict[str, Any]], suffix: str) -> None:
    loaded = load(tmp_path, rows, f"rows.{suffix}")
    assert len(loaded.records) == len(rows) and loaded.dropped == {}
    for record in loaded.records:
        assert (record.prompt, record.chosen, record.rejected) == (ASKED, "red", ["blue"])
        assert (record.format, record.target, record.provenance["geometry"]) == ("single_image", 0, "inferred")
        assert loaded.pictures.open(record.images[0]).size == loaded.pictures.size(record.images[0])


def test_embedded_pictures_are_those_of_the_row(tmp_path: Path) -> None:
    loaded = load(tmp_path, TRL)
    for number in (9, 10):
        (name,) = loaded.records[number].images
        assert name == f"#{number}/0" and loaded.pictures.size(name) == (6, 4)
        assert list(loaded.pictures.open(name).getdata()) == list(blobs((6, 4), 3).getdata())


def test_rows_without_an_id_are_named_by_their_place(tmp_path: Path) -> None:
    assert [record.id for record in load(tmp_path, TRL).records] == [*map(str, range(11)), "x"]


def test_several_rejected_answers(tmp_path: Path) -> None:
    rows = [
        {"messages": user(ASKED) + told("red"), "rejected_response": ["blue", "green"], "images": ONE},
        {"images": ONE, "prompt": ASKED, "chosen": "red", "rejected": ["blue", "green"]},
        {"images": ONE, "prompt": user(ASKED), "chosen": told("red"), "rejected": [told("blue"), told("green")]},
    ]
    assert [record.rejected for record in load(tmp_path, rows).records] == [["blue", "green"]] * 3


def test_the_named_image_is_the_target_in_every_form(tmp_path: Path) -> None:
    answers = {"chosen": "red", "rejected": "blue"}
    rows = [
        {"images": TWO, "prompt": BOTH} | answers,
        {"messages": user(BOTH) + told("red"), "rejected_response": "blue", "images": TWO},
        {"conversations": [spoken("human", BOTH)], "images": TWO}
        | {"chosen": spoken("gpt", "red"), "rejected": spoken("gpt", "blue")},
        {"instruction": BOTH, "images": TWO} | answers,
    ]
    for record in load(tmp_path, rows).records:
        assert (record.format, record.target) == ("sequence", 1)
        assert [region.box for region in record.regions] == [(0, 0, 20, 10), (0, 0, 20, 11)]


def test_several_pictures_of_which_none_is_named_have_no_geometry(tmp_path: Path) -> None:
    rows = [{"images": TWO, "prompt": user("What differs?"), "chosen": told("red"), "rejected": told("blue")}]
    record = load(tmp_path, rows).records[0]
    assert record.prompt == "<image>\n<image>\nWhat differs?"
    assert (record.format, record.target, record.regions) == (None, None, None)
    assert record.provenance == {"placeholders": "placed"}


TURNS = user("Hello") + told("Hi") + user(ASKED)
SPOKEN_TURNS = [spoken("human", "Hello"), spoken("gpt", "Hi"), spoken("human", ASKED)]
REFUSED = [
    (TRL[0] | {"prompt": [said("system", "Be brief."), *user(ASKED)]}, "system", "found: system, user; the back"),
    (TRL[0] | {"prompt": TURNS}, "turns", "found: user, assistant, user; earlier turns"),
    (TRL[0] | {"prompt": user("Hello") + user(ASKED)}, "turns", "found: user, user"),
    (TRL[0] | {"prompt": told(ASKED)}, "turns", "found: assistant"),
    (TRL[0] | {"prompt": [said("tool", ASKED)]}, "messages", "the role 'tool'; valid are user, human"),
    (TRL[0] | {"prompt": user([{"type": "video"}])}, "messages", "the type 'video'"),
    (TRL[0] | {"prompt": user(None)}, "messages", "content of a message is NoneType"),
    (TRL[0] | {"chosen": user("red")}, "messages", "an answer is one message of the assistant, found: user"),
    ({"images": ONE, "chosen": "red", "rejected": "blue"}, "malformed", "there is no prompt"),
    (TRL[5] | {"rejected": user("<image>\nWho?") + told("blue")}, "messages", "differ before their last message"),
    (TRL[5] | {"rejected": "blue"}, "messages", "chosen is a whole conversation, rejected is none"),
    (TRL[5] | {"rejected": user(ASKED) + user("x")}, "messages", "each end with a message of the assistant"),
    (TRL[5] | {"chosen": TURNS + told("a"), "rejected": TURNS + told("b")}, "turns", "earlier turns"),
    (TRL[6] | {"prompt": "Who is it?"}, "messages", "the prompt is not what chosen and rejected begin with"),
    ({"prompt": "What?", "chosen": "red", "rejected": "blue"}, "no_image", "no picture"),
    (TRL[0] | {"images": [{"path": None, "bytes": None}]}, "picture", "neither bytes nor a path"),
    (TRL[0] | {"images": [{"bytes": "no base64!"}]}, "picture", "no base64"),
    (TRL[0] | {"images": [{"bytes": BASE64[:40]}]}, "picture", "broken picture #0/0"),
    (SWIFT[0] | {"rejected_response": None}, "malformed", "rejected"),
    (SWIFT[0] | {"messages": user(ASKED)}, "messages", "each end with a message of the assistant"),
    (SWIFT[0] | {"messages": "text"}, "messages", "messages='text' is no list of messages"),
    (SWIFT[0] | {"messages": TURNS + told("red")}, "turns", "earlier turns"),
    (SWIFT[0] | {"videos": ["a.mp4"]}, "media", "videos is set"),
    (SWIFT[4] | {"rejected_images": ["b.png"]}, "rejected_images", "other pictures"),
    (SHAREGPT[0] | {"system": "Be brief."}, "system", "found: system, user"),
    (SHAREGPT[0] | {"conversations": SPOKEN_TURNS}, "turns", "earlier"),
    (ALPACA[0] | {"history": [["Hello", "Hi"]]}, "turns", "history=.*: earlier turns have no place"),
    (ALPACA[0] | {"system": "Be brief."}, "system", "found: system, user"),
    (ALPACA[0] | {"input": 3}, "malformed", "instruction and input are texts"),
    (ALPACA[0] | {"instruction": "<ImageHere>What?"}, "placeholders", "the prompt holds <ImageHere>"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "reason", "message"), REFUSED)
def test_what_has_no_place_in_a_pair_is_refused_with_its_reason(
    tmp_path: Path, row: dict[str, Any], reason: str, message: str
) -> None:
    with pytest.raises(LookRightError, match=rf"(?s)rows.json record 0.*{message}.*\[{reason}\]"):
        load(tmp_path, [row, TRL[0]])
    loaded = load(tmp_path, [row, TRL[0]], on_bad_record="skip")
    assert [record.id for record in loaded.records] == ["1"] and loaded.dropped == {reason: 1}


@pytest.mark.parametrize("rows", [TRL[3:4], TRL[5:6], SWIFT[4:5], SHAREGPT[:1], ALPACA[:1]])
@pytest.mark.parametrize("kind", ["parquet", "dataset"])
def test_tables_hold_the_same_forms(tmp_path: Path, rows: list[dict[str, Any]], kind: str) -> None:
    rows = [row | {"images": [{"bytes": encoded(), "path": None}]} for row in rows * 3]
    path = tmp_path / "table"
    if kind == "parquet":
        pa = pytest.importorskip("pyarrow")
        path.mkdir()
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), path / "a.parquet")
    else:
        pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(str(path))
    loaded = load_preferences(path)
    assert [(record.id, record.prompt, record.chosen) for record in loaded.records] == [
        (str(n), ASKED, "red") for n in range(3)
    ]
    assert loaded.pictures.open(loaded.records[2].images[0]).size == (6, 4)


def test_a_table_of_no_form_lists_them(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.Table.from_pylist([{"question": "x", "image": "a.png"}]), tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match=r"no form has the columns question, image; known are: .*ms-swift \(messages"):
        load_preferences(tmp_path / "t.parquet")
