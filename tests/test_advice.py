"""bitsandbytes' advice to install a package that fetches native code is left out, and nothing else of what it says.

What a command does not use it does not import either: bitsandbytes without 4 bits, wandb without a run that logs there.
"""

import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bitsandbytes.backends.cpu import ops

from lookright.backbones.quantization import ADVICE, require_bitsandbytes

ROOT = Path(__file__).parents[1]
LOGGER, MESSAGE = ADVICE
COMMANDS = (
    *(f"lookright.commands.{name}" for name in ("train", "infer", "generate", "tune_adaptive")),
    *("lookright.ask.command", "lookright.export.command", "lookright.serve.serving", "lookright.report.__main__"),
    *("lookright.compare", "lookright.demo.__main__", "lookright.launching.__main__", "lookright.api"),
)
"""What the commands run, and what `import lookright` gives."""


def test_bitsandbytes_still_words_and_sends_it_so() -> None:
    assert ops.logger.name == LOGGER
    assert f'"{MESSAGE}' in inspect.getsource(ops)


def test_the_advice_is_left_out_and_other_messages_are_not(caplog: pytest.LogCaptureFixture) -> None:
    require_bitsandbytes()
    logger = logging.getLogger(LOGGER)
    logger.warning(MESSAGE + ": %s. Please make sure you already `pip install kernels`", ImportError("kernels"))
    logger.warning("Failed to load %s", "the library")
    logging.getLogger("bitsandbytes.nn").warning(MESSAGE)
    assert caplog.messages == ["Failed to load the library", MESSAGE]


def started(code: str) -> str:
    """What a fresh process says."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stderr + done.stdout


def test_with_four_bits_nothing_advises_it() -> None:
    """On CPUs with bfloat16 units bitsandbytes gives it on its import, whoever uses it."""
    code = "from lookright.backbones.quantization import require_bitsandbytes as require; require(); "
    assert started(code + "import lookright.backbones.four_bit, bitsandbytes") == ""


def test_no_command_starts_with_it() -> None:
    lines = ["import sys", "unused = ('bitsandbytes', 'wandb', 'kernels')"]
    for module in COMMANDS:
        lines += [f"import {module}", f"print('{module}', [name for name in unused if name in sys.modules])"]
    assert started("\n".join(lines)) == "".join(f"{module} []\n" for module in COMMANDS)


def test_peft_is_imported_where_bitsandbytes_is_kept_out() -> None:
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]
    found = [one for one in files if re.search(r"^\s*(from|import) peft\b", one.read_text("utf-8"), re.MULTILINE)]
    assert found == [ROOT / "src" / "lookright" / "backbones" / "adapters.py"]
