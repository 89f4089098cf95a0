"""What is inferred of rows that store no geometry, against pictures made in the released layouts."""

import io
from pathlib import Path

import pytest
from PIL import Image

from lookright.composing.formats.pic_in_pic import PHRASES
from lookright.records.geometry import infer_geometry, named_image, picture_in_cell, speaks_of_inset
from lookright.records.pictures import PictureFolder
from lookright.types import Size
from tests.published import COLLAGE_SIZES, GRID, blobs, collage


def as_jpeg(image: Image.Image, quality: int, subsampling: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=subsampling)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize("count", GRID)
def test_cells_of_the_five_layouts(count: int, tmp_path: Path) -> None:
    """Cell k begins at column * 488 and row * 488 + 40; the white right of or below each picture is cut off."""
    sizes = [[(448, 252), (301, 448), (448, 448)][number % 3] for number in range(count)]
    collage(sizes).save(tmp_path / "c.png")
    found = infer_geometry(f"<image>\nIn Image{count}, what?", ["c.png"], PictureFolder(tmp_path))
    assert (found.format, found.target, len(found.regions)) == ("grid_collage", count - 1, count)
    columns = GRID[count][1]
    for number, (region, (width, height)) in enumerate(zip(found.regions, sizes, strict=True)):
        left, top = number % columns * 488, number // columns * 488 + 40
        assert region.box == (left, top, left + width, top + height)


@pytest.mark.parametrize(("quality", "subsampling"), [(75, 2), (75, 0), (90, 2)])
def test_white_is_found_through_jpeg(quality: int, subsampling: int) -> None:
    """Chroma blocks of 16 pixels blur an edge; it is found within half of one."""
    for seed, size in enumerate([(448, 336), (448, 299), (250, 448), (448, 443), (333, 448)]):
        cell = as_jpeg(collage([size, (448, 300)], seed), quality, subsampling).crop((0, 40, 448, 488))
        found = picture_in_cell(cell)
        assert max(abs(a - b) for a, b in zip(found, size, strict=True)) <= 8, (size, found)


def whites(size: Size, white: Size) -> Image.Image:
    """A picture of a size at the top left, the part beyond `white` of it white as the cell is."""
    cell = Image.new("RGB", (448, 448), "white")
    cell.paste(blobs(size, 0).crop((0, 0, *white)), (0, 0))
    return cell


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        (whites((448, 448), (448, 448)), (448, 448)),
        # white in both directions: the picture's own, so nothing is known but the cell
        (whites((448, 336), (400, 336)), (448, 448)),
        (whites((448, 448), (300, 300)), (448, 448)),
        (Image.new("RGB", (448, 448), "white"), (448, 448)),
    ],
)
def test_what_fills_no_side_stays_the_cell(cell: Image.Image, wanted: Size) -> None:
    assert picture_in_cell(cell) == wanted


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("In Image2, what is it?", 2),
        ("in image 3, is it red?", 3),
        ("Image4, what is it?", 4),
        ("Image 1: what is it?", 1),
        ("For Image 2, what is it?", 2),
        ("In Image2, is it larger than in Image1?", 2),
        ("What is there in Image 2?", 2),
        ("Is the car in Image1 the car in Image2?", None),
        ("What is in the image?", None),
        ("In image, 2 dogs?", None),
        ("Image10 shows what?", None),
    ],
)
def test_the_named_image(question: str, wanted: int | None) -> None:
    assert named_image(question) == wanted


@pytest.mark.parametrize(
    "question",
    [
        "Regarding the central image, what is it?",
        "As for the subplot in the middle, what is it?",
        "In the inset, what is it?",
        "With respect to the picture placed in the center: what is it?",
        "Considering the inner photo, what is it?",
        "When looking at the image in the middle, what is it?",
        "for the sub-image located at the very centre, what is it?",
    ],
)
def test_clauses_about_a_picture_in_the_centre(question: str) -> None:
    assert speaks_of_inset(question)


@pytest.mark.parametrize(
    "question",
    [
        "What is in the central image?",
        "In the center of the image, what is it?",
        "In the middle of the picture, who stands there?",
        "Is the inset red?",
        "Regarding the central figure, what does he wear?",
        "In the inset at the top right, what is shown?",
        "In this image, what is in the middle?",
        "Regarding the image, what is it?",
        "What, in the central image, is red?",
        "In the inset",
    ],
)
def test_other_questions_invent_no_inset(question: str) -> None:
    assert not speaks_of_inset(question)


def test_our_own_phrases_are_understood() -> None:
    """All that call the picture central, small in the middle, inner or embedded; two describe it in other words."""
    unlike = {"As to the image that lies on top of the other one", "About the picture framed by the larger one"}
    assert {phrase for phrase in PHRASES if not speaks_of_inset(f"{phrase}, what?")} == unlike


def test_an_inset_is_the_middle_seven_tenths(tmp_path: Path) -> None:
    blobs((100, 50), 0).save(tmp_path / "p.png")
    found = infer_geometry("<image>\nIn the inset, what?", ["p.png"], PictureFolder(tmp_path))
    assert (found.format, found.target) == ("pic_in_pic", 1)
    assert [region.box for region in found.regions] == [(0, 0, 100, 50), (15, 7, 85, 42)]


@pytest.mark.parametrize(
    "prompt", ["<image>\nWhat is it?", "What is it?\n<image>", "<image>In the center, what is it?"]
)
def test_a_single_picture_is_its_own_target(prompt: str, tmp_path: Path) -> None:
    blobs((100, 50), 0).save(tmp_path / "p.png")
    found = infer_geometry(prompt, ["p.png"], PictureFolder(tmp_path))
    assert (found.format, found.target, [region.box for region in found.regions]) == (
        "single_image",
        0,
        [(0, 0, 100, 50)],
    )


def test_a_picture_with_its_label_is_a_sequence_of_one(tmp_path: Path) -> None:
    blobs((100, 50), 0).save(tmp_path / "p.png")
    found = infer_geometry("Image1: <image>\nIn Image1, what is it?", ["p.png"], PictureFolder(tmp_path))
    assert (found.format, found.target, found.regions[0].box) == ("sequence", 0, (0, 0, 100, 50))


@pytest.mark.parametrize("count", [1, 2])
def test_what_cannot_be_known_is_none(count: int, tmp_path: Path) -> None:
    """A collage of another size, and several pictures of which none is named."""
    blobs((937, 488), 0).save(tmp_path / "p.png")
    prompt = "<image>\nIn Image2, what?" if count == 1 else "<image><image>\nWhat differs?"
    found = infer_geometry(prompt, ["p.png"] * count, PictureFolder(tmp_path))
    assert found.format == ("grid_collage" if count == 1 else "sequence")
    assert (found.target, found.regions) == (None, None)


def test_nothing_is_inferred_from_wrong_placeholders(tmp_path: Path) -> None:
    blobs((10, 5), 0).save(tmp_path / "p.png")
    for prompt in ("In Image1, what?", "<image><image>\nIn Image1, what?"):
        assert infer_geometry(prompt, ["p.png"], PictureFolder(tmp_path)) is None


def test_the_fixture_has_the_released_sizes() -> None:
    assert [collage([(448, 448)] * count).size for count in GRID] == [*COLLAGE_SIZES.values()]
    assert [*COLLAGE_SIZES.values()] == [(936, 488), (1424, 488), (936, 976), (1424, 976), (1424, 1464)]


def test_what_was_measured_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second start opens no collage; a changed one is measured again."""
    monkeypatch.setenv("LOOKRIGHT_CACHE", str(tmp_path / "cache"))
    collage([(448, 300), (200, 448)]).save(tmp_path / "c.png")
    prompt = "<image>\nIn Image1, what?"
    first = infer_geometry(prompt, ["c.png"], PictureFolder(tmp_path))
    again = PictureFolder(tmp_path)
    monkeypatch.setattr(again, "open", lambda name: pytest.fail(f"{name} was opened"))
    assert infer_geometry(prompt, ["c.png"], again) == first
    collage([(448, 310), (200, 448)]).save(tmp_path / "c.png")
    assert infer_geometry(prompt, ["c.png"], PictureFolder(tmp_path)).regions[0].box == (0, 40, 448, 350)
