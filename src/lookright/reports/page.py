"""Pages from the templates beside this file: one file each, without any outside resource, everything in it escaped."""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lookright.common.files import write_whole


def render(template: str, **values: Any) -> str:
    """The page `templates/<template>.html.j2` makes of `values`; a name that it lacks is an error."""
    return _environment().get_template(f"{template}.html.j2").render(**values)


def write_page(path: Path, page: str) -> None:
    """A page into a file, UTF-8, that is there whole or not at all."""
    write_whole(path, page)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lookright.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["style"] = Markup(resources.files(__package__).joinpath("style.css").read_text("utf-8"))
    return environment
