"""What `make lint` holds: rooms import one way, which a planted import shows, and every check is in every place."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
LAYERS, CYCLES = CONFIG["importlinter"]["contracts"]
CHECKS = ("ruff check", "ruff format", "lint-imports", "mypy")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the modules of the package and the contracts."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path in (ROOT / "src").rglob("*.py"):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def contracts(folder: Path) -> tuple[int, str]:
    """Exit code and report of import-linter there."""
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "src"), "COLUMNS": "200"},
        text=True,
        capture_output=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_package_keeps_its_contracts(copy: Path) -> None:
    code, report = contracts(copy)
    assert code == 0, report
    assert "Contracts: 2 kept, 0 broken." in report


@pytest.mark.parametrize(
    ("module", "line", "named"),
    [
        ("losses/sft.py", "from lookright.training import trainer", "lookright.losses is not allowed to import"),
        # through a function too, where Python itself would find no cycle
        ("common/boxes.py", "def late():\n    import lookright.reports.page", "lookright.common is not allowed"),
        ("types.py", "import lookright.errors", "lookright.types is not allowed to import lookright.errors"),
        ("reports/page.py", "import lookright.reports.comparison", "over others neither BROKEN"),
    ],
)
def test_a_wrong_import_is_found(copy: Path, module: str, line: str, named: str) -> None:
    path = copy / "src" / "lookright" / module
    whole = path.read_text(encoding="utf-8")
    path.write_text(f"{whole}\n\n{line}\n", encoding="utf-8")
    try:
        code, report = contracts(copy)
    finally:
        path.write_text(whole, encoding="utf-8")
    assert code == 1 and named in re.sub(r"\s+", " ", report), report


def test_a_room_that_the_contract_does_not_name_is_found(copy: Path) -> None:
    attic = copy / "src" / "lookright" / "attic.py"
    attic.touch()
    try:
        code, report = contracts(copy)
    finally:
        attic.unlink()
    assert code == 1 and "lookright.attic" in report, report


def test_the_contract_has_the_order_of_the_map() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("\n## Rooms\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE)
    on_map = [{name.removesuffix(".py").rstrip("/") for name in re.findall(r"`(.+?)`", row)} for row in rows]
    layers = [{name.strip() for name in re.split("[|:]", layer)} for layer in reversed(LAYERS["layers"])]
    place = {name: number for number, names in enumerate(layers) for name in names}
    assert set().union(*on_map) == set(place)
    # the map has the Python page last
    order = [min(place[name] for name in names) for names in on_map if names != {"api"}]
    assert order == sorted(order)


def test_nobody_is_left_out_of_the_type_check() -> None:
    """No error is ignored for the whole package, and each exception says why right above it."""
    settings = CONFIG["mypy"]
    assert settings["strict"] and settings["files"] == ["src/lookright"] and "disable_error_code" not in settings
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert text.count("[[tool.mypy.overrides]]\n# ") == len(settings["overrides"])
    assert not any(override.get("ignore_errors") for override in settings["overrides"])
    ignores = [
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "src").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "type: ignore" in line and not re.search(r"type: ignore\[[a-z-]+\]  # \w", line)
    ]
    assert not ignores


def test_every_check_runs_before_the_tests_and_before_a_commit() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = makefile.split("\nlint:")[1].split("\n\n")[0]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    for check in CHECKS:
        assert f"$(BIN)/{check}" in lint and f"bin/{check}" in hooks, check
    assert "repo: local" in hooks and "http" not in hooks
    commands = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert commands.index("make lint") < commands.index("make test")


def test_what_contributing_names_is_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"make (\w+)", page.split("```")[1])
    assert {"lint", "test", "demo", "coverage"} <= set(targets)
    assert all(f"\n{target}:" in makefile for target in targets)
    paths = re.findall(r"`((?:tests|src|conf|experiments|docs|recipes|backbones)/[\w./]*|[\w.]+\.(?:txt|toml))`", page)
    paths += re.findall(r"\]\(([^)]+)\)", page) + ["tests/losses/test_sft.py"]
    inside = ROOT / "src" / "lookright"
    assert not [path for path in paths if not ((ROOT / path).exists() or (inside / path).exists())]
    assert len(paths) > 12
