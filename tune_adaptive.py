"""Choose the values of adaptive decoding: python tune_adaptive.py data.path=instructions.jsonl [run=RUN_DIR] ..."""

from lookright.commands.cli import tune_adaptive

if __name__ == "__main__":
    tune_adaptive()
