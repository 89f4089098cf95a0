"""What readers call the formats, and in which order they see them; formats from elsewhere need no entry here."""

SINGLE_IMAGE = "single_image"
MULTI_IMAGE = "multi_image"
"""The group of all formats with several images."""

_TITLES = {
    "sequence": "Sequence",
    "grid_collage": "Grid collage",
    "pic_in_pic": "Picture in picture",
    SINGLE_IMAGE: "Single image",
    MULTI_IMAGE: "Multi-image mean",
}
_LAST = (SINGLE_IMAGE, MULTI_IMAGE)


def format_title(name: str) -> str:
    """Return a format's name as a reader sees it; one from elsewhere is called what it is, in words."""
    return _TITLES.get(name) or name.replace("_", " ").capitalize()


def format_order(name: str) -> tuple[int, str]:
    """Return a sort key: the published formats, then formats from elsewhere, then single images, then the mean."""
    published = [known for known in _TITLES if known not in _LAST]
    if name in _LAST:
        return len(published) + 1 + _LAST.index(name), name
    return (published.index(name) if name in published else len(published)), name
