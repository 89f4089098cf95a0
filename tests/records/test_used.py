"""The entry of the pictures that a run takes: names and sizes, of those alone that records name."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from lookright.config.inputs import Input
from lookright.records.readers import load_preferences
from lookright.records.used import used_pictures


def used(path: Path, count: int | None = None) -> Input:
    loaded = load_preferences(path)
    return used_pictures("pairs", [(record, loaded.pictures) for record in loaded.records[:count]])


def test_a_picture_that_changed_in_size_is_noticed(pairs: Callable[..., Path], tmp_path: Path) -> None:
    path = pairs(tmp_path, count=4)
    before = used(path)
    names = {name for record in load_preferences(path).records for name in record.images}
    assert before.covers == f"names and sizes of {len(names)} pictures"
    assert before.size == sum((tmp_path / name).stat().st_size for name in names)
    assert used(path) == before and used(path, count=3).hash != before.hash
    (tmp_path / "images" / "of_nobody.png").write_bytes(b"x")
    assert used(path) == before
    name = tmp_path / sorted(names)[0]
    with Image.open(name) as image:
        size = image.size
    Image.new("RGB", size).save(name)
    assert used(path).hash != before.hash and used(path).size < before.size
