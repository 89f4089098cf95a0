"""Tune a policy against a reference: python train.py data.path=preferences.jsonl [experiment=NAME] [key=value ...]."""

from lookright.commands.cli import train

if __name__ == "__main__":
    train()
