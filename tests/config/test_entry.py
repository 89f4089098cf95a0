"""Where a job writes: by hand, and in a sweep."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from lookright.config.entry import sweep_output, with_output

HYDRA = {"sweep": {"dir": "a", "subdir": "3"}, "runtime": {"output_dir": "made"}, "mode": "MULTIRUN"}


@pytest.fixture()
def hydra_config() -> Iterator[Any]:
    before = HydraConfig.instance().cfg
    yield lambda mode: setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": HYDRA | {"mode": mode}}))
    HydraConfig.instance().cfg = before


def test_by_hand_it_is_what_is_given(hydra_config: Any) -> None:
    hydra_config(RunMode.RUN)
    assert with_output(OmegaConf.create({"output": "x"})).output == "x"
    assert with_output(OmegaConf.create({"output": None})).output == "made"


def test_in_a_sweep_it_is_below_with_every_launcher(hydra_config: Any) -> None:
    hydra_config(RunMode.MULTIRUN)
    assert with_output(OmegaConf.create({"output": "a"})).output == str(Path("a") / "3")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"output": "a"}, "a/3"),
        ({"output": None, "shard": {"count": 1}}, "a/3"),
        ({"output": "a", "shard": {"count": 2}, "resume": True}, "a"),
        ({"output": "a", "resume": None}, "a/3"),
        ({"output": None, "resume": "run"}, "run"),
    ],
)
def test_folders_of_a_sweep(config: dict[str, Any], expected: str) -> None:
    assert sweep_output(OmegaConf.create(config), OmegaConf.create(HYDRA)) == expected
