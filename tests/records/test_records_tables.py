import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lookright.composing.companions import companion_answers
from lookright.errors import ConfigError, LookRightError
from lookright.records.readers import load_preferences, load_prompts

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def encoded(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(file, "PNG")
    return file.getvalue()


def row(number: int, **keys: Any) -> dict[str, Any]:
    pictures = [{"bytes": encoded((number, 0, n)), "path": None} for n in range(2)]
    return {"images": pictures, "prompt": "<image><image>\nWhat?", "chosen": "a", "rejected": f"b{number}"} | keys


def write(path: Path, rows: list[dict[str, Any]], row_group_size: int = 2) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return path


def test_embedded_pictures_of_a_parquet_file(tmp_path: Path) -> None:
    loaded = load_preferences(write(tmp_path / "p.parquet", [row(n) for n in range(5)]))
    assert [record.rejected for record in loaded.records] == [[f"b{n}"] for n in range(5)]
    assert loaded.records[0].regions is None
    pictures = pickle.loads(pickle.dumps(loaded.pictures))  # as a worker process gets them
    for number in (4, 0, 3):
        images = [pictures.open(name) for name in loaded.records[number].images]
        assert [image.getpixel((0, 0)) for image in images] == [(number, 0, 0), (number, 0, 1)]


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [row(n) for n in range(3)])
    write(tmp_path / "b.parquet", [row(n) for n in range(3, 5)])
    loaded = load_preferences(tmp_path)
    assert [record.id for record in loaded.records] == ["0", "1", "2", "3", "4"]
    assert loaded.pictures.open(loaded.records[4].images[1]).getpixel((0, 0)) == (4, 0, 1)


def test_paths_in_place_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded((9, 9, 9)))
    rows = [row(0, images=["x.png", "x.png"])]
    loaded = load_preferences(write(tmp_path / "p.parquet", rows))
    assert loaded.records[0].images == ["x.png", "x.png"]
    assert loaded.pictures.open("x.png").getpixel((0, 0)) == (9, 9, 9)


def test_geometry_columns_are_taken(tmp_path: Path) -> None:
    regions = [{"picture": n, "box": [0, 0, 6, 4], "source": "s"} for n in range(2)]
    rows = [row(0, id="mine", target=1, regions=regions, format="sequence"), row(1, id=None, target=None, regions=None)]
    records = load_preferences(write(tmp_path / "p.parquet", rows)).records
    assert (records[0].id, records[0].target, records[0].regions[1].box) == ("mine", 1, (0, 0, 6, 4))
    assert (records[1].id, records[1].target, records[1].regions) == ("1", None, None)


def test_questions_of_a_table_keep_what_the_images_answers_are(tmp_path: Path) -> None:
    """Our own records as a table: without them a wrong answer would have no kind."""
    regions = [{"picture": n, "box": [0, 0, 6, 4], "source": f"s{n}"} for n in range(2)]
    told = {"source": "shapes", "region_answers": ["red", "blue"], "split": "test"}
    asked = {key: value for key, value in row(0).items() if key in ("images", "prompt")} | {"ground_truth": "blue"}
    full = asked | {"id": "mine", "format": "sequence", "target": 1, "regions": regions, "provenance": told}
    bare = asked | {"id": None, "format": None, "target": None, "regions": None, "provenance": None}
    first, second = load_prompts(write(tmp_path / "p.parquet", [full, bare])).records
    assert (first.id, first.format, first.target, first.regions[1].box) == ("mine", "sequence", 1, (0, 0, 6, 4))
    assert companion_answers(first) == ["red"] and first.provenance == told
    assert companion_answers(second) == [] and second.target is None


def test_several_truths_and_options_of_a_table(tmp_path: Path) -> None:
    asked = {key: value for key, value in row(0).items() if key in ("images", "prompt")}
    path = write(tmp_path / "p.parquet", [asked | {"answer": ["a", "b", "b"], "options": ["b", "c"]}])
    (record,) = load_prompts(path).records
    assert record.ground_truth == "b" and record.provenance["ground_truths"] == ["a", "b", "b"]
    assert record.provenance["options"] == ["b", "c"]


def messages(role: str, content: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": content}]


def test_messages_with_typed_parts(tmp_path: Path) -> None:
    parts = [{"type": "image", "text": None}, {"type": "image", "text": None}, {"type": "text", "text": "What?"}]
    rows = [
        row(
            0,
            prompt=messages("user", parts),
            chosen=messages("assistant", [{"type": "text", "text": "a"}]),
            rejected=messages("assistant", [{"type": "text", "text": "b"}]),
        )
    ]
    record = load_preferences(write(tmp_path / "p.parquet", rows)).records[0]
    assert (record.prompt, record.chosen, record.rejected) == ("<image>\n<image>\nWhat?", "a", ["b"])
    assert record.provenance == {}


def test_messages_of_plain_text_have_the_pictures_first(tmp_path: Path) -> None:
    rows = [
        row(
            0, prompt=messages("user", "What?"), chosen=messages("assistant", "a"), rejected=messages("assistant", "b")
        ),
        row(
            1,
            prompt=messages("user", "<image>A<image>B"),
            chosen=messages("assistant", "a"),
            rejected=messages("assistant", "b"),
        ),
    ]
    first, second = load_preferences(write(tmp_path / "p.parquet", rows)).records
    assert (first.prompt, first.provenance) == ("<image>\n<image>\nWhat?", {"placeholders": "placed"})
    assert (second.prompt, second.provenance) == ("<image>A<image>B", {})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompt": "What?"}, r"row 1 \(id 1\): 2 pictures but 0 <image>"),
        ({"images": [{"bytes": b"", "path": None}] * 2}, r"row 1: images\[0\] holds neither bytes nor a path"),
        ({"images": [{"bytes": encoded((0, 0, 0))[:40], "path": None}] * 2}, r"broken picture #1/0 of 40 bytes"),
        ({"chosen": None}, "chosen=None is NoneType"),
        ({"images": None}, r"no_image"),
    ],
)
def test_defects_name_file_and_row(tmp_path: Path, keys: dict, message: str) -> None:
    with pytest.raises(LookRightError, match=message):
        load_preferences(write(tmp_path / "p.parquet", [row(0), row(1, **keys)]))


def test_wrong_roles_are_named(tmp_path: Path) -> None:
    rows = [row(0, prompt=messages("system", "x") + messages("user", "y"))]
    with pytest.raises(LookRightError, match="a prompt is one message of the user, found: system, user"):
        load_preferences(write(tmp_path / "p.parquet", rows))


def test_a_missing_column_and_another_file_are_named(tmp_path: Path) -> None:
    write(tmp_path / "p.parquet", [{"images": ["x"], "prompt": "<image>"}])
    with pytest.raises(
        ConfigError,
        match=r"no form has the columns images, prompt; known are: .*pairs of TRL \(images or image, prompt, chosen",
    ):
        load_preferences(tmp_path / "p.parquet")
    (tmp_path / "q.parquet").write_text("text")
    with pytest.raises(ConfigError, match="q.parquet: not a parquet file"):
        load_preferences(tmp_path / "q.parquet")
    with pytest.raises(ConfigError, match="none.parquet: no such file"):
        load_preferences(tmp_path / "none.parquet")


def test_a_dataset_on_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [row(n) for n in range(3)]
    features = datasets.Features(
        {"images": datasets.Sequence(datasets.Image())}
        | dict.fromkeys(("prompt", "chosen", "rejected"), datasets.Value("string"))
    )
    data = datasets.Dataset.from_list(rows, features=features)
    data.save_to_disk(str(tmp_path / "one"))
    loaded = load_preferences(tmp_path / "one")
    assert [record.rejected for record in loaded.records] == [["b0"], ["b1"], ["b2"]]
    assert loaded.pictures.open(loaded.records[2].images[1]).getpixel((0, 0)) == (2, 0, 1)
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(ConfigError, match=r"holds the splits train: set data.path=.*splits/train"):
        load_preferences(tmp_path / "splits")


@pytest.fixture()
def saved(tmp_path: Path) -> Path:
    """A saved dataset of three rows with pictures inside."""
    rows = [row(n) for n in range(3)]
    pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_saved_dataset_whose_columns_point_elsewhere_is_refused_and_ends_no_process(saved: Path) -> None:
    """Offsets of a text column in disorder: Arrow would read beyond its bytes, and the process would be gone."""
    (file,) = saved.glob("*.arrow")
    data = file.read_bytes()
    # the ends of "b0", "b1" and "b2", as whole numbers of 32 bits
    offsets = b"".join(number.to_bytes(4, "little") for number in (0, 2, 4, 6))
    assert offsets in data
    file.write_bytes(data.replace(offsets, b"".join(n.to_bytes(4, "little") for n in (0, 2, 2**30, 6))))
    with pytest.raises(ConfigError, match=f"data.path={saved}: the saved dataset is damaged .ArrowInvalid: "):
        load_preferences(saved)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["../other.arrow"], "names '../other.arrow', which is no file beside it"),
        (["/etc/passwd"], "names '/etc/passwd', which is no file beside it"),
        (["gone.arrow"], "names 'gone.arrow', which is not there"),
        (["x" * 5000], "names 'x+[.][.][.], which is no file beside it"),
        ([3], "names 3, which is no file beside it"),
        (None, "names None, which is no file beside it"),
        ("twice", "names '[^']*', twice"),
    ],
)
def test_a_saved_dataset_names_files_beside_it(files: Any, wanted: str, saved: Path) -> None:
    state = json.loads((saved / "state.json").read_text())
    if files == "twice":
        state["_data_files"] *= 2
    else:
        state["_data_files"] = files and [{"filename": name} for name in files]
    (saved / "state.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match=f"^data.path={saved}: state.json {wanted}"):
        load_preferences(saved)


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
def test_damaged_settings_of_a_saved_dataset_are_named(name: str, saved: Path) -> None:
    (saved / name).write_text('{"a": ')
    with pytest.raises(ConfigError, match=f"{saved / name}: not valid json .*save the dataset again"):
        load_preferences(saved)
