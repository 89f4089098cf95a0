"""bitsandbytes' advice to install a package that fetches native code is left out, and nothing else of what it says."""

import inspect
import logging
import subprocess
import sys

import pytest
from bitsandbytes.backends.cpu import ops

from lookright.commands import ADVICE

LOGGER, MESSAGE = ADVICE


def test_bitsandbytes_still_words_and_sends_it_so() -> None:
    assert ops.logger.name == LOGGER
    assert f'"{MESSAGE}' in inspect.getsource(ops)


def test_the_advice_is_left_out_and_other_messages_are_not(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(LOGGER)
    logger.warning(MESSAGE + ": %s. Please make sure you already `pip install kernels`", ImportError("kernels"))
    logger.warning("Failed to load %s", "the library")
    logging.getLogger("bitsandbytes.nn").warning(MESSAGE)
    assert caplog.messages == ["Failed to load the library", MESSAGE]


@pytest.mark.parametrize("command", ["train", "infer", "generate", "tune_adaptive"])
def test_commands_start_without_it(command: str) -> None:
    """On CPUs with bfloat16 units bitsandbytes gives it when PEFT imports it."""
    line = [sys.executable, "-c", f"import lookright.commands.{command}"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stderr + done.stdout == ""
