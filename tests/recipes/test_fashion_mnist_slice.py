import gzip
from pathlib import Path

import pytest
from PIL import Image

from lookright.composing.sources.fashion_mnist import ASSETS, PER_CLASS, cell_corner
from recipes.tiny.fashion_mnist_slice import choose, draw_sheet, read_idx

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def test_choose_takes_the_first_of_each_class_and_no_picture_twice() -> None:
    pictures = [b"a", b"b", b"a", b"c", b"d", b"e"]
    seen: set[bytes] = {b"b"}
    assert choose(pictures, bytes([1, 0, 0, 0, 1, 1]), 2, seen) == [b"c", b"a", b"d"]
    assert seen == {b"a", b"b", b"c", b"d"}


@pytest.mark.parametrize(
    ("split", "number", "corner"),
    [("train", 0, (0, 0)), ("train", 39, (39 * 28, 0)), ("train", 200, (0, 5 * 28)), ("test", 999, (19 * 28, 49 * 28))],
)
def test_a_class_fills_five_rows_of_a_sheet(split: str, number: int, corner: tuple[int, int]) -> None:
    assert cell_corner(split, number) == corner


def test_files_of_another_shape_are_refused(tmp_path: Path) -> None:
    for kind, data in (("images-idx3", b"\0" * 16), ("labels-idx1", b"\0" * 8)):
        (tmp_path / f"t10k-{kind}-ubyte.gz").write_bytes(gzip.compress(data))
    with pytest.raises(ValueError, match="not the idx files of Fashion-MNIST"):
        read_idx(tmp_path, "test")


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_the_shipped_sheets_are_cut_from_the_original_files() -> None:
    seen: set[bytes] = set()
    for split, per_class in PER_CLASS.items():
        expected = draw_sheet(split, choose(*read_idx(DEBIAN_FOLDER, split), per_class, seen))
        assert Image.open(ASSETS / f"{split}.png").tobytes() == expected.tobytes()
