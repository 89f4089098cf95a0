"""The server under load: one client against many, five minutes of 64 clients, and the page's first answer.

python -m benchmarks.serve --workload outputs/benchmarks/workload --seconds 300

Each part is a server process of its own at its defaults and 2 threads, clients in this process. Writes nothing; prints
one line of JSON a part. The model of the first two parts is that of `benchmarks/workload.py` (512 wide), of the last
`tiny_llava`, base alone. Questions are about one picture (576 tokens). Requests that run together share each step of
decoding and not the passes over their pictures, so that the rates depend on how long answers are: --tokens.
"""

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import httpx

from benchmarks.workload import ANSWER_TOKENS, make_workload

RATES = (1, 16)
"""Clients whose rates are held against each other."""
QUESTIONS = 48


def main() -> None:
    """Print one line of json a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--tokens", type=int, nargs="+", default=[ANSWER_TOKENS, 4 * ANSWER_TOKENS], help="an answer")
    arguments = parser.parse_args()
    workload = make_workload(arguments.workload, [(1, 1)])
    files = sorted((workload.pairs(1).parent / "images").glob("*.png"))
    with running_server("backbone=llava15_7b", f"backbone.path={workload.model}", "limits.seconds=600") as (
        process,
        address,
    ):
        for tokens, ratio in product(arguments.tokens, (True, False)):
            bodies = [_body(files[number % len(files)], ratio, tokens) for number in range(arguments.questions)]
            _print({"part": "rates", "tokens": tokens, "ratio": ratio, **_rates(address, bodies)})
        _print({"part": "soak", **_soak(process.pid, address, files, arguments.clients, arguments.seconds)})
    with running_server("backbone=tiny_llava") as (_, address):
        _print({"part": "page", **_page(address, files)})


@contextmanager
def running_server(*overrides: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process at its defaults and 2 threads, and its address; it ends with the block."""
    command = [sys.executable, "-m", "lookright.serve", "port=0", "num_threads=2", *overrides]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"(http://\S+)/v1", process.stdout.readline())
        assert found is not None, "the server did not start"
        try:
            yield process, found[1]
        finally:
            process.terminate()


def _body(file: Path, ratio: bool, tokens: int = ANSWER_TOKENS) -> dict[str, Any]:
    data = base64.b64encode(file.read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": "what is it?"},
    ]
    messages = [{"role": "user", "content": content}]
    return {"messages": messages, "max_tokens": tokens, "lookright": {"ratio": ratio}}


def _rates(address: str, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """Answers a second with one client and with many, on the same questions; the texts must be the same."""
    count = len(bodies)
    rates, texts = {}, []
    with httpx.Client(base_url=address, timeout=600) as client:
        for clients in RATES:
            start = time.monotonic()
            with ThreadPoolExecutor(clients) as pool:
                replies = list(pool.map(lambda body: client.post("/v1/chat/completions", json=body).json(), bodies))
            rates[clients] = count / (time.monotonic() - start)
            texts.append([reply["choices"][0]["message"]["content"] for reply in replies])
    same = sum(one == other for one, other in zip(*texts, strict=True))
    return {"per_second": rates, "times": rates[RATES[1]] / rates[RATES[0]], "equal": f"{same} of {count}", **_load()}


def _soak(pid: int, address: str, files: list[Path], clients: int, seconds: float) -> dict[str, Any]:
    """How many answers came, how many did not, and the server's memory at the start, the middle and the end."""
    bodies = [_body(file, ratio=True) for file in files]
    outcomes: Counter[str] = Counter()
    lock, end = threading.Lock(), time.monotonic() + seconds
    memory = [_resident(pid)]

    def ask(number: int) -> None:
        with httpx.Client(base_url=address, timeout=600) as client:
            while time.monotonic() < end:
                try:
                    outcome = str(client.post("/v1/chat/completions", json=bodies[number % len(bodies)]).status_code)
                except httpx.HTTPError as error:
                    outcome = type(error).__name__
                with lock:
                    outcomes[outcome] += 1

    with ThreadPoolExecutor(clients) as pool:
        asked = [pool.submit(ask, number) for number in range(clients)]
        for part in (0.1, 0.5, 1.0):
            time.sleep(max(0.0, end - (1 - part) * seconds - time.monotonic()))
            memory.append(_resident(pid))
    for one in asked:
        one.result()
    return {"seconds": seconds, "clients": clients, "outcomes": dict(outcomes), "resident_mib": memory, **_load()}


def _page(address: str, files: list[Path]) -> dict[str, Any]:
    """Seconds from the click to the heat in a browser that has just opened the page; the first answer of the server."""
    from playwright.sync_api import sync_playwright

    seconds = []
    with sync_playwright() as driver:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(3):
            page = browser.new_page()
            page.goto(address)
            page.set_input_files("#files", [str(file) for file in files[:3]])
            page.wait_for_selector("#pictures li:nth-child(3)")
            page.fill("#question", "In Image2, what is it?")
            start = time.monotonic()
            page.click("#send")
            page.wait_for_selector(".card .note:not(:empty)")
            seconds.append(round(time.monotonic() - start, 2))
        browser.close()
    return {"pictures": 3, "seconds": seconds, **_load()}


def _resident(pid: int) -> int:
    """MiB of a process that are in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def _load() -> dict[str, float]:
    return {"load": round(os.getloadavg()[0], 1)}


def _print(part: dict[str, Any]) -> None:
    print(json.dumps(part), flush=True)


if __name__ == "__main__":
    main()
