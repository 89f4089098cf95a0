"""Pictures as the whole project takes them: upright, RGB with 8 bits, on white, within limits. The one home of this.

| found | taken |
|---|---|
| orientation in EXIF, else in XMP | turned upright; a value that does not exist, or broken EXIF, turns nothing |
| transparency: alpha, a transparent colour or palette entry | on white |
| 16-bit grey | the upper 8 bits |
| 32-bit integers, floats | white is the first of 1 (floats alone), 255, 65535 that no value passes; else refused |
| 1 bit, palette, CMYK, YCbCr | as PIL converts them |
| several frames or pages | the first |
"""

import errno
import io
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from threading import Lock

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from lookright.errors import RecordError
from lookright.types import Size

MAX_PIXELS = 2**26
"""8192 x 8192, 256 MiB once decoded (PIL keeps RGB in 4 bytes a pixel); single cameras reach 60 million."""
MAX_ASPECT = 200
"""Longest side in shortest sides: at 336 pixels the short side of a longer strip is a pixel."""

MAX_BYTES = 2**28
"""256 MiB: the largest picture that is taken, not compressed, with 4 bytes a pixel. Some decoders read a whole file."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "ICO", "TGA", "JPEG2000")
"""What is read. PIL knows more, of which some run programs (EPS calls Ghostscript) or fetch files."""

LARGE = 2**24
"""Pixels from which on pictures are checked one at a time: 64 MiB each."""
ROWS = 256
"""Rows of a picture in 32 bits that are converted at a time."""
_ONE_LARGE = Lock()

PICTURE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
"""What PIL raises for a picture that it cannot read; its decoders do not hold to one kind."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to what turns a picture upright."""


def leaves_folder(name: str) -> bool:
    """Whether a path could name something outside the folder that it is relative to."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]


def open_rgb(path: Path, where: str) -> Image.Image:
    """Decode a picture file as `decode_rgb` does. Raises RecordError naming `where` and the path."""
    try:
        return decode_rgb(path, f"{where}: {path}")
    except OSError as error:
        raise RecordError("picture", f"{where}: cannot read the picture {path} ({error.strerror})") from error


def decode_rgb(data: bytes | Path, where: str) -> Image.Image:
    """Decode a file, or the bytes of one, to a picture as the table above has it.

    Raises RecordError naming `where`, reason `picture` or `picture_size`, and OSError where a file cannot be read.
    """
    with _named(data, f"{where}: broken picture"), _opened(data) as image:
        _check_limits(image.size, where)
        return as_rgb(image)


def checked_size(data: bytes | Path, name: str) -> Size:
    """Upright size of a picture that was found to decode. Raises as `decode_rgb`, naming `name`.

    PNG is verified by its checksums besides, which decoding takes no notice of. A damaged JPEG may decode to a
    picture that shows damage: its format has no checksums.
    """
    with _named(data, f"broken picture {name}"):
        with _opened(data) as image:
            _check_limits(image.size, f"picture {name}")
            if image.format != "PNG":
                return _decoded_size(image)
            image.verify()
        with _opened(data) as image:
            return _decoded_size(image)


def _decoded_size(image: Image.Image) -> Size:
    """Size upright, found by decoding; large pictures one at a time, whatever the number of threads that check."""
    with _ONE_LARGE if image.width * image.height > LARGE else nullcontext():
        return _converted(image).size


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture as the table above has it, as an object of its own, without what the file says beside the pixels."""
    converted = _converted(image)
    plain = converted.copy() if converted is image else converted
    # EXIF that went along would turn the picture again
    plain.info = {}
    return plain


def limits_fault(size: Size) -> str | None:
    """Why a picture of so many pixels is not taken, with the remedy; None where it is."""
    width, height = size
    if width * height > MAX_PIXELS:
        return f"{width} x {height} are {width * height} pixels, at most {MAX_PIXELS} are read; scale it down"
    if max(size) > MAX_ASPECT * min(size):
        ratio = max(size) / max(min(size), 1)
        return f"{width} x {height} pixels are {ratio:.0f} to 1, at most {MAX_ASPECT} to 1 is read; crop it"
    return None


def _check_limits(size: Size, where: str) -> None:
    fault = limits_fault(size)
    if fault is not None:
        raise RecordError("picture_size", f"{where}: {fault}")


@contextmanager
def _opened(data: bytes | Path) -> Iterator[Image.Image]:
    """The picture, of which no more than the header was read."""
    if isinstance(data, Path):
        check_regular(data)
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS) as image:
        yield image


def check_regular(path: Path) -> None:
    """Raise OSError for what is no file of a bearable size: a pipe would wait for a writer, a device never end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
        raise OSError(errno.EINVAL, f"it is {kind}, not a file")
    if found.st_size > MAX_BYTES:
        raise OSError(errno.EFBIG, f"it has {found.st_size} bytes, at most {MAX_BYTES} are read")


@contextmanager
def _named(data: bytes | Path, what: str) -> Iterator[None]:
    """Turn what PIL raises into a RecordError; an error of the operating system stays what it is."""
    try:
        yield
    except RecordError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\d+", str(error))
        pixels = "too many" if found is None else found[0]
        fault = f"{pixels} pixels, at most {MAX_PIXELS} are read; scale it down"
        raise RecordError("picture_size", f"{what.replace('broken ', '')}: {fault}") from error
    except PICTURE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None and isinstance(data, Path):
            raise
        num_bytes = len(data) if isinstance(data, bytes) else data.stat().st_size
        raise RecordError("picture", f"{what} of {num_bytes} bytes ({_fault(error)})") from error


def _fault(error: Exception) -> str:
    """What PIL found, without the address of the buffer that its message names."""
    return f"none of the formats {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else str(error)


def _converted(image: Image.Image) -> Image.Image:
    """As the table above has it; the same object where nothing is to be done."""
    depth = _sample_depth(image)
    image.load()
    # only now: PIL turns a TIFF itself as it loads, and finds a PNG's EXIF behind the pixels
    turn = _UPRIGHT.get(_orientation(image))
    flat = _flat(image, depth)
    return flat if turn is None else flat.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except PICTURE_ERRORS:
        return 1


def _flat(image: Image.Image, depth: int) -> Image.Image:
    """RGB with 8 bits and no transparency, loaded, in the position that it has in the file."""
    if image.mode.startswith("I;16"):
        return _deep_grey(image)
    if image.mode in ("I", "F"):
        return Image.fromarray(_grey_levels(image)).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image, depth)
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """The upper 8 of 16 bits; a value that is said to be transparent is white."""
    values = np.asarray(image)
    levels = (values >> 8).astype(np.uint8)
    if "transparency" in image.info:
        levels[values == image.info["transparency"]] = 255
    return Image.fromarray(levels).convert("RGB")


def _grey_levels(image: Image.Image) -> np.ndarray:
    """uint8[H, W] of 32-bit values, see the table at the top. Raises ValueError for values beyond 16 bits."""
    # by rows: a large picture in 32 bits, copied a few times, would be gigabytes
    tops = range(0, image.height, ROWS)
    most = max(float(_positive(image, top).max()) for top in tops)
    if most > 65535:
        raise ValueError(f"grey values up to {most:g}; save it with 8 or 16 bits")
    # PIL scales all values of a PGM of more than 8 bits to 16
    deep = most > 255 or (image.format == "PPM" and image.mode == "I")
    unit = image.mode == "F" and most <= 1
    return np.concatenate([_levels(_positive(image, top), deep, unit) for top in tops])


def _positive(image: Image.Image, top: int) -> np.ndarray:
    """Values of some rows in 32 bits; negative ones and NaN are black."""
    rows = image.crop((0, top, image.width, min(top + ROWS, image.height)))
    return np.nan_to_num(np.asarray(rows), nan=0.0, posinf=np.inf).clip(min=0)


def _levels(values: np.ndarray, deep: bool, unit: bool) -> np.ndarray:
    return (values / 256).astype(np.uint8) if deep else np.rint(values * 255 if unit else values).astype(np.uint8)


def _on_white(image: Image.Image, depth: int) -> Image.Image:
    key = image.info.get("transparency")
    if depth != 8 and key is not None and image.mode in ("1", "L", "RGB"):
        # a PNG tells it in its own depth, PIL has scaled the pixels to 8 bits
        image = image.copy()
        image.info["transparency"] = _in_eight_bits(key, depth)
    # PIL has no way from La to RGBA but through LA
    clear = image.convert("LA") if image.mode == "La" else image
    clear = clear if clear.mode == "RGBA" else clear.convert("RGBA")
    ground = Image.new("RGB", image.size, "white")
    ground.paste(clear, mask=clear)
    return ground


def _in_eight_bits(key: int | tuple[int, ...], depth: int) -> int | tuple[int, ...]:
    if isinstance(key, tuple):
        return tuple(_sample_in_eight_bits(part, depth) for part in key)
    return _sample_in_eight_bits(key, depth)


def _sample_in_eight_bits(sample: int, depth: int) -> int:
    return sample >> depth - 8 if depth > 8 else sample * 255 // (2**depth - 1)


def _sample_depth(image: Image.Image) -> int:
    """Bits of a sample of a PNG, 8 where they make no difference; known until the pixels are loaded."""
    tile = getattr(image, "tile", None)
    if image.format != "PNG" or not tile:
        return 8
    raw = tile[0][3]
    return {"1": 1, "L;2": 2, "L;4": 4, "RGB;16B": 16}.get(raw, 8)
