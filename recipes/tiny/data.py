"""Batches for pretraining: pictures with a class for every token, or prompts with several questions."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler

from lookright.backbones.base import Backbone, TokenMap
from lookright.backbones.prompts import shared_prompt
from lookright.composing.formats.base import Composer
from lookright.composing.sources.base import Source, Split
from lookright.packing.batch import Example, PackedBatch, Response, pack
from lookright.packing.encode import region_coverage
from lookright.training.checkpoints import batches_done
from lookright.training.loader import ResumableLoader
from lookright.types import Region
from recipes.tiny.phases import Phase
from recipes.tiny.prompts import AskedPrompt, PictureLabels, PromptMaker

MIN_COVERAGE = 0.3
"""Share of a token that a region covers, from which on the token is to know the region's class."""


@dataclass(slots=True, kw_only=True)
class VisionBatch:
    """`pixels`: one float32[3, H, W] a picture; `labels`: int64[N, num_groups] for all their tokens, -100 unknown."""

    pixels: list[Tensor]
    labels: Tensor


@dataclass(slots=True, kw_only=True)
class AskedExample:
    """A prompt and its questions; `coverage`: float32[C + 1, L] of its C regions and of all together; `targets`: each
    question's region."""

    example: Example
    coverage: Tensor
    targets: list[int]


@dataclass(slots=True, kw_only=True)
class AskedBatch:
    """Prompts with their questions in one packed row.

    `regions`: float32[T, C + 1], what each of a prompt's (at most C) regions covers, then what all together do;
    `targets`: int64[R], the region that each question is about.
    """

    packed: PackedBatch
    regions: Tensor
    targets: Tensor


class PhaseDataset(Dataset):
    """Item number n of a phase depends on the seed and n alone."""

    def __init__(
        self, backbone: Backbone, makers: Sequence[PromptMaker], labels: PictureLabels | None, length: int, seed: str
    ) -> None:
        self.backbone, self.makers, self.labels = backbone, makers, labels
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> AskedExample | tuple[list[Tensor], Tensor]:
        rng = random.Random(f"{self.seed}/{number}")
        maker = rng.choice(self.makers)
        prompt = maker.make(rng)
        return self._example(prompt, number) if self.labels is None else self._pictures(maker, prompt)

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

    def _example(self, prompt: AskedPrompt, number: int) -> AskedExample:
        backbone, count = self.backbone, len(prompt.pictures)
        sizes = [picture.size for picture in prompt.pictures]
        # each question and its answer are a conversation of their own; what all of them begin with is shared
        asked = [
            backbone.encode_conversation(prompt.prefix + text, [answer], sizes) for text, answer, _ in prompt.questions
        ]
        shared = shared_prompt([question for question, _ in asked])
        responses = []
        for question, (response,) in asked:
            rest = question.input_ids[len(shared.input_ids) :]
            responses.append(Response(token_ids=torch.cat([rest, response]), num_unscored=len(rest)))
        example = Example(
            id=str(number),
            prompt=shared,
            pixels=[backbone.preprocess(picture, count) for picture in prompt.pictures],
            responses=responses,
            label=prompt.format,
        )
        looks = [*([region] for region in prompt.regions), prompt.regions]
        coverage = [region_coverage(backbone, example.prompt, regions, sizes) for regions in looks]
        return AskedExample(
            example=example, coverage=torch.stack(coverage), targets=[place for _, _, place in prompt.questions]
        )


class PretrainData(LightningDataModule):
    """Phases one after the other, on prompts composed on the fly from the training splits.

    `label_groups` are lists of answers that exclude each other; `val_prompts` of every format come from the
    test splits, one question each.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        composers: Mapping[str, Composer],
        phases: Sequence[Phase],
        label_groups: Sequence[Sequence[str]],
        val_prompts: int = 100,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sources, self.composers = list(sources), dict(composers)
        self.phases = list(phases)
        self.labels = PictureLabels(label_groups)
        self.val_prompts, self.num_workers, self.seed = val_prompts, num_workers, seed
        self.dropped: Counter[str] = Counter()

    def prepare(self, backbone: Backbone) -> None:
        """Index the sources and number the batches."""
        parts = [
            PhaseDataset(
                backbone,
                self._makers("train", phase),
                self.labels if phase.kind == "vision" else None,
                phase.num_items,
                f"phase{number}/{self.seed}",
            )
            for number, phase in enumerate(self.phases)
        ]
        self.train_set = ConcatDataset(parts)
        batches, first = [], 0
        for phase in self.phases:
            starts = range(first, first + phase.num_items, phase.batch_size)
            batches += [list(range(start, start + phase.batch_size)) for start in starts]
            first += phase.num_items
        self._batches = PhaseBatches(batches)
        asked = Phase(
            kind="language", steps=1, batch_size=1, weights=dict.fromkeys(self.composers, 1.0), num_questions=1
        )
        self.val_set = PhaseDataset(
            backbone, self._makers("test", asked), None, self.val_prompts * len(self.composers), "val"
        )

    def train_dataloader(self) -> DataLoader:
        """Batches in the order of the phases; a single epoch."""
        return ResumableLoader(
            self.train_set, batch_sampler=self._batches, collate_fn=collate, num_workers=self.num_workers
        )

    def state_dict(self) -> dict[str, int]:
        """How many batches are done."""
        return {"num_done": batches_done(self.trainer)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on after the last batch that was trained on."""
        self._batches.num_done = state_dict["num_done"]

    def val_dataloader(self) -> DataLoader:
        """Test-split prompts of all formats."""
        return DataLoader(self.val_set, batch_size=16, collate_fn=collate)

    def _makers(self, split: Split, phase: Phase) -> list[PromptMaker]:
        composers = list(self.composers.values())
        return [PromptMaker(source, split, composers, phase, varied=split == "train") for source in self.sources]


class PhaseBatches(Sampler[list[int]]):
    """The batches of all phases; the first `num_done` are left out once, where a run goes on."""

    def __init__(self, batches: Sequence[list[int]]) -> None:
        self.batches, self.num_done = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        skip, self.num_done = self.num_done, 0
        yield from self.batches[skip:]


def collate(items: Sequence[AskedExample | tuple[list[Tensor], Tensor]]) -> AskedBatch | VisionBatch:
    """A batch of either kind."""
    if not isinstance(items[0], AskedExample):
        return VisionBatch(
            pixels=[picture for pictures, _ in items for picture in pictures],
            labels=torch.cat([labels for _, labels in items]),
        )
    packed = pack([item.example for item in items])
    most = max(len(item.coverage) for item in items) - 1
    rows = []
    for item in items:
        behind = item.example.num_tokens - item.coverage.shape[1]
        own, together = item.coverage[:-1], item.coverage[-1:]
        padded = torch.cat([own, own.new_zeros(most - len(own), own.shape[1]), together])
        rows.append(F.pad(padded.T, (0, 0, 0, behind)))
    return AskedBatch(
        packed=packed,
        regions=torch.cat(rows),
        targets=torch.tensor([target for item in items for target in item.targets]),
    )


def _innermost(regions: Sequence[Region]) -> list[Region]:
    """Regions that hold no other: a background seen around an inset is not asked about."""

    def holds(outer: Region, inner: Region) -> bool:
        (a, b, c, d), (e, f, g, h) = outer.box, inner.box
        return outer is not inner and a <= e and b <= f and c >= g and d >= h

    return [region for region in regions if not any(holds(region, other) for other in regions)]
