"""How the attention of an answer is spread over all images of its prompt, not on the target alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lookright.answering.answerer import Answerer, ScoredAnswer
from lookright.answering.scoring import row_columns, summed_masses
from lookright.attention import RowRecorder
from lookright.backbones.loading import bare_model
from lookright.packing.batch import Example, move, pack
from lookright.packing.encode import encode_answer, region_coverage
from lookright.packing.forward import decoder_rows
from lookright.records.pictures import Pictures
from lookright.types import Prompt, Region


@dataclass(slots=True, frozen=True, kw_only=True)
class Shares:
    """Of each source image its share of the attention on all of them, in [0, 1]; the target's is the attention ratio.

    `even` are the shares of an even look. Both sum to 1 where no image lies over another. Images are those of the
    prompt's regions; each picture is one where no region is known.
    """

    shares: list[float]
    even: list[float]


@torch.no_grad()
def attention_shares(answerer: Answerer, answers: Sequence[ScoredAnswer], pictures: Pictures) -> list[Shares]:
    """Shares of every answer, by one packed pass in the layer and rows of the attention ratio.

    `pictures` are those that the answers were given about. Raises RecordError for a picture that broke meanwhile.
    """
    backbone, model = answerer.backbone, bare_model(answerer.policy)
    examples = [encode_answer(backbone, one.prompt, one.answer.token_ids, pictures) for one in answers]
    asked = zip(answers, examples, strict=True)
    coverages = [_coverages(answerer, one.prompt, example, pictures) for one, example in asked]
    device = next(model.parameters()).device
    batch = move(pack(examples), device)
    recorder = RowRecorder([answerer.ratio_layer], row_columns(examples, coverages).to(device))
    decoder_rows(backbone, model, batch, backbone.encode_images(model, batch.pixels), recorder)
    (masses,) = recorder.stacked()
    summed = summed_masses(masses, batch, answerer.ratio_rows).cpu()
    return [
        Shares(shares=_of_last(summed[number, : one.shape[1]]), even=_of_last(one.sum(0)))
        for number, one in enumerate(coverages)
    ]


def _coverages(answerer: Answerer, prompt: Prompt, example: Example, pictures: Pictures) -> Tensor:
    """What each image, and last all of them together, cover of the prompt's tokens: float32[L, images + 1]."""
    sizes = [pictures.size(name) for name in prompt.images]
    regions = prompt.regions or [
        Region(picture=number, box=(0, 0, *size), source=name)
        for number, (name, size) in enumerate(zip(prompt.images, sizes, strict=True))
    ]
    parts = [*([region] for region in regions), regions]
    return torch.stack([region_coverage(answerer.backbone, example.prompt, part, sizes) for part in parts], dim=1)


def _of_last(values: Tensor) -> list[float]:
    """All but the last as shares of the last; an image that no token sees has none."""
    return (values[:-1] / values[-1].clamp(min=torch.finfo(values.dtype).tiny)).tolist()
