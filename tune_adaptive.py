"""Choose the values of adaptive decoding: python tune_adaptive.py data.path=instructions.jsonl [run=RUN_DIR] ..."""

from lookright.commands.tune_adaptive import main

if __name__ == "__main__":
    main()
