"""How long the check of pictures takes at a start: the first, which decodes all of them, and the next.

python -m benchmarks.picture_check --pictures 5000
python -m benchmarks.picture_check --largest

JPEGs of 640 x 480 with soft shapes under some noise, about 70 kB each, one preference record each. Every start is a
process of its own; `--starts` of either kind, median first, the range after it. The files were just written, so they
come from memory and not from a disk. With `--largest`: the peak memory of a process that checks, then opens and
preprocesses, one picture at the limit of pixels, and one of 30000 x 10 pixels, above that of a picture of 64 x 64.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from lookright.common.pictures import checked_size, decode_rgb
from lookright.errors import RecordError
from lookright.records.readers import load_preferences
from lookright.records.records import write_jsonl
from lookright.types import Preference

SIZE = (640, 480)


def main() -> None:
    """Print one line of json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--largest", action="store_true")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--take", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start is not None:
        result = start(arguments.start)
    elif arguments.take is not None:
        result = take(arguments.take)
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = memory(Path(folder)) if arguments.largest else seconds(Path(folder), arguments)
    print(json.dumps(result))


def seconds(folder: Path, arguments: argparse.Namespace) -> dict:
    """Cold and warm starts in turn."""
    names = write_pictures(folder, arguments.pictures)
    cold, warm = [], []
    for number in range(arguments.starts):
        for times in (cold, warm):
            times.append(_child("--start", folder, cache=folder / f"cache{number}")["seconds"])
    size = sum((folder / name).stat().st_size for name in names)
    return {
        "pictures": len(names),
        "mean_kilobytes": round(size / len(names) / 1e3, 1),
        "processors": len(os.sched_getaffinity(0)),
        "cold_seconds": [round(statistics.median(cold), 2), round(min(cold), 2), round(max(cold), 2)],
        "warm_seconds": [round(statistics.median(warm), 2), round(min(warm), 2), round(max(warm), 2)],
        "pictures_a_second_cold": round(len(names) / statistics.median(cold)),
    }


def write_pictures(folder: Path, count: int) -> list[str]:
    """JPEGs and a preferences.jsonl that shows each in one record."""
    rng = np.random.default_rng(0)
    names = []
    for number in range(count):
        shapes = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
        noisy = np.asarray(shapes, np.int16) + rng.integers(-12, 13, (SIZE[1], SIZE[0], 1), dtype=np.int16)
        names.append(f"{number}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / names[-1], quality=85)
    records = [
        Preference(id=name, images=[name], prompt="<image>\nWhat is it?", chosen="a shape", rejected=["a dog"])
        for name in names
    ]
    write_jsonl(folder / "preferences.jsonl", records)
    return names


def start(folder: Path) -> dict:
    """Seconds that one start takes to check all records."""
    begin = time.perf_counter()
    loaded = load_preferences(folder / "preferences.jsonl")
    return {"seconds": time.perf_counter() - begin, "records": len(loaded.records)}


def memory(folder: Path) -> dict:
    """Peak of a process for each picture, in MB above that for a small one."""
    side = 8192
    shaded = np.add.outer(np.arange(side), np.arange(side)).astype(np.uint8)
    Image.new("RGB", (64, 64)).save(folder / "small.png")
    Image.new("RGB", (30000, 10)).save(folder / "strip.png")
    grey = Image.fromarray(shaded)
    for name, image in (
        ("limit.jpg", grey.convert("RGB")),
        ("limit_progressive.jpg", grey.convert("RGB")),
        ("limit.png", grey.convert("RGB")),
        ("limit_alpha.png", grey.convert("RGBA")),
    ):
        options = {"progressive": True} if "progressive" in name else {}
        options |= {"compress_level": 1} if name.endswith("png") else {}
        image.save(folder / name, **options)
    turned = Image.Exif()
    turned[0x0112] = 6
    grey.convert("RGB").save(folder / "limit_turned.jpg", exif=turned)
    (folder / "limit_cut.png").write_bytes((folder / "limit.png").read_bytes()[:-1000])
    least = _child("--take", folder / "small.png")["peak_megabytes"]
    found = {path.name: _child("--take", path) for path in sorted(folder.iterdir()) if path.name != "small.png"}
    for item in found.values():
        item["peak_megabytes"] = round(item["peak_megabytes"] - least)
    return {"small": round(least), "above_it": found}


def take(path: Path) -> dict:
    """Check, open and preprocess one picture as LLaVA does; the peak of this process."""
    from lookright.backbones.llava import LlavaBackbone

    folder = Path(__file__).parents[1] / "src" / "lookright" / "backbones" / "assets" / "tiny_llava"
    backbone = LlavaBackbone(path=str(folder))
    told = "taken"
    try:
        checked_size(path, path.name)
        backbone.preprocess(decode_rgb(path, path.name), 1)
    except RecordError as error:
        told = error.reason
    return {"peak_megabytes": _peak(), "end": told}


def _peak() -> float:
    """Of this process alone; `ru_maxrss` begins with that of the parent."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6


def _child(option: str, path: Path, cache: Path | None = None) -> dict:
    environment = os.environ | {"LOOKRIGHT_CACHE": "" if cache is None else str(cache)}
    command = [sys.executable, "-m", "benchmarks.picture_check", option, str(path)]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
