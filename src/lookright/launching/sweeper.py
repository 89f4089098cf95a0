"""Hydra's sweeper, which runs nothing and ends well where a choice has no values; here that is an error."""

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from lookright.errors import ConfigError


class SomeJobs(BasicSweeper):
    """Every combination of the values that the command line gives, of which there is one at least."""

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """See Hydra. Raises ConfigError for a key without a value."""
        empty = [
            one for one in overrides if one.is_discrete_sweep() and next(one.sweep_string_iterator(), None) is None
        ]
        if empty:
            raise ConfigError("\n".join(map(_told, empty)))
        return BasicSweeper.split_arguments(overrides, max_batch_size)


def _told(one: Override) -> str:
    return (
        f"{one.input_line} matches nothing, and the sweep would have no job; set {one.get_key_element()}=a,b with the "
        "values themselves: glob() chooses among the files of a config group, not of the disk (infer.py answers for "
        "all runs of a sweep with run=SWEEP_DIR)"
    )
