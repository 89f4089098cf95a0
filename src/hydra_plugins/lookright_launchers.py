"""The launchers and the sweeper of `lookright.launching` under the name that Hydra looks for plugins by."""

from lookright.launching.plugin import LocalJobs, SlurmJobs
from lookright.launching.sweeper import SomeJobs


class SlurmLauncher(SlurmJobs):
    """`hydra/launcher=slurm`."""


class LocalLauncher(LocalJobs):
    """`hydra/launcher=local`."""


class CheckedBasicSweeper(SomeJobs):
    """`hydra/sweeper=checked`, which is what runs without any word."""


# Hydra takes every launcher and sweeper that it finds in this file
del LocalJobs, SlurmJobs, SomeJobs
