"""Make multi-image preference pairs from single-image questions: python generate.py source=easy_vqa [key=value ...]."""

from lookright.commands.cli import generate

if __name__ == "__main__":
    generate()
