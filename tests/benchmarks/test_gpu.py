"""What only a GPU can measure: refused where there is none, rehearsed on small shapes, told as it is."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_page
from lookright.errors import ConfigError

ROOT = Path(__file__).parents[2]


def run(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.gpu", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture
def plan(tmp_path: Path) -> gpu.Plan:
    return gpu.Plan(device="cpu", shapes=gpu.SMALL, rank=4, steps=1, folder=tmp_path)


def told(target: Path) -> dict[str, Any]:
    return json.loads(target.read_text())


def test_without_a_gpu_it_refuses_in_a_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    ended = run()
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: no GPU is visible") and ended.stderr.count("\n") == 1


@pytest.mark.parametrize("options", [["--tiny"], ["--device", "cpu"], ["--device", "cpu", "--output", "x"]])
def test_a_rehearsal_never_writes_to_the_docs(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", *options])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2


def test_the_page_is_what_the_figures_say() -> None:
    found = json.loads(gpu_page.RESULTS.read_text()) if gpu_page.RESULTS.is_file() else {}
    assert gpu_page.PAGE.read_text() == gpu_page.page(found)
    assert found or "nothing on this page is measured" in gpu_page.PAGE.read_text()


@pytest.mark.slow
def test_a_rehearsal_measures_each_kind_of_part(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="the benchmarks' other side")
    chosen = ["tests", "small_ixc25:4bit", "small_llava:flash_attn", "beside:trl", "answering:llava"]
    ended = run("--tiny", "--device", "cpu", "--output", str(tmp_path), "--minutes", "14", *chosen)
    found, page = told(tmp_path / "gpu.json"), (tmp_path / "gpu.md").read_text()
    # one cannot be had here, and the others do not suffer
    assert ended.returncode == 1 and "not measured: small_llava:flash_attn;" in ended.stderr, ended.stderr
    assert {name for name, part in found.items() if "figures" in part} == {*chosen} - {"small_llava:flash_attn"}
    assert "a rehearsal" in page.lower() and "| `small_llava:flash_attn` | " in page
    step = found["small_ixc25:4bit"]["figures"]
    assert len(step["losses"]) == 3 and step["told"]["estimate_mib"]["weights"] > 0 and step["four_bit"]
    # policy and reference are the same before the first step
    assert found["beside:trl"]["figures"]["losses"][0] == pytest.approx(0.6931, abs=1e-3)
    assert [row["batch"] for row in found["answering:llava"]["figures"]["rows"]] == [1, 1, 2, 2]
    assert "tests collected" in found["tests"]["figures"]["summary"]


def broken(error: Exception) -> Callable[[float], dict[str, Any]]:
    def measure(limit: float) -> dict[str, Any]:
        del limit
        raise error

    return measure


def test_what_fails_is_a_row_and_what_was_measured_stays(plan: gpu.Plan, tmp_path: Path) -> None:
    target = tmp_path / "out" / "gpu.json"
    fine = {"files": 4, "summary": "9 passed in 3 s", "failed": []}
    last = time.monotonic() + 60
    assert gpu._run(gpu.Part(name="tests", limit=60, measure=lambda limit: fine), plan, last, target)
    for name, error in (("a", ConfigError("is not | installed")), ("b", MemoryError("CUDA out of memory"))):
        assert not gpu._run(gpu.Part(name=name, limit=60, measure=broken(error)), plan, last, target)
    assert not gpu._run(gpu.Part(name="late", limit=60, measure=lambda limit: fine), plan, last - 60, target)
    page = target.with_name("gpu.md").read_text()
    assert "9 passed in 3 s" in page and "| `a` | is not / installed |" in page
    assert "| `b` | CUDA out of memory |" in page and "| `late` | not begun: the time was spent |" in page
    assert sorted(path.name for path in target.parent.iterdir()) == ["gpu.json", "gpu.md"]


def test_a_process_that_takes_too_long_is_ended_with_what_it_started(plan: gpu.Plan, tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; one = subprocess.Popen(['sleep', '60']); print(one.pid, file=sys.stderr); one.wait()"
    )
    with pytest.raises(RuntimeError, match="took more than 2 s"):
        gpu._output([sys.executable, "-c", code], 2, tmp_path / "log")
    state = Path(f"/proc/{int((tmp_path / 'log').read_text())}/stat")
    for _ in range(100):
        # gone, or about to be taken away by init
        if not state.is_file() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("it still runs")


def test_the_parts_that_tell_most_come_first(plan: gpu.Plan) -> None:
    names = [part.name for part in gpu.parts(plan)]
    assert names[:3] == ["small_llava:sdpa", "small_ixc25:sdpa", "tests"] and len(names) == len(set(names)) == 15
    assert sum(part.limit for part in gpu.parts(plan)[:3]) < 570, "a hanging one leaves time for others"
