"""Disks that are full or read-only: one sentence with file and remedy, what is finished stays, and the run goes on."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lookright import compare
from lookright.ask import __main__ as ask
from lookright.backbones.llava import LlavaBackbone
from lookright.commands import cli
from lookright.commands import train as training
from lookright.config.entry import ending
from lookright.training.checkpoints import WholeCheckpointIO, newest_whole
from lookright.tuning.lora import LoraTuning
from tests.faults.conftest import Disk, Ended, Forked


def told_of(ended: Ended, *, reason: str = "No space left on device", file: str = "") -> bool:
    """Whether it ended in one sentence on the console with the file, the reason and the remedy."""
    assert ended.code == 2 and ended.is_a_sentence, ended.text
    assert ended.last.startswith("error: cannot use the path") and f"{file} ({reason}); " in ended.last, ended.text
    return "set another output" in ended.last


def before(owner: object, name: str, first: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `first` run ahead of each call."""
    function = getattr(owner, name)

    def call(*given: object, **named: object) -> object:
        first()
        return function(*given, **named)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["checkpoint", "adapter"])
def test_training_on_a_full_disk(
    place: str, disk: Disk, forked: Forked, small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*small_run, "trainer.max_epochs=2"]
    assert forked(cli.train, [*given, f"output={tmp_path / 'whole'}"]).code == 0
    owner, name = {"checkpoint": (WholeCheckpointIO, "save_checkpoint"), "adapter": (training, "_save")}[place]
    with monkeypatch.context() as patch:
        saved = iter((False, True))
        # the second checkpoint finds no place; pages of the disk are of 4 KiB
        before(owner, name, lambda: (place == "adapter" or next(saved)) and disk.leave(8192), patch)
        full = forked(cli.train, [*given, f"output={disk.path / 'run'}"])
    file = ".ckpt" if place == "checkpoint" else "adapter"
    assert told_of(full, file=file) and f"go on with: python train.py resume={disk.path / 'run'}" in full.last
    assert newest_whole(disk.path / "run") is not None and not (disk.path / "run" / "adapter").exists()
    assert not list((disk.path / "run").rglob("*tmp*")) and not list((disk.path / "run").rglob("*.partial"))
    disk.free()
    again = forked(cli.train, [f"resume={disk.path / 'run'}"])
    assert again.code == 0, again.text
    for file in ("adapter/adapter_model.safetensors", "metrics.csv"):
        assert (disk.path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("left", [40_000, 90_000])
def test_generating_on_a_full_disk(left: int, disk: Disk, forked: Forked, settings: list[str], unbroken: Path) -> None:
    given = [*settings, f"output={disk.path / 'run'}"]
    disk.leave(left)
    full = forked(cli.generate, given)
    assert told_of(full) and f"go on with the same command and output={disk.path / 'run'}" in full.last
    disk.free()
    again = forked(cli.generate, given)
    assert again.code == 0, again.text
    for file in ("instructions.jsonl", "answers.jsonl", "preferences.jsonl"):
        assert (disk.path / "run" / file).read_bytes() == (unbroken / file).read_bytes()
    assert not list((disk.path / "run").rglob("*tmp*"))


@pytest.mark.slow
def test_answering_on_a_full_disk(
    disk: Disk, forked: Forked, llava_weights: Path, unbroken: Path, tmp_path: Path
) -> None:
    asked = [f"backbone.path={llava_weights}", f"data.path={unbroken / 'instructions.jsonl'}", "overlays=2"]
    asked += ["decode.max_new_tokens=4", "batch_size=4"]
    assert forked(cli.infer, [*asked, f"output={tmp_path / 'whole'}"]).code == 0
    found = set()
    for left in (0, 12_000, 20_000, 36_000, 60_000):
        disk.leave(left)
        full = forked(cli.infer, [*asked, f"output={disk.path / 'run'}"])
        if full.code:
            assert told_of(full), full.text
            found.add(full.last.partition(" (")[0].rpartition("/")[2])
        disk.free()
    again = forked(cli.infer, [*asked, f"output={disk.path / 'run'}"])
    assert again.code == 0 and len(found) >= 2, (again.text, found)
    for file in ("predictions.jsonl", "metrics.json"):
        assert (disk.path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.slow
def test_nothing_writes_to_a_read_only_disk(
    disk: Disk,
    forked: Forked,
    small_run: list[str],
    settings: list[str],
    unbroken: Path,
    llava_weights: Path,
    tmp_path: Path,
) -> None:
    backbone = LlavaBackbone(path=str(llava_weights))
    LoraTuning(r=2).apply(backbone, backbone.build()).save_pretrained(tmp_path / "adapter")
    model, out = f"backbone.path={llava_weights}", f"output={disk.path / 'run'}"
    asked = [model, f"data.path={unbroken / 'instructions.jsonl'}"]
    picture = next((unbroken / "images").iterdir())
    infer = partial(forked, cli.infer)
    assert infer([*asked, f"output={tmp_path / 'answers'}", "decode.max_new_tokens=2", "overlays=0"]).code == 0
    disk.read_only()
    runs = {
        "train": (cli.train, [*small_run, out]),
        "generate": (cli.generate, [*settings, out]),
        "infer": (cli.infer, [*asked, out]),
        "tune_adaptive": (cli.tune_adaptive, [*asked, out]),
        "ask": (ask.main, [model, f"images=[{picture}]", "What is in Image1?", out]),
        "export": (partial(cli.start, "export", module="lookright.export.command"),
                   [model, f"adapter={tmp_path / 'adapter'}", out]),
        "compare": (partial(_plain, compare.main),
                    [str(tmp_path / "answers"), f"again={tmp_path / 'answers'}", "--output", str(disk.path / "run")]),
    }  # fmt: skip
    for name, (work, arguments) in runs.items():
        ended = forked(work, arguments)
        assert told_of(ended, reason="Read-only file system"), f"{name}: {ended.text}"


def _plain(main: Callable[[list[str]], int]) -> None:
    """A command without Hydra, as its module runs it."""
    with ending():
        sys.exit(main(sys.argv[1:]))
