"""What libraries say on the console and a user can do nothing about."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
from lookright.config.console import quiet
{}
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
SLURMEnvironment._validate_srun_used()
"""


@pytest.mark.parametrize("called", [True, False])
def test_a_job_of_one_process_is_not_told_of_srun(called: bool, tmp_path: Path) -> None:
    (tmp_path / "srun").touch(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    code = CODE.format("quiet()" if called else "")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("`srun` command is available" in done.stderr) != called
