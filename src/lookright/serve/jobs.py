"""A question on its way through the server, and the watch over the answers of a batch as their tokens come."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import StoppingCriteria

from lookright.answering.look import Look
from lookright.answering.scoring import Scored
from lookright.backbones.base import Backbone
from lookright.packing.question import DecoderInput
from lookright.types import Prompt, Size

Sink = Callable[[int, str], None]
"""Takes the number of an answer and what came to its text; called from the worker's thread."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(slots=True, frozen=True, kw_only=True)
class Decoding:
    """How tokens are chosen: `decode` greedy, adaptive, or own, by a decoder of the server's that is neither.

    They are drawn where `temperature` is given.
    """

    decode: str
    temperature: float | None = None
    top_p: float = 1.0
    seed: int | None = None

    @property
    def alone(self) -> bool:
        """Whether others in the batch would change what is drawn, though a seed asks for the same again."""
        return self.temperature is not None and self.seed is not None


@dataclass(slots=True, kw_only=True)
class Question:
    """A prompt ready for the model: its tokens and pixels, what each picture covers, the sizes of the pictures."""

    prompt: Prompt
    input: DecoderInput
    coverage: Tensor
    sizes: list[Size]

    @property
    def num_tokens(self) -> int:
        """Tokens, those of pictures among them."""
        return len(self.input.prompt.input_ids)


@dataclass(slots=True, frozen=True, kw_only=True)
class Spoken:
    """An answer: its text, its tokens up to and with the end token, and `finish`, `stop` or `length`.

    `confidence` and `factor` are those of `decoder.Answer`; `scored` is None where it was not asked for.
    """

    text: str
    token_ids: list[int]
    finish: str
    confidence: float
    factor: float
    scored: Scored | None
    look: Look | None


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request: `tokens` at most in each of `num_answers` answers, `stops` at which one ends.

    `deadline` is of `time.monotonic`. `cancelled` is set where nobody waits any more.
    """

    model: str
    question: Question
    decoding: Decoding
    tokens: int
    deadline: float
    stops: tuple[str, ...] = ()
    num_answers: int = 1
    ratio: bool = True
    heat: bool = False
    sink: Sink | None = None
    cancelled: bool = False
    future: "Future[list[Spoken]]" = field(default_factory=Future)

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.cancelled or time.monotonic() > self.deadline

    def fits(self, other: "Job") -> bool:
        """Whether both may be answered in one batch."""
        alone = self.decoding.alone or self.num_answers > 1 or other.num_answers > 1
        return not alone and (self.model, self.decoding) == (other.model, other.decoding)


@dataclass(slots=True, kw_only=True, eq=False)
class LookJob:
    """A look at a given answer, a text or its tokens; `token` as in `answering.look.look`."""

    model: str
    question: Question
    answer: str | list[int]
    token: int | None
    deadline: float
    cancelled: bool = False
    future: "Future[tuple[list[int], Look]]" = field(default_factory=Future)

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.cancelled or time.monotonic() > self.deadline


@dataclass(slots=True, kw_only=True)
class _Row:
    """One answer of a batch while it grows; `sent` is how many characters of its text went to the sink."""

    job: Job
    number: int
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: str | None = None
    sent: int = 0


class Watch(StoppingCriteria):
    """Ends each row of a batch by itself: at the end token, its limit, its stops, or when nobody waits any more.

    Hands on the text as it comes. Rows are the answers of `jobs`, each with all of its own.
    """

    def __init__(self, backbone: Backbone, jobs: Sequence[Job]) -> None:
        self.backbone = backbone
        self.rows = [_Row(job=job, number=number) for job in jobs for number in range(job.num_answers)]

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """The newest tokens int64[B, L] -> bool[B], the rows that end here."""
        for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            if row.finish is None:
                self._take(row, token)
        return torch.tensor([row.finish is not None for row in self.rows], device=input_ids.device)

    def _take(self, row: _Row, token: int) -> None:
        row.ids.append(token)
        if token in self.backbone.end_token_ids:
            row.finish = "stop"
        elif len(row.ids) >= row.job.tokens:
            row.finish = "length"
        elif row.job.over:
            row.finish = "over"
        if row.job.stops or row.job.sink is not None or row.finish is not None:
            row.text = self.backbone.decode(row.ids)
        found = [place for place in map(row.text.find, row.job.stops) if place >= 0]
        if found:
            row.text, row.finish = row.text[: min(found)], "stop"
        if row.job.sink is not None:
            self._send(row, row.job.sink)

    def _send(self, row: _Row, sink: Sink) -> None:
        """What is sure of the text: not half a character, nor what may begin a stop."""
        text = row.text
        if row.finish is None:
            text = text.rstrip(REPLACEMENT)
            text = text[: len(text) - max((_begun(text, stop) for stop in row.job.stops), default=0)]
        if len(text) > row.sent:
            sink(row.number, text[row.sent :])
            row.sent = len(text)


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text begin `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
