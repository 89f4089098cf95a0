"""The command: what it checks before a port opens, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

COMMAND = [sys.executable, "-m", "lookright.serve"]


def refused(*overrides: str) -> str:
    """What a start says that is refused."""
    done = subprocess.run([*COMMAND, *overrides], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_a_misspelt_key_and_a_port_that_is_taken() -> None:
    assert "prot" in (told := refused("prot=1")) and "port" in told
    with socket.create_server(("127.0.0.1", 0)) as other:
        told = refused(f"port={other.getsockname()[1]}", "limits.waiting=3")
        assert "set another port" in told
    told = refused("limits.waiting=0", "prompt_style=x", "decode.num_beams=2", "adapter=nowhere", "batch_size=0")
    for word in ("limits.waiting=0", "prompt_style='x'", "num_beams=2", "adapter=nowhere", "batch_size=0"):
        assert word in told


@contextmanager
def started(*overrides: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process and its address."""
    variables = os.environ | environment
    with subprocess.Popen(
        [*COMMAND, "port=0", *overrides], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables
    ) as process:
        try:
            line = process.stdout.readline()
            found = re.fullmatch(r"models (.+) at (http://\S+)/v1, a page at \2/\n", line)
            assert found, line + process.stderr.read()
            yield process, found[2]
        finally:
            process.kill()


@pytest.mark.slow()
def test_it_answers_and_ends_in_order(llava_weights: Path, adapters: dict[str, str]) -> None:
    overrides = (
        f"backbone.path={llava_weights}",
        f"adapter={adapters['tuned']}",
        f"+adapters.other={adapters['other']}",
    )
    with started(*overrides, "host=0.0.0.0") as (process, address):
        here = address.replace("0.0.0.0", "127.0.0.1")
        assert [one["id"] for one in httpx.get(f"{here}/v1/models").json()["data"]] == ["tuned", "other", "base"]
        body = {"messages": [{"role": "user", "content": "what is it?"}], "max_tokens": 2}
        assert httpx.post(f"{here}/v1/chat/completions", json=body, timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        told = process.stderr.read()
        assert "warning: whoever reaches 0.0.0.0 may ask" in told and "SIGTERM: stopped" in told
        assert "Traceback" not in told and "Error executing" not in told


@pytest.mark.slow()
def test_a_key_from_the_environment_and_ctrl_c(llava_weights: Path) -> None:
    with started(f"backbone.path={llava_weights}", LOOKRIGHT_API_KEY="secret") as (process, address):
        assert httpx.get(f"{address}/v1/models").status_code == 401
        assert httpx.get(f"{address}/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert "Traceback" not in process.stderr.read()
