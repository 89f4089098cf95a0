"""The sweeper of `lookright.launching.search` under the name that Hydra looks for plugins by."""

from lookright.launching.search import OptunaSearch


class OptunaSweeper(OptunaSearch):
    """`hydra/sweeper=optuna`."""


# Hydra takes every sweeper that it finds in this file
del OptunaSearch
