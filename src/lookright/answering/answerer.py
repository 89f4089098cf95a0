"""Answers of a model to composed prompts, with attention ratio and perplexity from one teacher-forced pass."""

import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from types import NoneType
from typing import Any

import torch
from PIL import Image
from torch import nn

from lookright.answering.decoder import Answer, Decoder
from lookright.answering.noise import TargetNoise
from lookright.attention.band import one_layer
from lookright.backbones.base import Backbone
from lookright.backbones.loading import bare_model
from lookright.common.jsonl import Kinds, check_id, check_kinds
from lookright.common.streams import batches
from lookright.common.strict_json import short
from lookright.config.check import Problems
from lookright.errors import RecordError
from lookright.packing.batch import Example, Response, move, pack
from lookright.packing.encode import encode_question
from lookright.packing.forward import packed_forward
from lookright.packing.logprobs import RATIO_ROWS, check_rows
from lookright.packing.question import DecoderInput
from lookright.records.pictures import Pictures
from lookright.types import Prompt, Size


@dataclass(slots=True, kw_only=True)
class ScoredAnswer:
    """An answer with the attention ratio of its own rows, in [0, 1] or None, and its perplexity, >= 1.

    `attention_ratio` is that of a plain pass over the answer, whatever decoder found it; `scaled_ratio` is that of the
    last prompt row alone as an adaptive decoder scaled it, in the same layer, None where no decoder did.
    `even_ratio` is what the attention ratio of an even look would be, None where that is unknown too.
    `noise` is what lay on the pictures, as `TargetNoise.describe` tells it, None where they were clean. `correct` is
    what the question's rule of matching says, None where none was asked, or a judge is still to say.
    """

    prompt: Prompt
    answer: Answer
    attention_ratio: float | None
    even_ratio: float | None
    perplexity: float
    scaled_ratio: float | None = None
    noise: dict[str, float | str] | None = None
    correct: bool | None = None

    def line(self) -> dict[str, Any]:
        """For answers.jsonl."""
        noise = {} if self.noise is None else {"noise": self.noise}
        return noise | {
            "id": self.prompt.id,
            "prediction": self.answer.text,
            "num_tokens": len(self.answer.token_ids),
            "attention_ratio": self.attention_ratio,
            "even_ratio": self.even_ratio,
            "perplexity": self.perplexity,
            "confidence": self.answer.confidence,
        }


OF_EACH = ("prediction", "num_tokens", "attention_ratio", "perplexity")
"""What the answers to one prompt do not share, in a line of answers.jsonl."""


def several_line(items: Sequence[ScoredAnswer]) -> dict[str, Any]:
    """For answers.jsonl, all answers to one prompt: what they share, and under `answers` what they do not."""
    lines = [item.line() for item in items]
    shared = {key: value for key, value in lines[0].items() if key not in OF_EACH}
    return shared | {"answers": [{key: line[key] for key in OF_EACH} for line in lines]}


NEEDED: Kinds = {"prediction": str, "attention_ratio": (float, NoneType), "perplexity": float}
KNOWN: Kinds = {"even_ratio": (float, NoneType), "confidence": (float, NoneType), "noise": (dict, NoneType)}


def check_answers(line: Any) -> None:
    """Raise RecordError (reason `malformed`) for what is no line of answers.jsonl."""
    check_id(line)
    answers = line.get("answers", [{}])
    if not isinstance(answers, list) or not answers or not all(isinstance(one, dict) for one in answers):
        raise RecordError("malformed", f"answers={short(answers)} is no list of answers")
    for one in answers_of(line):
        check_kinds(one, NEEDED, KNOWN)


def answers_of(line: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of a line of answers.jsonl, each as a line with one answer has it: the inverse of `several_line`."""
    shared = {key: value for key, value in line.items() if key != "answers"}
    lines = [shared | one for one in line["answers"]] if "answers" in line else [line]
    # earlier versions called the prediction `answer`
    return [{"prediction" if key == "answer" else key: value for key, value in one.items()} for one in lines]


class NoisyPictures:
    """The pictures of one prompt with noise on them."""

    def __init__(self, pictures: Pictures, prompt: Prompt, noise: TargetNoise) -> None:
        self.pictures, self.prompt, self.noise = pictures, prompt, noise

    def size(self, name: str) -> Size:
        """As without noise."""
        return self.pictures.size(name)

    def open(self, name: str) -> Image.Image:
        """The picture as the model is to see it."""
        return self.noise(self.prompt, self.prompt.images.index(name), self.pictures.open(name))


def perplexity(logps: float, num_tokens: int) -> float:
    """Of an answer's summed nats; the largest float64 where it is beyond that."""
    nats = -logps / num_tokens
    return sys.float_info.max if 709 < nats < math.inf else math.exp(nats) if nats <= 709 else nats


def number_or_none(value: torch.Tensor) -> float | None:
    """A number, None for NaN."""
    return None if value.isnan() else float(value)


def _refuse(prompt: Prompt, error: RecordError) -> None:
    raise RecordError(error.reason, f"prompt {prompt.id}: {error}") from error


@dataclass(slots=True, kw_only=True)
class Answerer:
    """A model that answers prompts in batches of `batch_size`.

    The attention ratio is read from decoder layer `ratio_layer` (0-based), in the rows of an answer that `ratio_rows`
    names (`logprobs.RATIO_ROWS`).

    `unreadable` is told of a prompt whose picture broke after it was checked, before the rest of its batch is
    answered without it; as it is, it raises.

    The last bits of a number depend on the batch that it was computed in. So a batch of which some answers
    are `done` is answered as a whole again, and what a killed run goes on to is what it would have been.
    """

    backbone: Backbone
    policy: nn.Module
    decoder: Decoder
    ratio_layer: int
    batch_size: int
    noise: TargetNoise | None = None
    ratio_rows: str = RATIO_ROWS[0]
    unreadable: Callable[[Prompt, RecordError], None] = _refuse

    def answer(
        self, prompts: Iterable[Prompt], pictures: Pictures, done: Collection[str] = frozenset()
    ) -> Iterator[ScoredAnswer]:
        """Answers that are not done, in the order of the prompts."""
        return self.answer_batches(batches(prompts, self.batch_size), pictures, done)

    def answer_batches(
        self, prompt_batches: Iterable[Sequence[Prompt]], pictures: Pictures, done: Collection[str] = frozenset()
    ) -> Iterator[ScoredAnswer]:
        """As `answer`, with batches that the caller made."""
        for batch in prompt_batches:
            if all(prompt.id in done for prompt in batch):
                continue
            asked = [(prompt, self._question(prompt, pictures, prompt.id in done)) for prompt in batch]
            asked = [(prompt, question) for prompt, question in asked if question is not None]
            if all(prompt.id in done for prompt, _ in asked):
                continue
            prompts, questions = zip(*asked, strict=True)
            answers = self.decoder.answer(self.backbone, self.policy, questions)
            scored = self._scored(prompts, questions, [[answer] for answer in answers])
            yield from (item for (item,) in scored if item.prompt.id not in done)

    def several(
        self, prompts: Iterable[Prompt], pictures: Pictures, num_answers: int, done: Collection[str] = frozenset()
    ) -> Iterator[list[ScoredAnswer]]:
        """`num_answers` drawn answers to each prompt that is not done, in order.

        A prompt is a batch of its own: its answers are as many rows, and depend on nothing but itself.
        """
        for prompt in prompts:
            question = None if prompt.id in done else self._question(prompt, pictures, is_done=False)
            if question is not None:
                answers = self.decoder.several(self.backbone, self.policy, question, num_answers, prompt.id)
                yield from self._scored([prompt], [question], [answers])

    def _question(self, prompt: Prompt, pictures: Pictures, is_done: bool) -> DecoderInput | None:
        """None where a picture cannot be read any more; of a prompt that is answered nobody needs to know."""
        seen = pictures if self.noise is None else NoisyPictures(pictures, prompt, self.noise)
        try:
            return encode_question(self.backbone, prompt, seen)
        except RecordError as error:
            if not is_done:
                self.unreadable(prompt, error)
            return None

    @torch.no_grad()
    def _scored(
        self, prompts: Sequence[Prompt], questions: Sequence[DecoderInput], answers: Sequence[Sequence[Answer]]
    ) -> Iterator[list[ScoredAnswer]]:
        """The answers to each prompt, by one packed pass over all of the batch."""
        model = bare_model(self.policy)
        device = next(model.parameters()).device
        examples = [
            Example(
                id=prompt.id,
                prompt=question.prompt,
                pixels=question.pixels,
                responses=[Response(token_ids=torch.tensor(one.token_ids)) for one in own],
                coverage=question.coverage,
            )
            for prompt, question, own in zip(prompts, questions, answers, strict=True)
        ]
        batch = move(pack(examples), device)
        features = self.backbone.encode_images(model, batch.pixels)
        output = packed_forward(self.backbone, model, batch, features, [self.ratio_layer], self.ratio_rows)
        # there is one, since a layer is named
        (ratios,) = output.response_ratios
        responses = count()
        for index, (prompt, own) in enumerate(zip(prompts, answers, strict=True)):
            yield [
                ScoredAnswer(
                    prompt=prompt,
                    answer=answer,
                    attention_ratio=number_or_none(ratios[response]),
                    even_ratio=number_or_none(batch.even_ratio[index]),
                    scaled_ratio=None if answer.scaled_ratios is None else answer.scaled_ratios[self.ratio_layer],
                    perplexity=perplexity(float(output.logps[response]), int(output.num_tokens[response])),
                    noise=None if self.noise is None else self.noise.describe(prompt),
                )
                for answer, response in zip(own, responses, strict=False)
            ]


def check_answering(problems: Problems, backbone: Backbone | None, decoder: Decoder | None) -> int:
    """The 0-based decoder layer of the attention ratio, once rows, layer and decoder fit the backbone.

    What does not is told by `problems`, as are a backbone and a decoder that are None; the layer is then 0.
    """
    layer, config = 0, problems.config
    with problems:
        check_rows(config.ratio_rows)
    if backbone is not None:
        with problems:
            layer = one_layer(backbone.num_layers, config.ratio_layer)
        with problems:
            if decoder is not None:
                decoder.check(backbone)
    return layer
