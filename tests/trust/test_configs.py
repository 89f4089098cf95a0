"""The config of a stranger's run: what it names and asks is told by name, and nothing of it is called."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lookright.api import load
from lookright.commands.infer import infer
from lookright.commands.train import train
from lookright.compare import main as compare
from lookright.config.folders import CONFIG_FOLDER
from lookright.config.references import resolved
from lookright.config.runs import NOTHING, own_config, read_config, run_model
from lookright.config.trust import check_targets
from lookright.errors import ConfigError
from lookright.evaluation.predictions import metrics_of_run
from lookright.report.__main__ import main as report

Compose = Callable[..., DictConfig]
BOMB = """
from pathlib import Path
Path({mark!r}).touch()
class Nap:
    def __init__(self, seconds: int = 1):
        Path({mark!r}).touch()
"""
"""A module that leaves a mark when it is imported."""


@pytest.fixture()
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once the stranger's module `nap` was imported."""
    (tmp_path / "nap.py").write_text(BOMB.format(mark=str(tmp_path / "mark")))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "mark"
    sys.modules.pop("nap", None)


def strangers(folder: Path, config: dict[str, Any] | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = config if isinstance(config, str) else OmegaConf.to_yaml(OmegaConf.create(config))
    (folder / "config.yaml").write_text(text)
    return folder


WRITES = {"_target_": "pathlib.Path.write_text", "_args_": ["{mark}", "gone"]}
QUESTIONS = "lookright.evaluation.questions.Questions"
EVIL = {
    "a program": ("decode", {"_target_": "os.system", "command": "touch {mark}"}),
    "a file": ("backbone", WRITES),
    "code": ("metrics.x", {"_target_": "builtins.eval", "_args_": ["open({mark!r}, 'w')"]}),
    "hydra's own": ("data", {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.abort"}}),
    "a module beside": ("decode", {"_target_": "nap.Nap"}),
    "what a module of ours imports": ("decode", {"_target_": "lookright.config.made_by.subprocess.run"}),
    "a function of ours": ("decode", {"_target_": "lookright.common.jsonl.write_atomically", "path": "{mark}"}),
    "a class of ours, of another kind": ("decode", {"_target_": "lookright.common.jsonl.AppendOnly", "path": "{mark}"}),
    "a backbone as decoder": ("decode", {"_target_": "lookright.backbones.llava.LlavaBackbone", "path": "x"}),
    "what ours imports, by its name": ("callbacks.x", {"_target_": "lookright.training.trackers.Logger"}),
    "no module": ("decode", {"_target_": "lookright.nowhere.at_all.Decoder"}),
    "in an argument": (
        "decode", {"_target_": "lookright.answering.decoder.Decoder", "sampling": {"_target_": "nap.Nap"}}),
    "in a list": (
        "data", {"_target_": QUESTIONS, "path": "x", "forms": [{"_target_": "nap.Nap"}]}),
    "in a mapping in a list": (
        "data", {"_target_": QUESTIONS, "path": [{"x": [{"_target_": "nap.Nap"}]}]}),
    "by position": ("decode", {"_target_": "lookright.answering.decoder.Decoder", "_args_": [1]}),
    "among Lightning's arguments": (
        "trainer", {"_target_": "lookright.training.trainer.TrainerSettings", "profiler": {"_target_": "nap.Nap"}}),
    "another function of torch": ("optimizer", {"_target_": "torch.optim.adamw.adamw"}),
    "torch's reader of pickles": ("optimizer", {"_target_": "torch.load", "f": "x"}),
}  # fmt: skip


def filled(value: Any, mark: Path) -> Any:
    if isinstance(value, dict):
        return {key: filled(one, mark) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, mark) for one in value]
    return value.replace("{mark!r}", repr(str(mark))).replace("{mark}", str(mark)) if isinstance(value, str) else value


@pytest.mark.parametrize("how", EVIL)
def test_what_is_not_ours_is_told_by_name_and_not_called(how: str, mark: Path, tmp_path: Path) -> None:
    path, node = EVIL[how]
    config = OmegaConf.create()
    OmegaConf.update(config, path, filled(node, mark), force_add=True)
    folder = strangers(tmp_path / "run", config)
    with pytest.raises(ConfigError) as caught:
        read_config(folder, "run")
    message = str(caught.value)
    assert message.startswith(f"run={folder}: config.yaml: {path}")
    named = [line for line in (*sorted(OmegaConf.to_yaml(config).split()),) if line.startswith(("nap.", "os.sys"))]
    assert all(name in message for name in named)
    assert not mark.exists() and "nap" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        "seed: ${oc.env:HOME}",
        "seed: ${oc.decode:'[1]'}",
        "seed: x${oc.env:HOME}",
        "seed: ${first:${oc.env:HOME}}",
        "seed: ${asset:x}",
        "seed: ${hydra:runtime.cwd}",
        "seed: [{a: '${oc.env:HOME}'}]",
        "name: os.system\ndecode: {_target_: '${name}', command: ls}",
        "'${oc.env:HOME}': 1",
    ],
)
def test_resolvers_are_refused_also_where_a_config_is_only_shown(text: str, tmp_path: Path) -> None:
    folder = strangers(tmp_path / "run", text)
    with pytest.raises(ConfigError, match="refers to its own keys alone"):
        read_config(folder, "run", builds=NOTHING)


@pytest.mark.parametrize("text", ["seed: ${lost}", "seed: ${seed}", "seed: ${other}\nother: ???"])
def test_a_reference_to_nothing_is_an_error(text: str, tmp_path: Path) -> None:
    folder = strangers(tmp_path / "run", text)
    with pytest.raises(ConfigError, match=r"config\.yaml: .*write it back"):
        read_config(folder, "run")
    read_config(folder, "run", builds=NOTHING)


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    folder = strangers(tmp_path, f"a: !!python/object/apply:os.system ['touch {tmp_path / 'mark'}']")
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read"):
        read_config(folder, "run")
    assert not (tmp_path / "mark").exists()


def test_a_reference_leads_to_nothing_else(mark: Path, tmp_path: Path) -> None:
    folder = strangers(tmp_path / "run", {"x": {"y": {"_target_": "nap.Nap"}}, "decode": "${x.y}"})
    with pytest.raises(ConfigError, match=r"decode\._target_=nap\.Nap is none of our classes"):
        read_config(folder, "run", builds=("decode",))
    assert not mark.exists()


@pytest.mark.parametrize("path", ["/etc", "../../elsewhere"])
def test_what_writes_stays_in_the_folder_of_the_run(path: str, tmp_path: Path) -> None:
    keeper = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": path}
    folder = strangers(tmp_path / "run", {"output": "/etc", "callbacks": {"best": keeper}})
    with pytest.raises(ConfigError, match=rf"callbacks\.best\.dirpath={path} leads out of the folder"):
        read_config(folder, "resume")
    logger = {"_target_": "lookright.training.loggers.RunCSVLogger", "folder": "${output}"}
    for inside in (str(folder / "best"), "${output}", None):
        config = {"output": "/etc", "callbacks": {"best": keeper | {"dirpath": inside}}, "logger": {"csv": logger}}
        read_config(strangers(folder, config), "resume")


MADE = [
    *(("train", f"loss/kind={file.stem}") for file in sorted((CONFIG_FOLDER / "loss" / "kind").glob("*.yaml"))),
    ("train", "callbacks=[best_checkpoint,early_stopping,profiler] logger=[csv,tensorboard,wandb]"),
    ("train", "eval=test_sets eval.data.path=x reference=cached tuning=full schedule=cosine"),
    ("train", "reference=frozen_copy schedule=constant backbone=ixc25_7b"),
    *(("infer", f"data.path=x decode={name}") for name in ("adaptive", "greedy", "sample")),
    ("tune_adaptive", "data.path=x"),
]


@pytest.mark.parametrize(("command", "overrides"), MADE)
def test_everything_that_our_own_files_name_is_known(
    command: str, overrides: str, composed: Compose, tmp_path: Path
) -> None:
    config = composed(command, *overrides.split(), f"output={tmp_path}", f"backbone.path={tmp_path}")
    saved = OmegaConf.to_yaml(resolved(config) if command == "train" else config, resolve=command != "train")
    assert read_config(strangers(tmp_path, saved), "run") == OmegaConf.create(saved)


def test_the_users_own_classes_are_named_by_trust(mark: Path, tmp_path: Path) -> None:
    folder = strangers(tmp_path / "run", {"decode": {"_target_": "nap.Nap", "seconds": 2}})
    for trusted in (["nap"], ["nap.Nap"]):
        assert read_config(folder, "run", trusted=trusted).decode.seconds == 2
    for others in (["na"], ["nap.Na"], ["lookright"], ["pathlib"]):
        with pytest.raises(ConfigError, match=r"set trust=\[nap\]"):
            read_config(folder, "run", trusted=others)


def test_whom_a_folder_trusts_itself_counts_for_nothing(composed: Compose, tmp_path: Path) -> None:
    theirs = composed("train", "data.path=x", f"output={tmp_path}", "trust=[theirs,deepspeed]")
    strangers(tmp_path, OmegaConf.to_yaml(resolved(theirs)))
    for given, wanted in (([], []), (["trust=[mine]"], ["mine"])):
        assert own_config(tmp_path, "resume", composed("train", f"resume={tmp_path}", *given)).trust == wanted


@pytest.mark.parametrize("target", ["os.system", "lookright.config.made_by.subprocess.run"])
def test_trust_opens_neither_python_nor_what_ours_imports(target: str, tmp_path: Path) -> None:
    folder = strangers(tmp_path, {"decode": {"_target_": target}})
    with pytest.raises(ConfigError, match="write (it|the config) back"):
        read_config(folder, "run", trusted=["os", "lookright", target])


def test_a_config_folder_of_the_command_line_is_the_users_word(
    mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = strangers(tmp_path / "run", {"decode": {"_target_": "nap.Nap"}})
    (tmp_path / "mine" / "decode").mkdir(parents=True)
    (tmp_path / "mine" / "decode" / "nap.yaml").write_text("_target_: nap.Nap\n")
    sources = [{"path": str(CONFIG_FOLDER), "schema": "file", "provider": "main"}]
    mine = {"path": str(tmp_path / "mine"), "schema": "file", "provider": "command-line"}
    for found, overrides, known in (
        (sources, [], False),
        ([*sources, mine], [], True),
        (sources, ["decode={_target_: nap.Nap}"], True),
    ):
        hydra = {"runtime": {"config_sources": found}, "overrides": {"task": overrides}}
        monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": hydra}))
        if known:
            read_config(folder, "run")
            continue
        with pytest.raises(ConfigError):
            read_config(folder, "run")


def test_a_class_that_is_only_trusted_answers_for_its_own_arguments(mark: Path, tmp_path: Path) -> None:
    node = {"_target_": "nap.Nap", "seconds": {"_target_": "os.abort"}}
    with pytest.raises(ConfigError, match=r"decode\.seconds\._target_=os\.abort"):
        check_targets(OmegaConf.create({"decode": node}), tmp_path, "run=x", None, ["nap"])


def resumable(folder: Path, config: DictConfig) -> Path:
    strangers(folder, OmegaConf.to_yaml(config, resolve=True))
    (folder / "adapter").mkdir(exist_ok=True)
    return folder


def test_every_command_reads_runs_through_the_same_door(
    composed: Compose, small_run: list[str], mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """infer, ask, serve and export share `run_model`; train, compare, report and Python ask for themselves."""
    config = composed("train", *small_run, f"output={tmp_path / 'run'}")
    config.backbone = {"_target_": "nap.Nap"}
    run = resumable(tmp_path / "run", config)
    told = r"backbone\._target_=nap\.Nap is none of our classes"
    for call in (
        lambda: run_model(run),
        lambda: load(run=run),
        lambda: infer(composed("infer", f"run={run}", "data.path=x", f"output={tmp_path / 'out'}")),
        lambda: train(composed("train", f"repeat={run}", f"output={tmp_path / 'new'}")),
    ):
        with pytest.raises(ConfigError, match=told):
            call()
    strangers(run, {"metrics": {"x": {"_target_": "nap.Nap"}}})
    (run / "predictions.jsonl").write_text(
        '{"id": "a", "correct": true, "ground_truth": "x", "prediction": "x", "format": "sequence", "num_images": 2}\n'
    )
    with pytest.raises(ConfigError, match=r"metrics\.x\._target_=nap\.Nap"):
        metrics_of_run(run)
    assert compare([f"a={run}", f"b={run}", "--output", str(tmp_path / "c")]) == 2
    assert "metrics.x._target_=nap.Nap is none of our classes" in capsys.readouterr().err
    report([str(tmp_path), "--output", str(tmp_path / "report")])
    assert not mark.exists() and "nap" not in sys.modules


def test_trust_of_a_saved_config_counts_for_nothing(
    composed: Compose, small_run: list[str], mark: Path, tmp_path: Path
) -> None:
    config = composed("train", *small_run, "trust=[nap]", f"output={tmp_path / 'run'}")
    config.backbone = {"_target_": "nap.Nap"}
    run = resumable(tmp_path / "run", config)
    with pytest.raises(ConfigError, match=r"set trust=\[nap\]"):
        train(composed("train", f"repeat={run}", f"output={tmp_path / 'new'}"))
    assert not mark.exists()
