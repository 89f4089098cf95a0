"""A wheel is the whole product: built from the sources and installed away from them, its commands run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "src", "conf", "experiments")
COMMANDS = ("generate", "train", "infer", "tune-adaptive")


def run(*command: str | Path, cwd: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `pip install WHEEL` puts there, without the dependencies; nothing of it is a link."""
    folder = tmp_path_factory.mktemp("wheel")
    # copies, since a build writes beside what it reads; what earlier builds left must not help either
    for name in SOURCES:
        source, target = ROOT / name, folder / "checkout" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, target)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", folder, "./checkout", cwd=folder)
    (wheel,) = folder.glob("lookright-*.whl")
    shutil.rmtree(folder / "checkout")
    run(*pip, "install", "--no-index", "--no-deps", "--target", folder / "site", wheel, cwd=folder)
    return folder / "site"


@pytest.fixture()
def environment(installed: Path) -> dict[str, str]:
    """This process's, with the installed package before every other."""
    return os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_checkout(installed: Path) -> None:
    package = installed / "lookright"
    for folder, target in (
        (ROOT / "conf", "conf"),
        (ROOT / "experiments", "experiments"),
        (ROOT / "src/lookright", "."),
    ):
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                copy = package / target / path.relative_to(folder)
                assert copy.is_file() and copy.read_bytes() == path.read_bytes(), path
    assert not [path for path in installed.rglob("*") if path.is_symlink()]
    assert (installed / "hydra_plugins" / "lookright_launchers.py").is_file()
    assert {path.name for path in (installed / "bin").iterdir()} >= {f"lookright-{name}" for name in COMMANDS}


@pytest.mark.slow
def test_its_commands_run(installed: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """Pairs, two steps of an experiment of the wheel's own, answers of the tuned model."""

    def command(name: str, *arguments: str) -> str:
        return run(
            sys.executable, installed / "bin" / f"lookright-{name}", *arguments, cwd=tmp_path, environment=environment
        )

    where = run(
        sys.executable, "-c", "import lookright; print(lookright.__file__)", cwd=tmp_path, environment=environment
    )
    assert Path(where.strip()).is_relative_to(installed)
    command("generate", "num_prompts=12", "decode.max_new_tokens=4", "selection=random", "output=pairs")
    assert len((tmp_path / "pairs" / "preferences.jsonl").read_text().splitlines()) >= 4
    command(
        "train",
        "experiment=demo",
        "data.path=pairs/preferences.jsonl",
        "data.batch_size=2",
        "trainer.max_steps=2",
        "trainer.progress_bar=false",
        "output=run",
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 2
    command("generate", "stage=compose", "split=test", "num_prompts=4", "output=test")
    command("infer", "run=run", "data.path=test/instructions.jsonl", "decode.max_new_tokens=4", "output=answers")
    assert len((tmp_path / "answers" / "predictions.jsonl").read_text().splitlines()) >= 4


@pytest.mark.slow
def test_the_command_that_was_not_run_tells_its_groups(
    installed: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    told = run(
        sys.executable, installed / "bin" / "lookright-tune-adaptive", "--help", cwd=tmp_path, environment=environment
    )
    assert re.search(r"^  backbone +ixc25_7b ", told, re.MULTILINE) and "data.path=" in told


@pytest.mark.slow
def test_a_folder_of_the_user_joins_its_configs(installed: Path, environment: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - demo\nseed: 77\n")
    train = [sys.executable, "-m", "lookright.commands.train", "experiment=mine"]
    for given in (["--config-dir", str(tmp_path / "own")], [f"hydra.searchpath=[file://{tmp_path / 'own'}]"]):
        shown = run(*train, *given, "--cfg", "job", cwd=tmp_path, environment=environment)
        assert "\nseed: 77\n" in shown
    searched = run(*train, *given, "--info", "searchpath", cwd=tmp_path, environment=environment)
    assert str(installed / "lookright") in searched and str(ROOT) not in searched
