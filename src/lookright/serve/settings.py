"""What a server may be told, checked as a whole."""

from dataclasses import dataclass, fields

from lookright.config.schema import LimitsConfig
from lookright.errors import ConfigError

STYLES = ("auto", "labelled", "interleaved")
"""How pictures stand in the text that a model is asked.

`labelled`: before it, as `Image1:<image>` ... on lines of their own, one alone as `<image>`, the way our formats write
them. `interleaved`: where they stand in the message. `auto`: labelled, unless text stands between pictures.
"""


@dataclass(kw_only=True)
class Limits(LimitsConfig):
    """What one request may hold and take, each value checked."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            lowest = 0 if entry.name == "pictures" else 1
            if value < lowest:
                raise ConfigError(f"limits.{entry.name}={value}; set {lowest} or more")


def check_style(style: str, key: str = "prompt_style") -> str:
    """Return `style`; raises ConfigError naming `key` where it is none of `STYLES`."""
    if style not in STYLES:
        raise ConfigError(f"{key}={style!r}; valid: {', '.join(STYLES)}")
    return style
