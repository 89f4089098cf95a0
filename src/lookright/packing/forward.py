"""One forward pass over a packed row: log-probabilities and, where wanted, the attention ratio."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from lookright.attention import PackedCall, PackedLayout, RowRecorder, attention_ratio
from lookright.backbones.base import Backbone
from lookright.errors import BackboneError
from lookright.packing.batch import PackedBatch
from lookright.packing.logprobs import sum_by_response, token_logps


@dataclass(slots=True, frozen=True, kw_only=True)
class RatioRead:
    """One attention ratio to read: over decoder `layers` (0-based) and `rows`, one of `logprobs.RATIO_ROWS`."""

    layers: tuple[int, ...]
    rows: str = "response"


@dataclass(slots=True, kw_only=True)
class PackedOutput:
    """What a pass returns.

    `logps`: float32[R], nats, summed over the scored tokens of each of R responses; `num_tokens`: int64[R];
    `response_ratios`: float32[R], the attention ratio of each, and `attention_ratios`: float32[P], that of each
    prompt's first response, one for each read that was asked for; NaN for a prompt without a target.
    """

    logps: Tensor
    num_tokens: Tensor
    response_ratios: tuple[Tensor, ...] = ()
    attention_ratios: tuple[Tensor, ...] = ()

    @property
    def attention_ratio(self) -> Tensor | None:
        """The first responses' ratios of the first read: float32[P]; None where none was asked for."""
        return self.attention_ratios[0] if self.attention_ratios else None


def packed_forward(
    backbone: Backbone,
    model: PreTrainedModel,
    batch: PackedBatch,
    features: Sequence[Tensor],
    ratio_layers: Sequence[int] = (),
    ratio_rows: str = "response",
) -> PackedOutput:
    """Score every response of the batch, with one attention ratio where `ratio_layers` names any layers.

    See `score_responses`, and `RatioRead` for the layers and rows.
    """
    reads = [RatioRead(layers=tuple(ratio_layers), rows=ratio_rows)] if ratio_layers else []
    return score_responses(backbone, model, batch, features, reads)


def score_responses(
    backbone: Backbone,
    model: PreTrainedModel,
    batch: PackedBatch,
    features: Sequence[Tensor],
    reads: Sequence[RatioRead],
) -> PackedOutput:
    """Score every response of the batch; the layers of all `reads` are recorded once, each ratio is of its own.

    `model` is the bare model (adapters injected in place); `features` are the projected pictures, encoded
    once for as many passes as need them.
    """
    layers = sorted({layer for read in reads for layer in read.layers})
    recorder = RowRecorder(layers, batch.coverage) if layers else None
    rows = decoder_rows(backbone, model, batch, features, recorder)
    logits = model.get_output_embeddings()(rows[batch.scored.rows])
    ratios: list[Tensor] = []
    if recorder is not None:
        masses = recorder.stacked()
        for read in reads:
            own = masses[[layers.index(layer) for layer in sorted(read.layers)]]
            ratios.append(_response_ratios(own, batch, read.rows))
    return PackedOutput(
        logps=sum_by_response(token_logps(logits, batch.scored.targets), batch.scored),
        num_tokens=batch.scored.counts(),
        response_ratios=tuple(ratios),
        attention_ratios=tuple(ratio[batch.first_response] for ratio in ratios),
    )


def decoder_rows(
    backbone: Backbone,
    model: PreTrainedModel,
    batch: PackedBatch,
    features: Sequence[Tensor],
    recorder: RowRecorder | None = None,
) -> Tensor:
    """Last hidden states of the suffix rows of all prompts: float[sum S, D].

    A stack may return its whole row, as every stock decoder does, or the suffix rows alone, where its last layer
    is trimmed to them. Raises BackboneError where it returns neither, or where attention was not ours.
    """
    embeds = backbone.merge_images(model, batch.input_ids, batch.image_mask, features)
    if recorder is not None:
        recorder.expect(batch.layout)
    call = PackedCall(layout=batch.layout, recorder=recorder)
    output = backbone.language_model(model)(
        inputs_embeds=embeds,
        position_ids=batch.position_ids,
        # transformers takes a mask of four dimensions as ready made; the packed call holds the real one
        attention_mask=embeds.new_zeros(1, 1, 1, 1),
        use_cache=False,
        packed=call,
        **backbone.decoder_kwargs(batch.image_mask),
    )
    _check_reached(backbone, call)
    return _suffix_rows(backbone, output.last_hidden_state, batch.layout)


def _suffix_rows(backbone: Backbone, states: Tensor, layout: PackedLayout) -> Tensor:
    """float[1, T, D], or float[1, sum S, D] from a trimmed last layer -> float[sum S, D]."""
    num_rows = states.shape[1]
    # where all prompts are a single token the two counts are one, and so are the rows
    if num_rows == len(layout.suffix_index):
        return states[0]
    if num_rows == layout.num_tokens:
        return states[0, layout.suffix_index]
    raise BackboneError(
        f"{type(backbone).__name__}: the decoder returned {num_rows} rows for a packed row of {layout.num_tokens} "
        f"tokens, {len(layout.suffix_index)} of them in suffixes; it returns all rows, or those of "
        "packed.layout.suffix_index alone"
    )


def _check_reached(backbone: Backbone, call: PackedCall) -> None:
    """Attention that did not see the packed call mixed prompts and responses; what it recorded is nothing."""
    missing = sorted(set(range(backbone.num_layers)) - call.layers)
    if missing:
        raise BackboneError(
            f"{type(backbone).__name__}: the packed pass did not reach the attention of layers {missing} of "
            f"{backbone.num_layers}; the decoder hands the keyword argument `packed` through to its attention "
            "function, which use_lookright_attention(decoder) sets, and num_layers is its depth"
        )


def _response_ratios(masses: Tensor, batch: PackedBatch, ratio_rows: str) -> Tensor:
    """The ratio over rows of each response: float[num_layers, sum S, 2] -> float32[R]."""
    scored = batch.scored
    wanted = scored.rows_of(ratio_rows)
    rows, owner = scored.rows[wanted], scored.owner[wanted]
    ratios = attention_ratio(masses, rows, owner, scored.num_responses)
    return ratios.masked_fill(~batch.has_target[batch.prompt_of_response()], float("nan"))
