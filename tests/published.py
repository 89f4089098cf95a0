"""Files in the forms that others publish, with pictures in the released layouts."""

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

from lookright.types import Size

OLD = "/mnt/petrelfs/someone/MMDPO"
"""Where the published paths start."""
GRID = {2: (1, 2), 3: (1, 3), 4: (2, 2), 6: (2, 3), 9: (3, 3)}
COLLAGE_SIZES = {2: (936, 488), 3: (1424, 488), 4: (936, 976), 6: (1424, 976), 9: (1424, 1464)}


def blobs(size: Size, seed: int) -> Image.Image:
    """A picture of soft colours without white."""
    coarse = Image.frombytes("RGB", (8, 6), bytes(value * 3 // 4 for value in random.Random(seed).randbytes(8 * 6 * 3)))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def collage(sizes: list[Size], seed: int = 0) -> Image.Image:
    """The released layout, by its numbers: pictures of those sizes at the top left of their cells."""
    canvas = Image.new("RGB", COLLAGE_SIZES[len(sizes)], "white")
    columns = GRID[len(sizes)][1]
    for number, size in enumerate(sizes):
        canvas.paste(blobs(size, seed + number), (number % columns * 488, number // columns * 488 + 40))
    return canvas


def pair(record_id: Any, image: Any, prompt: str, **more: Any) -> dict[str, Any]:
    """A row of the published pairs."""
    return {"id": record_id, "image": image, "prompt": prompt, "chosen": "red", "rejected": "blue", "gt": "red"} | more


def write_published(folder: Path) -> Path:
    """32 pairs in `pairs.json`, their pictures in `new/`: the prompts' paths start at `OLD`.

    Two of each collage, three of each sequence of 2 to 5 pictures, six in a picture, four single ones. Every id is
    there twice or more often.
    """
    rows: list[dict[str, Any]] = []
    (folder / "new").mkdir(parents=True, exist_ok=True)

    def save(image: Image.Image, name: str) -> str:
        image.save(folder / "new" / name, quality=90)
        return f"{OLD}/{name}"

    for count in GRID:
        for turn in range(2):
            sizes = [(448, 300 + 40 * turn) if number % 2 else (320, 448) for number in range(count)]
            name = save(collage(sizes, count), f"collage_{count}_{turn}.jpg")
            mark = "<image-placeholder>" if turn else "<image>"
            rows.append(pair(count, name if turn else [name], f"{mark}\nIn Image{count - turn}, what color is it?"))
    for count in range(2, 6):
        for turn in range(3):
            names = [save(blobs((60 + 9 * n, 50), n), f"sequence_{count}_{turn}_{n}.jpg") for n in range(count)]
            mark = "<image-placeholder>" if turn else "<image>"
            shown = "".join(f"Image{number + 1}:{mark}\n" for number in range(count))
            rows.append(pair(f"{count}_77", names, f"{shown}In Image{1 + turn % count}, what shape is it?"))
    for number in range(6):
        opening = ("Regarding the central image", "As for the subplot in the middle")[number % 2]
        name = save(blobs((90, 70), number), f"inset_{number}.jpg")
        rows.append(pair(number // 2, [name], f"<image>\n{opening}, is there a square here?"))
    for number in range(4):
        name = save(blobs((64, 48), number), f"single_{number}.jpg")
        rows.append(pair("single", name, ("" if number % 2 else "<image>\n") + "What color is the shape?"))
    (folder / "pairs.json").write_text(json.dumps(rows))
    return folder / "pairs.json"
