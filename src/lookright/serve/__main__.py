"""`python -m lookright.serve`: an OpenAI-compatible server for a run, an adapter or a backbone."""

from omegaconf import DictConfig

from lookright.commands.cli import start


def job(config: DictConfig) -> None:
    """Serve until a signal ends it."""
    # here, so that what Hydra refuses is told before torch is imported
    from lookright.serve.serving import serve

    serve(config)


if __name__ == "__main__":
    start("serve", job)
