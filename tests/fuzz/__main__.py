"""Any number of damaged inputs to every reader: `python -m tests.fuzz --cases 1000000`.

    python -m tests.fuzz --cases 1000000 --workers 8          all readers
    python -m tests.fuzz --cases 20000 --only pairs,answers   some of them
    python -m tests.fuzz --replay tests/fuzz/failures         those that once broke a reader, each told

`--source` draws others (`make test` runs source 0). What breaks a reader is written to `--keep`
(default fuzz_findings/READER/); move it to tests/fuzz/failures/READER/ once it is repaired, where `make test` runs it.
Exit code 1 where anything was found. The first cases of every reader are its whole seeds.
"""

import argparse
import hashlib
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.fuzz.reader import Outcome
from tests.fuzz.readers import READERS, prepare, quiet, work

PORTION = 2_000
"""Cases of one task."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--source", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_findings"))
    parser.add_argument("--replay", type=Path)
    given = parser.parse_args()
    chosen = {name: one for name, one in READERS.items() if not given.only or name in given.only.split(",")}
    if given.replay is not None:
        return replay(given.replay)
    started, total = time.perf_counter(), {name: Outcome() for name in chosen}
    share = given.cases / sum(one.weight for one in chosen.values())
    tasks = [
        (name, min(PORTION, left), given.source * 1_000_000 + number)
        for name, one in chosen.items()
        for number, left in enumerate(range(round(share * one.weight), 0, -PORTION))
    ]
    with ProcessPoolExecutor(given.workers, get_context("fork"), initializer=quiet) as pool:
        for (name, _, _), outcome in zip(tasks, pool.map(work, *zip(*tasks, strict=True)), strict=True):
            for key, count in outcome.counts.items():
                total[name].counts[key] += count
            total[name].findings |= {k: v for k, v in outcome.findings.items() if k not in total[name].findings}
            total[name].slowest = max(total[name].slowest, outcome.slowest)
            total[name].growth = max(total[name].growth, outcome.growth)
    broken = 0
    for name, outcome in total.items():
        counts = ", ".join(f"{count} {kind}" for kind, count in outcome.counts.items())
        print(f"{name}: {counts}; slowest {outcome.slowest:.2f} s; memory grew {outcome.growth:.0f} MB")
        broken += outcome.counts["broken"]
        for finding in outcome.findings.values():
            folder = given.keep / name
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{hashlib.sha256(finding.data).hexdigest()[:12]}.bin"
            path.write_bytes(finding.data)
            print("\n    ".join([f"  {finding.kind} [{path}]", *finding.detail.strip().split("\n")[-4:]]))
    cases = sum(sum(one.counts.values()) for one in total.values())
    print(f"{cases} cases in {time.perf_counter() - started:.0f} s: {broken} broke a reader")
    return int(broken > 0)


def replay(folder: Path) -> int:
    """Kept cases, each with what becomes of it."""
    quiet()
    broken = 0
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        for path in sorted(folder.glob("*/*.bin")):
            kind, finding = READERS[path.parent.name].run(path.read_bytes(), Path(scratch))
            broken += finding is not None
            print(f"{path}: {kind}" + ("" if finding is None else f" {finding.kind}\n{finding.detail}"))
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
