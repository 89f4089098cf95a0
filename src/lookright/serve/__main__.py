"""`python -m lookright.serve`: an OpenAI-compatible server for a run, an adapter or a backbone."""

import sys

from omegaconf import DictConfig

from lookright.commands.cli import start
from lookright.errors import Stopped


def job(config: DictConfig) -> None:
    """Serve until a signal ends it."""
    # here, so that what Hydra refuses is told before torch is imported
    from lookright.serve.serving import serve

    try:
        serve(config)
    except Stopped as error:
        # here, since Hydra would report a signal as an error of the job
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    start("serve", job)
