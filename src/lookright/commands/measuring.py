"""From questions to `predictions.jsonl`, `metrics.json` and a page: what `infer.py` and `train.py eval=` share."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lookright.answering.answerer import Answerer
from lookright.common.files import write_whole
from lookright.common.jsonl import AppendOnly, LinesById, cut_torn_line, write_atomically
from lookright.common.streams import progress
from lookright.common.strict_json import finite
from lookright.composing.workspace import Workspace
from lookright.config.made_by import MadeBy
from lookright.errors import LookRightError, RecordError
from lookright.evaluation.metric import Metrics
from lookright.evaluation.predictions import prediction_line, read_predictions
from lookright.evaluation.questions import Questions
from lookright.records.pictures import Pictures
from lookright.reports.compared_examples import shown_answer
from lookright.reports.examples import Example
from lookright.reports.inference import write_inference
from lookright.reports.sampling import StratifiedSample
from lookright.types import Prompt

ANSWERS_FILE = "predictions.jsonl"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"


def predict(answerer: Answerer, questions: Questions, metrics: Metrics, workspace: Workspace) -> None:
    """Append the answers to the questions of a shard that are not in its `predictions.jsonl` yet.

    Questions go to shards by whole batches of the answerer, so that each is answered in the batch that it would be
    answered in without shards, and so to the last bit.
    """
    assert workspace.batch_size == answerer.batch_size
    with AppendOnly(workspace.predictions) as written:
        for pictures, prompts in questions.groups():
            mine = [prompts[number] for number in workspace.numbers(len(prompts))]
            done = sum(prompt.id in written.done for prompt in mine)
            answers = answerer.answer(mine, pictures, written.done)
            for item in progress(answers, len(mine), "answer", done):
                written.add(prediction_line(item, metrics))


def join_shards(workspace: Workspace, questions: Questions) -> None:
    """Write `predictions.jsonl` of those of all shards, in the order of the questions, which are read.

    Raises ConfigError for a shard that has none, and LookRightError for a question without an answer.
    """
    if workspace.num_shards == 1:
        return
    paths = workspace.parts("predictions", stage="measure")
    for path in paths:
        cut_torn_line(path)
    with ExitStack() as opened:
        parts = [opened.enter_context(LinesById(path)) for path in paths]
        write_atomically(workspace.final("predictions"), _joined(workspace, questions, parts))


def _joined(workspace: Workspace, questions: Questions, parts: Sequence[LinesById]) -> Iterator[str]:
    for _, prompts in questions.groups():
        for number, prompt in enumerate(prompts):
            shard = number // workspace.batch_size % workspace.num_shards
            line = parts[shard].get(prompt.id)
            if line is None:
                raise LookRightError(f"question {prompt.id} has no answer yet; run shard.index={shard} to its end")
            yield json.dumps(line, ensure_ascii=False) + "\n"


def measure(
    answerer: Callable[[], Answerer],
    questions: Questions,
    metrics: Metrics,
    num_examples: int,
    folder: Path,
    record: MadeBy,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Write `metrics.json`, whose content is returned, and the page with so many examples, read by the `answerer`.

    `warnings` are sentences that stand in both.

    Raises LookRightError for a question without a prediction.
    """
    given = read_predictions(folder, judged=False)
    answered = [(pictures, prompt) for pictures, prompts in questions.groups() for prompt in prompts]
    metrics.finish(folder, [(pictures, one, given[one.id]) for pictures, one in answered if one.id in given])
    lines = read_predictions(folder)
    drawn: StratifiedSample[tuple[Pictures, Prompt]] = StratifiedSample(num_examples)
    for pictures, prompts in questions.groups():
        for prompt in prompts:
            line = lines.get(prompt.id)
            if line is None:
                raise LookRightError(f"question {prompt.id} has no prediction; run again with the same output")
            metrics.add(line)
            drawn.add((prompt.format, line["correct"]), prompt.id, (pictures, prompt))
    result = metrics.result() | {"dropped": dict(Counter(questions.dropped))}
    result |= {"warnings": list(warnings)} if warnings else {}
    write_whole(folder / METRICS_FILE, json.dumps(finite(result), indent=2, allow_nan=False) + "\n")
    examples = []
    for pictures, prompt in drawn.take():
        line = lines[prompt.id]
        try:
            answers = {"Model": shown_answer(answerer(), prompt, line, pictures)}
        except RecordError as error:
            questions.tell(prompt, error)
            continue
        examples.append(Example(prompt=prompt, pictures=pictures, answers=answers, even_ratio=line["even_ratio"]))
    write_inference(folder / REPORT_FILE, result, metrics, examples=examples, made_by=record)
    return result


def headline(metrics: Metrics, result: dict[str, Any]) -> str:
    """Return the first metric that has a column, for the console."""
    if not metrics.columns:
        return "nothing is told"
    column = metrics.columns[0]
    parts = [
        f"{name} {entry['value']:.{column.digits}f} {column.unit} [{entry['low']:.{column.digits}f}, "
        f"{entry['high']:.{column.digits}f}] of {entry['num_questions']}".replace("  ", " ")
        for name, entry in result[column.key].items()
    ]
    rules = sorted({entry["rule"] for entry in result[column.key].values() if "rule" in entry}, key=len)
    told = f" ({rules[-1]})" if rules else ""
    return f"{column.chart.lower() or column.key}{told}: {', '.join(parts)}" if parts else "nothing is told"
