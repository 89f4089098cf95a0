"""Make multi-image preference pairs from single-image questions: python generate.py source=easy_vqa [key=value ...]."""

import hydra
from omegaconf import DictConfig

from lookright.commands.generate import generate
from lookright.config.entry import launch


@hydra.main(version_base="1.3", config_path="conf", config_name="generate")
def main(config: DictConfig) -> None:
    """Run one job."""
    generate(config)


if __name__ == "__main__":
    launch(main, "generate")
