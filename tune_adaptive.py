"""Choose the values of adaptive decoding: python tune_adaptive.py data.path=instructions.jsonl [run=RUN_DIR] ..."""

import hydra
from omegaconf import DictConfig

from lookright.commands.tune_adaptive import tune_adaptive
from lookright.config.entry import launch


@hydra.main(version_base="1.3", config_path="conf", config_name="tune_adaptive")
def main(config: DictConfig) -> None:
    """Run one job."""
    tune_adaptive(config)


if __name__ == "__main__":
    launch(main, "tune_adaptive")
