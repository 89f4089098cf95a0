"""All that a machine with one GPU is needed for, in under ten minutes and without a network; writes docs/gpu.md.

python -m benchmarks.gpu                                    # every part, the most valuable first
python -m benchmarks.gpu tests llava15_7b:varlen            # these alone; the others keep their figures
python -m benchmarks.gpu --tiny --device cpu --output DIR   # rehearsal: the same code on small shapes, no GPU
python -m benchmarks.gpu --page                             # the page again, from docs/gpu.json

Parts: the tests marked `gpu`; a step of train.py in the shape of either 7B backbone with each attention kernel and in
4 bits, with peak memory beside the estimate of `trainer.plan`; TRL's DPOTrainer beside our step; answering. Each part
runs in processes of its own, with a time limit of its own: one that fails is a row that says why, and what is measured
is written at once. Ends with 2 where no GPU is there, with 1 where a part failed, else with 0.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_page import PAGE, RESULTS, page
from benchmarks.shapes import SHAPES
from benchmarks.turns import run_in_turns
from benchmarks.workload import Workload, write_pairs
from lookright.attention.kernels import check_kernel
from lookright.backbones.quantization import require_bitsandbytes
from lookright.errors import ConfigError

ROOT = Path(__file__).parents[1]
EXIT_NO_GPU = 2
NUM_IMAGES = 5
LIBRARIES = ("torch", "transformers", "peft", "lightning", "trl", "bitsandbytes", "flash-attn")
REAL, SMALL = ("llava15_7b", "ixc25_7b"), ("small_llava", "small_ixc25")
SHOWN = 300
"""Characters of an error that a row keeps."""
Figures = dict[str, Any]


@dataclass(slots=True, frozen=True, kw_only=True)
class Plan:
    """What this run measures, and on what."""

    device: str
    shapes: tuple[str, str]
    rank: int
    steps: int
    folder: Path
    """For models, pairs and what processes print."""

    def workload(self, shape: str) -> Workload:
        """The shape's folder, written where it is not there."""
        workload = Workload(folder=self.folder / shape)
        if not workload.pairs(NUM_IMAGES).is_file():
            SHAPES[shape].write(workload.model)
            write_pairs(workload, NUM_IMAGES)
        return workload

    def errors(self, name: str) -> Path:
        """What the processes of a part print."""
        return self.folder / f"{name.replace(':', '_')}.log"


@dataclass(slots=True, frozen=True, kw_only=True)
class Part:
    """One row: its name, the seconds it may take, and what measures it, told of them."""

    name: str
    limit: float
    measure: Callable[[float], Figures]


def main() -> int:
    """Measure, and write the page after every part; the exit status."""
    parser = _parser()
    options = parser.parse_args()
    if (options.tiny or options.device == "cpu") and (options.output is None or not options.tiny):
        parser.error("a rehearsal is --tiny --device cpu --output DIR; it never writes to docs/")
    target = RESULTS if options.output is None else options.output / RESULTS.name
    if options.page:
        target.with_name(PAGE.name).write_text(page(_read(target)))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: no GPU is visible, and without one nothing here can be measured; "
            "--tiny --device cpu --output DIR rehearses it",
            file=sys.stderr,
        )
        return EXIT_NO_GPU
    deadline = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            device=options.device,
            shapes=SMALL if options.tiny else REAL,
            rank=4 if options.tiny else 128,
            steps=1 if options.tiny else 3,
            folder=Path(folder),
        )
        known = parts(plan)
        unknown = sorted(set(options.parts) - {part.name for part in known})
        if unknown:
            raise SystemExit(f"error: no part {unknown[0]}; valid: {', '.join(part.name for part in known)}")
        chosen = [part for part in known if not options.parts or part.name in options.parts]
        failed = [part.name for part in chosen if not _run(part, plan, deadline, target)]
    print(f"wrote {target} and {target.with_name(PAGE.name)}")
    if failed:
        print(f"not measured: {', '.join(failed)}; the page says why", file=sys.stderr)
    return int(bool(failed))


def parts(plan: Plan) -> list[Part]:
    """All parts, those first that tell most."""
    llava, ixc25 = plan.shapes
    steps = {
        f"{shape}:{kernel}": lambda limit, shape=shape, kernel=kernel: step(plan, shape, limit, kernel)
        for kernel in ("sdpa", "varlen", "flex", "flash_attn")
        for shape in plan.shapes
    }
    return [
        *(Part(name=name, limit=100, measure=steps.pop(name)) for name in (f"{llava}:sdpa", f"{ixc25}:sdpa")),
        Part(name="tests", limit=150, measure=lambda limit: gpu_tests(plan, limit)),
        *(Part(name=name, limit=100, measure=steps.pop(name)) for name in (f"{llava}:varlen", f"{ixc25}:varlen")),
        *(
            Part(name=f"{shape}:4bit", limit=100, measure=lambda limit, shape=shape: four_bit_step(plan, shape, limit))
            for shape in plan.shapes
        ),
        Part(name="answering:llava", limit=90, measure=lambda limit: answering(plan, llava, limit)),
        Part(name="beside:ours", limit=90, measure=lambda limit: step(plan, llava, limit, "auto", plain=True)),
        Part(name="beside:trl", limit=120, measure=lambda limit: trl_step(plan, llava, limit)),
        Part(name="answering:ixc25", limit=90, measure=lambda limit: answering(plan, ixc25, limit)),
        *(Part(name=name, limit=120, measure=measure) for name, measure in steps.items()),
    ]


def step(plan: Plan, shape: str, limit: float, kernel: str, *, four_bit: bool = False, plain: bool = False) -> Figures:
    """Steps of train.py's own trainer: DPO and the attention term; `plain`: DPO alone, without dropout, as TRL's."""
    check_kernel(kernel)
    more = ["--prefix-kernel", kernel, *(["--four-bit"] if four_bit else [])]
    more += [] if plain else ["--attention", "--dropout", "0.05"]
    name = f"{shape}:{'4bit' if four_bit else kernel}"
    return _side(plan, "ours", shape, limit, name, more) | {"kernel": kernel, "four_bit": four_bit}


def four_bit_step(plan: Plan, shape: str, limit: float) -> Figures:
    """The same on a decoder in 4 bits, with the kernel that would be chosen."""
    require_bitsandbytes()
    return step(plan, shape, limit, "auto", four_bit=True)


def trl_step(plan: Plan, shape: str, limit: float) -> Figures:
    """TRL's DPOTrainer as it is, on the same pairs, weights and adapters."""
    if importlib.util.find_spec("trl") is None or importlib.util.find_spec("datasets") is None:
        raise ConfigError("trl or datasets is not installed")
    return _side(plan, "trl", shape, limit, "beside_trl", [])


def _side(plan: Plan, side: str, shape: str, limit: float, name: str, more: Sequence[str]) -> Figures:
    """One side of `benchmarks.sides` by itself."""
    given = ["--workload", str(plan.workload(shape).folder), "--images", str(NUM_IMAGES), "--device", plan.device]
    given += ["--fresh", "--dtype", "bfloat16", "--precision", "bf16-mixed", "--checkpointing"]
    given += ["--rank", str(plan.rank), *more]
    errors = plan.errors(name)
    try:
        # the second may still compile
        result = run_in_turns({"it": [side, *given]}, plan.steps, warmup=2, limit=limit, errors=errors)["it"]
    except RuntimeError as error:
        raise RuntimeError(_last_words(errors)) from error
    return {"shape": shape} | asdict(result) | {"seconds": result.median, "all_seconds": result.seconds}


def gpu_tests(plan: Plan, limit: float) -> Figures:
    """`pytest -m gpu`, of the files alone that have such tests."""
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-m", "gpu", "-p", "no:cacheprovider", "--tb=line"]
    if plan.device == "cpu":
        # a rehearsal asks only which there are
        command.append("--collect-only")
    output = _output([*command, *files], limit, plan.errors("tests"), check=False)
    told = [line for line in output.splitlines() if line.strip()]
    if not told:
        raise RuntimeError(_last_words(plan.errors("tests")))
    bad = [line[:SHOWN] for line in told if line.startswith(("FAILED", "ERROR"))]
    return {"files": len(files), "summary": told[-1].strip("= "), "failed": bad}


def answering(plan: Plan, shape: str, limit: float) -> Figures:
    """See `benchmarks.throughput`."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--workload", str(plan.workload(shape).folder)]
    command += ["--images", str(NUM_IMAGES), "--device", plan.device]
    command += ["--tokens", "4", "--batches", "1", "2", "--repeats", "1"] if plan.device == "cpu" else []
    name = f"answering_{shape}"
    return {"shape": shape} | json.loads(_output(command, limit, plan.errors(name)).splitlines()[-1])


def _output(command: Sequence[str], limit: float, errors: Path, *, check: bool = True) -> str:
    """What a process prints; RuntimeError with its last words where it fails or takes too long."""
    with errors.open("a") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, text=True, cwd=ROOT, start_new_session=True
        )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"took more than {limit:.0f} s") from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if check and process.returncode:
        raise RuntimeError(_last_words(errors))
    return output


def _last_words(errors: Path) -> str:
    """The last line that a process printed, which is its error's."""
    lines = [line.strip() for line in errors.read_text().splitlines() if line.strip()] if errors.is_file() else []
    return lines[-1] if lines else "it ended without a word"


def _run(part: Part, plan: Plan, deadline: float, target: Path) -> bool:
    """Measure one part and write what there is; whether it went well."""
    started = time.monotonic()
    # a CPU has all the time that it is given
    limit = min(part.limit, deadline - started) if plan.device == "cuda" else deadline - started
    entry: Figures = {"device": plan.device, "date": time.strftime("%Y-%m-%d", time.gmtime())}
    try:
        if limit < 10:
            raise RuntimeError("not begun: the time was spent")
        entry["figures"] = part.measure(limit)
    # whatever breaks a part, the others are measured
    except Exception as error:
        over = time.monotonic() - started >= limit
        entry["error"] = (f"took more than {limit:.0f} s" if over and limit >= 10 else str(error))[:SHOWN]
    entry["took"] = time.monotonic() - started
    print(f"{part.name}: {entry.get('error', 'measured')}, {entry['took']:.0f} s", file=sys.stderr, flush=True)
    found = _read(target)
    _write(target, found | {"machine": _machine(plan), part.name: entry})
    return "error" not in entry


def _machine(plan: Plan) -> Figures:
    """Device, memory and libraries."""
    found: Figures = {"device": plan.device, "cores": len(os.sched_getaffinity(0))}
    if plan.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gib": properties.total_memory / 2**30}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _read(path: Path) -> Figures:
    return json.loads(path.read_text()) if path.is_file() else {}


def _write(target: Path, found: Figures) -> None:
    """The figures and the page, each whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for path, text in ((target, json.dumps(found, indent=1) + "\n"), (target.with_name(PAGE.name), page(found))):
        part = path.with_name(f"{path.name}.part")
        part.write_text(text)
        part.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="these alone")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes")
    parser.add_argument("--output", type=Path, help="folder of gpu.md and gpu.json, docs/ where none is given")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all parts; what is left then is not begun")
    parser.add_argument("--page", action="store_true", help="write the page from the figures that there are")
    return parser


if __name__ == "__main__":
    sys.exit(main())
