"""Answer a test set and measure it: python infer.py data.path=instructions.jsonl [run=RUN_DIR] [key=value ...]."""

import hydra
from omegaconf import DictConfig

from lookright.commands.infer import infer
from lookright.config.entry import launch


@hydra.main(version_base="1.3", config_path="conf", config_name="infer")
def main(config: DictConfig) -> None:
    """Run one job."""
    infer(config)


if __name__ == "__main__":
    launch(main, "infer")
