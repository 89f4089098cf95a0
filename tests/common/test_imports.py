"""Packages that are imported late: nothing of them runs before it is asked for, and then all of it works."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from lookright.common.imports import left_out, postpone

INIT = """
import late_package.log
late_package.log.ran.append("init")
from late_package.part import Part
whole = Part()
"""


@pytest.fixture()
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What ran of the package `late_package`."""
    folder = tmp_path / "late_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(INIT)
    (folder / "part.py").write_text(
        "from late_log import ran\nran.append('part')\nclass Part:\n    pass\n",
    )
    (folder / "log.py").write_text("from late_log import ran\n")
    (tmp_path / "late_log.py").write_text("ran = []\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield import_module("late_log").ran
    for name in [name for name in sys.modules if name.startswith(("late_package", "late_log"))]:
        del sys.modules[name]


def test_nothing_runs_before_it_is_asked_for(ran: list[str]) -> None:
    postpone("late_package", {})
    package = import_module("late_package")
    assert find_spec("late_package") is not None
    assert ran == []
    assert type(package.whole).__name__ == "Part"
    assert ran == ["init", "part"]
    assert import_module("late_package") is package and package.Part is import_module("late_package.part").Part


def test_a_name_comes_from_its_home_and_is_the_same_later(ran: list[str]) -> None:
    postpone("late_package", {"Part": "late_package.part"}, version="1")
    package = import_module("late_package")
    part = package.Part
    assert (package.version, ran) == ("1", ["part"])
    assert isinstance(package.whole, part) and package.Part is part
    assert ran == ["part", "init"]
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing


def test_modules_below_do_without_it(ran: list[str]) -> None:
    postpone("late_package", {})
    assert import_module("late_package.part").Part is not None
    assert ran == ["part"]


def test_what_is_there_or_not_installed_stays_so(ran: list[str]) -> None:
    package = import_module("late_package")
    postpone("late_package", {})
    postpone("no_package_of_this_name", {})
    assert sys.modules["late_package"] is package and "no_package_of_this_name" not in sys.modules


@pytest.mark.parametrize("imported", [True, False])
def test_left_out_is_not_installed_inside(ran: list[str], imported: bool) -> None:
    before = import_module("late_package") if imported else None
    with left_out("late_package"):
        assert find_spec("late_package") is None
        with pytest.raises(ModuleNotFoundError):
            import_module("late_package")
    assert sys.modules.get("late_package") is before
    assert import_module("late_package").whole is not None


JOB = """
import sys
import lookright.commands.train, lookright.commands.infer, lookright.commands.generate
heavy = ["wandb", "tensorboard", "torchmetrics.functional", "bitsandbytes", "pandas", "datasets", "pyarrow"]
assert [name for name in heavy if name in sys.modules] == []
import torch, torchmetrics
from lightning.pytorch.core import module
assert module.Metric is torchmetrics.Metric and "torchmetrics.functional" not in sys.modules
from torchmetrics.classification import BinaryAccuracy
metric = torchmetrics.MetricCollection([BinaryAccuracy(), torchmetrics.MeanMetric()])["BinaryAccuracy"]
assert metric(torch.tensor([1, 0]), torch.tensor([1, 1])) == 0.5 and isinstance(metric, module.Metric)
assert torchmetrics.functional.accuracy is not None
"""


def test_a_job_imports_what_it_uses() -> None:
    """And those who use torchmetrics themselves have all of it."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", JOB], check=True)


ANSWERING = """
import sys
import lookright.commands.generate, lookright.commands.infer, lookright.commands.tune_adaptive
assert [name for name in ("lightning", "peft", "torchmetrics.metric") if name in sys.modules] == []
"""


def test_commands_that_answer_import_no_trainer() -> None:
    subprocess.run([sys.executable, "-c", ANSWERING], check=True)
