"""Questions to show: drawn evenly from what came of them, with where each model looked."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from lookright.answering.answerer import Answerer
from lookright.answering.heat import attention_heat
from lookright.attention.band import one_layer
from lookright.backbones.loading import load_policy, pick_device, torch_dtype
from lookright.common.formats import format_order
from lookright.config.runs import read_config
from lookright.errors import ConfigError
from lookright.evaluation.groups import Line
from lookright.evaluation.predictions import read_predictions
from lookright.evaluation.questions import Questions
from lookright.records.pictures import Pictures
from lookright.reports.examples import Example, ShownAnswer
from lookright.reports.sampling import StratifiedSample
from lookright.types import Prompt

Place = tuple[Pictures, Prompt]
"""A question and what opens its pictures."""

OUTCOMES = {(False, True): "gained", (True, False): "lost", (False, False): "both wrong", (True, True): "both right"}
"""By whether the run compared with was right, and the other."""


def compared_examples(
    runs: Mapping[str, str | Path],
    against: str,
    tuned: str,
    num_examples: int = 12,
    device: str = "auto",
    trusted: Collection[str] = (),
) -> list[Example]:
    """Cards of the same questions with the answers of all `runs`, folders of infer.py by name.

    Drawn by a hash of the id, evenly over formats with several images and over the four outcomes of two runs:
    gained (`against` wrong, `tuned` right), lost, both wrong, both right. Both runs' models are loaded, one after the
    other, to read where they look. Raises ConfigError for a name that is not among the runs, and for runs whose configs
    name classes that are neither ours nor `trusted`.
    """
    unknown = [name for name in (against, tuned) if name not in runs]
    if unknown:
        raise ConfigError(f"{unknown[0]} is none of the runs {', '.join(runs)}")
    lines = {name: read_predictions(folder) for name, folder in runs.items()}
    configs: dict[str, Any] = {name: read_config(runs[name], "run", trusted=trusted) for name in (against, tuned)}
    places = draw_evenly(_places(configs[against]), lines[against], lines[tuned], num_examples)
    heat = {name: _heat(config, lines[name], places, device) for name, config in configs.items()}
    return [
        Example(
            prompt=prompt,
            pictures=pictures,
            answers={
                name: answer_of(found[prompt.id], heat[name][number] if name in heat else None)
                for name, found in lines.items()
            },
            even_ratio=lines[tuned][prompt.id]["even_ratio"],
            outcome=OUTCOMES[lines[against][prompt.id]["correct"], lines[tuned][prompt.id]["correct"]],
        )
        for number, (pictures, prompt) in enumerate(places)
    ]


def draw_evenly(
    places: Sequence[Place], before: Mapping[str, Line], after: Mapping[str, Line], num_examples: int
) -> list[Place]:
    """Questions with several images, evenly over format and (right before, right after), by a hash of the id."""
    drawn: StratifiedSample[Place] = StratifiedSample(num_examples)
    for place in places:
        prompt = place[1]
        # a question whose picture broke after its check has no answer
        if prompt.num_sources > 1 and prompt.id in before:
            outcome = (prompt.format, before[prompt.id]["correct"], after[prompt.id]["correct"])
            drawn.add(outcome, prompt.id, place)
    return sorted(drawn.take(), key=lambda place: format_order(place[1].format))


def shown_answer(answerer: Answerer, prompt: Prompt, line: Mapping[str, Any], pictures: Pictures) -> ShownAnswer:
    """A line of predictions.jsonl for a card, with the heat maps of its answer."""
    return answer_of(line, attention_heat(answerer, prompt, line["prediction"], pictures))


def answer_of(line: Mapping[str, Any], heat: Any = None) -> ShownAnswer:
    """A line of predictions.jsonl for a card."""
    return ShownAnswer(
        text=line["prediction"],
        correct=line["correct"],
        attention_ratio=line["attention_ratio"],
        scaled_ratio=line.get("scaled_ratio"),
        confidence=line["confidence"],
        factor=None if line.get("factor", 1.0) == 1.0 else line["factor"],
        error_kind=line.get("error_kind"),
        heat=heat,
    )


def _places(config: DictConfig) -> list[Place]:
    questions: Questions = instantiate(config.data, _convert_="all")
    questions.prepare(instantiate(config.backbone))
    return [(pictures, prompt) for pictures, prompts in questions.groups() for prompt in prompts]


def _heat(config: DictConfig, lines: Mapping[str, Line], places: Sequence[Place], device: str) -> list[Any]:
    """Where the model of a run looked while it gave its answers."""
    backbone = instantiate(config.backbone)
    answerer = Answerer(
        backbone=backbone,
        policy=load_policy(backbone, config.adapter, pick_device(device), torch_dtype(config.dtype)),
        decoder=instantiate(config.decode),
        ratio_layer=one_layer(backbone.num_layers, config.ratio_layer),
        batch_size=1,
    )
    return [attention_heat(answerer, prompt, lines[prompt.id]["prediction"], pictures) for pictures, prompt in places]
