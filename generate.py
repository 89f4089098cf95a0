"""Make multi-image preference pairs from single-image questions: python generate.py source=easy_vqa [key=value ...]."""

from lookright.commands.generate import main

if __name__ == "__main__":
    main()
