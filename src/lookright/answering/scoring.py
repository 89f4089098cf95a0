"""Answers scored as `Answerer` scores them, with the share of the attention that each picture got."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from lookright.answering.answerer import number_or_none, perplexity
from lookright.attention import RowRecorder, attention_ratio
from lookright.backbones.base import Backbone
from lookright.packing.batch import Example, PackedBatch, Response, move, pack
from lookright.packing.encode import region_coverage
from lookright.packing.forward import decoder_rows
from lookright.packing.logprobs import sum_by_response, token_logps
from lookright.packing.question import DecoderInput
from lookright.types import Region, Size


@dataclass(slots=True, frozen=True, kw_only=True)
class Scored:
    """What one packed pass tells of an answer.

    `attention`: share of the attention on pictures that each of them got, None without pictures; `attention_ratio`,
    `even_ratio` and `perplexity` as `ScoredAnswer` has them.
    """

    attention: list[float] | None
    attention_ratio: float | None
    even_ratio: float | None
    perplexity: float


def picture_coverage(backbone: Backbone, question: DecoderInput, sizes: Sequence[Size]) -> Tensor:
    """What each of N pictures covers of a prompt's tokens, padding left out: float32[L, N]."""
    columns = [
        region_coverage(backbone, question.prompt, [Region(picture=n, box=(0, 0, *size), source=str(n))], sizes)
        for n, size in enumerate(sizes)
    ]
    return torch.stack(columns, 1) if columns else torch.zeros(len(question.prompt.input_ids), 0)


@torch.no_grad()
def score_answers(
    backbone: Backbone,
    model: PreTrainedModel,
    asked: Sequence[tuple[DecoderInput, Tensor]],
    answers: Sequence[Sequence[Sequence[int]]],
    ratio_layer: int,
    ratio_rows: str,
) -> list[list[Scored]]:
    """Score the answers to each prompt, given as token ids, in one pass through the bare `model`.

    `asked`: each prompt with its `picture_coverage`. Attention is read in decoder layer `ratio_layer`, in the rows
    that `ratio_rows` names (`logprobs.RATIO_ROWS`).
    """
    examples = [
        Example(
            id=str(number),
            prompt=question.prompt,
            pixels=question.pixels,
            responses=[Response(token_ids=torch.tensor(ids)) for ids in own],
            coverage=question.coverage,
        )
        for number, ((question, _), own) in enumerate(zip(asked, answers, strict=True))
    ]
    batch = pack(examples)
    batch = replace(batch, coverage=torch.cat([batch.coverage, row_columns(examples, [one for _, one in asked])], 1))
    batch = move(batch, next(model.parameters()).device)
    recorder = RowRecorder([ratio_layer], batch.coverage)
    rows = decoder_rows(backbone, model, batch, backbone.encode_images(model, batch.pixels), recorder)
    logits = model.get_output_embeddings()(rows[batch.scored.rows])
    logps = sum_by_response(token_logps(logits, batch.scored.targets), batch.scored)
    ratios, attention = _looks(recorder.stacked(), batch, ratio_rows)
    scored: list[list[Scored]] = [[] for _ in asked]
    for number, prompt in enumerate(batch.prompt_of_response().tolist()):
        num_pictures = len(asked[prompt][0].pixels)
        scored[prompt].append(
            Scored(
                attention=attention[number, :num_pictures].tolist() if num_pictures else None,
                attention_ratio=number_or_none(ratios[number]),
                even_ratio=number_or_none(batch.even_ratio[prompt]),
                perplexity=perplexity(float(logps[number]), int(batch.scored.counts()[number])),
            )
        )
    return scored


def _looks(masses: Tensor, batch: PackedBatch, ratio_rows: str) -> tuple[Tensor, Tensor]:
    """Attention ratios float32[R], and shares of the pictures float32[R, N]; `masses`: float[1, sum S, 2 + N]."""
    scored = batch.scored
    wanted = scored.rows_of(ratio_rows)
    ratios = attention_ratio(masses[..., :2], scored.rows[wanted], scored.owner[wanted], scored.num_responses)
    ratios = ratios.masked_fill(~batch.has_target[batch.prompt_of_response()], float("nan"))
    summed = summed_masses(masses[0, :, 2:], batch, ratio_rows)
    return ratios, summed / summed.sum(1, keepdim=True)


def row_columns(examples: Sequence[Example], columns: Sequence[Tensor]) -> Tensor:
    """Columns of prompts, each float32[L, N], for the row that `pack` makes of the examples: float32[T, N].

    N is that of the prompt with the most; what a prompt has not, and answers, are 0.
    """
    most = max(column.shape[1] for column in columns)
    padded = [
        F.pad(column, (0, most - column.shape[1], 0, example.num_tokens - len(column)))
        for example, column in zip(examples, columns, strict=True)
    ]
    return torch.cat(padded)


def summed_masses(masses: Tensor, batch: PackedBatch, ratio_rows: str) -> Tensor:
    """Attention of each response, summed over the rows that `ratio_rows` names: float[sum S, N] to float32[R, N].

    Of shares the number of rows cancels.
    """
    wanted = batch.scored.rows_of(ratio_rows)
    picked = masses[batch.scored.rows[wanted]].float()
    summed = picked.new_zeros(batch.scored.num_responses, picked.shape[1])
    return summed.index_add(0, batch.scored.owner[wanted], picked)
