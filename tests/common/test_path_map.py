"""Prefixes of image paths: whole components, the longest wins, nothing leaves what a user named."""

from pathlib import Path

import pytest

from lookright.common.path_map import PathMap
from lookright.errors import ConfigError, RecordError


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("/mnt/old/a/1.jpg", "new/a/1.jpg"),
        ("/mnt/old/1.jpg", "new/1.jpg"),
        ("//mnt//old/./1.jpg", "new/1.jpg"),
        ("/mnt/old/coco/1.jpg", "pictures/coco2017/1.jpg"),
        ("/mnt/old/cocoa/1.jpg", "new/cocoa/1.jpg"),
        ("C:\\data\\coco\\1.jpg", "c/coco/1.jpg"),
        ("gqa/1.jpg", "vg/1.jpg"),
        ("./gqa/1.jpg", "vg/1.jpg"),
        ("other/gqa/1.jpg", "other/gqa/1.jpg"),
        ("/flat/x/1.jpg", "x/1.jpg"),
    ],
)
def test_the_longest_prefix_of_whole_components_wins(name: str, wanted: str) -> None:
    moved = PathMap(
        {
            "/mnt/old": "new",
            "/mnt/old/coco/": "pictures/coco2017/",
            "/mnt": "all",
            "C:/data": "c",
            "gqa": "vg",
            "/flat": ".",
        }
    )
    assert moved(name) == wanted


@pytest.mark.parametrize("name", ["/mnt/older/1.jpg", "/1.jpg", "D:/x/1.jpg", "\\\\server\\share\\1.jpg"])
def test_an_absolute_path_that_nothing_covers_is_named_with_its_folder(name: str) -> None:
    folder = {"/mnt/older/1.jpg": "/mnt/older", "/1.jpg": "/"}.get(name, "")
    with pytest.raises(
        RecordError, match=rf"no entry of data.path_map covers it; set data.path_map={{{folder}"
    ) as error:
        PathMap({"/mnt/old": "new"})(name)
    assert error.value.reason == "path" and repr(name) in str(error.value)


def test_entries_without_use_are_an_error(tmp_path: Path) -> None:
    moved = PathMap({"/mnt/old": "new", "/mnt/odl": "new"})
    moved("/mnt/old/1.jpg")
    with pytest.raises(ConfigError, match="data.path_map: no image path begins with '/mnt/odl'"):
        moved.check_used()
    moved("/mnt/odl/1.jpg")
    moved.check_used()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"": "new"}, "'' is no prefix"),
        ({"/mnt/../x": "new"}, "is no prefix"),
        ({"/mnt/old": "../new"}, r"path_map\[/mnt/old\]='../new': set a folder without '..'"),
        ({"/mnt/old": ""}, "set a folder"),
        ({"/mnt/old": 3}, "set a folder"),
        ({"/mnt/old": "/nowhere/at/all"}, "no such folder"),
        ({"/mnt/old": "a", "/mnt//old/": "b"}, "are the same prefix"),
    ],
)
def test_entries_that_make_no_sense(entries: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PathMap(entries)
