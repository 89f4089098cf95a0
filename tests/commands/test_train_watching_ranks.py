"""`eval.every` on two processes: both answer, the numbers are those of one process, and both end."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from lookright.commands.train import train
from lookright.records.records import write_jsonl
from tests.commands.test_infer import question
from tests.commands.test_train_ranks import ROOT, SECONDS, is_over
from tests.commands.test_train_watching import rows

Compose = Callable[..., DictConfig]
DRIVER = """
import os, time
from pathlib import Path

from lookright.commands import cli
from lookright.commands import train as training
from lookright.commands.watching import EvaluateWhileTraining

notes, broken = Path(os.environ["NOTES"]), os.environ.get("BROKEN")
rank = int(os.environ.get("LOCAL_RANK", 0))
(notes / f"{rank}.pid").write_text(str(os.getpid()))
answer = EvaluateWhileTraining.answer


def answered(self, module, rank=0, num_ranks=1):
    if broken:
        Path(broken).unlink(missing_ok=True)
        (notes / "broken").write_text(str(time.time()))
    lines = answer(self, module, rank, num_ranks)
    with (notes / f"{rank}.answered").open("a") as file:
        file.write(" ".join(sorted(lines)) + "\\n")
    return lines


EvaluateWhileTraining.answer = answered
cli.start("train", training.job)
"""


@pytest.fixture()
def settings(small_run: list[str], tmp_path: Path) -> list[str]:
    """Four steps of two pairs, as one batch or one a rank, and eleven questions in batches of three."""
    folder = tmp_path / "questions"
    (folder / "images").mkdir(parents=True)
    write_jsonl(folder / "instructions.jsonl", [question(folder, number) for number in range(11)])
    own = ["trainer.max_steps=4", "tuning.dropout=0", "data.batch_size=1", "eval=test_sets", "eval.overlays=0"]
    own += [f"eval.data.path={folder / 'instructions.jsonl'}", "eval.decode.max_new_tokens=3", "eval.batch_size=3"]
    return [*small_run, *own]


def on_two(tmp_path: Path, *given: str, broken: Path | None = None) -> tuple[int, str]:
    """Exit code and console of a run on two processes, of which none is left."""
    (tmp_path / "driver.py").write_text(DRIVER)
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = os.environ | {"NOTES": str(tmp_path), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    environment |= {} if broken is None else {"BROKEN": str(broken)}
    command = [sys.executable, str(tmp_path / "driver.py"), *given, "trainer.devices=2", "trainer.strategy=ddp"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, timeout=240, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    pids = [int((tmp_path / f"{rank}.pid").read_text()) for rank in range(2)]
    deadline = time.monotonic() + SECONDS
    while not all(map(is_over, pids)):
        assert time.monotonic() < deadline, done.stdout
        time.sleep(0.1)
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("every", ["2", "validation"])
def test_two_processes_measure_what_one_does(
    every: str, composed: Compose, settings: list[str], tmp_path: Path
) -> None:
    given = [f"eval.every={every}", "eval.every_questions=10"]
    if every == "validation":
        given += ["callbacks=best_checkpoint", "callbacks.best_checkpoint.monitor=eval/attention_ratio/multi_image"]
        given += ["callbacks.best_checkpoint.mode=max"]
    # a batch of one pair on each of two ranks is what one process accumulates; validations count batches
    one = [*given, "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=4", f"output={tmp_path / 'one'}"]
    summary = train(composed("train", *settings, *one))
    two = [*given, "trainer.val_check_interval=2", f"output={tmp_path / 'two'}"]
    code, told = on_two(tmp_path, *settings, *two)
    assert code == 0, told
    answered = [(tmp_path / f"{rank}.answered").read_text().splitlines() for rank in range(2)]
    # two measurements; batches of three of ten questions in turn
    assert [[len(line.split()) for line in lines] for lines in answered] == [[6, 6], [4, 4]]
    assert not set(answered[0][0].split()) & set(answered[1][0].split())
    wanted, found = rows(tmp_path / "one", "eval/"), rows(tmp_path / "two", "eval/")
    assert [row["step"] for row in found] == [row["step"] for row in wanted] == ["1", "3"]
    for row, other in zip(found, wanted, strict=True):
        assert row.keys() == other.keys() and "eval/attention_ratio/multi_image" in row
        for name, value in row.items():
            # gradients of two ranks add up in another order
            assert float(value) == pytest.approx(float(other[name]), rel=1e-4), name
    assert len({row["eval/attention_ratio/multi_image"] for row in found}) == 2, "training moved what is measured"
    other_summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert other_summary["steps"] == summary["steps"] == 4
    if every == "validation":
        best, other_best = (one["best"]["best_checkpoint"] for one in (summary, other_summary))
        assert other_best["value"] == pytest.approx(best["value"], rel=1e-4)
    whole = [json.loads((tmp_path / name / "eval" / "metrics.json").read_text()) for name in ("one", "two")]
    assert whole[0]["accuracy"] == whole[1]["accuracy"]


@pytest.mark.slow
def test_a_question_that_broke_on_one_rank_ends_both(settings: list[str], tmp_path: Path) -> None:
    """The picture of the first question, which rank 0 alone answers, is gone behind the check."""
    path = tmp_path / "questions" / "images" / "0_0.png"
    given = [*settings, "eval.every=2", f"output={tmp_path / 'run'}"]
    code, told = on_two(tmp_path, *given, broken=path)
    seconds = time.time() - float((tmp_path / "broken").read_text())
    assert code == 2 and "question q0: " in told and seconds < SECONDS, told
    shutil.rmtree(tmp_path / "run")
    # writes its picture again
    question(tmp_path / "questions", 0)
    code, told = on_two(tmp_path, *given, "eval.data.on_bad_record=skip", broken=path)
    assert code == 0, told
    # all but the first, on both ranks together
    assert sum(len((tmp_path / f"{rank}.answered").read_text().splitlines()[-1].split()) for rank in range(2)) == 10
