"""One rule for pictures: every kind that PIL reads has one result, and every limit a named error."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from lookright.common.pictures import MAX_ASPECT, MAX_PIXELS, as_rgb, checked_size, decode_rgb, limits_fault, open_rgb
from lookright.errors import RecordError
from tests.peak import peak_megabytes

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> list[tuple[int, ...]]:
    """All pixels row by row, after the size was found to be the same by both ways."""
    image = decode_rgb(data, "it")
    assert image.mode == "RGB" and checked_size(data, "it") == image.size
    return [tuple(pixel) for row in np.asarray(image).tolist() for pixel in row]


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    return exif


UPRIGHT = np.arange(24).reshape(2, 4, 3).astype(np.uint8) * 10
"""A picture of 4 x 2 pixels, all different."""
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.swapaxes(0, 1),
    6: np.rot90(UPRIGHT),
    7: np.rot90(UPRIGHT, 2).swapaxes(0, 1),
    8: np.rot90(UPRIGHT, -1),
}
"""How a camera stores it under each orientation: what has to be done to see it upright, undone."""


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_comes_out_upright(orientation: int, kind: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    data = encoded(stored, kind, exif=oriented(orientation), **({"lossless": True} if kind == "WEBP" else {}))
    shown = decode_rgb(data, "it")
    assert np.array_equal(np.asarray(shown), UPRIGHT)
    assert checked_size(data, "it") == (4, 2)
    assert np.array_equal(np.asarray(as_rgb(shown)), UPRIGHT), "a picture that was turned is not turned again"


def test_a_phones_jpeg_stands(tmp_path: Path) -> None:
    """Orientation 6: the first column of what is stored is the top of the scene."""
    stored = Image.new("RGB", (64, 32), "blue")
    stored.paste("red", (0, 0, 16, 32))
    stored.save(tmp_path / "phone.jpg", exif=oriented(6), quality=95)
    image = open_rgb(tmp_path / "phone.jpg", "row 1")
    assert image.size == (32, 64)
    assert image.getpixel((16, 4))[0] > 240 and image.getpixel((16, 60))[2] > 240


@pytest.mark.parametrize("exif", [oriented(0), oriented(9), b"Exif\0\0nothing of the kind"])
def test_an_orientation_that_does_not_exist_turns_nothing(exif: Any) -> None:
    data = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert decode_rgb(data, "it").size == (8, 4)


def test_alpha_lies_on_white() -> None:
    """Every level of alpha over every fourth colour: round(c a / 255 + 255 - a)."""
    alpha, colour = np.meshgrid(np.arange(256), np.arange(0, 256, 4), indexing="ij")
    rgba = np.stack([colour, 255 - colour, colour // 2, alpha], axis=-1).astype(np.uint8)
    expected = np.floor((rgba[..., :3].astype(int) * alpha[..., None] + 255 * (255 - alpha[..., None])) / 255 + 0.5)
    found = np.asarray(decode_rgb(encoded(Image.fromarray(rgba)), "it"))
    assert np.array_equal(found, expected)


def paletted(mode: str = "P") -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    return image.convert(mode) if mode != "P" else image


def row_of(mode: str, *values: Any) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    image.putdata(values)
    return image


def numbers(dtype: Any, *values: float) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=dtype))


def frames(*colours: str) -> list[Image.Image]:
    return [Image.new("RGB", (2, 1), colour) for colour in colours]


def animated(kind: str, **options: Any) -> bytes:
    first, *others = frames("red", "blue", "lime")
    return encoded(first, kind, save_all=True, append_images=others, **options)


ZOO = {
    "rgb": (encoded(row_of("RGB", (1, 2, 3), (4, 5, 6))), [(1, 2, 3), (4, 5, 6)]),
    "grey": (encoded(row_of("L", 0, 7, 255)), [BLACK, (7, 7, 7), WHITE]),
    "one bit": (encoded(row_of("1", 0, 255)), [BLACK, WHITE]),
    "palette": (encoded(paletted()), [(10, 20, 30), (40, 50, 60), (70, 80, 90)]),
    "clear palette entry": (encoded(paletted(), transparency=1), [(10, 20, 30), WHITE, (70, 80, 90)]),
    "palette with alphas": (
        encoded(paletted(), transparency=bytes([255, 0, 51])),
        # 70 * 0.2 + 255 * 0.8
        [(10, 20, 30), WHITE, (218, 220, 222)],
    ),
    "grey and alpha": (encoded(row_of("LA", (8, 255), (8, 0))), [(8, 8, 8), WHITE]),
    "clear grey": (encoded(row_of("L", 5, 6), transparency=6), [(5, 5, 5), WHITE]),
    "clear colour": (encoded(row_of("RGB", (1, 2, 3), (1, 2, 4)), transparency=(1, 2, 4)), [(1, 2, 3), WHITE]),
    "clear bit": (encoded(row_of("1", 0, 255), transparency=0), [WHITE, WHITE]),
    "16 bits": (encoded(numbers(np.uint16, 0, 255, 256, 0x1234, 65535)), [(v,) * 3 for v in (0, 0, 1, 0x12, 255)]),
    "16 bits, one clear": (encoded(numbers(np.uint16, 0x1234, 0x1235), transparency=0x1235), [(0x12,) * 3, WHITE]),
    "16 bits in TIFF": (encoded(numbers(np.uint16, 0x1234, 0xFE00), "TIFF"), [(0x12,) * 3, (0xFE,) * 3]),
    "16 bits in PGM": (b"P5 3 1 65535\n" + struct.pack(">3H", 0, 100, 65535), [BLACK, BLACK, WHITE]),
    "10 bits in PGM": (b"P5 2 1 1023\n" + struct.pack(">2H", 511, 1023), [(127,) * 3, WHITE]),
    "integers of 8 bits": (encoded(numbers(np.int32, -4, 0, 9, 255), "TIFF"), [BLACK, BLACK, (9, 9, 9), WHITE]),
    "integers of 16 bits": (encoded(numbers(np.int32, 255, 256, 65535), "TIFF"), [BLACK, (1, 1, 1), WHITE]),
    "floats to 1": (encoded(numbers(np.float32, -1, np.nan, 0.2, 1), "TIFF"), [BLACK, BLACK, (51,) * 3, WHITE]),
    "floats to 255": (encoded(numbers(np.float32, 0.4, 50.6, 255), "TIFF"), [BLACK, (51,) * 3, WHITE]),
    "floats to 65535": (encoded(numbers(np.float32, 256, 65535), "TIFF"), [(1, 1, 1), WHITE]),
    "inks": (
        encoded(row_of("CMYK", (0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255)), "TIFF"),
        [WHITE, (0, 255, 255), BLACK],
    ),
    "GIF of several": (animated("GIF"), [(255, 0, 0)] * 2),
    "WebP of several": (animated("WEBP", lossless=True), [(255, 0, 0)] * 2),
    "PNG of several": (animated("PNG"), [(255, 0, 0)] * 2),
    "TIFF of several pages": (animated("TIFF"), [(255, 0, 0)] * 2),
    "GIF with a clear entry": (encoded(paletted(), "GIF", transparency=0), [WHITE, (40, 50, 60), (70, 80, 90)]),
}


@pytest.mark.parametrize("kind", ZOO)
def test_every_kind_has_one_result(kind: str) -> None:
    data, expected = ZOO[kind]
    assert pixels(data) == expected


def test_inks_that_a_jpeg_stores_inverted() -> None:
    """Adobe's programs do, and PIL writes and reads it that way: white paper stays white."""
    image = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 8, 16))
    data = encoded(image, "JPEG", quality=100)
    assert b"Adobe" in data
    found = decode_rgb(data, "it")
    assert found.getpixel((0, 8)) == BLACK and found.getpixel((15, 8)) == WHITE


@pytest.mark.parametrize("mode", ["RGBa", "La", "PA", "RGBX", "YCbCr", "HSV"])
def test_modes_that_no_file_has_alone(mode: str) -> None:
    through = {"La": "LA", "PA": "P"}.get(mode, mode if mode != "RGBa" else "RGBA")
    image = Image.new("RGB", (2, 1), WHITE).convert(through).convert(mode)
    assert np.asarray(as_rgb(image)).min() >= 254 and as_rgb(image).mode == "RGB"
    clear = {"RGBa": (0, 0, 0, 0), "La": (0, 0), "PA": (0, 0)}
    if mode in clear:
        assert as_rgb(Image.new(mode, (1, 1), clear[mode])).getpixel((0, 0)) == WHITE


def png(header: tuple[int, ...], rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG from its parts, whatever PIL would write."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    packed = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_the_clear_colour_is_told_in_the_files_own_depth() -> None:
    # 1 bit: white is 1; 2 bits: 0 1 2 3; 16 bits: the colour of the second pixel
    assert pixels(png((2, 1, 1, 0), b"\0\x40", (b"tRNS", b"\0\0"))) == [WHITE, WHITE]
    assert pixels(png((4, 1, 2, 0), b"\0\x1b", (b"tRNS", b"\0\1"))) == [BLACK, WHITE, (170,) * 3, WHITE]
    deep = struct.pack(">6H", 0x0102, 0x0304, 0x0506, 0x0A02, 0x0304, 0x0506)
    clear = struct.pack(">3H", 0x0A02, 0x0304, 0x0506)
    assert pixels(png((2, 1, 16, 2), b"\0" + deep, (b"tRNS", clear))) == [(1, 3, 5), WHITE]


def test_grey_beyond_16_bits_is_refused_and_named() -> None:
    for image in (numbers(np.int32, 65536), numbers(np.float32, np.inf)):
        with pytest.raises(RecordError, match="it: broken picture .*grey values up to .*8 or 16 bits") as error:
            decode_rgb(encoded(image, "TIFF"), "it")
        assert error.value.reason == "picture"


def test_plain_pictures_keep_their_bytes() -> None:
    image = Image.effect_noise((37, 23), 80).convert("RGB")
    for kind in ("JPEG", "PNG", "BMP"):
        data = encoded(image, kind)
        with Image.open(io.BytesIO(data)) as plain:
            assert decode_rgb(data, "it").tobytes() == plain.convert("RGB").tobytes()


def claims(width: int, height: int) -> bytes:
    """A PNG whose header claims a size; it holds no pixels."""
    return png((width, height, 8, 2), b"")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((8193, 8192), rf"8193 x 8192 are 67117056 pixels, at most {MAX_PIXELS} are read; scale it down"),
        ((10_000, 10_000), r"10000 x 10000 are 100000000 pixels"),
        ((50_000, 50_000), r"2500000000 pixels, at most"),
        ((30_000, 10), rf"30000 x 10 pixels are 3000 to 1, at most {MAX_ASPECT} to 1 is read; crop it"),
        ((10, 2001), r"10 x 2001 pixels are 200 to 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:Image size")
def test_what_is_too_large_or_too_long_is_known_from_the_header(size: tuple[int, int], message: str) -> None:
    for read in (decode_rgb, checked_size):
        with pytest.raises(RecordError, match=message) as error:
            read(claims(*size), "it")
        assert error.value.reason == "picture_size"


def test_the_limits_themselves_are_within() -> None:
    assert limits_fault((8192, 8192)) is None and limits_fault((2000, 10)) is None and limits_fault((1, 200)) is None
    assert limits_fault((8192, 8193)) is not None and limits_fault((1, 201)) is not None


DAMAGES = {
    "cut": lambda data: data[: len(data) * 2 // 3],
    "no pixels": lambda data: data[:40],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_files_are_named(kind: str, damage: str, tmp_path: Path) -> None:
    data = DAMAGES[damage](encoded(Image.effect_noise((64, 48), 80).convert("RGB"), kind))
    (tmp_path / "it").write_bytes(data)
    for source in (data, tmp_path / "it"):
        with pytest.raises(RecordError, match=rf"broken picture it of {len(data)} bytes \(.+\)") as error:
            checked_size(source, "it")
        assert error.value.reason == "picture" and "0x" not in str(error.value)


def test_a_jpeg_with_an_end_mark_but_damaged_tables() -> None:
    data = bytearray(encoded(Image.effect_noise((64, 48), 80).convert("RGB"), "JPEG"))
    table = data.index(b"\xff\xc4")
    data[table + 5 : table + 21] = b"\xff" * 16
    assert data.endswith(b"\xff\xd9")
    with pytest.raises(RecordError, match="broken picture it"):
        checked_size(bytes(data), "it")


def test_a_png_whose_checksums_hold_but_not_its_pixels() -> None:
    for rows in (b"\0" * 5, b"", b"\7" + b"\0" * 30):
        with pytest.raises(RecordError, match="broken picture it"):
            checked_size(png((10, 1, 8, 2), rows), "it")


def test_a_png_whose_pixels_decode_but_not_its_checksums() -> None:
    """Decoding alone takes no notice: here the wrong pixels come out."""
    stored = zlib.compressobj(level=0)
    body = stored.compress(b"\0" + bytes(30)) + stored.flush()
    data = bytearray(png((10, 1, 8, 2), b"\0" + bytes(30)).replace(zlib.compress(b"\0" + bytes(30)), body))
    data[data.index(b"IDAT") - 1] = len(body)
    data[data.index(b"IDAT") + 15] ^= 1
    with pytest.raises(RecordError, match="broken picture it"):
        checked_size(bytes(data), "it")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000"])
@pytest.mark.filterwarnings("ignore:Image size")
def test_whatever_is_damaged_one_error_comes_out(kind: str) -> None:
    """A hundred random damages each: PIL's decoders raise all kinds of errors."""
    rng = np.random.default_rng(0)
    data = encoded(Image.effect_noise((32, 24), 80).convert("RGB"), kind)
    for _ in range(100):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 8) if rng.random() < 0.5 else rng.integers(0, 60, 3):
            damaged[place] = rng.integers(0, 256)
        try:
            width, height = checked_size(bytes(damaged), "it")
        except RecordError as error:
            assert error.reason in ("picture", "picture_size")
        else:
            assert width * height > 0


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"row 7: cannot read the picture .*none.png \(No such file"):
        open_rgb(tmp_path / "none.png", "row 7")
    with pytest.raises(RecordError, match=r"row 7: cannot read the picture"):
        open_rgb(tmp_path, "row 7")


CHECK = """
from pathlib import Path
from lookright.errors import RecordError
from lookright.common.pictures import checked_size

def work(path):
    try:
        checked_size(Path(path), "it")
    except RecordError as error:
        assert error.reason in ("picture", "picture_size")
"""


def test_a_bad_picture_takes_no_memory_to_speak_of(tmp_path: Path) -> None:
    """Too long, too large: nothing is decoded. Cut, at the limit: what is decoded is 256 MiB."""
    Image.new("RGB", (30000, 10)).save(tmp_path / "strip.png")
    (tmp_path / "large.png").write_bytes(claims(12000, 12000))
    Image.new("L", (8192, 8192)).convert("RGB").save(tmp_path / "cut.png", compress_level=1)
    data = (tmp_path / "cut.png").read_bytes()
    # cut and closed again, so that all checksums hold
    place = data.rindex(b"IDAT") - 4
    (tmp_path / "cut.png").write_bytes(data[:place] + data[-12:])
    strip, large, cut = peak_megabytes(CHECK, *(tmp_path / f"{name}.png" for name in ("strip", "large", "cut")))
    assert strip < 20 and large < 20 and 200 < cut < 320, (strip, large, cut)
