"""Answer a test set and measure it: python infer.py data.path=instructions.jsonl [run=RUN_DIR] [key=value ...]."""

from lookright.commands.cli import infer

if __name__ == "__main__":
    infer()
