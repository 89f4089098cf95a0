"""Pieces that several reports share."""

from collections.abc import Mapping, Sequence

from lookright.reports.markup import Html, join, tag
from lookright.types import IMAGE_PLACEHOLDER, Prompt

FORMAT_TITLES = {
    "sequence": "Sequence",
    "grid_collage": "Grid collage",
    "pic_in_pic": "Picture in picture",
    "single_image": "Single image",
    "multi_image": "Multi-image mean",
}


def format_title(name: str) -> str:
    """The name of a format as a reader sees it; formats from elsewhere keep their own."""
    return FORMAT_TITLES.get(name, name)


def figures(values: Mapping[str, str]) -> Html:
    """Large numbers with their captions."""
    boxes = [tag("div", tag("b", value), tag("span", name), class_="figure") for name, value in values.items()]
    return tag("div", *boxes, class_="figures")


def card_head(prompt: Prompt, chips: Sequence[tuple[str, str | None]]) -> Html:
    """Format, number of images, further (text, class) chips, and the id."""
    plural = "" if prompt.num_images == 1 else "s"
    return tag(
        "div",
        tag("span", f"{format_title(prompt.format)}, {prompt.num_images} image{plural}", class_="chip"),
        *(tag("span", text, class_=f"chip {kind}" if kind else "chip") for text, kind in chips),
        tag("span", prompt.id, class_="id"),
        class_="card-head",
    )


def prompt_text(prompt: Prompt) -> Html:
    """The prompt's text without placeholders: the pictures are shown above it."""
    lines = [line.replace(IMAGE_PLACEHOLDER, "").strip() for line in prompt.prompt.splitlines()]
    bare = [line for line in lines if line and not (line.startswith("Image") and line.endswith(":"))]
    return tag("p", "\n".join(bare), class_="prompt")


def definitions(entries: Sequence[tuple[str, str, str | None]]) -> Html:
    """(term, text, class) as a two-column list; an empty text shows as a dash."""
    pairs = [join([tag("dt", term), tag("dd", text or "(empty)", class_=kind)]) for term, text, kind in entries]
    return tag("dl", *pairs)


def score_line(scores: Mapping[str, float | None]) -> Html | None:
    """Named scores in one line, None where there is none; an attention ratio with that of an even look beside it."""
    texts = {name: f"{value:.2f}" for name, value in scores.items() if value is not None}
    ratio = ratio_text(scores.get("attention_ratio"), scores.get("even_ratio"))
    if ratio is not None:
        texts["attention_ratio"] = ratio
        texts.pop("even_ratio", None)
    shown = [f"{name.replace('_', ' ')} {text}" for name, text in texts.items()]
    return tag("p", " \u00b7 ".join(shown), class_="scores") if shown else None


def ratio_text(ratio: float | None, even: float | None) -> str | None:
    """An attention ratio beside that of an even look: `0.62 (even 0.33)`; None where it is unknown."""
    if ratio is None:
        return None
    return f"{ratio:.2f}" if even is None else f"{ratio:.2f} (even {even:.2f})"


def with_range(entry: Mapping[str, float], digits: int = 1) -> Html:
    """A value and its 95 % interval: 71.2 [66.5, 75.4]."""
    shown = tag("span", f"{entry['low']:.{digits}f} to {entry['high']:.{digits}f}", class_="range")
    return join([f"{entry['value']:.{digits}f}", shown])
