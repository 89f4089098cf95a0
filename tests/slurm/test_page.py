"""docs/cluster.md, command by command as it stands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.conftest import LIMIT, ROOT

PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) for line in block.splitlines()
]
FILES = dict(re.findall(r"^```yaml\n# (mine/\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
MADE = (
    "pairs/preferences.jsonl",
    "test/instructions.jsonl",
    *(f"sweep/{num}/adapter/adapter_model.safetensors" for num in range(4)),
    "sweep/launch/1/0.log",
    "sweep/launch/1/job.sh",
    *(f"sweep/{num}/eval/metrics.json" for num in range(4)),
    "sweep/report.csv",
    "sweep/report.html",
    *(f"answers/{num}/metrics.json" for num in range(4)),
    "answers/0/report.html",
    "shared/predictions.jsonl",
    "shared/report.html",
    *(f"all/{num}/metrics.json" for num in range(4)),
    "all/report.md",
    "again/adapter/adapter_model.safetensors",
    "ranks/0/summary.json",
    "local/0/summary.json",
    "local/1/summary.json",
)


@pytest.mark.slurm
def test_the_page(slurm: Cluster, tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    for name in ("generate.py", "train.py", "infer.py"):
        os.symlink(ROOT / name, tmp_path / name)
    assert len(COMMANDS) == 13 and len(FILES) == 1
    for line in COMMANDS:
        words = shlex.split(line)
        assert words[0] == "python"
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=tmp_path,
            env=slurm.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}"
    assert [name for name in MADE if not (tmp_path / "outputs" / name).is_file()] == []
