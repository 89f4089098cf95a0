"""Where a model looked while it gave an answer: attention of its rows over every picture."""

from collections.abc import Sequence

import torch

from lookright.answering.answerer import Answerer
from lookright.attention import RowRecorder
from lookright.backbones.base import Backbone
from lookright.backbones.loading import bare_model
from lookright.packing.batch import move, pack
from lookright.packing.encode import encode_answer
from lookright.packing.forward import decoder_rows
from lookright.records.pictures import Pictures
from lookright.types import Footprint, Prompt

PictureHeat = list[tuple[Footprint, float]]
"""What each token of a picture sees of it, and the attention that it gets; separators and padding are left out."""


@torch.no_grad()
def attention_heat(
    answerer: Answerer, prompt: Prompt, answer: str | Sequence[int], pictures: Pictures
) -> list[PictureHeat]:
    """For each picture, (footprint, attention) of its tokens: mean over heads and answer rows, at one layer.

    The tokens of an answer that was cut have no end; a text is read as one that has.
    """
    backbone, model = answerer.backbone, bare_model(answerer.policy)
    example = encode_answer(backbone, prompt, answer, pictures)
    batch = move(pack([example]), next(model.parameters()).device)
    recorder = RowRecorder([answerer.ratio_layer])
    decoder_rows(backbone, model, batch, backbone.encode_images(model, batch.pixels), recorder)
    (rows_SK,) = recorder.masses()[answerer.ratio_layer]
    attention_K = rows_SK[batch.scored.rows].mean(0).tolist()
    sizes = [pictures.size(name) for name in prompt.images]
    return [
        _picture_heat(backbone, size, len(sizes), attention_K[start:stop])
        for size, (start, stop) in zip(sizes, example.prompt.image_spans, strict=True)
    ]


def _picture_heat(backbone: Backbone, size: tuple[int, int], num_pictures: int, values: list[float]) -> PictureHeat:
    footprints = backbone.token_map(size, num_pictures).footprints()
    return [(seen, value) for seen, value in zip(footprints, values, strict=True) if seen is not None]
