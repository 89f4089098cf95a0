"""Mistakes that users make, each as typed: one error with key, value and remedy, status 2, before weights load."""

import importlib
import io
import json
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from lookright.backbones.ixc25.backbone import Ixc25Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.commands import cli

HYDRA_COMMANDS = ("generate", "train", "infer", "tune_adaptive")
ASKED = "infer data.path=q.jsonl"
ONE = 'ask images=[a.png] "In Image1, what is it?"'


class Mistake(NamedTuple):
    """What is typed, and what the message holds: key with value, and what to set."""

    typed: str
    told: str
    remedy: str


MISTAKES = [
    # misspelt keys, groups and files
    Mistake("train data.pth=x", "data.pth does not exist", "did you mean path?"),
    Mistake("train loss.betta=1", "loss.betta does not exist", "did you mean loss.kind.beta?"),
    Mistake("train optimization.learning_rate=1", "optimization.learning_rate is", "optimizer.lr now"),
    Mistake("train reference=cachedd", "reference/cachedd", "adapter_off"),
    Mistake("train reference=99", "reference=99 names no file of reference", "valid names: adapter_off, cached"),
    Mistake("train =3", "Config group override must be a string", "Got int"),
    Mistake("train reference=null", "reference=null names no file", "valid names: adapter_off, cached"),
    Mistake("train backbone=llava", "backbone/llava", "llava15_7b"),
    Mistake("train optimizer=sgd", "optimizer/sgd", "adamw"),
    Mistake("train experiment=mia", "experiment/mia", "mia_dpo_llava15_7b"),
    Mistake("train logger=[csvv]", "logger=csvv does not exist", "did you mean csv?"),
    Mistake(f"{ASKED} metrics=[acc]", "metrics=acc does not exist", "valid names: default"),
    Mistake(f"{ASKED} decode=beam", "decode/beam", "greedy"),
    Mistake(f"{ASKED} decode.temperature=1", "decode.temperature does not exist", "valid names: max_new_tokens"),
    Mistake("generate source=easy_vqaa", "source/easy_vqaa", "easy_vqa"),
    Mistake("generate selection.thresholds.grid=0.5", "selection.thresholds.grid does not", "grid_collage"),
    Mistake("train hydra/launcher=slrm -m seed=1,2", "hydra/launcher/slrm", "slurm"),
    Mistake("train -m seed=glob(x)", "seed=glob(x) matches nothing", "set seed=a,b"),
    # values of another kind, or out of range
    Mistake("train optimizer.lr=fast", "optimizer.lr='fast'", "set a number above 0"),
    Mistake("train optimizer.lr=-1", "optimizer.lr=-1", "set a number above 0"),
    Mistake("train schedule.warmup=???", "schedule.warmup is not set", "set schedule.warmup=..."),
    Mistake("train schedule.warmup=2", "schedule.warmup=2", "a share of the steps in [0, 1)"),
    Mistake("train data.val_fraction=5%", "data.val_fraction='5%'", "set a number"),
    Mistake("train data.val_fraction=1", "data.val_fraction=1", "a share in [0, 1)"),
    Mistake("train data.batch_size=0", "data.batch_size=0", "set 1 or more"),
    Mistake("train seed=-1", "seed=-1", "set 0 to"),
    Mistake("train data.path=x.jsonl", "data.path=x.jsonl: no such file in /", "or start from the folder that"),
    Mistake("train output=", "output is empty", "set a folder, or leave it out"),
    Mistake("train trainer.devices=0", "trainer.devices=0", "set 1 or more, or auto"),
    Mistake("train trainer.num_threads=0", "trainer.num_threads=0", "set 1 or more"),
    Mistake("train trainer.model_dtype=float8", "trainer.model_dtype='float8'", "valid: float32, bfloat16"),
    Mistake("train trainer.max_steps=0", "trainer.max_steps=0", "set max_steps above 0"),
    Mistake("train trainer.max_epochs=0", "trainer.max_epochs=0", "set 1 or more"),
    Mistake("train trainer=gpu", "trainer.accelerator=gpu", "set trainer=cpu"),
    Mistake("train tuning.r=0", "tuning.r=0", "need r >= 1"),
    Mistake("train tuning.targets=nothing", "tuning.targets='nothing' fits no", "or null for every layer"),
    Mistake("train loss.kind.beta=-1", "loss.kind.beta=-1", "set a number > 0"),
    Mistake("train loss.attention.layers=[99]", "loss.attention.layers=[99]", "set a list of them"),
    Mistake("train loss/kind=orpo", "loss/kind=orpo", "set loss.gamma=0"),
    Mistake("train loss.alpha=0 loss.gamma=0 loss.attention.weight=0", "has weight 0", "set loss.alpha, loss.gamma"),
    Mistake("train save=best", "save=best", "set callbacks=[best_checkpoint]"),
    Mistake("train callbacks=early_stopping data.val_fraction=0", "monitor='val/loss'", "set data.val_fraction"),
    Mistake("train data.formats=[grid]", "data.formats=['grid']", "grid_collage"),
    Mistake("train loss.attention.formats=[grid]", "loss.attention.formats=[grid]", "the pairs have: grid_collage"),
    Mistake("generate num_prompts=many", "num_prompts=many", "set a number of 1 or more"),
    Mistake("generate formats=[grid]", "formats=['grid']", "name some of sequence"),
    Mistake("generate weights={grid:1}", "'grid'", "valid are sequence"),
    Mistake("generate batch_size=0", "batch_size=0", "set 1 or more"),
    Mistake("generate num_answers=3", "num_answers=3", "set decode=sample"),
    Mistake("generate num_threads=0", "num_threads=0", "set 1 or more, or null"),
    Mistake("generate num_workers=-1", "num_workers=-1", "set 0 or more"),
    Mistake("generate noise=5", "noise=5 does not fit", "set a mapping with _target_, or null"),
    Mistake("generate device=gpu", "device='gpu'", "valid: auto, cpu, cuda"),
    Mistake("generate dtype=int8", "dtype='int8'", "valid: float32"),
    Mistake("generate ratio_layer=99", "ratio_layer=99", "this model has layers 0 to 5"),
    Mistake("generate split=validation", "split='validation'", "train, test"),
    Mistake("generate on_bad_record=ignore", "on_bad_record='ignore'", "valid are error, skip"),
    Mistake("generate shard.index=2 shard.count=2", "shard.index=2, shard.count=2", "0 to count - 1"),
    Mistake("generate filters.perplexity.minimum=none", "filters.perplexity.minimum='none'", "set a number"),
    Mistake(f"{ASKED} overlays=-1", "overlays=-1", "set 0 or more"),
    Mistake(f"{ASKED} metrics.accuracy.rule=fuzzy", "metrics.accuracy.rule='fuzzy'", "valid: contained"),
    Mistake(f"{ASKED} data.limit=0", "data.limit=0", "set 1 or more, or null"),
    Mistake(f"{ASKED} stage=select", "stage='select'", "valid: all, answer, measure"),
    Mistake(f"{ASKED} backbone.quantization=8bit", "backbone.quantization='8bit'", "valid: null, 4bit"),
    Mistake(f"{ASKED} decode=sample decode.sampling.top_p=2", "top_p=2", "top_p at most 1"),
    Mistake("tune_adaptive data.path=q.jsonl significance=2", "significance=2.0", "a p-value above 0 and at most 1"),
    Mistake("tune_adaptive data.path=q.jsonl grid.thresholds=[]", "grid.thresholds is empty", "set one value or more"),
    Mistake(f"{ONE} format=xml", "format='xml'", "valid: text, json"),
    Mistake(f"{ONE} heat_side=0", "heat_side=0", "set 1 pixel or more"),
    Mistake("export output=out shard_gb=0", "shard_gb=0", "set"),
    Mistake("export output=out layout=gguf", "layout='gguf'", "valid"),
    Mistake("serve prompt_style=x", "prompt_style='x'", "valid: "),
    Mistake("serve limits.pixels=0", "limits.pixels=0", "set 1 or more"),
    Mistake("serve device=cuda", "device=cuda", "set device=cpu or auto"),
    Mistake("compare a=runs/a b=runs/a --draws 5", "--draws 5", "takes 100 or more"),
    # files and folders that are not there, or others than are meant
    Mistake("train data.path=nowhere.jsonl", "data.path=nowhere.jsonl", "set data.path to"),
    Mistake("train data.path=torn.jsonl", "torn.jsonl:1: not valid json", "set data.on_bad_record=skip"),
    Mistake("train data.path=empty", "data.path=empty", "set a file"),
    Mistake(
        "train backbone.path=models/nowhere", "backbone.path=models/nowhere", "set backbone.path to a model folder"
    ),
    Mistake("train tuning.adapter=empty", "tuning.adapter=empty", "set tuning.adapter to the adapter/ folder"),
    Mistake("train output=torn.jsonl", "torn.jsonl", "set another output"),
    Mistake("train resume=empty", "resume=empty", "set resume to the folder of a run"),
    Mistake("train resume=empty seed=3", "resume takes the config of empty", "remove seed=3"),
    Mistake("train repeat=nowhere", "repeat=nowhere", "set repeat to the folder of a run"),
    Mistake("train eval=test_sets", "eval.data.path is not set", "set eval.data.path=..."),
    Mistake("generate source=llava_json", "source.train_json is not set", "set source.train_json=..."),
    Mistake("generate stage=select output=fresh", "stage=select", "run stage=compose and stage=answer first"),
    Mistake("generate adapter=empty", "adapter=empty", "set adapter to the adapter/ folder"),
    Mistake("generate adapter=hollow", "adapter=hollow holds no adapter_model.safetensors", "copy it there"),
    Mistake("infer", "data.path is not set", "set data.path=..."),
    Mistake(f"{ASKED} run=nowhere", "run=nowhere", "set run to the folder of a run"),
    Mistake(f"{ASKED} run=evil", "run=evil: config.yaml: backbone._target_=nap.Nap", "set trust=[nap]"),
    Mistake(f"{ASKED} run=empty backbone.path=x", "run=empty brings its backbone", "remove backbone.path=x"),
    Mistake(f"{ASKED} run=empty adapter=empty", "run=empty and adapter=empty are both set", "remove one"),
    Mistake("ask images=[nowhere.png] What", "images[0]=nowhere.png", "set images to files that are there"),
    Mistake("ask What", "images is not set", "set images=[a.jpg,b.jpg]"),
    Mistake("ask images=[a.png]", "question is not set", "add it in quotes"),
    Mistake("ask images=[a.png] What is it", "3 questions", "put one into quotes"),
    Mistake("export", "output is not set", "set output=..."),
    Mistake("export output=out run=nowhere", "run=nowhere", "set run to the folder of a run"),
    Mistake("serve run=nowhere", "run=nowhere", "set run to the folder of a run"),
    Mistake("serve +adapters.x=empty", "adapters.x=empty", "adapter/ folder"),
    Mistake("report empty", "empty holds no run of train.py", "name the folder of a sweep"),
    Mistake("compare empty", "runs=", "name two runs or more"),
    Mistake("compare empty nowhere", "holds no predictions.jsonl", "name the output of an infer.py run"),
    Mistake("launching nowhere", "nowhere", "one that hydra/launcher=slurm or local wrote to"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, llava_weights: Path) -> Path:
    """Where the commands are typed."""
    place = tmp_path_factory.mktemp("typed")
    for name in ("empty", "models/here", "fresh", "hollow", "evil", "runs/a"):
        (place / name).mkdir(parents=True)
    (place / "torn.jsonl").write_text('{"id":\n')
    (place / "q.jsonl").write_text('{"id":\n')
    (place / "a.png").write_bytes(b"")
    (place / "hollow" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (place / "evil" / "config.yaml").write_text("backbone: {_target_: nap.Nap}\n")
    return place


@pytest.fixture(autouse=True)
def _typed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Weights, which load nowhere here, and a hub that answers nobody."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", [])
    for kind in (LlavaBackbone, Ixc25Backbone):
        monkeypatch.setattr(kind, "build", _without_weights(kind.build))
    monkeypatch.setattr("lookright.backbones.shards.read_tensors", lambda *_, **__: pytest.fail("weights were read"))
    yield


def _without_weights(build):  # noqa: ANN001, ANN202 - of two classes
    def wrapped(self, *, weights=True, **options):  # noqa: ANN001, ANN003, ANN202
        assert not weights, "weights were loaded"
        return build(self, weights=False, **options)

    return wrapped


def status_of(typed: str) -> tuple[int | str | None, str]:
    """Run a command line in this process; returns its exit status and what it wrote, both streams."""
    name, *arguments = shlex.split(typed)
    sys.argv = [f"{name}.py", *arguments]
    told = io.StringIO()
    with redirect_stderr(told), redirect_stdout(told), pytest.raises(SystemExit) as caught:
        if name in HYDRA_COMMANDS:
            cli.start(name, importlib.import_module(f"lookright.commands.{name}").job)
        elif name == "compare":
            sys.exit(importlib.import_module("lookright.compare").main(arguments))
        else:
            runpy.run_module(f"lookright.{name}", run_name="__main__")
    return caught.value.code, told.getvalue()


def test_there_are_sixty_and_more() -> None:
    assert len({mistake.typed for mistake in MISTAKES}) == len(MISTAKES) >= 60
    assert {mistake.typed.split()[0] for mistake in MISTAKES} == {
        *HYDRA_COMMANDS, "ask", "export", "serve", "report", "compare", "launching"
    }  # fmt: skip


def test_what_is_refused_leaves_no_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for typed in ("train data.path=x.jsonl output=refused/run", "train resume=refused/run"):
        assert status_of(typed)[0] == 2 and not (folder / "refused" / "run").exists()
    # the working folder is nobody's output
    monkeypatch.chdir(tmp_path)
    for typed in ("train data.path=x.jsonl output=.", ONE):
        assert status_of(typed)[0] == 2 and tmp_path.is_dir()


def test_hydra_never_tells_in_our_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    status, told = status_of("train loss.alhpa=1")
    assert status == 2 and told.startswith("error: loss.alhpa does not exist; did you mean alpha?")


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: one.typed)
def test_a_mistake_ends_in_a_sentence(mistake: Mistake, folder: Path) -> None:
    before = os.environ.copy()
    status, told = status_of(mistake.typed)
    os.environ.clear()
    os.environ.update(before)
    assert status == 2, told
    assert len(re.findall(r"^error: ", told, flags=re.MULTILINE)) == 1, told
    assert "Traceback" not in told
    message = re.split(r"^error: ", told, flags=re.MULTILINE)[1]
    assert mistake.told in message and mistake.remedy in message, message
