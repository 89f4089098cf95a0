"""docs/cluster.md names keys and commands that there are; that they run is tested in tests/slurm."""

import re
import shlex
from collections.abc import Callable

import pytest
from omegaconf import DictConfig, OmegaConf

from lookright.config.check import check_config
from lookright.config.folders import CONFIG_FOLDER

PAGE = (CONFIG_FOLDER.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python (\w+)\.py(?: --config-dir mine/conf)?(.*)$", PAGE, flags=re.MULTILINE)
LAUNCHER = OmegaConf.load(CONFIG_FOLDER / "hydra" / "launcher" / "slurm.yaml")


@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_a_command_composes(command: str, arguments: str, composed: Callable[..., DictConfig]) -> None:
    given = [part for part in shlex.split(arguments) if part != "-m" and not part.startswith("hydra")]
    # of a sweep, the first job; of a search, the lower end
    given = [re.sub(r"=\w+\(.*?([\d.]+).*", r"=\1", override) for override in given]
    config = composed(command, *(re.sub(r"=([^\[{,]*),.*", r"=\1", override) for override in given))
    check_config(config)


def test_the_file_and_the_text_name_keys_of_the_launcher() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    own = [key for key in OmegaConf.create(text) if key != "defaults"]
    named = re.findall(r"hydra\.launcher\.(\w+)", PAGE)
    listed = re.search(r"names every key: (.*?) Nodes", PAGE)
    assert listed is not None
    named += re.findall(r"`(\w+)`(?: for|,)", listed[1])
    assert len(named) > 8 and {*own, *named} - {"parallel"} <= set(LAUNCHER)
