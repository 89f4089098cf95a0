"""Licences of all that an installation brings, as the packages say it: python -m tests.licences writes the table.

Looks at what is installed of constraints.txt, but for torch, whose builds differ; docs/dependencies.md has the table.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "dependencies.md"
BEGIN, END = "<!-- licences: python -m tests.licences -->", "<!-- end of licences -->"
EXTRAS = ("", "qlora", "serve", "dev")
"""In the order in which a package is told as needed first."""
NAMES = {
    "Apache Software License": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""What the words of older packages mean in SPDX."""
PERMISSIVE = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "ISC", "MIT", "MIT-CMU", "PSF-2.0", "Unlicense", "Zlib",
}  # fmt: skip
BY_FILE = {"MPL-2.0"}
"""Copyleft for changes of the package's own files alone."""


@cache
def pinned() -> tuple[str, ...]:
    """Canonical names of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = {canonicalize_name(Requirement(line).name) for line in lines if line and line[0] != "#"}
    return tuple(sorted(names - {"torch"}))


def licence_of(name: str) -> str:
    """SPDX terms of an installed package, joined by AND or OR as it says. Raises LookupError where it says none."""
    told = metadata.metadata(name)
    text = told.get("License-Expression")
    if not text:
        kinds = [one.rsplit(" :: ", 1)[1] for one in told.get_all("Classifier", []) if one.startswith("License :: ")]
        kinds = [kind for kind in kinds if kind != "OSI Approved"] or [(told.get("License") or "").split("\n")[0]]
        text = " AND ".join(NAMES.get(kind, kind) for kind in kinds)
    if not text.strip():
        raise LookupError(f"{name} says nothing of its licence")
    return text


def terms_of(licence: str) -> set[str]:
    """The single licences of an expression."""
    return set(re.split(r" (?:AND|OR) ", licence.replace("(", "").replace(")", "")))


def needed_by() -> dict[str, str]:
    """Canonical names of the package's dependencies, whatever depth, and the first extra that brings each."""
    found: dict[str, str] = {}
    for extra in EXTRAS:
        waiting = list(_direct(extra))
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = extra
                waiting += _requirements(name, "")
    return found


def _direct(extra: str) -> Iterator[str]:
    return _requirements("lookright", extra)


def _requirements(name: str, extra: str) -> Iterator[str]:
    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    for one in map(Requirement, texts):
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            yield canonicalize_name(one.name)
            # those of extras that are asked for
            for asked in one.extras:
                yield from _requirements(one.name, asked)


def table() -> str:
    """A line a package that is installed and pinned."""
    needed = needed_by()
    lines = ["| package | licence | brought by |", "|---|---|---|"]
    for name in pinned():
        try:
            licence = licence_of(name)
        except metadata.PackageNotFoundError:
            continue
        extra = needed.get(name)
        lines.append(f"| {name} | {licence} | {'other' if extra is None else f'`[{extra}]`' if extra else 'all'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(f"{page[:start]}\n{table()}\n{page[end:]}", encoding="utf-8")
