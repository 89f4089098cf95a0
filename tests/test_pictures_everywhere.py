"""A phone's picture, which lies on its side in its file, through every door: upright in each."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from PIL import ExifTags, Image

from lookright.backbones.llava import LlavaBackbone
from lookright.commands.generate import generate
from lookright.composing.sources.llava_json import LlavaJson
from lookright.packing.encode import encode_question
from lookright.records.pictures import PictureFolder
from lookright.records.readers import load_preferences, load_prompts
from lookright.reports.pictures import open_picture, prompt_pictures
from lookright.types import Prompt, Region

SIZE = (24, 48)
"""Upright: red above, blue below."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    upright = Image.new("RGB", SIZE, "blue")
    upright.paste("red", (0, 0, 24, 24))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "phone.png", exif=exif)
    with Image.open(tmp_path / "phone.png") as stored:
        assert stored.size == (48, 24)
    return tmp_path


def is_upright(image: Image.Image) -> bool:
    top, bottom = (image.convert("RGB").getpixel((image.width // 2, image.height * share // 8)) for share in (1, 7))
    return image.height == 2 * image.width and top[0] > 200 > 50 > top[2] and bottom[2] > 200 > 50 > bottom[0]


def llava_rows(folder: Path) -> Path:
    turns = [{"from": "human", "value": "<image>\nWhat is above?"}, {"from": "gpt", "value": "red"}]
    (folder / "rows.json").write_text(json.dumps([{"id": "1", "image": "phone.png", "conversations": turns}]))
    return folder / "rows.json"


def test_a_source_opens_it_upright(folder: Path) -> None:
    source = LlavaJson(llava_rows(folder), folder)
    assert is_upright(source.open(source.rows("train")[0]))


def test_a_composed_prompt_shows_it_upright(folder: Path, composed: Callable[..., DictConfig]) -> None:
    overrides = ["source=llava_json", f"source.train_json={llava_rows(folder)}", f"source.image_folder={folder}"]
    small = ["formats=[single_image]", "num_prompts=1", "stage=compose", "backbone=tiny_llava"]
    generate(composed("generate", *overrides, *small, f"output={folder / 'out'}"))
    line = json.loads((folder / "out" / "instructions.jsonl").read_text())
    with Image.open(folder / "out" / line["images"][0]) as image:
        assert is_upright(image)
    assert line["regions"][0]["box"] == [0, 0, *SIZE]


def preference(**keys: Any) -> dict[str, Any]:
    return {"id": "p", "prompt": "<image>\nWhat is above?", "chosen": "red", "rejected": "blue"} | keys


def test_readers_give_size_and_pixels_upright(folder: Path) -> None:
    region = {"picture": 0, "box": [0, 0, *SIZE], "source": "s"}
    data = preference(images=["phone.png"], regions=[region], target=0)
    (folder / "p.jsonl").write_text(json.dumps(data))
    loaded = load_preferences(folder / "p.jsonl")
    assert loaded.pictures.size("phone.png") == SIZE and is_upright(loaded.pictures.open("phone.png"))
    prompts = load_prompts(llava_rows(folder))
    assert prompts.records[0].regions[0].box == (0, 0, *SIZE) and is_upright(prompts.pictures.open("phone.png"))


def test_an_embedded_picture_is_upright_too(folder: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    row = preference(images=[{"bytes": (folder / "phone.png").read_bytes(), "path": None}])
    parquet.write_table(pa.Table.from_pylist([row]), folder / "p.parquet")
    loaded = load_preferences(folder / "p.parquet")
    name = loaded.records[0].images[0]
    assert loaded.pictures.size(name) == SIZE and is_upright(loaded.pictures.open(name))


def test_the_tokens_of_a_region_see_what_is_in_it(folder: Path, llava: LlavaBackbone) -> None:
    """The upper half, in pixels of the upright picture: its tokens are red."""
    region = Region(picture=0, box=(0, 0, 24, 24), source="s")
    record = Prompt(
        id="q",
        images=["phone.png"],
        prompt="<image>\nabove?",
        ground_truth="red",
        format="x",
        target=0,
        regions=[region],
    )
    (folder / "q.jsonl").write_text(json.dumps(preference(images=["phone.png"])))
    question = encode_question(llava, record, load_preferences(folder / "q.jsonl").pictures)
    side = llava.config.vision_config.image_size
    red_minus_blue = (question.pixels[0][0] - question.pixels[0][2]).view(3, side // 3, 3, side // 3).mean((1, 3))
    start, stop = question.prompt.image_spans[0]
    covered = question.coverage[start:stop, 0].view(3, 3)
    assert covered[0, 1] > 0.9 and covered[2, 1] == 0
    assert red_minus_blue[0, 1] > 1 > -1 > red_minus_blue[2, 1]


def test_a_report_shows_it_upright(folder: Path) -> None:
    pictures = PictureFolder(folder)
    assert is_upright(open_picture(pictures, "phone.png"))
    region = Region(picture=0, box=(0, 0, 24, 24), source="s")
    prompt = Prompt(
        id="q",
        images=["phone.png"],
        prompt="<image>\nabove?",
        ground_truth="red",
        format="x",
        target=0,
        regions=[region],
    )
    (shown,) = prompt_pictures(prompt, pictures).pictures
    assert (shown.width, shown.height) == (24, 48)
    data = shown.uri.removeprefix("data:image/jpeg;base64,")
    assert is_upright(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_picture_that_breaks_a_rule_is_missing_in_a_report(folder: Path) -> None:
    Image.new("RGB", (3000, 10)).save(folder / "strip.png")
    pictures = PictureFolder(folder)
    assert open_picture(pictures, "strip.png") is None and open_picture(pictures, "none.png") is None
    prompt = Prompt(id="q", images=["strip.png"], prompt="<image>", ground_truth="a", format="x", target=0, regions=[])
    (shown,) = prompt_pictures(prompt, pictures).pictures
    assert shown.uri is None and shown.name == "strip.png"
