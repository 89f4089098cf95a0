"""Making large pictures smaller before a processor pads or crops them to a square."""

from PIL import Image

CANVAS = 4096
"""Pixels on a side of the largest square that a picture is padded to: 50 MB, twelve times LLaVA's 336."""


def bounded(image: Image.Image, side: int, aspect: str) -> Image.Image:
    """What a processor may square (`pad` or `crop`) and resize to `side` pixels without much memory.

    A picture whose square stays within `CANVAS` comes back as it is. Padded, a larger one is scaled down to it
    first, bicubic, which moves no edge by more than half a pixel of the `CANVAS`. Cropped, it is scaled to a
    whole multiple of what the processor resizes it to, so that both crop at the same pixel; a strip that is still
    longer than the `CANVAS` when its short side has `side` pixels first loses its ends, which are not seen.
    """
    if aspect == "crop":
        return _cropped(image, side)
    longest = max(image.size)
    if longest <= CANVAS:
        return image
    width, height = (max(1, round(extent * CANVAS / longest)) for extent in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _cropped(image: Image.Image, side: int) -> Image.Image:
    if max(image.size) * side > min(image.size) * CANVAS:
        image = _middle(image, max(min(image.size) * CANVAS // side, 1))
    long, short = max(image.size), min(image.size)
    if long <= CANVAS:
        return image
    # as the processor takes it: rounded down
    resized_long = side * long // short
    times = max(CANVAS // resized_long, 1)
    across, down = (resized_long, side) if image.width > image.height else (side, resized_long)
    return image.resize((across * times, down * times), Image.Resampling.BICUBIC)


def _middle(image: Image.Image, length: int) -> Image.Image:
    """The middle of a strip, about `length` pixels of its longer side; as much is cut off at either end."""
    cut = (max(image.size) - length) // 2
    if image.width > image.height:
        return image.crop((cut, 0, image.width - cut, image.height))
    return image.crop((0, cut, image.width, image.height - cut))
