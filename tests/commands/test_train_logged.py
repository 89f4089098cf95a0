"""What TensorBoard and W&B hold of a run: config, name, every step once, examples; what is refused before any work."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import wandb
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lookright.commands.train import train
from lookright.config.swept import SWEPT, Place
from lookright.errors import ConfigError
from lookright.launching.jobs import Job, Launch
from lookright.launching.work import _enter
from lookright.training import trackers
from lookright.training.trackers import STEP, RunTensorBoardLogger, RunWandbLogger
from tests import wandb_file
from tests.commands.test_train_resume import adapter, run_until

Compose = Callable[..., DictConfig]
SHORT = ("trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.checkpoint_every=2")
STEPS = ["logger.tensorboard.examples=1", "logger.wandb.examples=2", "logger.wandb.tags=[small]"]


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        yield
    wandb.teardown()


@pytest.fixture(scope="module")
def logged(composed: Compose, small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of a sweep that was killed behind its third batch and went on from the second."""
    folder = tmp_path_factory.mktemp("sweep") / "3"
    with pytest.MonkeyPatch.context() as patch:
        place = Place(folder=str(folder.parent), overrides=["loss.gamma=1", "loss.alpha=0.1"])
        patch.setenv(SWEPT, json.dumps({"folder": place.folder, "overrides": place.overrides}))
        given = [*small_run, *SHORT, *STEPS, "logger=[wandb,tensorboard]", f"output={folder}"]
        run_until(patch, composed("train", *given), 3)
    train(composed("train", f"resume={folder}"))
    return folder


@pytest.fixture(scope="module")
def events(logged: Path) -> EventAccumulator:
    found = EventAccumulator(str(logged / "tensorboard"), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    return found.Reload()


@pytest.fixture(scope="module")
def sent(logged: Path) -> list[list[wandb_file.Record]]:
    """What the first process told W&B, and the second; all is in the files when W&B's own process has ended."""
    wandb.teardown()
    return [wandb_file.records(path) for path in sorted(logged.glob("wandb/offline-run-*/*.wandb"))]


def rows_with(folder: Path, name: str) -> list[int]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row[name]]


def test_examples_change_nothing(logged: Path, composed: Compose, small_run: list[str], tmp_path: Path) -> None:
    train(composed("train", *small_run, *SHORT, f"output={tmp_path}"))
    expected, found = adapter(tmp_path), adapter(logged)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (tmp_path / "metrics.csv").read_bytes() == (logged / "metrics.csv").read_bytes()


def test_tensorboard_has_every_step_once(logged: Path, events: EventAccumulator) -> None:
    for name in ("train/loss", "val/loss", "val/sequence/attention_ratio"):
        assert [one.step for one in events.Scalars(name)] == rows_with(logged, name)
    assert [one.step for one in events.Scalars("train/loss")] == [0, 1, 2, 3]


def test_tensorboard_has_examples(logged: Path, events: EventAccumulator) -> None:
    (name,) = events.Tags()["images"]
    assert [one.step for one in events.Images(name)] == rows_with(logged, "val/loss") == [1, 3]
    assert events.Images(name)[0].width > events.Images(name)[0].height > 0
    words = events.Tensors(f"{name}/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert all(f"| {key} |" in words for key in ("question", "answer", "chosen", "rejected", "attention_ratio"))


def test_tensorboard_has_the_config(events: EventAccumulator) -> None:
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "max_steps: 4" in text
    run = events.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| name | loss.alpha=0.1,loss.gamma=1 |" in run
    assert "_hparams_/session_start_info" in events.summary_metadata
    start = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"trainer.max_steps" in start and b"loss.alpha" in start


def test_wandb_has_one_run_with_config_and_names(logged: Path, sent: list[list[wandb_file.Record]]) -> None:
    runs = [[one.run for one in read if one.WhichOneof("record_type") == "run"][0] for read in sent]
    assert len(runs) == 2 and runs[0].run_id == runs[1].run_id == json.loads((logged / "wandb.json").read_text())["id"]
    # the second process is in no sweep any more
    for run in runs:
        assert (run.display_name, run.run_group) == ("loss.alpha=0.1,loss.gamma=1", logged.parent.name)
        assert (run.job_type, run.project, list(run.tags)) == ("train", "lookright", ["small"])
    config = wandb_file.config(sent[0])
    assert config["trainer"]["max_steps"] == 4 and config["output"] == str(logged)


def test_wandb_has_steps_and_examples(logged: Path, sent: list[list[wandb_file.Record]]) -> None:
    rows = [wandb_file.history(read) for read in sent]
    steps = [[row[STEP] for row in part if "train/loss" in row] for part in rows]
    # offline nobody knows what the first process got through
    assert steps == [[0, 1, 2], [2, 3]]
    for name in ("val/examples", "val/answers"):
        shown = [row[STEP] for part in rows for row in part if any(key.startswith(name) for key in row)]
        assert shown == [1, 3], name
    tables = [json.loads(path.read_text()) for path in logged.glob("wandb/offline-run-*/files/media/table/val/*.json")]
    assert len(tables) == 2
    for table in tables:
        assert table["columns"][:4] == ["id", "format", "question", "answer"] and len(table["data"]) == 2
        assert {row[1] for row in table["data"]} == {"sequence", "grid_collage"}
    assert len(list(logged.glob("wandb/offline-run-*/files/media/images/val/examples/*.png"))) == 4


def test_rows_that_the_server_has_are_left_out(tmp_path: Path) -> None:
    first = RunWandbLogger(tmp_path)
    first.log_metrics({"train/loss": 0.5}, 0)
    first.close(0)
    second = RunWandbLogger(tmp_path)
    second.go_on_from(2)
    # what a server tells of a run that goes on, which offline nobody does
    run = wandb.init(mode="offline", dir=tmp_path, id=second._wandb_init["id"])
    run.summary[STEP] = 3
    for step in range(2, 6):
        second.log_metrics({"train/loss": float(step)}, step)
    second.close(0)
    wandb.teardown()
    read = wandb_file.records(max(tmp_path.glob("wandb/offline-run-*/*.wandb")))
    assert [row[STEP] for row in wandb_file.history(read) if "train/loss" in row] == [3, 4, 5]


def test_no_examples_where_none_are_wanted(
    composed: Compose, small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookright.commands.logged._example", None)
    given = [*small_run, "trainer.max_steps=1", "trainer.val_check_interval=1", "logger=tensorboard"]
    train(composed("train", *given, "logger.tensorboard.examples=0", f"output={tmp_path}"))
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert found.Tags()["images"] == [] and found.Scalars("val/loss")
    assert "| name | " + tmp_path.name in found.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()


@pytest.fixture()
def logged_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    wandb.teardown()
    yield
    wandb.teardown()


def test_nobody_logged_in_is_told_before_any_work(
    logged_out: None, composed: Compose, small_run: list[str], tmp_path: Path
) -> None:
    given = [*small_run, "logger=wandb", "data.path=missing.jsonl", f"output={tmp_path / 'out'}"]
    with pytest.raises(ConfigError) as error:
        train(composed("train", *given))
    words = "logger=wandb: nobody is logged in to W&B; run wandb login, or set WANDB_API_KEY, or "
    assert str(error.value) == words + "logger.wandb.offline=true"
    assert not (tmp_path / "out").exists()
    # what needs no login gets as far as the records
    with pytest.raises(ConfigError, match="missing.jsonl"):
        train(composed("train", *given, "logger.wandb.offline=true"))
    with pytest.raises(ConfigError, match="missing.jsonl"):
        train(composed("train", *given[:-1], "trainer.plan=true", f"output={tmp_path / 'out'}"))


def test_a_key_is_a_login(logged_out: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    RunWandbLogger(tmp_path).check()
    monkeypatch.setenv("WANDB_API_KEY", "no key")
    wandb.teardown()
    with pytest.raises(ConfigError, match="logger=wandb: WANDB_API_KEY invalid"):
        RunWandbLogger(tmp_path).check()


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["logger=wandb", "logger.wandb.examples=-1"], "logger.wandb.examples=-1; set 0 or more"),
        (["logger=tensorboard", "logger.tensorboard.examples=many"], "logger.tensorboard.examples='many' does not fit"),
        (["+logger._target_=lightning.pytorch.loggers.CSVLogger"], "one key, its name, with _target_ below it"),
        (
            ["+logger.mine._target_=lightning.Callback"],
            "logger.mine._target_=lightning.Callback is no Lightn",
        ),
    ],
)
def test_refused(overrides: list[str], wanted: str, composed: Compose, small_run: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        train(composed("train", *small_run, *overrides, f"output={tmp_path / 'out'}"))
    assert wanted in str(error.value)


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_missing_package_is_told(
    package: str, composed: Compose, small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = trackers.WandbLogger if package == "wandb" else trackers.TensorBoardLogger

    def missing(*args: object, **kwargs: object) -> None:
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(base, "__init__", missing)
    with pytest.raises(ConfigError, match=f"logger={package}: the package is missing; pip install {package}"):
        train(composed("train", *small_run, f"logger={package}", f"output={tmp_path / 'out'}"))


def test_of_the_folder_of_another_only_the_run_is_taken(tmp_path: Path) -> None:
    """What it says beside that would have W&B write elsewhere."""
    kept = {"id": "1234abcd", "name": "alpha", "group": None, "project": "theirs", "entity": None}
    (tmp_path / "wandb.json").write_text(json.dumps(kept | {"dir": "/elsewhere", "mode": "online"}))
    logger = RunWandbLogger(tmp_path, offline=True)
    before = dict(logger._wandb_init)
    logger.go_on_from(2)
    assert logger._wandb_init == before | kept and str(logger._wandb_init["dir"]) == str(tmp_path)
    for text, wanted in (("{", "not valid json"), ('{"id": 3}', "id=3 is not text; write it back")):
        (tmp_path / "wandb.json").write_text(text)
        with pytest.raises(ConfigError, match=f"wandb.json: {wanted}"):
            RunWandbLogger(tmp_path, offline=True).go_on_from(2)


def test_a_run_that_does_not_log_there_imports_neither() -> None:
    code = (
        "import sys, lookright.commands.train, lookright.training.trackers\n"
        "print(sorted({'wandb', 'tensorboard', 'torch.utils.tensorboard'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_job_of_a_launcher_knows_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWEPT, "")
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    job = Job(num=0, overrides=["seed=1", "loss.alpha=2"], swept=["loss.alpha=2"], folder=str(tmp_path / "0"))
    folder = tmp_path / "launch" / "1"
    launch = Launch(folder=folder, module="m", python="", cwd=os.getcwd(), path="", jobs=[job])
    _enter(launch, 0)
    assert Place(**json.loads(os.environ[SWEPT])) == Place(folder=str(tmp_path), overrides=["loss.alpha=2"])


def test_closing_twice_is_no_error(tmp_path: Path) -> None:
    logger = RunTensorBoardLogger(tmp_path)
    logger.close(0)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.close(1)
    logger.close(1)
    assert isinstance(logger._experiment, SummaryWriter)
