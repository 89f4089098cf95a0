"""`infer.py` from a composed config to predictions, metrics and a report."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lookright.config.check import check_config
from lookright.data.pictures import Pictures
from lookright.errors import ConfigError, LookRightError
from lookright.generation.answer import Answerer, ScoredAnswer
from lookright.inference.error_kinds import error_kind
from lookright.inference.heat import attention_heat
from lookright.inference.matching import is_correct
from lookright.inference.metrics import Metrics
from lookright.inference.questions import Questions
from lookright.losses.band import half_depth
from lookright.reports.inference import InferenceExample, InferenceReport
from lookright.runtime import check_adapter, load_policy, pick_device, torch_dtype
from lookright.streams import AppendOnly, progress, read_lines
from lookright.types import Prompt


def infer(config: DictConfig) -> dict[str, Any]:
    """Answer a test set; returns what `metrics.json` holds.

    `run` names a training run, whose backbone and adapter are taken; `adapter` an adapter folder; with
    neither the base model answers. Predictions are appended as they come, so a killed run goes on.
    """
    config = _with_run(config)
    check_config(config)
    check_adapter(config.adapter)
    device, dtype = pick_device(config.device), torch_dtype(config.dtype)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    backbone = instantiate(config.backbone)
    questions: Questions = instantiate(config.data, _convert_="all")
    questions.prepare(backbone)
    layer = half_depth(backbone.num_layers) if config.ratio_layer is None else config.ratio_layer
    if not 0 <= layer < backbone.num_layers:
        raise ConfigError(f"ratio_layer={layer}; this model has layers 0 to {backbone.num_layers - 1}")
    folder = _open_output(config)
    answerer = Answerer(
        backbone=backbone,
        policy=load_policy(backbone, config.adapter, device, dtype),
        decoder=instantiate(config.decode),
        ratio_layer=layer,
        batch_size=config.batch_size,
    )
    _predict(answerer, questions, folder)
    return _report(answerer, questions, folder, config.overlays)


def _with_run(config: DictConfig) -> DictConfig:
    """Fill in backbone, adapter and output from the training run. Raises ConfigError for a folder that is none."""
    if config.run is None:
        return config
    if config.adapter is not None:
        raise ConfigError(f"run={config.run} and adapter={config.adapter} are both set; remove one")
    saved_path = Path(config.run) / "config.yaml"
    if not saved_path.is_file():
        raise ConfigError(f"run={config.run} holds no config.yaml; set run to the folder of a train.py run")
    config.backbone = OmegaConf.load(saved_path).backbone
    if (Path(config.run) / "adapter").is_dir():
        config.adapter = str(Path(config.run) / "adapter")
    elif (Path(config.run) / "model").is_dir():
        config.backbone.path = str(Path(config.run) / "model")
    else:
        raise ConfigError(f"run={config.run} has neither adapter/ nor model/: it did not end; resume it first")
    return config


def _open_output(config: DictConfig) -> Path:
    """The output folder; raises ConfigError where it holds the predictions of another config."""
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    keys = ("backbone", "adapter", "data", "decode", "dtype", "ratio_layer", "seed")
    plain = OmegaConf.to_container(config, resolve=True)
    path = folder / "config.yaml"
    if path.is_file() and (folder / "predictions.jsonl").is_file():
        saved = OmegaConf.to_container(OmegaConf.load(path))
        changed = [key for key in keys if saved.get(key) != plain.get(key)]
        if changed:
            raise ConfigError(
                f"output={folder} holds predictions of another config ({', '.join(changed)} differ); set another output"
            )
    OmegaConf.save(config, path, resolve=True)
    return folder


def _predict(answerer: Answerer, questions: Questions, folder: Path) -> None:
    with AppendOnly(folder / "predictions.jsonl") as written:
        for pictures, prompts in questions.groups():
            missing = [prompt for prompt in prompts if prompt.id not in written.done]
            for item in progress(answerer.answer(missing, pictures), len(missing), "answer"):
                written.add(prediction_line(item))


def prediction_line(item: ScoredAnswer) -> dict[str, Any]:
    """One line of predictions.jsonl: question, ground truth, prediction and what is known of it."""
    prompt, answer = item.prompt, item.answer
    others = companion_answers(prompt)
    right = is_correct(answer.text, prompt.answer, others)
    used = answer.attention_ratio
    return {
        "id": prompt.id,
        "format": prompt.format,
        "num_images": prompt.num_images,
        "answer": prompt.answer,
        "prediction": answer.text,
        "correct": right,
        "attention_ratio": item.attention_ratio if used is None else used,
        "confidence": answer.confidence,
        "factor": answer.factor,
        "error_kind": None if right else error_kind(answer.text, prompt.answer, others),
    }


def companion_answers(prompt: Prompt) -> list[str]:
    """What the same question is answered for the other images shown, where the source says it."""
    answers = prompt.provenance.get("region_answers") or []
    return [answer for number, answer in enumerate(answers) if number != prompt.target and answer is not None]


def _report(answerer: Answerer, questions: Questions, folder: Path, num_overlays: int) -> dict[str, Any]:
    metrics = Metrics()
    lines = {line["id"]: line for line in read_lines(folder / "predictions.jsonl")}
    for _, prompts in questions.groups():
        for prompt in prompts:
            line = lines.get(prompt.id)
            if line is None:
                raise LookRightError(f"question {prompt.id} has no prediction; run again with the same output")
            metrics.add(
                format_name=prompt.format,
                num_images=prompt.num_images,
                correct=line["correct"],
                attention_ratio=line["attention_ratio"],
                error_kind=line["error_kind"],
            )
    result = metrics.result() | {"dropped": dict(Counter(questions.dropped))}
    (folder / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")
    report = InferenceReport(Path(), num_examples=num_overlays)
    for pictures, root, prompt in questions.spread(num_overlays):
        report.add(_example(answerer, prompt, root, pictures, lines[prompt.id]))
    report.write(folder / "report.html", result)
    return result


def _example(
    answerer: Answerer, prompt: Prompt, root: Path, pictures: Pictures, line: dict[str, Any]
) -> InferenceExample:
    return InferenceExample(
        # the report opens pictures of several files, so their paths are made whole
        prompt=replace(prompt, images=[str(root.absolute() / name) for name in prompt.images]),
        prediction=line["prediction"],
        correct=line["correct"],
        attention_ratio=line["attention_ratio"],
        confidence=line["confidence"],
        error_kind=line["error_kind"],
        heat=attention_heat(answerer, prompt, line["prediction"], pictures),
    )
