"""Tune a policy against a reference: python train.py data.path=preferences.jsonl [experiment=NAME] [key=value ...]."""

from lookright.commands.train import main

if __name__ == "__main__":
    main()
