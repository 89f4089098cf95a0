"""Files that call themselves pictures: each is refused with its sentence, at once, in bounded memory, or taken."""

import io
import os
import socket
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from lookright.common.pictures import FORMATS, MAX_BYTES, checked_size, open_rgb
from lookright.errors import RecordError
from lookright.records.pictures import PictureFolder
from tests.peak import peak_megabytes

SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8"/></svg>'
PS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
NOT_PICTURES = {
    "html.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "drawing.svg": SVG,
    "page.pdf": b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n",
    "page.eps": PS,
    "page.jpg": PS,
    "old.wmf": b"\xd7\xcd\xc6\x9a" + bytes(36),
    "zero.png": b"",
    "zeros.png": bytes(4096),
    "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "archive.png": b"PK\x03\x04" + bytes(60),
}


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *chunks, (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def bomb(size: int = 300_000_000) -> bytes:
    """Zeros, a thousandth as large."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(size // 1_000_000)) + packer.flush()


@pytest.mark.parametrize("name", NOT_PICTURES)
def test_what_is_no_picture_is_refused_and_runs_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*given: object, **options: object) -> None:
        raise AssertionError(f"a program is run: {given}")

    for way in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, way, forbidden)
    monkeypatch.setattr(os, "system", forbidden)
    (tmp_path / name).write_bytes(NOT_PICTURES[name])
    for read in (lambda: open_rgb(tmp_path / name, "row 1"), lambda: checked_size(tmp_path / name, name)):
        with pytest.raises(RecordError, match=r"broken picture.*of \d+ bytes \(none of the formats JPEG, PNG") as error:
            read()
        assert error.value.reason == "picture"


def test_no_format_that_runs_programs_is_read() -> None:
    assert not {"EPS", "PDF", "WMF", "PSD", "FPX", "MIC", "HDF5", "GRIB", "BUFR", "MPEG", "IPTC"} & set(FORMATS)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def special_files(folder: Path) -> dict[str, str]:
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.png"))
    (folder / "loop.png").symlink_to("loop.png")
    return {
        "pipe.png": "it is a pipe, a socket or a device, not a file",
        "socket.png": "it is a pipe, a socket or a device, not a file",
        "folder.png": "it is a folder, not a file",
        "loop.png": "Too many levels of symbolic links",
        "gone.png": "No such file or directory",
        "n" * 300 + ".png": "File name too long",
    }


def test_what_is_no_file_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, message in special_files(tmp_path).items():
        for read in (
            lambda name=name: PictureFolder(tmp_path).size(name),
            lambda name=name: open_rgb(Path(name), "it"),
        ):
            with pytest.raises(RecordError, match=f"cannot read the picture .*{message}") as error:
                read()
            assert error.value.reason == "picture"


def test_a_device_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with pytest.raises(RecordError, match="a pipe, a socket or a device"):
        open_rgb(tmp_path / "zero.png", "it")
    with pytest.raises(RecordError, match="leads by a link to /dev/zero, outside of") as error:
        PictureFolder(tmp_path).size("zero.png")
    assert error.value.reason == "path"


def test_links_stay_inside_unless_a_user_says_otherwise(tmp_path: Path) -> None:
    root, other = tmp_path / "data", tmp_path / "disk"
    for folder in (root / "real", other):
        folder.mkdir(parents=True)
        Image.new("RGB", (3, 2)).save(folder / "a.png")
    (root / "coco").symlink_to(other)
    (root / "inside").symlink_to(root / "real")
    (root / "file.png").symlink_to(other / "a.png")
    pictures = PictureFolder(root)
    assert pictures.size("inside/a.png") == (3, 2)
    with pytest.raises(RecordError, match=rf"outside of .*set data.path_map={{coco: {other}}}, or copy the file"):
        pictures.size("coco/a.png")
    with pytest.raises(RecordError, match="outside of"):
        pictures.open("file.png")
    assert PictureFolder(root, [other]).size("coco/a.png") == (3, 2)
    assert PictureFolder(root, [other]).size(str(other / "a.png")) == (3, 2)
    # the root itself may be a link
    (tmp_path / "link").symlink_to(root)
    assert PictureFolder(tmp_path / "link").size("real/a.png") == (3, 2)


def test_a_hubs_cache_is_one_with_its_blobs(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "datasets--me--x" / "snapshots" / "abc", tmp_path / "datasets--me--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    Image.new("RGB", (3, 2)).save(blobs / "0123", "PNG")
    (snapshot / "a.png").symlink_to("../../blobs/0123")
    assert PictureFolder(snapshot).size("a.png") == (3, 2)


def test_the_extension_says_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), "red").save(tmp_path / "it.jpg", "PNG")
    assert open_rgb(tmp_path / "it.jpg", "it").getpixel((0, 0)) == (255, 0, 0)


def test_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "red").save(tmp_path / "it.png")
    assert checked_size(tmp_path / "it.png", "it") == (1, 1)


def test_a_file_that_is_too_large_is_not_opened(tmp_path: Path) -> None:
    with (tmp_path / "it.webp").open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(RecordError, match=f"has {MAX_BYTES + 1} bytes, at most {MAX_BYTES} are read"):
        open_rgb(tmp_path / "it.webp", "it")


def _float_tiff() -> bytes:
    values = np.zeros((8192, 8192), np.float32)
    values[-1, -1] = 1e9
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    return buffer.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "header of 2.5 billion pixels": lambda: png(50_000, 50_000),
    "largest size, torn": lambda: png(8192, 8192, (b"IDAT", bomb(100_000_000)[:-50])),
    "text of 300 MB": lambda: png(4, 4, (b"zTXt", b"a\0\0" + bomb()), (b"IDAT", zlib.compress(bytes(52)))),
    "profile of 300 MB": lambda: png(4, 4, (b"iCCP", b"a\0\0" + bomb()), (b"IDAT", b"")),
    "EXIF chunk of zeros": lambda: png(4, 4, (b"eXIf", bytes(50_000_000)), (b"IDAT", b"")),
    "pixels of 300 MB for 16": lambda: png(4, 4, (b"IDAT", bomb()), (b"tEXt", b"")),
    "floats beyond 16 bits": _float_tiff,
}


READ = """
from lookright.common.pictures import checked_size, open_rgb
from lookright.errors import RecordError
from pathlib import Path


def work(path):
    for read in (checked_size, open_rgb):
        try:
            read(Path(path), "it")
        except RecordError as error:
            continue
"""


def test_no_bad_picture_takes_more_than_300_megabytes(tmp_path: Path) -> None:
    for name, made in BOMBS.items():
        (tmp_path / name).write_bytes(made())
    taken = peak_megabytes(READ, *(tmp_path / name for name in BOMBS))
    assert max(taken) < 300, dict(zip(BOMBS, taken, strict=True))


def test_how_much_damage_inside_a_jpeg_is_found() -> None:
    """Of single bits turned behind the tables, a tenth: the number in docs/data.md."""
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8), np.ones((20, 20, 1), dtype=np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(blocks).save(buffer, "JPEG", quality=85)
    data, found = buffer.getvalue(), 0
    for place, bit in zip(rng.integers(700, len(data) - 2, 200), rng.integers(0, 8, 200), strict=True):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(bit)
        try:
            checked_size(bytes(damaged), "it")
        except RecordError:
            found += 1
    assert 0.04 < found / 200 < 0.25, found
