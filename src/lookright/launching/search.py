"""The sweeper `optuna` as Hydra calls it, with the keys of `conf/hydra/sweeper/optuna.yaml`.

Hydra loads this file with every command of any program: what only a search needs is imported then.
"""

from collections.abc import Mapping
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lookright.errors import ConfigError


class OptunaSearch(Sweeper):
    """Asks Optuna for values, has the launcher run them, and tells Optuna what the jobs returned."""

    def __init__(
        self,
        direction: str | None = None,
        n_trials: int = 20,
        n_jobs: int = 1,
        sampler: Any = None,
        storage: str | None = None,
        study_name: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self.options: dict[str, Any] = {
            "direction": direction,
            "n_trials": n_trials,
            "n_jobs": n_jobs,
            "sampler": dict(sampler or {}),
            "storage": storage,
            "study_name": study_name,
            "params": dict(params or {}),
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `sweep` needs. Raises ConfigError for keys that are wrong, and where Optuna is missing."""
        try:
            import optuna  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            remedy = "pip install 'lookright[optuna]'"
            raise ConfigError(f"hydra/sweeper=optuna: the package is missing; {remedy}") from error
        from lookright.launching.searching import Search, Settings

        self.search = Search(Settings(**self.options), hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> float | None:
        """Search; returns the best value. Raises ConfigError before any trial, LookRightError where none finished."""
        return self.search.run(arguments)
