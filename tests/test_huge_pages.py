"""A command asks for huge pages under large tensors, unless its user says otherwise; the library changes nothing."""

import os
import subprocess
import sys

import pytest

# as the commands begin: what they import makes tensors before any line of theirs runs; torch puts tensors that it
# wants huge pages for at the start of a page, others 64 bytes after one
CODE = """
from lookright.commands.train import train
import torch
print(torch.ones(2**25).data_ptr() % 4096)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux alone")
def test_large_tensors_begin_with_a_page() -> None:
    plain = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    offsets = [
        int(subprocess.run([sys.executable, "-c", CODE], env=plain | own, check=True, stdout=subprocess.PIPE).stdout)
        for own in ({}, {"THP_MEM_ALLOC_ENABLE": "0"})
    ]
    assert offsets[0] == 0 and offsets[1] != 0


def test_the_library_changes_nothing_of_the_process() -> None:
    """Neither its environment nor its loggers; torch and what else is large waits until a part is used."""
    code = """
import logging, os, sys, warnings
loggers, environment, filters = dict(logging.root.manager.loggerDict), dict(os.environ), list(warnings.filters)
import lookright
assert dict(os.environ) == environment and warnings.filters == filters
assert dict(logging.root.manager.loggerDict) == loggers
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
