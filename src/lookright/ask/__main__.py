"""python -m lookright.ask images=[a.jpg,b.jpg] "In Image2, ..." [run=RUN_DIR] [key=value ...]: one question."""

import re
import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from lookright.ask.question import read_question
from lookright.commands.cli import start
from lookright.config.entry import EXIT_USER_ERROR
from lookright.config.runs import with_run
from lookright.errors import ConfigError

WITH_VALUE = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p")
"""Flags of Hydra that the next argument belongs to."""
OVERRIDE = re.compile(r"[+~]{0,2}[\w./@:-]+=|~")


def question_of(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The question, taken as it stands, and what is left for Hydra, whose grammar a sentence does not fit.

    Raises ConfigError for several.
    """
    found, rest, before = [], [], ""
    for argument in arguments:
        if argument.startswith("question="):
            found.append(argument.removeprefix("question="))
        elif before in WITH_VALUE or argument.startswith("-") or OVERRIDE.match(argument):
            rest.append(argument)
        else:
            found.append(argument)
        before = argument
    if len(found) > 1:
        raise ConfigError(f"{len(found)} questions: {', '.join(map(repr, found))}; put one into quotes")
    return (found[0] if found else None), rest


def main() -> None:
    """Ask as the command line says."""
    try:
        question, rest = question_of(sys.argv[1:])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)

    def job(config: DictConfig) -> None:
        if question is not None:
            config.question = question
        config = with_run(config)
        asked = read_question(config)
        # here, since it imports torch
        from lookright.ask.command import ask

        ask(config, asked)

    sys.argv[1:] = rest
    start("ask", job)


if __name__ == "__main__":
    main()
