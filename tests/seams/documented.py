"""What docs/extending.md holds: files by their path below `mine/`, and command lines."""

import re
import shlex
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
TEXT = PAGE.read_text(encoding="utf-8")
FILES: dict[str, str] = dict(
    re.findall(r"^```(?:python|yaml)\n# mine/(\S+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
)
COMMANDS: dict[str, tuple[str, list[str]]] = {}
"""Command and overrides by the title above them."""
for _title, _body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE):
    for _command, _arguments in re.findall(
        r"^PYTHONPATH=mine python (\w+)\.py --config-dir mine/conf (.+)$", _body, re.MULTILINE
    ):
        COMMANDS[_title] = (_command, shlex.split(_arguments))
