"""Which pictures a run takes, as its record tells them."""

from collections.abc import Iterable

from lookright.common.hashing import hash_text
from lookright.common.streams import in_threads
from lookright.config.inputs import Input
from lookright.records.pictures import CheckedPictures, Pictures
from lookright.types import Preference, Prompt


def used_pictures(path: str, records: Iterable[tuple[Preference | Prompt, Pictures]]) -> Input:
    """Return one entry for all pictures that checked records name; `path` says whose they are.

    The hash is of their names and sizes, in bytes and in pixels, and not of what they show, so that a start reads no
    picture: one that was drawn anew in exactly as many bytes and pixels is not noticed. Pictures in the rows of a
    table are covered by the hash of that file, and count here by their pixels.
    """
    places = {(id(pictures), name): (pictures, name) for record, pictures in records for name in record.images}
    known = set(in_threads(_told, places.values()))
    lines = sorted(f"{name}\0{size}\0{width}x{height}" for name, size, width, height in known)
    return Input(
        path=path,
        hash=hash_text("\n".join(lines)),
        size=sum(size for _, size, _, _ in known),
        covers=f"names and sizes of {len(known)} pictures",
    )


def _told(place: tuple[Pictures, str]) -> tuple[str, int, int, int]:
    """Name, bytes (0 where it is no file of its own), width and height."""
    pictures, name = place
    return name, pictures.file_size(name) if isinstance(pictures, CheckedPictures) else 0, *pictures.size(name)
