"""A rank that fails ends its run at once, whichever it is and however it ends: nobody waits, nobody is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DRIVER = """
import os, signal, sys, time
from pathlib import Path

from lookright.commands import cli
from lookright.commands import train as training
from lookright.errors import ConfigError, LookRightError
from lookright.training.datamodule import PreferenceData
from lookright.training.preference import PreferenceModule

notes, bad, place = Path(os.environ["NOTES"]), int(os.environ["BAD_RANK"]), os.environ["PLACE"]
rank = int(os.environ.get("LOCAL_RANK", 0))
(notes / f"{rank}.pid").write_text(str(os.getpid()))
prepare, step = PreferenceData.prepare, PreferenceModule.training_step


def fail():
    (notes / "failed").write_text(str(time.time()))
    if place == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ConfigError("this rank refuses") if place == "before" else LookRightError("this rank refuses")


def prepared(self, *given, **options):
    if rank == bad and place == "before":
        fail()
    return prepare(self, *given, **options)


def stepped(self, batch, batch_idx):
    if batch_idx == 1:
        if rank == bad and place != "before":
            fail()
        if rank != bad and place == "busy":
            # not in a collective, where gloo would tell that the other is gone
            time.sleep(600)
    return step(self, batch, batch_idx)


PreferenceData.prepare, PreferenceModule.training_step = prepared, stepped
cli.start("train", training.job)
"""
SECONDS = 30.0
"""Within which all must be over; Lightning looks after its ranks every five, and this machine may be busy."""


def is_over(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    try:
        return state.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad_rank", "place"),
    [(1, "before"), (1, "middle"), (1, "killed"), (0, "busy"), (0, "killed")],
)
def test_one_rank_ends_all(small_run: list[str], tmp_path: Path, bad_rank: int, place: str) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = os.environ | {"NOTES": str(tmp_path), "BAD_RANK": str(bad_rank), "PLACE": place, "PYTHONPATH": path}
    given = ["trainer.devices=2", "data.batch_size=1", "trainer.checkpoint_every=1", f"output={tmp_path / 'run'}"]
    command = [sys.executable, str(driver), *small_run, *given]
    with (tmp_path / "told").open("w") as told:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=told, stderr=told)
        try:
            code = process.wait(240)
            failed = float((tmp_path / "failed").read_text())
            pids = [int((tmp_path / f"{rank}.pid").read_text()) for rank in range(2)]
            while not all(map(is_over, pids)):
                assert time.time() - failed < SECONDS, (tmp_path / "told").read_text()
                time.sleep(0.2)
            seconds = time.time() - failed
        finally:
            process.kill()
            process.wait()
            for rank in range(2):
                if (tmp_path / f"{rank}.pid").is_file() and not is_over(
                    pid := int((tmp_path / f"{rank}.pid").read_text())
                ):
                    os.kill(pid, signal.SIGKILL)
    text = (tmp_path / "told").read_text()
    assert code != 0 and seconds < SECONDS, text
    assert place == "killed" or "this rank refuses" in text
