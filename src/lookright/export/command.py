"""`python -m lookright.export` from a composed config to a folder that is there whole and checked, or not at all."""

import gc
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from lookright.backbones.adapter_files import check_adapter
from lookright.backbones.adapters import PeftModel
from lookright.backbones.base import Backbone
from lookright.backbones.loading import pick_device, torch_dtype, use_threads, with_adapter
from lookright.common.files import naming
from lookright.common.locks import locked
from lookright.common.stopping import stoppable
from lookright.config.check import Problems
from lookright.config.made_by import made_by
from lookright.config.runs import NOTHING, read_config, with_run
from lookright.errors import LookRightError
from lookright.export.card import write_card
from lookright.export.checks import check_adapter_weights, check_output, check_parts, check_zero, stored_dtype
from lookright.export.probe import Probe, difference

NOTE_FILE = "export.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def export(config: DictConfig) -> dict[str, Any]:
    """Write the weights that the config names for others; returns what `export.json` holds.

    Raises ConfigError before weights load, LookRightError where what is written does not answer as the model does.
    """
    check_zero(config.run, "run")
    run = config.run
    config = with_run(config)
    parts = _Parts(config)
    output = Path(config.output)
    with stoppable(lambda: "nothing is written; start it again"), locked(output.parent, f".{output.name}.lock"):
        use_threads(config.num_threads)
        with _made_beside(output) as folder:
            note = _merged(config, parts, folder) if config.merge else _adapter(config, parts, folder)
            note = {"made_by": note_of_making(config, run), **note}
            text = json.dumps(note, indent=2, ensure_ascii=False) + "\n"
            (folder / NOTE_FILE).write_text(text, encoding="utf-8")
            mode = (folder / NOTE_FILE).stat().st_mode
            for file in folder.rglob("*.safetensors"):
                # the library makes files that their owner alone may read
                file.chmod(mode)
            write_card(config, run, note, base_name(config, run), folder)
    print(f"wrote {output}")
    return note


class _Parts:
    """What the config names, without weights. Raises ConfigError with all problems at once."""

    def __init__(self, config: DictConfig) -> None:
        problems = Problems(config)
        with problems:
            self.device = pick_device(config.device)
        with problems:
            self.dtype = stored_dtype(config) if config.dtype is None else torch_dtype(config.dtype)
        with problems:
            check_zero(config.adapter, "adapter")
            check_adapter(config.adapter)
            check_adapter_weights(config.adapter)
        if not OmegaConf.is_missing(config, "output"):
            with problems:
                check_output(Path(config.output))
        self.backbone: Backbone = problems.build("backbone")
        if self.backbone is not None:
            with problems:
                check_parts(config, self.backbone)
        problems.finish()
        self.layout: str = config.layout or self.backbone.export_layouts[0]
        self.shard_bytes = int(config.shard_gb * 1e9)


def _merged(config: DictConfig, parts: _Parts, folder: Path) -> dict[str, Any]:
    """Load, merge and write; the model is held once, and its adapter beside it."""
    probe = Probe(parts.backbone)
    model = parts.backbone.build(dtype=parts.dtype).to(parts.device).eval().requires_grad_(False)
    note: dict[str, Any] = {"layout": parts.layout, "dtype": str(parts.dtype).removeprefix("torch.")}
    policy: PeftModel | None = None
    if config.adapter is not None:
        policy = with_adapter(model, config.adapter).eval()
        note |= _adapter_change(config, probe, policy)
        tuned = probe.logits(policy)
        model = policy.merge_and_unload(safe_merge=True)
        found = difference(tuned, probe.logits(model))
        print(f"merged against adapter, logits in {note['dtype']}: {found}")
        if not found.within(parts.dtype):
            raise LookRightError(
                f"merged weights do not answer as the adapter does (logits differ by {found}); nothing is written: "
                "set dtype=float32, or merge=false"
            )
        note["merged_against_adapter"] = found.line()
    wanted = probe.logits(model)
    parts.backbone.export(model, folder, layout=parts.layout, home=Path(config.output), shard_bytes=parts.shard_bytes)
    # the model goes before what was written is loaded
    del model
    policy = None
    gc.collect()
    if config.verify:
        note["written_against_merged"] = _verify(parts, probe, wanted, folder)
    return note


def _adapter_change(config: DictConfig, probe: Probe, policy: PeftModel) -> dict[str, Any]:
    """What the adapter changes; one that changes nothing is told, since a program that drops it does the same."""
    with policy.disable_adapter():
        base = probe.logits(policy)
    found = difference(base, probe.logits(policy))
    print(f"adapter against base: logits differ by {found}")
    if found.largest == 0:
        print(
            f"warning: adapter={config.adapter} changes nothing: untrained, or its weights fit no layer",
            file=sys.stderr,
        )
    return {"adapter_against_base": found.line()}


def _adapter(config: DictConfig, parts: _Parts, folder: Path) -> dict[str, Any]:
    """The adapter alone, under the name of its base; the base is loaded to see that it changes something."""
    backbone = parts.backbone
    model = backbone.build(dtype=parts.dtype)
    model = model if backbone.quantization else model.to(parts.device)
    note = _adapter_change(config, Probe(backbone), with_adapter(model, config.adapter).eval())
    source = Path(config.adapter)
    for name in ADAPTER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    settings = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    settings |= {"base_model_name_or_path": base_name(config), "inference_mode": True}
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    if config.base is None and "stock" in backbone.export_layouts and backbone.loaded_layout != "stock":
        print(
            f"warning: backbone.path={base_name(config)} is in a layout that transformers does not load, and PEFT puts "
            "the adapter onto transformers' model; set base to the same weights in its layout (llava-hf/..., or what "
            "python -m lookright.export writes without an adapter)",
            file=sys.stderr,
        )
    return {"layout": "adapter", "base": base_name(config), **note}


def _verify(parts: _Parts, probe: Probe, wanted: Tensor, folder: Path) -> dict[str, Any] | None:
    """Load what was written as others do, and hold its logits against those of the merged model."""
    if parts.layout == "stock":
        logits = _stock_logits(parts, probe, folder)
    else:
        backbone = parts.backbone.reopened(folder)
        if backbone is None:
            print(f"{type(parts.backbone).__name__} has no `reopened`: what was written was not loaded again")
            return None
        loaded = backbone.build(dtype=parts.dtype).to(parts.device).eval()
        logits = Probe(backbone).logits(loaded)
    found = difference(wanted, logits[:, : wanted.shape[1]])
    print(f"written against merged: logits differ by {found}")
    if not found.within(parts.dtype):
        raise LookRightError(f"what was written does not answer as the model did: logits differ by {found}")
    return found.line()


def _stock_logits(parts: _Parts, probe: Probe, folder: Path) -> Tensor:
    """By AutoProcessor and AutoModelForImageTextToText. Raises LookRightError where the prompt is not ours."""
    loaded: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=parts.dtype, trust_remote_code=False
    )
    loaded = loaded.to(parts.device).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    inputs = processor.apply_chat_template(
        probe.message(), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    misfits = probe.misfits(inputs, loaded.config.image_token_id)
    if misfits:
        raise LookRightError(
            f"stock AutoProcessor does not read {parts.backbone.__class__.__name__}'s prompt as we do: "
            f"{'; '.join(misfits)}; set verify=false to write it all the same, and pass ids and pixels of "
            "lookright.load(...).backbone"
        )
    return probe.stock_logits(loaded, loaded.config.image_token_id)


@contextmanager
def _made_beside(output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its name at the end, and is gone where something fails."""
    folder = output.with_name(f".{output.name}.partial")
    # what a killed export left behind
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with naming(folder):
            yield folder
            folder.replace(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def base_name(config: DictConfig, run: str | None = None) -> str:
    """What the base is called: as `base` says, else the hub's name or the whole path of `backbone.path`.

    Of a `run` that tuned all weights it is what the run began with.
    """
    if config.base is not None:
        return str(config.base)
    began = config if run is None or config.adapter is not None else read_config(run, "run", builds=NOTHING)
    path = str(OmegaConf.select(began, "backbone.path"))
    return str(Path(path).absolute()) if Path(path).is_dir() else path


def note_of_making(config: DictConfig, run: str | None) -> dict[str, Any]:
    """Command, model, adapter, code and date, and the run that it came from."""
    record = made_by(config, "-m lookright.export", data="" if run is None else str(run))
    return {"command": record.command, "code": record.code, "date": record.date, "model": record.model, "run": run}


def job(config: DictConfig) -> None:
    """Run one job."""
    export(config)
