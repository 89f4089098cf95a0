"""SIGTERM and Ctrl-C in every command: 143 or 130, one sentence that says how to go on, and nothing left behind."""

import os
import runpy
import signal
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

from lookright.ask import __main__ as ask
from lookright.commands import cli
from lookright.export import __main__ as export
from tests.faults.conftest import Forked

AGAIN = "start it again with the same command"
GO_ON = "go on with the same command and output="


def module_run(name: str) -> None:
    runpy.run_module(name, run_name="__main__", alter_sys=True)


COMMANDS = {
    # the command, what runs when the signal comes, what is said
    "train": (cli.train, "lookright.commands.train._module", "no checkpoint was written yet, so start it again"),
    "train, saving": (cli.train, "lookright.commands.train._save", "go on with: python train.py resume="),
    "train, starting": (cli.train, "lookright.commands.train.check_parts", AGAIN),
    "generate": (cli.generate, "lookright.commands.generate.merge_shards", f"what is done stays; {GO_ON}"),
    "infer": (cli.infer, "lookright.commands.infer.measure", f"what is answered stays; {GO_ON}"),
    "tune_adaptive": (cli.tune_adaptive, "lookright.commands.tune_adaptive._ask", f"what is answered stays; {GO_ON}"),
    "ask": (ask.main, "lookright.ask.command.row_length", AGAIN),
    "export": (export.main, "lookright.export.command.write_card", "nothing is written; start it again"),
    "serve": (
        partial(module_run, "lookright.serve"),
        "lookright.serve.serving._listen",
        "start it again with the same command",
    ),
    "report": (partial(module_run, "lookright.report"), "lookright.report.sweep.read_sweep", AGAIN),
    "compare": (partial(module_run, "lookright.compare"), "lookright.evaluation.comparison.compare_runs", AGAIN),
    "demo": (partial(module_run, "lookright.demo"), "lookright.demo.lanes.run_chains", AGAIN),
}


@pytest.fixture()
def arguments(
    llava_weights: Path, unbroken: Path, small_run: list[str], settings: list[str], tmp_path: Path
) -> dict[str, list[str]]:
    model, out = f"backbone.path={llava_weights}", f"output={tmp_path / 'run'}"
    asked = [model, f"data.path={unbroken / 'instructions.jsonl'}", "decode.max_new_tokens=2", "overlays=0"]
    picture = next((unbroken / "images").iterdir())
    return {
        "train": [*small_run, out],
        "generate": [*settings, out],
        "infer": [*asked, out],
        "tune_adaptive": [*asked[:2], out],
        "ask": [model, f"images=[{picture}]", "What is in Image1?"],
        "export": [model, "verify=false", out],
        "serve": [model, "port=0"],
        "report": [str(tmp_path)],
        "compare": [str(unbroken), f"again={unbroken}"],
        "demo": ["--output", str(tmp_path / "demo")],
    }


def stopped_in(place: str, number: int, work: Callable[[], object]) -> Callable[[], None]:
    """The work, to which the signal comes where the function at `place` is called."""

    def run() -> None:
        # who starts tests in the background has them ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        module, _, name = place.rpartition(".")
        setattr(import_module(module), name, lambda *_, **__: (os.kill(os.getpid(), number), time.sleep(30)))
        work()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_ends_it_in_order(name: str, arguments: dict[str, list[str]], forked: Forked, tmp_path: Path) -> None:
    work, place, said = COMMANDS[name]
    given = arguments[name.partition(",")[0]]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        ended = forked(stopped_in(place, number, work), given)
        assert (ended.code, ended.is_a_sentence) == (code, True), ended.text
        assert ended.last.startswith(f"{signal.Signals(number).name}: stopped; {said}"), ended.text
        left = [
            one.name for one in tmp_path.rglob("*") if "tmp" in one.name or one.name.endswith((".partial", ".lock"))
        ]
        assert left == []
        if name == "train, saving":
            given = [f"resume={tmp_path / 'run'}"]


@pytest.mark.slow
def test_a_signal_ends_a_sweep_and_not_its_job_alone(forked: Forked, settings: list[str], tmp_path: Path) -> None:
    given = ["-m", *settings, "seed=1,2", f"output={tmp_path / 'sweep'}"]
    ended = forked(stopped_in("lookright.commands.generate.merge_shards", signal.SIGTERM, cli.generate), given)
    assert ended.code == 143 and ended.is_a_sentence and ended.text.count("SIGTERM: stopped") == 1, ended.text
    assert [one.name for one in (tmp_path / "sweep").iterdir() if one.is_dir()] == ["0"]


def test_an_error_is_one_line_and_hydra_adds_none(forked: Forked, settings: list[str]) -> None:
    ended = forked(cli.generate, [*settings, "stage=nothing", "output=run"])
    assert ended.code == 2 and ended.text.startswith("error: stage='nothing'") and ended.text.count("\n") == 1
