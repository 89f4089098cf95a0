"""Help and what is misspelt are told before anything heavy is imported."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

COMMANDS = ("generate", "train", "infer", "tune_adaptive")
HEAVY = ("torch", "transformers", "lightning", "peft", "wandb", "tensorboard", "pyarrow", "numpy", "PIL")
WATCHED = f"""
import runpy, sys
try:
    runpy.run_path(sys.argv[1], run_name="__main__")
finally:
    print("imported:", *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


def run(command: str, arguments: Sequence[str]) -> tuple[int, str, str, str]:
    """Exit code, output, errors, and what heavy modules were imported."""
    line = [sys.executable, "-c", WATCHED.replace("sys.argv[1]", f"{command + '.py'!r}"), *arguments]
    done = subprocess.run(line, capture_output=True, text=True)
    errors, _, imported = done.stderr.rpartition("imported:")
    return done.returncode, done.stdout, errors, imported.strip()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flags", [["--help"], ["--hydra-help"], ["--cfg", "job"], ["--info", "searchpath"]])
def test_what_tells_of_a_command_imports_nothing_heavy(command: str, flags: list[str]) -> None:
    code, output, errors, imported = run(command, flags)
    assert (code, errors, imported) == (0, "", "")
    assert output


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("train", "loss.alhpa=1", "loss.alhpa does not exist; did you mean alpha?"),
        ("train", "los=preference", "los does not exist; did you mean loss?"),
        ("train", "trainer=gpuu", "Could not find 'trainer/gpuu'"),
        ("train", "projector_lr=high", "could not be converted to Float"),
        ("generate", "shard.indx=1", "shard.indx does not exist; did you mean index?"),
        ("generate", "source=easyvqa", "Could not find 'source/easyvqa'"),
        ("infer", "batch_sizes=1", "batch_sizes does not exist; did you mean batch_size?"),
        ("infer", "batch_size=many", "could not be converted to Integer"),
        ("tune_adaptive", "grid.scope=[all]", "grid.scope does not exist; did you mean scopes?"),
    ],
)
def test_a_misspelt_command_line_imports_nothing_heavy(command: str, override: str, message: str) -> None:
    code, output, errors, imported = run(command, [override])
    assert (code, output, imported) == (2, "", "")
    assert message in errors


def test_the_shell_completes_without_it() -> None:
    line = 'import os; os.environ["COMP_LINE"] = "train.py loss.al"\n'
    script = WATCHED.replace("sys.argv[1]", "'train.py'")
    done = subprocess.run(
        [sys.executable, "-c", line + script, "-sc", "query=bash"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["loss.alpha="]
    assert done.stderr == "imported:\n"
