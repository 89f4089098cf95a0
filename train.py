"""Tune a policy against a reference: python train.py data.path=preferences.jsonl [experiment=NAME] [key=value ...]."""

import hydra
from omegaconf import DictConfig

from lookright.commands.train import train
from lookright.config.entry import launch


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Run one job."""
    train(config)


if __name__ == "__main__":
    launch(main, "train")
