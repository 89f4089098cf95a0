"""Answering a batch of prompts: one prefill, then transformers' own generation on its cache."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from lookright.answering.prefill import Prefill, prefill
from lookright.backbones.base import CACHE, Backbone
from lookright.backbones.loading import bare_model
from lookright.common.hashing import stable_hash
from lookright.errors import ConfigError
from lookright.packing.question import DecoderInput
from lookright.types import Prompt


@dataclass(slots=True, kw_only=True)
class Answer:
    """What a model said: `token_ids` up to and with the end token, `confidence` of the first token in [0, 1].

    `confidence` is that of plain decoding. `factor` is what the image logits of the last prompt row were multiplied
    by (1: plain), and `scaled_ratios`, one a layer, the share of that row's image attention that fell on the target
    once they were; None where nothing was scaled or the target is not known.
    """

    text: str
    token_ids: list[int]
    confidence: float
    factor: float = 1.0
    scaled_ratios: list[float] | None = None


@dataclass(slots=True, kw_only=True)
class Sampling:
    """Drawing tokens at `temperature` among the most likely that together hold `top_p`; `seed` makes it repeatable."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"decode.sampling: temperature={self.temperature}, top_p={self.top_p}; set both above 0, "
                "top_p at most 1"
            )


class Decoder:
    """Greedy decoding; beams where `num_beams` is above 1; drawn tokens where `sampling` is given.

    At most `max_new_tokens` tokens an answer.
    """

    def __init__(self, max_new_tokens: int = 512, num_beams: int = 1, sampling: Sampling | None = None) -> None:
        if max_new_tokens < 1 or num_beams < 1:
            raise ConfigError(f"decode.max_new_tokens={max_new_tokens}, decode.num_beams={num_beams}: set 1 or more")
        self.max_new_tokens = max_new_tokens
        self.num_beams = num_beams
        self.sampling = sampling

    def check(self, backbone: Backbone, prompts: Iterable[Prompt] = ()) -> None:
        """Raise ConfigError for what does not fit the model or the `prompts`, before any weights load."""
        del backbone, prompts

    def check_num_answers(self, num_answers: int) -> None:
        """Raise ConfigError for a number of answers to each prompt that would all be the same."""
        if num_answers < 1:
            raise ConfigError(f"num_answers={num_answers}; set 1 or more")
        if num_answers > 1 and self.sampling is None:
            raise ConfigError(
                f"num_answers={num_answers}, but without decode.sampling all answers to a prompt are the same; "
                "set decode=sample, or num_answers=1"
            )

    def answer(
        self,
        backbone: Backbone,
        policy: nn.Module,
        inputs: Sequence[DecoderInput],
        stopping: Sequence[StoppingCriteria] = (),
    ) -> list[Answer]:
        """Answer every prompt of a batch; `policy` may carry adapters and is left in evaluation mode.

        `stopping` are asked after each token whether a row of the batch ends there.
        """
        model = bare_model(policy.eval())
        return self.answer_from(backbone, model, prefill(backbone, model, inputs), stopping=stopping)

    @torch.no_grad()
    def several(
        self,
        backbone: Backbone,
        policy: nn.Module,
        item: DecoderInput,
        num_answers: int,
        key: str,
        stopping: Sequence[StoppingCriteria] = (),
    ) -> list[Answer]:
        """`num_answers` drawn answers to one prompt, which depend on the sampling's seed, the number and `key`.

        The prompt runs once and alone, so that its answers do not depend on others that are asked beside it.
        """
        assert self.sampling is not None, "without sampling all answers are the same"
        model = bare_model(policy.eval())
        state = prefill(backbone, model, [item]).repeated(num_answers)
        return self.answer_from(backbone, model, state, key.encode(), stopping)

    @torch.no_grad()
    def answer_from(
        self,
        backbone: Backbone,
        model: PreTrainedModel,
        state: Prefill,
        key: bytes | None = None,
        stopping: Sequence[StoppingCriteria] = (),
    ) -> list[Answer]:
        """Answer the prompts of a pass through the bare `model`.

        Where tokens are drawn, `key` decides with the seed which; the prompts' tokens where it is None.
        Other decoders may answer from the same pass afterwards, unless this one has beams, which reorder its cache.
        """
        key = state.input_ids.cpu().numpy().tobytes() if key is None else key
        # generation runs the last prompt token again, so that it can be looked at differently; what an answer before
        # this one left behind the prompt goes too
        state.cache.crop(state.input_ids.shape[1] - 1 - state.cache.get_seq_length())
        if self.num_beams > 1:
            state.cache.batch_repeat_interleave(self.num_beams)
        with self._drawing(key), self.generation_context(backbone, state) as scaling:
            options = self.generate_options(backbone, state)
            if stopping:
                options["stopping_criteria"] = StoppingCriteriaList([*options.get("stopping_criteria", ()), *stopping])
            rows = model.generate(
                input_ids=state.input_ids,
                attention_mask=state.attention_mask,
                generation_config=self._generation_config(backbone),
                **{CACHE: state.cache},
                **options,
            )
        answers = [_cut(row, backbone) for row in rows[:, state.input_ids.shape[1] :].tolist()]
        return [
            Answer(text=backbone.decode(ids), token_ids=ids, confidence=float(confidence), **details)
            for ids, confidence, details in zip(
                answers, state.confidence, self.answer_fields(state, scaling), strict=True
            )
        ]

    def generation_context(self, backbone: Backbone, state: Prefill) -> AbstractContextManager[Any]:
        """Return the context in which the answer is generated; plain decoding changes nothing."""
        del backbone, state
        return nullcontext()

    def generate_options(self, backbone: Backbone, state: Prefill) -> dict[str, Any]:
        """Return further arguments of transformers' `generate`, such as `logits_processor` or `stopping_criteria`."""
        del backbone, state
        return {}

    def answer_fields(self, state: Prefill, scaling: Any) -> list[dict[str, Any]]:
        """Return further fields of each answer, from what the context gave."""
        del scaling
        return [{} for _ in range(len(state.input_ids))]

    @contextmanager
    def _drawing(self, key: bytes) -> Iterator[None]:
        """One key always draws the same, whatever came before; the caller's generator is left alone."""
        if self.sampling is None:
            yield
            return
        with torch.random.fork_rng():
            torch.manual_seed(stable_hash(f"{self.sampling.seed}/".encode() + key, 7))
            yield

    def _generation_config(self, backbone: Backbone) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_beams,
            eos_token_id=backbone.end_token_ids,
            pad_token_id=backbone.pad_token_id,
            **self._choice(),
        )

    def _choice(self) -> dict[str, Any]:
        """How a token is chosen, in transformers' terms."""
        if self.sampling is None:
            return {"do_sample": False}
        return {
            "do_sample": True,
            "temperature": float(self.sampling.temperature),
            "top_p": float(self.sampling.top_p),
            "top_k": 0,
        }


def _cut(ids: list[int], backbone: Backbone) -> list[int]:
    """Token ids up to and with the first end token."""
    stop = next((place + 1 for place, token in enumerate(ids) if token in backbone.end_token_ids), len(ids))
    return ids[:stop]
