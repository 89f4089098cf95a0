"""Jobs of a command that needs no model: its first override says how it ends."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lookright.launching.jobs import Job, Launch, Resources

COMMAND = """
import os
import signal
import sys
import time
from pathlib import Path

how = sys.argv[1]
if how == "rank_1_refuses":
    how = "refused" if os.environ["SLURM_PROCID"] == "1" else "waits"
    # the other is at work by then
    while how == "refused" and not Path(sys.argv[3] + "0").exists():
        time.sleep(0.1)
print("here:", *sys.argv[1:], "GPUs", os.environ.get("CUDA_VISIBLE_DEVICES"))
print("before", os.environ.get("LOOKRIGHT_GO_ON"), flush=True)


def main():
    if how == "traceback":
        raise RuntimeError("something broke")
    if how == "refused":
        try:
            raise ValueError("data.path=x: no such file")
        except ValueError:
            sys.exit(2)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "waits" or (how == "waits_once" and "LOOKRIGHT_GO_ON" not in os.environ):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(sys.argv[2])))
        Path(sys.argv[3] + os.environ.get("SLURM_PROCID", "")).touch()
        time.sleep(600)
    if how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(sys.argv[3]).touch()
        time.sleep(60)
    if how == "naps":
        time.sleep(0.5)


main()
"""


@pytest.fixture()
def launch(tmp_path: Path) -> Callable[..., Launch]:
    """Write a launch of jobs that end as told: launch(["ok"], ["refused"], gpus=[0, 1])."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "a_command.py").write_text(COMMAND)

    def make(*overrides: list[str], resources: Resources | None = None, **options: int) -> Launch:
        folder = tmp_path / "sweep" / "launch" / "1"
        folder.mkdir(parents=True)
        jobs = [
            Job(
                num=num,
                overrides=given,
                swept=given[:1],
                folder=str(tmp_path / "sweep" / str(num)),
                resources=resources or Resources(),
            )
            for num, given in enumerate(overrides)
        ]
        made = Launch(
            folder=folder,
            module="a_command",
            python=sys.executable,
            cwd=str(tmp_path),
            path=str(tmp_path / "path"),
            jobs=jobs,
            **options,
        )
        made.save()
        return made

    return make
