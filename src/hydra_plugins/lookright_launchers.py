"""The launchers of `lookright.launching` under the name that Hydra looks for plugins by."""

from lookright.launching.plugin import LocalJobs, SlurmJobs


class SlurmLauncher(SlurmJobs):
    """`hydra/launcher=slurm`."""


class LocalLauncher(LocalJobs):
    """`hydra/launcher=local`."""


# Hydra takes every launcher that it finds in this file
del LocalJobs, SlurmJobs
