"""Cut the balanced slice of Fashion-MNIST that lies in the package, from the original idx files.

    python -m recipes.tiny.fashion_mnist_slice --idx-folder /usr/share/datasets/fashion-mnist

The folder above is where Debian's package `dataset-fashion-mnist` puts them. The first pictures of each
class in file order are taken; a picture that is already in the slice, to the byte, is passed over.
"""

import argparse
import gzip
from pathlib import Path

from PIL import Image

from lookright.composing.sources.fashion_mnist import (
    ASSETS,
    NUM_CLASSES,
    PER_CLASS,
    SHEET_ROWS,
    SIDE,
    cell_corner,
)

IDX_NAMES = {"train": "train", "test": "t10k"}


def read_idx(folder: Path, split: str) -> tuple[list[bytes], bytes]:
    """Grey pictures of 28 x 28 bytes and their labels. Raises ValueError for a file of another shape."""
    stem = IDX_NAMES[split]
    images_path, labels_path = (folder / f"{stem}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    with gzip.open(images_path) as images, gzip.open(labels_path) as labels:
        header, pixels = images.read(16), images.read()
        label_bytes = labels.read()[8:]
    area = SIDE * SIDE
    if int.from_bytes(header[:4], "big") != 2051 or len(pixels) != area * len(label_bytes):
        raise ValueError(f"{folder}: the {stem} files are not the idx files of Fashion-MNIST")
    return [pixels[start : start + area] for start in range(0, len(pixels), area)], label_bytes


def choose(pictures: list[bytes], labels: bytes, per_class: int, seen: set[bytes]) -> list[bytes]:
    """The first `per_class` pictures of each class that are not in `seen`, class after class."""
    chosen: list[list[bytes]] = [[] for _ in range(NUM_CLASSES)]
    for picture, label in zip(pictures, labels, strict=True):
        if len(chosen[label]) < per_class and picture not in seen:
            seen.add(picture)
            chosen[label].append(picture)
    return [picture for of_class in chosen for picture in of_class]


def draw_sheet(split: str, pictures: list[bytes]) -> Image.Image:
    """One grey sheet with all pictures of a split."""
    columns = PER_CLASS[split] // SHEET_ROWS
    sheet = Image.new("L", (columns * SIDE, NUM_CLASSES * SHEET_ROWS * SIDE))
    for number, picture in enumerate(pictures):
        sheet.paste(Image.frombytes("L", (SIDE, SIDE), picture), cell_corner(split, number))
    return sheet


def main() -> None:
    """Write `train.png` and `test.png`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idx-folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    seen: set[bytes] = set()
    for split, per_class in PER_CLASS.items():
        sheet = draw_sheet(split, choose(*read_idx(arguments.idx_folder, split), per_class, seen))
        sheet.save(arguments.out / f"{split}.png", optimize=True)


if __name__ == "__main__":
    main()
