"""One thread that answers what waits, in batches of what may be answered together."""

import copy
import math
import secrets
import sys
import threading
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from PIL import Image
from torch import nn

from lookright.answering.adaptive import AdaptiveDecoder
from lookright.answering.decoder import Answer, Decoder, Sampling
from lookright.answering.look import Look, layer_bands, look
from lookright.answering.scoring import picture_coverage, score_answers
from lookright.backbones.base import Backbone
from lookright.backbones.loading import bare_model
from lookright.composing.asked import asked_prompt
from lookright.errors import LookRightError, RecordError
from lookright.packing.encode import encode_question, history_of, row_length
from lookright.packing.logprobs import RATIO_ROWS
from lookright.records.held_pictures import HeldPictures
from lookright.serve.jobs import Decoding, Job, LookJob, Question, Spoken, Watch
from lookright.serve.models import Models
from lookright.serve.refusals import Refusal, broken, busy, stopping, too_late
from lookright.types import Prompt

TOKEN_CHARACTERS = 256
"""Longer than any token: what no context can hold is refused before it is read, a second for each million."""


@dataclass(slots=True, kw_only=True)
class Engine:
    """Answers jobs of `models` with `decoder`, or as each job has it, `batch_size` answers at a time.

    The oldest job that waits is answered next, together with those behind it that fit; a job with several answers, or
    with a seed, is a batch of its own. The attention ratio is read as `Answerer` reads it.
    """

    models: Models
    decoder: Decoder
    ratio_layer: int
    ratio_rows: str = RATIO_ROWS[0]
    batch_size: int = 16
    max_waiting: int = 256
    seconds: float = 120.0

    _run: "_Run" = field(default_factory=lambda: _Run(), init=False)

    # ---- from the threads of the requests ----

    @property
    def backbone(self) -> Backbone:
        """Of which family the models are."""
        return self.models.backbone

    @property
    def own_decode(self) -> str:
        """What `Decoding.decode` is for `decoder` itself."""
        if isinstance(self.decoder, AdaptiveDecoder):
            return "adaptive"
        return "greedy" if type(self.decoder) is Decoder else "own"

    @property
    def num_inside(self) -> int:
        """Requests that have a place."""
        return self._run.inside

    def enter(self) -> None:
        """Take a place; `leave` gives it back. Raises Refusal where there is none, or the server stops."""
        with self._run.changed:
            if self._run.stopping:
                raise stopping()
            if self._run.inside >= self.max_waiting:
                raise busy(self._run.inside)
            self._run.inside += 1

    def leave(self) -> None:
        """Give a place back."""
        with self._run.changed:
            self._run.inside -= 1

    def question(self, prompt: Prompt, pictures: HeldPictures) -> Question:
        """Tokens and pixels of a prompt. Raises RecordError for one that is too long."""
        said = [prompt.prompt, *(text for turn in history_of(prompt) for text in turn)]
        count, most = sum(map(len, said)), self.backbone.max_length
        if count > TOKEN_CHARACTERS * most:
            raise RecordError("too_long", f"the messages have {count} characters, which {most} tokens cannot hold")
        row_length(self.backbone, prompt, pictures)
        encoded = encode_question(self.backbone, prompt, pictures)
        sizes = [pictures.size(name) for name in prompt.images]
        coverage = picture_coverage(self.backbone, encoded, sizes)
        return Question(prompt=prompt, input=encoded, coverage=coverage, sizes=sizes)

    def submit(self, job: Job | LookJob) -> None:
        """Put a job behind those that wait; its future ends with the answers, or with a Refusal."""
        with self._run.changed:
            if self._run.stopping:
                raise stopping()
            self._run.waiting.append(job)
            self._run.changed.notify()

    def cancel(self, job: Job | LookJob) -> None:
        """Nobody waits for it any more: it leaves the queue, or stops where it is."""
        job.cancelled = True
        with self._run.changed:
            if job in self._run.waiting:
                self._run.waiting.remove(job)
                job.future.cancel()

    def check(self, prompts: Sequence[Prompt], decoding: Decoding) -> None:
        """Raise ConfigError where a decoder needs what a prompt does not have."""
        self._decoder(decoding, 1).check(self.backbone, prompts)

    # ---- the thread that answers ----

    def warm(self) -> None:
        """Answer a question with every model, so that weights are known to work, and no client waits for it."""
        pictures = HeldPictures([Image.new("RGB", (64, 64), "grey")])
        question = self.question(asked_prompt(pictures, "What is it?", 0), pictures)
        for name in self.models.names:
            decoding = Decoding(decode="greedy")
            job = Job(model=name, question=question, decoding=decoding, tokens=2, deadline=math.inf, heat=True)
            self._answer([job])
            job.future.result()

    def start(self) -> None:
        """Begin to answer."""
        self._run.thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._run.thread.start()

    def stop(self) -> None:
        """End what is being answered, refuse what waits, and wait for the thread."""
        with self._run.changed:
            self._run.stopping = True
            self._run.changed.notify()
        if self._run.thread is not None:
            self._run.thread.join()
        with self._run.changed:
            left = list(self._run.waiting)
            self._run.waiting.clear()
        for job in left:
            job.future.set_exception(stopping())

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            live = [job for job in batch if job.future.set_running_or_notify_cancel()]
            for job in [job for job in live if job.over]:
                live.remove(job)
                job.future.set_exception(too_late(self.seconds))
            if not live:
                continue
            try:
                self._answer(live)
            except LookRightError as error:
                _refuse(live, error if isinstance(error, Refusal) else Refusal(str(error)))
            except Exception:
                # one request that no check foresaw must not end the server
                traceback.print_exc(file=sys.stderr)
                _refuse(live, broken())

    def _next(self) -> list[Job | LookJob] | None:
        """The oldest job with what fits to it; None when the server stops."""
        with self._run.changed:
            while not self._run.waiting and not self._run.stopping:
                self._run.changed.wait()
            if self._run.stopping:
                return None
            first = self._run.waiting.popleft()
            batch = [first]
            if isinstance(first, Job):
                for job in list(self._run.waiting):
                    if len(batch) == self.batch_size:
                        break
                    if isinstance(job, Job) and first.fits(job):
                        self._run.waiting.remove(job)
                        batch.append(job)
            return batch

    def _answer(self, batch: Sequence[Job | LookJob]) -> None:
        with self.models.chosen(batch[0].model) as policy:
            if isinstance(batch[0], LookJob):
                batch[0].future.set_result(self._look(policy, batch[0]))
                return
            jobs = [job for job in batch if isinstance(job, Job)]
            watch = Watch(self.backbone, jobs)
            answers = iter(zip(self._answers(policy, jobs, watch), watch.rows, strict=True))
            own = [[next(answers) for _ in range(job.num_answers)] for job in jobs]
            spoken = {
                id(job): [
                    Spoken(
                        text=row.text,
                        token_ids=row.ids,
                        finish=row.finish or "length",
                        confidence=answer.confidence,
                        factor=answer.factor,
                        scored=None,
                        look=None,
                    )
                    for answer, row in pairs
                ]
                for job, pairs in zip(jobs, own, strict=True)
            }
            live = [job for job in jobs if not job.over]
            self._score(policy, [job for job in live if job.ratio], spoken)
            for job in live:
                if job.heat:
                    spoken[id(job)] = [replace(one, look=self._look_at(policy, job, one)) for one in spoken[id(job)]]
        for job in jobs:
            if job.over:
                job.future.set_exception(too_late(self.seconds))
            else:
                job.future.set_result(spoken[id(job)])

    def _answers(self, policy: nn.Module, jobs: Sequence[Job], watch: Watch) -> list[Answer]:
        """All answers, those of a job beside each other."""
        decoder = self._decoder(jobs[0].decoding, max(job.tokens for job in jobs))
        inputs = [job.question.input for job in jobs]
        if jobs[0].decoding.temperature is None and jobs[0].num_answers > 1:
            inputs = inputs * jobs[0].num_answers
        elif jobs[0].num_answers > 1 or jobs[0].decoding.alone:
            return decoder.several(self.backbone, policy, inputs[0], jobs[0].num_answers, "", [watch])
        return decoder.answer(self.backbone, policy, inputs, [watch])

    def _decoder(self, decoding: Decoding, tokens: int) -> Decoder:
        if decoding.decode == self.own_decode:
            decoder = copy.copy(self.decoder)
        else:
            decoder = AdaptiveDecoder() if decoding.decode == "adaptive" else Decoder()
        decoder.max_new_tokens = tokens
        decoder.sampling = None
        if decoding.temperature is not None:
            seed = secrets.randbits(62) if decoding.seed is None else decoding.seed
            decoder.sampling = Sampling(temperature=decoding.temperature, top_p=decoding.top_p, seed=seed)
        return decoder

    def _score(self, policy: nn.Module, jobs: Sequence[Job], spoken: dict[int, list[Spoken]]) -> None:
        """Put what one packed pass tells of them into the answers of `jobs`."""
        if not jobs:
            return
        scored = score_answers(
            self.backbone,
            bare_model(policy),
            [(job.question.input, job.question.coverage) for job in jobs],
            [[one.token_ids for one in spoken[id(job)]] for job in jobs],
            self.ratio_layer,
            self.ratio_rows,
        )
        for job, own in zip(jobs, scored, strict=True):
            spoken[id(job)] = [replace(one, scored=found) for one, found in zip(spoken[id(job)], own, strict=True)]

    def _look(self, policy: nn.Module, job: LookJob) -> tuple[list[int], Look]:
        """The tokens of a given answer, and where the model looks for them."""
        model, question, sizes = bare_model(policy), job.question.input, job.question.sizes
        if isinstance(job.answer, str):
            asked = job.question.prompt
            encode = self.backbone.encode_conversation
            prompt, (token_ids,) = encode(asked.prompt, [job.answer], sizes, history_of(asked))
            question, ids = replace(question, prompt=prompt), token_ids.tolist()
        else:
            ids, known = job.answer, len(model.get_input_embeddings().weight)
            if not all(0 <= token < known for token in ids):
                raise Refusal(f"token_ids are from 0 to {known - 1}", param="token_ids")
        if job.token is not None and job.token >= len(ids):
            raise Refusal(f"token={job.token}: the answer has {len(ids)} tokens (0-based)", param="token")
        bands = layer_bands(self.backbone.num_layers, self.ratio_layer)
        return ids, look(self.backbone, model, question, sizes, ids, bands, job.token)

    def _look_at(self, policy: nn.Module, job: Job, spoken: Spoken) -> Look:
        bands = layer_bands(self.backbone.num_layers, self.ratio_layer)
        question = job.question
        return look(self.backbone, bare_model(policy), question.input, question.sizes, spoken.token_ids, bands)


class _Run:
    """What changes while an engine runs; all of it under `changed`."""

    def __init__(self) -> None:
        self.waiting: deque[Job | LookJob] = deque()
        self.changed = threading.Condition()
        self.inside = 0
        self.stopping = False
        self.thread: threading.Thread | None = None


def _refuse(jobs: Sequence[Job | LookJob], refusal: Refusal) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(refusal)
