"""`python -m lookright.serve`: an OpenAI-compatible server for a run, an adapter or a backbone."""

import hydra
from omegaconf import DictConfig

from lookright.config.entry import launch
from lookright.config.folders import CONFIG_FOLDER


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="serve")
def job(config: DictConfig) -> None:
    """Serve until a signal ends it."""
    # here, so that a misspelt key is told before torch is imported
    from lookright.serve.serving import serve

    serve(config)


def main() -> None:
    """Serve a model as the command line says."""
    launch(job, "serve")


if __name__ == "__main__":
    main()
