"""The pinned environment lies within the package's bounds and says nothing of the machine that it was seen on."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = [
    line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
]
PINS = {canonicalize_name(one.name): one for one in map(Requirement, LINES)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [
    one
    for one in map(Requirement, [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)])
    if one.name != PROJECT["name"]
]


@pytest.mark.parametrize("needed", DIRECT, ids=lambda one: one.name)
def test_every_dependency_has_a_ceiling(needed: Requirement) -> None:
    assert {one.operator for one in needed.specifier} == {">=", "<"}


# ZeRO's library compiles for CUDA: no environment without it installs it
@pytest.mark.parametrize("needed", [one for one in DIRECT if one.name != "deepspeed"], ids=lambda one: one.name)
def test_every_dependency_is_pinned_within_its_bounds(needed: Requirement) -> None:
    pin = PINS[canonicalize_name(needed.name)].specifier
    if needed.name == "torch":
        assert pin == needed.specifier, "a range, so that a build that is at hand is taken"
    else:
        assert re.fullmatch(r"==[\w.]+", str(pin)) and str(pin)[2:] in needed.specifier


def test_pins_are_names_and_versions_alone() -> None:
    """No path, no address, no option of an index, no build of one machine."""
    assert len(PINS) == len(LINES)
    for line in LINES:
        assert re.fullmatch(r"[\w.-]+(==[\w.]+|>=[\d.]+,<[\d.]+)", line), line


def test_the_lock_has_a_hash_for_every_pin_but_that_of_torch() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^(\S+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, flags=re.MULTILINE)
    locked = {canonicalize_name(name): version for name, version, _ in entries}
    assert locked == {name: str(pin.specifier)[2:] for name, pin in PINS.items() if name != "torch"}
    # names, versions and hashes, and nothing of an index
    assert len(text.splitlines()) == 1 + len(entries) + text.count("--hash=") and "://" not in text


def test_make_installs_them() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = re.findall(r"^\t.*(?:pip install|\$\(PIP\)).*$", makefile, flags=re.MULTILINE)
    pinned = [line for line in installs if "$(PIP) " in line]
    assert len(pinned) == 4, "torch twice"
    others = [line for line in installs if line not in pinned]
    # by hash, or the package alone; the tools have an environment of their own
    assert all("--no-deps" in line or line.startswith("\t$(TOOLS)") for line in others)
    assert re.search(r"^PIP = .*--constraint constraints\.txt$", makefile, flags=re.MULTILINE)


@pytest.mark.parametrize("needed", DIRECT, ids=lambda one: one.name)
def test_every_dependency_has_its_reason_in_the_documentation(needed: Requirement) -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    named = {
        name for row in re.findall(r"^\| (.+?) \|", page, flags=re.MULTILINE) for name in re.findall(r"[\w-]+", row)
    }
    assert needed.name in named
