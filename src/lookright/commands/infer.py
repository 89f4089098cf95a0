"""`infer.py` from a composed config to predictions, metrics and a report."""

import json
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from lookright.answering.answerer import Answerer, ScoredAnswer
from lookright.attention.band import one_layer
from lookright.backbones.base import Backbone
from lookright.backbones.loading import check_adapter, load_policy, pick_device, torch_dtype
from lookright.common.answers import same_answer
from lookright.common.jsonl import AppendOnly, read_lines
from lookright.common.matching import is_correct
from lookright.common.streams import progress
from lookright.composing.companions import companion_answers
from lookright.config.check import Problems
from lookright.config.entry import given_overrides, launch, with_output
from lookright.config.folders import CONFIG_FOLDER
from lookright.config.made_by import MadeBy, describe_data, made_by
from lookright.errors import ConfigError, LookRightError, RecordError
from lookright.evaluation.error_kinds import error_kind, wrong_kind
from lookright.evaluation.metrics import Metrics
from lookright.evaluation.questions import Questions
from lookright.packing.logprobs import check_rows
from lookright.records.pictures import Pictures
from lookright.reports.compared_examples import shown_answer
from lookright.reports.examples import Example
from lookright.reports.inference import write_inference
from lookright.reports.sampling import Spread
from lookright.types import Prompt

ANSWERS_FILE = "predictions.jsonl"
KEYS = ("backbone", "adapter", "data", "decode", "dtype", "ratio_layer", "ratio_rows", "seed")
"""What the predictions of a folder depend on."""


def infer(config: DictConfig) -> dict[str, Any]:
    """Answer a test set; returns what `metrics.json` holds.

    `run` names a training run, whose backbone and adapter are taken; `adapter` an adapter folder; with
    neither the base model answers. Predictions are appended as they come, so a killed run goes on.
    """
    config = with_run(with_output(config))
    parts = _Parts(config)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    parts.questions.prepare(parts.backbone)
    parts.decoder.check(parts.backbone, (prompt for _, prompts in parts.questions.groups() for prompt in prompts))
    folder = open_output(config, ANSWERS_FILE, KEYS)
    answerer = Answerer(
        backbone=parts.backbone,
        policy=load_policy(parts.backbone, config.adapter, parts.device, parts.dtype),
        decoder=parts.decoder,
        ratio_layer=parts.ratio_layer,
        batch_size=config.batch_size,
        ratio_rows=config.ratio_rows,
        unreadable=parts.questions.leave_out,
    )
    _predict(answerer, parts.questions, folder)
    record = made_by(config, "infer.py", describe_data(config.data))
    record.write(folder)
    result = _report(answerer, parts.questions, folder, config.overlays, record)
    print(_headline(result))
    print(f"wrote {folder / 'predictions.jsonl'}, {folder / 'metrics.json'} and {folder / 'report.html'}")
    return result


class _Parts:
    """What the config names, without weights. Raises ConfigError with all problems at once."""

    def __init__(self, config: DictConfig) -> None:
        problems = Problems(config)
        with problems:
            self.device = pick_device(config.device)
        with problems:
            self.dtype = torch_dtype(config.dtype)
        with problems:
            check_adapter(config.adapter)
        with problems:
            if config.batch_size < 1 or config.overlays < 0:
                raise ConfigError(
                    f"batch_size={config.batch_size}, overlays={config.overlays}; set 1 or more, and 0 or more"
                )
        self.decoder = problems.build("decode")
        self.questions: Questions = problems.build("data", "all")
        self.backbone: Backbone = problems.build("backbone")
        if self.backbone is not None:
            with problems:
                self.ratio_layer = one_layer(self.backbone.num_layers, config.ratio_layer)
            with problems:
                if self.decoder is not None:
                    self.decoder.check(self.backbone)
        with problems:
            check_rows(config.ratio_rows)
        problems.finish()


def _headline(result: dict[str, Any]) -> str:
    """Accuracies for the console."""
    parts = [
        f"{name} {entry['value']:.1f} % [{entry['low']:.1f}, {entry['high']:.1f}] of {entry['num_questions']}"
        for name, entry in result["accuracy"].items()
    ]
    return "accuracy: " + ", ".join(parts)


def with_run(config: DictConfig) -> DictConfig:
    """Fill in backbone and adapter from the training run. Raises ConfigError for a folder that is none."""
    if config.run is None:
        return config
    if config.adapter is not None:
        raise ConfigError(f"run={config.run} and adapter={config.adapter} are both set; remove one")
    own = [item for item in given_overrides() if re.match(r"[+~]*backbone\b", item)]
    if own:
        raise ConfigError(
            f"run={config.run} brings its backbone; remove {', '.join(own)}, or set adapter instead of run"
        )
    folder = Path(config.run)
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"run={config.run} holds no config.yaml; set run to the folder of a train.py run")
    config.backbone = OmegaConf.load(folder / "config.yaml").backbone
    if (folder / "adapter").is_dir():
        config.adapter = str(folder / "adapter")
    elif not (folder / "model").is_dir():
        raise ConfigError(
            f"run={config.run} has neither adapter/ nor model/: it did not end; run train.py resume={config.run} first"
        )
    elif "path" not in config.backbone:
        raise ConfigError(
            f"run={config.run} made its backbone itself; set backbone.path={folder / 'model'} instead of run"
        )
    else:
        config.backbone.path = str(folder / "model")
    return config


def open_output(config: DictConfig, answers_file: str, keys: Collection[str]) -> Path:
    """The output folder, its config written; raises ConfigError where it holds answers that another config gave.

    `answers_file` is the file of answers there, `keys` those of the config that decide them.
    """
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    plain = OmegaConf.to_container(config, resolve=True)
    path = folder / "config.yaml"
    if path.is_file() and (folder / answers_file).is_file():
        weights = None if config.adapter is None else Path(config.adapter) / "adapter_model.safetensors"
        if weights is not None and weights.is_file() and weights.stat().st_mtime > path.stat().st_mtime:
            raise ConfigError(
                f"output={folder} holds predictions that are older than {weights}; set another output, or delete them"
            )
        saved = OmegaConf.to_container(OmegaConf.load(path))
        changed = [key for key in keys if saved.get(key) != plain.get(key)]
        if changed:
            raise ConfigError(
                f"output={folder} holds predictions of another config ({', '.join(changed)} differ); set another output"
            )
        return folder
    OmegaConf.save(config, path, resolve=True)
    return folder


def _predict(answerer: Answerer, questions: Questions, folder: Path) -> None:
    with AppendOnly(folder / "predictions.jsonl") as written:
        for pictures, prompts in questions.groups():
            done = sum(prompt.id in written.done for prompt in prompts)
            answers = answerer.answer(prompts, pictures, written.done)
            for item in progress(answers, len(prompts), "answer", done):
                written.add(prediction_line(item))


def prediction_line(item: ScoredAnswer) -> dict[str, Any]:
    """One line of predictions.jsonl: question, ground truth, prediction and what is known of it."""
    prompt, answer = item.prompt, item.answer
    others = companion_answers(prompt)
    right = is_correct(answer.text, prompt.answer, others)
    return {
        "id": prompt.id,
        "format": prompt.format,
        "num_images": prompt.num_images,
        "source": prompt.provenance.get("source"),
        "source_picture": prompt.provenance.get("source_picture"),
        "answer": prompt.answer,
        "chance": chance(prompt),
        "prediction": answer.text,
        "correct": right,
        "attention_ratio": item.attention_ratio,
        "even_ratio": item.even_ratio,
        "scaled_ratio": item.scaled_ratio,
        "confidence": answer.confidence,
        "factor": round(answer.factor, 6),
        "error_kind": None if right else error_kind(answer.text, prompt.answer, others),
    }


def chance(prompt: Prompt) -> float | None:
    """Share of the shown images that have the ground truth as their answer: what picking one at random gets right.

    In (0, 1]; None for a single image, of which none is picked, and where the source does not know all answers.
    """
    answers = prompt.provenance.get("region_answers") or []
    if len(answers) < 2 or None in answers:
        return None
    return sum(same_answer(answer, prompt.answer) for answer in answers) / len(answers)


def _report(
    answerer: Answerer, questions: Questions, folder: Path, num_examples: int, record: MadeBy
) -> dict[str, Any]:
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
                even_ratio=line["even_ratio"],
                scaled_ratio=line.get("scaled_ratio"),
                confidence=line["confidence"],
                error_kind=line["error_kind"],
                wrong_kind=wrong_kind(line["prediction"], line["answer"]),
                chance=line.get("chance"),
            )
    result = metrics.result() | {"dropped": dict(Counter(questions.dropped))}
    (folder / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")
    drawn: Spread[tuple[Pictures, Prompt]] = Spread(num_examples)
    for pictures, prompts in questions.groups():
        for prompt in prompts:
            drawn.add((prompt.format, lines[prompt.id]["correct"]), prompt.id, (pictures, prompt))
    examples = []
    for pictures, prompt in drawn.take():
        line = lines[prompt.id]
        try:
            answers = {"Model": shown_answer(answerer, prompt, line, pictures)}
        except RecordError as error:
            questions.tell(prompt, error)
            continue
        examples.append(Example(prompt=prompt, pictures=pictures, answers=answers, even_ratio=line["even_ratio"]))
    write_inference(folder / "report.html", result, examples=examples, made_by=record)
    return result


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="infer")
def job(config: DictConfig) -> None:
    """Run one job."""
    infer(config)


def main() -> None:
    """Answer a test set as the command line says: `infer.py`, or `lookright-infer` where installed."""
    launch(job, "infer")


if __name__ == "__main__":
    main()
