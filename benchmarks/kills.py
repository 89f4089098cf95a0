"""Kill runs of `train.py` at all kinds of moments and go on with them: python -m benchmarks.kills --kills 50.

Every run is killed one to three times, by SIGKILL, SIGTERM, SIGUSR1 or SIGUSR2; in a step, within an accumulation, in a
validation, while a checkpoint or a row of metrics.csv is written, before the adapter is, or at any time. Then it goes
on to its end, and its adapter and its metrics.csv must be those of a run that nobody killed, byte by byte. Runs are of
1 and of 2 processes (DDP, gloo), of a model of random weights that takes seconds. They lie in --folder; with TMPDIR on
another file system what libraries put there can only be copied, not renamed. Ends with 1 where a run differs.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from lookright.backbones.llava import LlavaBackbone
from lookright.commands import train as training
from lookright.config.entry import launch
from lookright.config.folders import CONFIG_FOLDER
from lookright.config.schema import register
from lookright.records.records import write_jsonl
from lookright.training.checkpoints import newest_whole
from lookright.training.loggers import AppendingWriter
from lookright.training.preference import PreferenceModule
from lookright.types import Preference, Region
from recipes.tiny.folders import write_llava_folder

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
PLACES = ("step", "validation", "checkpoint", "metrics", "adapter", "any")
ANSWERS = ("red", "blue", "green", "circle", "square", "yes")
NUM_PAIRS = 13
SECONDS = 3.0
"""Within which a kill at any time comes."""
PATIENCE = 300.0
"""Seconds after which a process that does not end is a failure."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Kill:
    """`signal` to process `rank`, the `count`-th time (0-based) that it comes to `place`; `any` counts milliseconds."""

    signal: int
    place: str
    count: int
    rank: int = 0

    def __str__(self) -> str:
        name = signal.Signals(self.signal).name
        when = f"after {self.count} ms" if self.place == "any" else f"in {self.place} {self.count}"
        return f"{name} {when}{f' of rank {self.rank}' if self.rank else ''}"


def small_model(folder: Path) -> Path:
    """A LLaVA folder of random weights: 2 layers, 9 tokens a picture."""
    words = " ".join(("USER: ASSISTANT: Image1: In Image2, what color is it?", *ANSWERS))
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"image_size": 42, "patch_size": 14, "hidden_size": 24, "intermediate_size": 32}
    vision |= {"num_hidden_layers": 3, "num_attention_heads": 2}
    write_llava_folder(folder / "bare", [words], vocab_size=300, text=text | {"num_key_value_heads": 2}, vision=vision)
    torch.manual_seed(0)
    backbone = LlavaBackbone(path=str(folder / "bare"))
    backbone.save_pretrained(backbone.build(weights=False), folder / "model")
    return folder / "model"


def small_pairs(folder: Path) -> Path:
    """Pairs of two pictures of noise each."""
    (folder / "images").mkdir(parents=True)
    rng, size, pairs = random.Random(0), (20, 16), []
    for number in range(NUM_PAIRS):
        names = [f"images/{number}_{place}.png" for place in range(2)]
        for name in names:
            Image.frombytes("RGB", size, rng.randbytes(size[0] * size[1] * 3)).save(folder / name)
        chosen, rejected = rng.sample(ANSWERS, 2)
        pairs.append(
            Preference(
                id=f"pair{number}",
                images=names,
                prompt="Image1:<image>\nImage2:<image>\nIn Image2, what color is it?",
                chosen=chosen,
                rejected=[rejected],
                format="sequence",
                target=1,
                regions=[Region(picture=place, box=(0, 0, *size), source=f"{place}") for place in range(2)],
            )
        )
    write_jsonl(folder / "preferences.jsonl", pairs)
    return folder / "preferences.jsonl"


def overrides(model: Path, pairs: Path, num_processes: int) -> list[str]:
    """Two epochs of batches that fill no whole number of steps; validations also fall within a step."""
    return [
        f"backbone.path={model}",
        f"data.path={pairs}",
        "data.val_fraction=0.2",
        "data.batch_size=1",
        "tuning.r=2",
        "tuning.dropout=0.3",
        "optimizer.lr=0.01",
        "trainer.progress_bar=false",
        "trainer.max_epochs=2",
        "trainer.accumulate_grad_batches=2",
        "trainer.val_check_interval=3",
        f"trainer.limit_train_batches={7 if num_processes == 1 else 5}",
        *([] if num_processes == 1 else [f"trainer.devices={num_processes}", "trainer.strategy=ddp"]),
    ]


def run(given: list[str], log: Path, num_processes: int, kill: Kill | None = None) -> list[int]:
    """Run `train.py` in processes of its own; returns their exit codes, those of signals negative."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(num_processes):
        pid = os.fork()
        if pid == 0:
            _process(given, log, rank, num_processes, port, kill)
        pids.append(pid)
    codes: dict[int, int] = {}
    patience = time.monotonic() + PATIENCE
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found == pid:
                codes[pid] = os.waitstatus_to_exitcode(status)
                # nobody to wait for
                patience = patience if codes[pid] in (0, 143) else min(patience, time.monotonic() + 5)
        if time.monotonic() > patience:
            for pid in set(pids) - set(codes):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[pid] for pid in pids]


def _process(given: list[str], log: Path, rank: int, num_processes: int, port: int, kill: Kill | None) -> None:
    """What a process of a run does; it does not come back."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = 1
    try:
        if num_processes > 1:
            os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            rank_zero_only.rank = rank
        if kill is not None and kill.rank == rank:
            _arm(kill)
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            config = compose("train", overrides=given)
        launch(lambda: training.train(config), "train")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _arm(kill: Kill) -> None:
    """Let the signal come."""
    if kill.place == "any":
        threading.Timer(kill.count / 1000, os.kill, (os.getpid(), kill.signal)).start()
        return
    if kill.place == "checkpoint":
        torch.save = _before(torch.save, kill, _half_written)
        return
    owner, name = {
        "step": (PreferenceModule, "training_step"),
        "validation": (PreferenceModule, "validation_step"),
        "metrics": (AppendingWriter, "save"),
        "adapter": (training, "_save"),
    }[kill.place]
    setattr(owner, name, _before(getattr(owner, name), kill, _half_a_row if kill.place == "metrics" else None))


def _before(function: Callable[..., Any], kill: Kill, damage: Callable[..., None] | None) -> Callable[..., Any]:
    """The function, before whose `kill.count`-th call the signal comes; one that cannot be caught does damage first."""
    calls = iter(range(1_000_000))

    def killed(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == kill.count:
            if kill.signal == signal.SIGKILL and damage is not None:
                damage(function, *args)
            os.kill(os.getpid(), kill.signal)
        return function(*args, **kwargs)

    return killed


def _half_written(save: Callable[..., Any], checkpoint: Any, file: Any) -> None:
    save(checkpoint, file)
    file.truncate(file.tell() // 2)
    file.flush()


def _half_a_row(save: Callable[..., Any], writer: AppendingWriter) -> None:
    save(writer)
    path = Path(writer.metrics_file_path)
    os.truncate(path, path.stat().st_size - 5)


def drawn(rng: random.Random, num_processes: int, number: int) -> Kill:
    """A kill at random; the places come in turn."""
    place = PLACES[number % len(PLACES)]
    most = {"any": int(1000 * SECONDS), "step": 12, "validation": 8, "checkpoint": 5, "metrics": 8, "adapter": 1}[place]
    # the first process alone writes
    writes = place in ("checkpoint", "metrics", "adapter")
    rank = 0 if writes else rng.randrange(num_processes)
    return Kill(signal=rng.choice(SIGNALS), place=place, count=rng.randrange(most), rank=rank)


def killed_run(given: list[str], folder: Path, num_processes: int, kills: list[Kill]) -> tuple[int, list[str]]:
    """A run with its kills, gone on with to its end; returns how many came, and what is wrong with it."""
    log, came, wrong = folder.with_suffix(".log"), 0, []
    for kill in [*kills, None]:
        on = [f"resume={folder}"] if newest_whole(folder) is not None else [*given, f"output={folder}"]
        codes = run(on, log, num_processes, kill)
        if kill is None:
            wrong += [] if not any(codes) else [f"ended with {codes}"]
        elif any(codes):
            came += 1
            wanted = -signal.SIGKILL if kill.signal == signal.SIGKILL else 143
            # before the commands listen a signal ends a process by itself
            if wanted not in codes and not (kill.place == "any" and -kill.signal in codes):
                wrong.append(f"{kill} ended it with {codes}")
    return came, wrong


def differences(folder: Path, reference: Path) -> list[str]:
    """Files that are not those of the run that nobody killed."""
    names = ["metrics.csv", "adapter/adapter_model.safetensors"]
    return [f"{name} differs" for name in names if (folder / name).read_bytes() != (reference / name).read_bytes()]


def main() -> None:
    """Kill until enough kills came, and say what became of the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks"), help="where the runs lie, and go")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    register()
    torch.set_num_threads(1)
    rng, came, num_runs, failures = random.Random(given.seed), 0, 0, []
    with tempfile.TemporaryDirectory(dir=given.folder.absolute()) as scratch:
        folder = Path(scratch)
        model, pairs = small_model(folder), small_pairs(folder / "pairs")
        for num_processes in given.processes:
            base = overrides(model, pairs, num_processes)
            codes = run([*base, f"output={folder / f'whole{num_processes}'}"], folder / "whole.log", num_processes)
            assert not any(codes), (folder / "whole.log").read_text()
        drawn_kills = 0
        while came < given.kills:
            num_processes = given.processes[num_runs % len(given.processes)]
            kills = [drawn(rng, num_processes, drawn_kills + one) for one in range(rng.randint(1, 3))]
            drawn_kills += len(kills)
            every = rng.choice(
                [
                    ["trainer.checkpoint_every=1"],
                    ["trainer.checkpoint_every=3"],
                    [],
                    ["trainer.checkpoint_minutes=0.001"],
                ]
            )
            target = folder / f"run{num_runs}"
            base = overrides(model, pairs, num_processes)
            found, wrong = killed_run([*base, *every], target, num_processes, kills)
            wrong += [] if wrong else differences(target, folder / f"whole{num_processes}")
            came, num_runs = came + found, num_runs + 1
            told = f"{num_processes} processes, {' '.join(every) or 'once an epoch'}: {', '.join(map(str, kills))}"
            print(f"{'as it should be' if not wrong else f'WRONG ({wrong})'}: {told}", flush=True)
            if wrong:
                failures.append(told)
                print(target.with_suffix(".log").read_text()[-3000:], flush=True)
            shutil.rmtree(target, ignore_errors=True)
    print(f"{came} kills over {num_runs} runs: {len(failures)} runs differ")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
