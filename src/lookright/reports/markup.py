"""HTML from nested calls, escaped by construction: a plain string is text, only `Html` is markup."""

import html
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources

VOID_TAGS = frozenset({"meta", "br", "img", "rect", "line", "circle", "image", "stop", "path"})


class Html(str):
    """Markup that is safe as it is."""

    __slots__ = ()


def tag(name: str, /, *content: str | int | float | None, **attributes: str | int | float | None) -> Html:
    """One element. `class_` is `class`, `view_box` is `viewBox`, other underscores are hyphens; None is left out."""
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            parts.append(f'{_attribute(key)}="{html.escape(shown, quote=True)}"')
    opening = " ".join(parts)
    if name in VOID_TAGS and not content:
        return Html(f"<{opening}/>")
    return Html(f"<{opening}>{join(content)}</{name}>")


def join(content: Iterable[str | int | float | None], separator: str = "") -> Html:
    """Pieces one after the other, plain text escaped, None left out."""
    shown = (piece if isinstance(piece, Html) else html.escape(str(piece)) for piece in content if piece is not None)
    return Html(separator.join(shown))


def table(
    head: Sequence[str], rows: Iterable[Sequence[str | int | float | None]], *, caption: str | None = None
) -> Html:
    """First column as row headings, the rest right-aligned numbers; scrolls sideways on a narrow screen."""
    head_row = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    caption_tag = tag("caption", caption) if caption else None
    inner = tag("table", caption_tag, tag("thead", head_row), tag("tbody", *body))
    return tag("div", inner, class_="table")


def section(title: str, *content: str | None, lead: str | None = None) -> Html:
    """A heading, an optional sentence under it, and what follows."""
    return tag("section", tag("h2", title), tag("p", lead, class_="lead") if lead else None, *content)


def page(title: str, *content: str | None, subtitle: str | None = None) -> str:
    """A whole document without any outside resource."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(_style())),
    )
    header = tag("header", tag("h1", title), tag("p", subtitle, class_="lead") if subtitle else None)
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', header, *content)), lang='en')}\n"


def _attribute(key: str) -> str:
    return {"class_": "class", "view_box": "viewBox", "preserve_aspect_ratio": "preserveAspectRatio"}.get(
        key, key.replace("_", "-")
    )


@cache
def _style() -> str:
    return resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
