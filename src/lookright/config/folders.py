"""Where the config files lie, and how Hydra finds the experiments among them."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

_PACKAGE = Path(__file__).parents[1]
IN_CHECKOUT = not (_PACKAGE / "conf").is_dir()
"""Whether `conf/` and `experiments/` lie beside the scripts, to be edited; a wheel carries them in the package."""
HOME = _PACKAGE.parents[1] if IN_CHECKOUT else _PACKAGE
CONFIG_FOLDER = HOME / "conf"
EXPERIMENT_FOLDER = HOME / "experiments"
_GROUP = "experiment"
_HEADER = 512
"""Characters of a file that may say `# @package`, as in Hydra's own sources."""


class ExperimentSource(ConfigSource):
    """A folder of files as the group `experiment`, whatever the folder is called."""

    @staticmethod
    def scheme() -> str:
        """Return what paths of this kind begin with."""
        return "experiments"

    def load_config(self, config_path: str) -> ConfigResult:
        """Read one file of the group."""
        text = self._inside(self._normalize_file_name(config_path)).read_text(encoding="utf-8")
        return ConfigResult(
            config=OmegaConf.create(text),
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=self._get_header_dict(text[:_HEADER]),
        )

    def is_group(self, config_path: str) -> bool:
        """Return whether it is the group itself, a folder in it, or what holds it."""
        return not config_path or self._inside(config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        """Return whether it is a file of the group."""
        return self._inside(self._normalize_file_name(config_path)).is_file()

    def available(self) -> bool:
        """Return whether the folder is there."""
        return Path(self.path).is_dir()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Name the files or folders at a path of the group."""
        names = [path.name for path in self._inside(config_path).iterdir()] if config_path else [_GROUP]
        files: list[str] = []
        for name in names:
            place = f"{config_path}/{name}" if config_path else name
            self._list_add_result(files=files, file_path=place, file_name=name, results_filter=results_filter)
        return sorted(set(files))

    def _inside(self, config_path: str) -> Path:
        """The path on disk; one that does not exist where the path is of another group."""
        group, _, rest = config_path.partition("/")
        return Path(self.path) / rest if group == _GROUP else Path(self.path) / config_path / "no experiment"


class _ExperimentSearchPath(SearchPathPlugin):
    """Adds the experiments after the main folder; a user's `--config-dir` or `hydra.searchpath` stays beside them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("experiments", f"{ExperimentSource.scheme()}://{EXPERIMENT_FOLDER}")


def register() -> None:
    """Make Hydra look for experiments, once a process."""
    for plugin in (ExperimentSource, _ExperimentSearchPath):
        Plugins.instance().register(plugin)
