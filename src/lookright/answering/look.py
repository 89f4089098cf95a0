"""Where a model looked for each token of an answer, by band of layers and head."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookright.attention import RowRecorder
from lookright.backbones.base import Backbone
from lookright.packing.batch import Example, Response, move, pack
from lookright.packing.forward import decoder_rows
from lookright.packing.question import DecoderInput
from lookright.types import Footprint, Size

NUM_BANDS = 4
MAX_VALUES = 2**23
"""Numbers that a look holds at most, 32 MiB; of a longer answer the first tokens are looked at."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Band:
    """Decoder layers `first` to `last`, 0-based and both in it, whose attention is averaged."""

    name: str
    first: int
    last: int


@dataclass(slots=True, frozen=True, kw_only=True)
class Look:
    """Attention on K tokens of pictures: `values` float32[bands, rows, K].

    The rows are the answer's first tokens, averaged over the `num_heads` of a layer, or the heads of one token.
    `footprints`: of each picture, what its tokens see; separators and padding are not among the K.
    """

    bands: list[Band]
    footprints: list[list[Footprint]]
    values: Tensor
    num_heads: int


def layer_bands(num_layers: int, ratio_layer: int) -> list[Band]:
    """The layer of the attention ratio, all layers, and parts of the depth."""
    count = min(NUM_BANDS, num_layers)
    edges = [number * num_layers // count for number in range(count + 1)]
    parts = [
        Band(name=f"layers {first + 1}-{stop}" if stop - first > 1 else f"layer {stop}", first=first, last=stop - 1)
        for first, stop in zip(edges, edges[1:], strict=False)
    ]
    measured = Band(name=f"layer {ratio_layer + 1}, measured", first=ratio_layer, last=ratio_layer)
    return [measured, Band(name="all layers", first=0, last=num_layers - 1), *parts]


@torch.no_grad()
def look(
    backbone: Backbone,
    model: PreTrainedModel,
    question: DecoderInput,
    sizes: Sequence[Size],
    token_ids: Sequence[int],
    bands: Sequence[Band],
    token: int | None = None,
) -> Look:
    """Attention of an answer's rows, in one packed pass through the bare `model`.

    `token` is the 0-based number of the one whose heads are told apart, None for all tokens. The row of a token is
    the one that predicts it.
    """
    answer = Response(token_ids=torch.tensor(token_ids))
    example = Example(id="look", prompt=question.prompt, pixels=question.pixels, responses=[answer])
    footprints, columns = _seen(backbone, question, sizes)
    device = next(model.parameters()).device
    batch = move(pack([example]), device)
    rows = batch.scored.rows
    most = max(1, MAX_VALUES // max(1, len(bands) * len(columns)))
    rows = rows[:most] if token is None else rows[token : token + 1]
    recorder = _BandRecorder(bands, rows, torch.tensor(columns, dtype=torch.long, device=device), token is not None)
    decoder_rows(backbone, model, batch, backbone.encode_images(model, batch.pixels), recorder)
    return Look(bands=list(bands), footprints=footprints, values=recorder.means(), num_heads=recorder.num_heads)


class _BandRecorder(RowRecorder):
    """Sums a few rows' attention on a few keys over the layers of each band, as the layers run."""

    def __init__(self, bands: Sequence[Band], rows: Tensor, columns: Tensor, by_head: bool) -> None:
        super().__init__(sorted({layer for band in bands for layer in range(band.first, band.last + 1)}))
        self._bands, self._rows, self._columns, self._by_head = bands, rows, columns, by_head
        self._sums: list[Tensor | None] = [None] * len(bands)
        self.num_heads = 0

    def record(self, layer: int, start: int, probabilities_HSK: Tensor) -> None:
        del start  # there is one group
        self.num_heads = len(probabilities_HSK)
        if self._by_head:
            picked = probabilities_HSK[:, self._rows[0]][:, self._columns]
        else:
            picked = probabilities_HSK.mean(0)[self._rows][:, self._columns]
        picked = picked.float().cpu()
        for number, band in enumerate(self._bands):
            if band.first <= layer <= band.last:
                held = self._sums[number]
                self._sums[number] = picked.clone() if held is None else held.add_(picked)

    def means(self) -> Tensor:
        """float32[bands, rows, K]."""
        sizes = [band.last - band.first + 1 for band in self._bands]
        return torch.stack([one / size for one, size in zip(self._sums, sizes, strict=True) if one is not None])


def _seen(backbone: Backbone, question: DecoderInput, sizes: Sequence[Size]) -> tuple[list[list[Footprint]], list[int]]:
    """What the tokens of each picture see, and their places in the prompt."""
    footprints: list[list[Footprint]] = []
    columns: list[int] = []
    for size, (start, _) in zip(sizes, question.prompt.image_spans, strict=True):
        found = list(enumerate(backbone.token_map(size, len(sizes)).footprints(), start))
        footprints.append([seen for _, seen in found if seen is not None])
        columns += [place for place, seen in found if seen is not None]
    return footprints, columns
