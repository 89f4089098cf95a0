"""An OpenAI-compatible server for a model of ours, with a page: `python -m lookright.serve`."""
