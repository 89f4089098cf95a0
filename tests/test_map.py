"""docs/architecture.md is the way that the code goes, and whatever the pages name is there."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import pytest
from omegaconf import DictConfig

from lookright.commands import generate as generating
from lookright.commands.train import train
from lookright.config.console import quiet
from tests.commands.conftest import write_source
from tests.seams.documented import FILES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "lookright"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
MAP = PAGES["architecture.md"]
ENDINGS = (".py", ".md", ".yaml", ".json", ".png", "NOTICE", "/")
ELSEWHERE = ("mine/", "outputs/", "images/", "adapter/", "checkpoints/", "model/")
"""What a reader or a run makes."""
LIKELY = re.compile(r"[\w.-]+(/[\w.-]+)*/?")


def section(title: str) -> str:
    return MAP.split(f"\n## {title}\n")[1].split("\n## ")[0]


def code_in(text: str) -> list[str]:
    """What stands in single backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def paths_in(text: str) -> list[str]:
    """Paths of files and folders of ours: from the repository, or from the package on."""
    return [
        code
        for code in code_in(text)
        if LIKELY.fullmatch(code)
        and code.endswith(ENDINGS)
        and ("/" in code or code.endswith(".py"))
        and not code.startswith(ELSEWHERE)
        and "NAME" not in code
    ]


def found(path: str) -> bool:
    """In the repository, below the package, or a group of configs that an example of extending.md adds to."""
    return (ROOT / path).exists() or (PACKAGE / path).exists() or any(name.startswith(f"conf/{path}") for name in FILES)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", PAGES[page])
    assert [link for link in links if not (folder / link).exists()] == []
    assert [path for path in paths_in(PAGES[page]) if not found(path)] == []


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_a_page_names_are_there(page: str) -> None:
    for name in re.findall(r"(?<![\w./])(?:lookright|benchmarks|recipes)(?:\.\w+)+", PAGES[page]):
        module, rest = name, []
        while True:
            try:
                value: Any = importlib.import_module(module)
                break
            except ModuleNotFoundError:
                module, _, last = module.rpartition(".")
                rest.insert(0, last)
        for part in rest:
            assert hasattr(value, part), name
            value = getattr(value, part)


def test_the_readme_leads_to_the_pages() -> None:
    for page in ("architecture", "extending", "method"):
        assert f"(docs/{page}.md)" in PAGES["README.md"]


def test_every_room_has_a_line() -> None:
    named = set(re.findall(r"`(\w+(?:/|\.py))`", "".join(re.findall(r"^\| (`.*?) \|", section("Rooms"), re.MULTILINE))))
    there = {f"{path.name}/" for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").is_file()}
    assert named == there | {path.name for path in PACKAGE.glob("[!_]*.py")}


def stops(title: str) -> list[str]:
    return re.findall(r"^\d+\. `([\w/.]+)`", section(title), flags=re.MULTILINE)


def known(title: str) -> list[str]:
    """All that a walk names, as paths from the repository."""
    return [path if (ROOT / path).exists() else f"src/lookright/{path}" for path in paths_in(section(title))]


class Trace:
    """Which files of the package run while it is on."""

    def __init__(self) -> None:
        self.files: set[str] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        name = frame.f_code.co_filename
        # the body of a module or class that is imported meanwhile is no stop
        if event == "call" and name.startswith(str(PACKAGE)) and frame.f_code.co_flags & 0x2:
            self.files.add(Path(name).relative_to(ROOT).as_posix())

    @contextmanager
    def on(self, active: bool = True) -> Iterator[None]:
        before = sys.getprofile()
        sys.setprofile(self if active else None)
        try:
            yield
        finally:
            sys.setprofile(before)

    def around(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, active: bool = True) -> None:
        """Watch, or look away from, one function."""
        function = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.on(active):
                return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)


def assert_walk(title: str, most: int, command: str, trace: Trace) -> None:
    """The stops are what runs, and all that runs is named."""
    walk = stops(title)
    assert len(walk) == len(set(walk)) <= most and walk[:2] == [f"{command}.py", f"src/lookright/commands/{command}.py"]
    assert f"from lookright.commands.cli import {command}" in (ROOT / walk[0]).read_text()
    assert [stop for stop in walk[2:] if stop not in trace.files] == []
    names = known(title)
    folders = tuple(name for name in names if name.endswith("/"))
    assert sorted(file for file in trace.files if file not in names and not file.startswith(folders)) == []
    # nothing stands on the map that the way does not touch
    idle = [name for name in names if not any(file == name or file.startswith(name) for file in trace.files)]
    assert [name for name in idle if name not in walk[:2]] == []


def test_a_training_step_goes_the_way_on_the_map(
    composed: Callable[..., DictConfig], small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet()  # as every command does first
    trace = Trace()
    trace.around(monkeypatch, lightning.Trainer, "fit")
    given = ["trainer.max_steps=1", "data.val_fraction=0", f"output={tmp_path / 'run'}"]
    train(composed("train", *small_run, *given))
    assert_walk("One training step", 15, "train", trace)


def test_a_prompt_goes_the_way_on_the_map(
    composed: Callable[..., DictConfig], llava_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, source = Trace(), write_source(tmp_path / "source")
    for stage in ("_compose", "_answer", "_select"):
        trace.around(monkeypatch, generating, stage)
    for aside in ("load_policy", "made_by", "_data"):
        trace.around(monkeypatch, generating, aside, active=False)
    given = ["source=llava_json", f"source.train_json={source / 'rows.json'}"]
    given += [f"source.image_folder={source / 'pictures'}", "num_prompts=8", "batch_size=4", "decode.max_new_tokens=3"]
    generating.generate(
        composed(
            "generate", *given, f"backbone.path={llava_weights}", f"output={tmp_path / 'out'}", "report_examples=2"
        )
    )
    assert_walk("One prompt", 12, "generate", trace)
