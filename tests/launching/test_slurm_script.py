"""The batch script, what sbatch's words mean, and a job array as it is looked at; sbatch itself is a fake or absent."""

import io
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lookright.common.stopping import Interrupted
from lookright.errors import ConfigError, Stopped
from lookright.launching import plugin, slurm
from lookright.launching.follow import JobsFailed, View, Watch, _Screen, follow
from lookright.launching.jobs import Job, Launch, Resources, Status, write
from lookright.launching.slurm import (
    SlurmOptions,
    array,
    clean_environment,
    directives,
    refusal,
    script,
    states,
    submit,
)

Make = Callable[..., Launch]


def test_the_script(launch: Make) -> None:
    made = launch(["a"], ["b"], resources=Resources(nodes=2, tasks_per_node=4, gpus_per_node=4))
    options = SlurmOptions(
        partition="gpu",
        account="lab",
        constraint="a100|h100",
        time="1-00:00:00",
        mem="64G",
        cpus_per_task=8,
        gpu_type="a100",
        parallel=3,
        setup=["module load cuda"],
        options={"exclude": "node7", "mem": "80G"},
        signal_ahead=90,
    )
    lines = script(options, made, made.jobs).splitlines()
    assert lines[0] == "#!/bin/bash"
    assert lines[-2:] == [
        "module load cuda",
        f"exec {made.python} -m lookright.launching.supervise {made.folder} $SLURM_ARRAY_TASK_ID",
    ]
    assert set(lines[1:-2]) == {
        "#SBATCH --job-name=lookright",
        "#SBATCH --array=0-1%3",
        f"#SBATCH --chdir={made.cwd}",
        f"#SBATCH --output={made.folder}/%a.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --gres=gpu:a100:4",
        "#SBATCH --mem=80G",
        "#SBATCH --time=1-00:00:00",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --constraint=a100|h100",
        "#SBATCH --signal=B:USR1@90",
        "#SBATCH --requeue",
        "#SBATCH --export=ALL",
        "#SBATCH --exclude=node7",
    }


def test_no_gpus_are_asked_for_by_jobs_without(launch: Make) -> None:
    made = launch(["a"])
    assert "gres" not in directives(SlurmOptions(gpu_type="a100"), made, made.jobs)


def test_arrays_are_written_short() -> None:
    assert array([0, 1, 2, 3, 7, 9, 10]) == "0-3,7,9-10"


@pytest.mark.parametrize("given", [{"signal_ahead": 5}, {"parallel": 0}])
def test_values_out_of_range(given: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"hydra.launcher.{next(iter(given))}="):
        SlurmOptions(**given)


def test_what_surrounds_a_launcher_does_not_overrule_it() -> None:
    around = {"SLURM_NTASKS": "8", "SLURM_CONF": "c", "SBATCH_PARTITION": "p", "SBATCH_ACCOUNT": "a", "HOME": "h"}
    assert clean_environment(around, {"partition": "x"}) == {"SLURM_CONF": "c", "SBATCH_ACCOUNT": "a", "HOME": "h"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "sbatch: error: invalid partition specified: p\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            "hydra.launcher.partition=p does not exist; valid: long, short (sbatch: invalid partition specified: p",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "hydra.launcher.account=lab may not be used (here or in partition p)",
        ),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "hydra.launcher.qos=None may not be"),
        (
            "sbatch: error: Invalid generic resource (gres) specification",
            "no node of partition p has 2 GPUs of type a100; set trainer=cpu",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid feature specification",
            "hydra.launcher.constraint=None is no feature",
        ),
        (
            "sbatch: error: Memory specification can not be satisfied\nsbatch: error: Batch job submission failed: "
            "Requested node configuration is not available",
            "no node has what a job asks for: 1 nodes, 2 x 1 CPUs, 2 GPUs and mem=1T on each",
        ),
        (
            "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds a limit)",
            "hydra.launcher.time=None is no time, or longer than is allowed there",
        ),
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "try again",
        ),
        ("sbatch: error: something else", "sbatch refuses the jobs: something else"),
    ],
)
def test_refusals_say_what_to_set(words: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = subprocess.CompletedProcess([], 0, "short\nlong\n", "")
    monkeypatch.setattr(slurm, "ask", lambda command: said)
    options = SlurmOptions(partition="p", account="lab", mem="1T", gpu_type="a100")
    text = refusal(words, options, Resources(tasks_per_node=2, gpus_per_node=2))
    assert text.startswith("hydra/launcher=slurm: ") and message in text and "sbatch" in text


def test_without_sbatch(launch: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="sbatch is not here; run it where sbatch is.*or set hydra/launcher=local"):
        submit(SlurmOptions(), launch(["a"]))


class Fake:
    """SLURM's programs, which answer as told and remember what they were asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: tuple[int, str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        monkeypatch.setattr(slurm, "ask", self)

    def __call__(self, command: Sequence[str], environment: object = None) -> "subprocess.CompletedProcess[str]":
        self.asked.append(" ".join(command))
        code, text = self.answers.pop(0) if self.answers else (0, "")
        return subprocess.CompletedProcess(command, code, "" if code else text, text if code else "")


def two_kinds(launch: Launch) -> Launch:
    jobs = [replace(job, resources=Resources(tasks_per_node=1 + job.num % 2)) for job in launch.jobs]
    return replace(launch, jobs=jobs)


def test_an_array_for_each_kind_of_resources(launch: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = two_kinds(launch(["a"], ["b"], ["c"]))
    fake = Fake(monkeypatch, (0, "12\n"), (0, "13;cluster\n"))
    assert submit(SlurmOptions(), made) == {0: "12_0", 2: "12_2", 1: "13_1"} == made.slurm_ids()
    assert fake.asked == [f"sbatch --parsable {made.folder}/job.sh", f"sbatch --parsable {made.folder}/job1.sh"]
    assert "--array=0,2\n" in (made.folder / "job.sh").read_text()


def test_nothing_stays_submitted_where_one_array_is_refused(launch: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = two_kinds(launch(["a"], ["b"]))
    fake = Fake(monkeypatch, (0, "12\n"), (1, "sbatch: error: Invalid qos"))
    with pytest.raises(ConfigError, match="hydra.launcher.qos=None may not be used"):
        submit(SlurmOptions(), made)
    assert fake.asked[-1] == "scancel 12" and made.slurm_ids() == {}


def test_the_queue_is_read_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch, (0, "12_0 PENDING Resources\n12_1 RUNNING None\n13_2 COMPLETED None\n12_7 RUNNING None\n"))
    found = states({0: "12_0", 1: "12_1", 2: "13_2", 3: "13_3"})
    assert found == {0: ("PENDING", "Resources"), 1: ("RUNNING", "None"), 2: ("COMPLETED", "None")}
    assert len(fake.asked) == 1 and "--jobs=12,13" in fake.asked[0]


def submitted(launch: Launch) -> Launch:
    write(launch.folder / "slurm.json", {job.num: f"12_{job.num}" for job in launch.jobs})
    return launch


def test_a_job_is_what_it_says_or_else_what_slurm_says(launch: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = submitted(launch(*[[str(num)] for num in range(8)]))
    for num, state in ((0, "finished"), (1, "failed"), (2, "running"), (3, "stopped"), (4, "running")):
        made.set_status(num, Status(state=state, where="node1", error="a\nb" if state == "failed" else None))
    queue = {
        0: ("RUNNING", "None"),
        1: ("RUNNING", "None"),
        2: ("RUNNING", "None"),
        3: ("PENDING", "BeginTime"),
        4: ("OUT_OF_MEMORY", "None"),
        5: ("PENDING", "Resources"),
        6: ("CANCELLED", "None"),
    }
    monkeypatch.setattr(slurm, "states", lambda ids: queue)
    watch = Watch(made)
    first = watch.look()
    assert first[0] == View("finished", over=True) and first[1] == View("failed", "a\nb", over=True)
    assert first[2] == View("running", "node1") and first[3] == View("waiting", "start 2, BeginTime")
    assert first[5] == View("waiting", "Resources")
    # files may come late: a job is lost when it was looked for three times
    assert (first[4].state, first[6].state, first[7].state) == ("running", "waiting", "waiting")
    watch.look()
    last = watch.look()
    assert last[4] == View("failed", "SLURM: out of memory", over=True)
    assert last[6] == View("failed", "SLURM: cancelled", over=True)
    assert last[7] == View("failed", "SLURM knows it no more, and it did not end by itself", over=True)
    # it saved, and can be gone on with
    queue[3] = ("CANCELLED", "None")
    stopped = [watch.look()[3] for _ in range(3)]
    assert stopped[-2:] == [View("stopped", "SLURM: cancelled"), View("stopped", "SLURM: cancelled", over=True)]


def test_a_job_that_makes_place_again_and_again_is_not_lost(launch: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = submitted(launch(["a"]))
    made.set_status(0, Status(state="running", where="node1"))
    watch = Watch(made)
    for _ in range(4):
        for word, state in (("PREEMPTED", "running"), ("PENDING", "waiting"), ("RUNNING", "running")):
            monkeypatch.setattr(slurm, "states", lambda ids, word=word: {0: (word, "None")})
            found = watch.look()[0]
            assert (found.state, found.over) == (state, False)


def test_no_job_is_lost_while_slurm_does_not_answer(
    launch: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As squeue says while its controller restarts; of jobs that it has forgotten it says something else."""
    made = submitted(launch(["a"], ["b"]))
    made.set_status(0, Status(state="running", where="node1"))
    squeue = tmp_path / "squeue"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    watch = Watch(made, patience=1)
    for words, wanted in (
        ("Socket timed out on send/recv operation", ["running", "waiting"]),
        ("Invalid job id specified", ["failed", "failed"]),
    ):
        squeue.write_text(f"#!/bin/sh\necho 'slurm_load_jobs error: {words}' >&2\nexit 1\n")
        squeue.chmod(0o755)
        views = watch.look()
        assert [view.state for view in views.values()] == wanted
        assert all(view.over == (view.state == "failed") for view in views.values())


def test_plain_lines_where_nobody_looks(launch: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = submitted(launch(["a"], ["b"]))
    steps = iter(["RUNNING", "RUNNING", "done"])

    def look(ids: object) -> dict[int, tuple[str, str]]:
        word = next(steps)
        if word == "done":
            made.set_status(0, Status(state="finished"))
            made.set_status(1, Status(state="failed", error="no such file"))
        return {0: (word, "None"), 1: (word, "None")}

    monkeypatch.setattr(slurm, "states", look)
    stream = io.StringIO()
    with pytest.raises(JobsFailed, match=r"1 of 2 jobs did not finish\njob 1 \(12_1\) b: no such file; log: .*1.log"):
        follow(made, 0, stream)
    assert [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()[:-1]] == [
        "#0 12_0 running a",
        "#1 12_1 running b",
        "#0 12_0 finished a",
        "#1 12_1 failed (no such file) b",
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_jobs_go_on_behind_an_interrupted_launcher(
    number: int, code: int, launch: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = launch(["a"])

    def interrupted(*_: object) -> None:
        raise Interrupted(number)

    monkeypatch.setattr(slurm, "submit", lambda options, launched: {0: "12_0"})
    monkeypatch.setattr(plugin, "follow", interrupted)
    launcher = plugin.SlurmJobs()
    launcher.config = OmegaConf.create({"hydra": {"sweeper": {"_target_": "x.BasicSweeper"}}})
    with pytest.raises(Stopped, match="the jobs go on; follow: python -m .* end them: scancel 12") as told:
        launcher.run(made)
    assert told.value.exit_code == code


def test_a_queue_is_waited_for_whoever_is_gone(launch: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = submitted(launch(["a"]))
    words = iter(["PENDING", "PENDING", "COMPLETED"])

    def look(ids: object) -> dict[int, tuple[str, str]]:
        word = next(words)
        if word == "COMPLETED":
            made.set_status(0, Status(state="finished"))
        return {0: (word, "Resources")}

    monkeypatch.setattr(slurm, "states", look)
    follow(made, 0, io.StringIO(), over=lambda: True)
    assert next(words, None) is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_is_drawn_over_itself(launch: Make) -> None:
    made = launch(["a"], ["b"])
    stream = Terminal()
    screen = _Screen(made, {}, stream)
    screen.show({0: View("waiting"), 1: View("waiting")})
    before = len(stream.getvalue())
    screen.show({0: View("finished"), 1: View("running", "node1")})
    again = stream.getvalue()[before:]
    assert again.startswith("\x1b[3A")
    assert [line.removeprefix("\x1b[2K") for line in again.removeprefix("\x1b[3A").splitlines()[:3]] == [
        "#0 finished a",
        "#1 running (node1) b",
        "1 finished, 1 running",
    ]


def test_jobs_know_their_place(tmp_path: Path) -> None:
    job = Job(num=3, overrides=[], swept=[], folder=str(tmp_path), resources=Resources(nodes=2, tasks_per_node=4))
    assert job.error_file == tmp_path / "error.txt" and job.resources.tasks == 8
    assert replace(job, shared=True).error_file == tmp_path / "error_3.txt"
