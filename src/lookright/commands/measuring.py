"""From questions to `predictions.jsonl`, `metrics.json` and a page: what `infer.py` and `train.py eval=` share."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from lookright.answering.answerer import Answerer
from lookright.common.jsonl import AppendOnly
from lookright.common.streams import progress
from lookright.common.strict_json import finite
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


def predict(answerer: Answerer, questions: Questions, metrics: Metrics, folder: Path) -> None:
    """Append the answers that are not in `predictions.jsonl` yet."""
    with AppendOnly(folder / ANSWERS_FILE) as written:
        for pictures, prompts in questions.groups():
            done = sum(prompt.id in written.done for prompt in prompts)
            answers = answerer.answer(prompts, pictures, written.done)
            for item in progress(answers, len(prompts), "answer", done):
                written.add(prediction_line(item, metrics))


def measure(
    answerer: Answerer, questions: Questions, metrics: Metrics, num_examples: int, folder: Path, record: MadeBy
) -> dict[str, Any]:
    """Write `metrics.json`, whose content is returned, and the page with so many examples.

    Raises LookRightError for a question without a prediction.
    """
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
    (folder / METRICS_FILE).write_text(json.dumps(finite(result), indent=2, allow_nan=False) + "\n")
    examples = []
    for pictures, prompt in drawn.take():
        line = lines[prompt.id]
        try:
            answers = {"Model": shown_answer(answerer, prompt, line, pictures)}
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
    return f"{column.chart.lower() or column.key}: {', '.join(parts)}" if parts else "nothing is told"
