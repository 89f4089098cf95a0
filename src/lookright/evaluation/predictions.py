"""predictions.jsonl: what is known of each answer, in a line."""

from collections.abc import Collection
from pathlib import Path
from types import NoneType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lookright.answering.answerer import ScoredAnswer
from lookright.common.jsonl import Kinds, check_id, check_kinds, read_lines
from lookright.config.check import Problems
from lookright.config.folders import CONFIG_FOLDER
from lookright.config.runs import CONFIG_FILE, read_config
from lookright.errors import ConfigError, RecordError
from lookright.evaluation.groups import Line
from lookright.evaluation.judge import with_judgements
from lookright.evaluation.metric import Metric, Metrics

NEEDED: Kinds = {
    "id": str,
    "format": (str, NoneType),
    "num_images": int,
    "ground_truth": str,
    "prediction": str,
    "correct": (bool, NoneType),
}
KNOWN: Kinds = dict.fromkeys(
    ("attention_ratio", "even_ratio", "scaled_ratio", "confidence", "factor", "chance"), (float, NoneType)
) | dict.fromkeys(("source", "source_picture", "error_kind"), (str, NoneType))
"""Keys that versions and metrics may have left out."""


def prediction_line(item: ScoredAnswer, metrics: Metrics) -> dict[str, Any]:
    """Return one line: question, ground truth, prediction, what is known of it, and what the metrics say.

    Raises ConfigError for a metric that writes a field which another has, or which is no metric's.
    """
    prompt, answer = item.prompt, item.answer
    verdict = metrics.rules.verdict(answer.text, prompt)
    item.correct = verdict.correct
    known = {
        "id": prompt.id,
        "format": prompt.format,
        "num_images": prompt.num_sources,
        "source": prompt.provenance.get("source"),
        "source_picture": prompt.provenance.get("source_picture"),
        "ground_truth": prompt.ground_truth,
        "prediction": answer.text,
        **verdict.line(),
        "attention_ratio": item.attention_ratio,
        "even_ratio": item.even_ratio,
        "scaled_ratio": item.scaled_ratio,
        "confidence": answer.confidence,
        "factor": round(answer.factor, 6),
    }
    for name, part in metrics.parts.items():
        further = part.line(item)
        taken = sorted(known.keys() & further.keys())
        if taken:
            raise ConfigError(f"metrics.{name} writes {taken[0]!r}, which predictions.jsonl holds already; rename it")
        known |= further
    return known


def read_predictions(folder: str | Path, judged: bool = True) -> dict[str, Line]:
    """Return the lines of a run of infer.py by id; where they are to be `judged`, with what a judge said of them.

    Raises ConfigError where there is none, and for one that waits for its judge; RecordError naming file and line of
    one that is damaged.
    """
    path = Path(folder) / "predictions.jsonl"
    lines: dict[str, dict[str, Any]] = {}
    for line in read_lines(path, _check_prediction) if path.is_file() else ():
        if line["id"] in lines:
            raise RecordError("duplicate_id", f"{path}: the id {line['id']} comes twice; run infer.py again")
        lines[line["id"]] = _with_today_names(line)
    if not lines:
        raise ConfigError(f"{folder} holds no predictions.jsonl with an answer; name the output of an infer.py run")
    if not judged:
        return dict(lines)
    with_judgements(Path(folder), lines)
    waiting = next((key for key, line in lines.items() if line["correct"] is None), None)
    if waiting is not None:
        raise ConfigError(f"{path}: question {waiting} waits for its judge; run infer.py again with the same output")
    return dict(lines)


def build_metrics(problems: Problems) -> Metrics:
    """Return the metrics of a config, fresh; without those that are faulty, which `problems` then tells."""
    nodes = problems.config.metrics or {}
    built = {name: problems.build(f"metrics.{name}", "all") for name, node in nodes.items() if node is not None}
    with problems:
        for name, part in built.items():
            if part is not None and not isinstance(part, Metric):
                raise ConfigError(
                    f"metrics.{name}._target_={nodes[name]['_target_']} is no lookright.evaluation.metric.Metric"
                )
        if not built:
            raise ConfigError("metrics is empty; set metrics=default")
    return Metrics(parts={name: part for name, part in built.items() if isinstance(part, Metric)})


def default_metrics() -> Metrics:
    """Return the metrics of `conf/metrics/default.yaml`, fresh."""
    nodes: Any = OmegaConf.load(CONFIG_FOLDER / "metrics" / "default.yaml")
    return _metrics_of(nodes)


def metrics_of_run(folder: str | Path, trusted: Collection[str] = ()) -> Metrics:
    """Return the metrics of a run of infer.py, fresh; the default ones where it does not say which.

    Raises ConfigError for a metric that is neither ours nor `trusted`.
    """
    known = (Path(folder) / CONFIG_FILE).is_file()
    saved = read_config(folder, "run", builds=("metrics",), trusted=trusted) if known else None
    nodes = None if saved is None else saved.get("metrics")
    return default_metrics() if nodes is None else _metrics_of(nodes)


def _metrics_of(nodes: DictConfig) -> Metrics:
    problems = Problems(OmegaConf.create({"metrics": nodes}))
    metrics = build_metrics(problems)
    problems.finish()
    assert metrics is not None, "what is faulty was raised"
    return metrics


def _check_prediction(line: Any) -> None:
    check_id(line)
    check_kinds(_with_today_names(line), NEEDED, KNOWN)


def _with_today_names(line: dict[str, Any]) -> dict[str, Any]:
    """A line of an earlier version called the ground truth `answer`."""
    if "ground_truth" not in line and "answer" in line:
        line["ground_truth"] = line.pop("answer")
    return line
