"""Batches for pretraining: first pictures with a class for every token, then prompts with several questions."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lookright.backbones.base import Backbone, TokenMap
from lookright.errors import ConfigError
from lookright.formats.base import Composer
from lookright.packed.batch import Example, PackedBatch, Response, pack
from lookright.pretraining.prompts import AskedPrompt, PictureLabels, PromptMaker
from lookright.sources.base import Source
from lookright.types import Region

MIN_COVERAGE = 0.3
"""Share of a token that a region covers, from which on the token is to know the region's class."""


@dataclass(slots=True, kw_only=True)
class VisionBatch:
    """`pixels`: one float32[3, H, W] a picture; `labels`: int64[N, num_groups] for all their tokens, -100 unknown."""

    pixels: list[Tensor]
    labels: Tensor


class PretrainDataset(Dataset):
    """Item number n depends on the seed and n alone: vision items first, then prompts."""

    def __init__(
        self, backbone: Backbone, makers: Sequence[PromptMaker], labels: PictureLabels | None, length: int, seed: str
    ) -> None:
        self.backbone, self.makers, self.labels = backbone, makers, labels
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Example | tuple[list[Tensor], Tensor]:
        rng = random.Random(f"{self.seed}/{number}")
        maker = rng.choice(self.makers)
        prompt = maker.make(rng)
        if self.labels is not None:
            return self._pictures(maker, prompt)
        return self._example(prompt, number)

    def _pictures(self, maker: PromptMaker, prompt: AskedPrompt) -> tuple[list[Tensor], Tensor]:
        count = len(prompt.pictures)
        labels = []
        for number, picture in enumerate(prompt.pictures):
            inner = [region for region in prompt.regions if region.picture == number]
            token_map = self.backbone.token_map(picture.size, count)
            labels.append(self._token_labels(maker, token_map, _innermost(inner)))
        pixels = [self.backbone.preprocess(picture, count) for picture in prompt.pictures]
        return pixels, torch.cat(labels)

    def _token_labels(self, maker: PromptMaker, token_map: TokenMap, regions: Sequence[Region]) -> Tensor:
        coverage = torch.stack([token_map.coverage(region.box) for region in regions])
        rows = [maker.by_picture[maker.row_of(region).picture] for region in regions]
        classes = torch.stack([self.labels.of(row) for row in rows])
        best, owner = coverage.max(0)
        return classes[owner].masked_fill((best < MIN_COVERAGE)[:, None], -100)

    def _example(self, prompt: AskedPrompt, number: int) -> Example:
        backbone, count = self.backbone, len(prompt.pictures)
        responses = []
        for text, answer, _ in prompt.questions:
            question = backbone.encode_continuation(text)
            token_ids = torch.cat([question, backbone.encode_response(answer)])
            responses.append(Response(token_ids=token_ids, num_unscored=len(question)))
        return Example(
            id=str(number),
            prompt=backbone.encode_prefix(prompt.prefix, [picture.size for picture in prompt.pictures]),
            pixels=[backbone.preprocess(picture, count) for picture in prompt.pictures],
            responses=responses,
            label=prompt.format,
        )


class PretrainData(LightningDataModule):
    """`vision_steps` batches of `vision_batch` prompts' pictures, then `language_steps` of `batch_size` prompts.

    `weights` and `vision_weights` are those of the formats; `label_groups` are lists of answers that exclude
    each other; `num_questions` are asked behind each prefix at most; `val_prompts` of every format come from
    the test split, one question each.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        composers: Mapping[str, Composer],
        weights: Mapping[str, float],
        vision_weights: Mapping[str, float],
        label_groups: Sequence[Sequence[str]],
        vision_steps: int,
        language_steps: int,
        vision_batch: int = 64,
        batch_size: int = 24,
        num_questions: int = 6,
        val_prompts: int = 100,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(vision_batch, batch_size, num_questions, language_steps) < 1 or vision_steps < 0:
            raise ConfigError("data: batch sizes, num_questions and language_steps must be 1 or more, vision_steps 0 or more")
        self.sources, self.composers = list(sources), dict(composers)
        self.weights, self.vision_weights = dict(weights), dict(vision_weights)
        self.labels = PictureLabels(label_groups)
        self.vision_steps, self.language_steps = vision_steps, language_steps
        self.vision_batch, self.batch_size = vision_batch, batch_size
        self.num_questions, self.val_prompts = num_questions, val_prompts
        self.num_workers, self.seed = num_workers, seed
        self.dropped: Counter[str] = Counter()

    def prepare(self, backbone: Backbone) -> None:
        """Index the sources."""
        composers = list(self.composers.values())

        def makers(split: str, weights: Mapping[str, float], num_questions: int) -> list[PromptMaker]:
            return [
                PromptMaker(source, split, composers, weights, num_questions, varied=split == "train")
                for source in self.sources
            ]

        vision = PretrainDataset(
            backbone, makers("train", self.vision_weights, 1), self.labels, self.vision_steps * self.vision_batch, f"vision/{self.seed}"
        )
        language = PretrainDataset(
            backbone, makers("train", self.weights, self.num_questions), None, self.language_steps * self.batch_size, f"language/{self.seed}"
        )
        self.train_set = _Joined(vision, language)
        even = dict.fromkeys(self.composers, 1.0)
        self.val_set = PretrainDataset(
            backbone, makers("test", even, 1), None, self.val_prompts * len(self.composers), "val"
        )

    def train_dataloader(self) -> DataLoader:
        """In order: vision batches, then language batches; a single epoch."""
        vision = [
            list(range(start, start + self.vision_batch))
            for start in range(0, self.vision_steps * self.vision_batch, self.vision_batch)
        ]
        first = self.vision_steps * self.vision_batch
        language = [
            list(range(first + step * self.batch_size, first + (step + 1) * self.batch_size))
            for step in range(self.language_steps)
        ]
        return DataLoader(
            self.train_set, batch_sampler=vision + language, collate_fn=collate, num_workers=self.num_workers
        )

    def val_dataloader(self) -> DataLoader:
        """Test-split prompts of all formats."""
        return DataLoader(self.val_set, batch_size=16, collate_fn=collate)


class _Joined(Dataset):
    """Vision items, then language items."""

    def __init__(self, vision: PretrainDataset, language: PretrainDataset) -> None:
        self.vision, self.language = vision, language

    def __len__(self) -> int:
        return len(self.vision) + len(self.language)

    def __getitem__(self, number: int) -> Example | tuple[list[Tensor], Tensor]:
        past = number - len(self.vision)
        return self.vision[number] if past < 0 else self.language[past]


def collate(items: Sequence[Example | tuple[list[Tensor], Tensor]]) -> PackedBatch | VisionBatch:
    """A batch of either kind."""
    if isinstance(items[0], Example):
        return pack(items)
    return VisionBatch(
        pixels=[picture for pictures, _ in items for picture in pictures],
        labels=torch.cat([labels for _, labels in items]),
    )


def _innermost(regions: Sequence[Region]) -> list[Region]:
    """Regions that hold no other: a background seen around an inset is not asked about."""

    def holds(outer: Region, inner: Region) -> bool:
        (a, b, c, d), (e, f, g, h) = outer.box, inner.box
        return outer is not inner and a <= e and b <= f and c >= g and d >= h

    return [region for region in regions if not any(holds(region, other) for other in regions)]
