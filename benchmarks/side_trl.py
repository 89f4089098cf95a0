"""TRL's side: its DPOTrainer as it is, on the same pairs, adapters and optimiser.

Its fused head scores response tokens alone on a device with Triton, and every position on any other, for the sake of
compilers that want fixed shapes. With `--head gpu` it takes the first way here too, which is what a comparison on a
CPU has to be made with; with `--head cpu` nothing of TRL is touched.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from datasets import List as ListFeature
from torch.utils.data import SequentialSampler
from transformers import (
    AutoTokenizer,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer
from trl.trainer import utils as trl_utils

from benchmarks.shapes import fresh_stock_llava
from benchmarks.turns import Turns
from benchmarks.workload import BETA, LEARNING_RATE, SEED, VISION, Workload, plain_lora
from lookright.backbones.loading import DTYPES


class StepTurns(TrainerCallback):
    """Closes a turn after every optimiser step: fetching, forward, backward and optimiser lie inside."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.losses: list[float] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Everything is built."""
        self.turns.ready()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One batch is one optimiser step."""
        self.turns.finish(self.losses[-1])


class ToldLoss(DPOTrainer):
    """The trainer itself; each step's loss is kept for the callback, as Trainer hands it to none."""

    def __init__(self, *args: Any, losses: list[float], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.losses = losses

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SequentialSampler:
        """File order, as our side takes it here, so that both see the same pair at the same step."""
        return SequentialSampler(self.train_dataset)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's own."""
        loss = super().training_step(*args, **kwargs)
        self.losses.append(float(loss))
        return loss


@contextmanager
def responses_alone() -> Iterator[mock.Mock]:
    """Inside it the fused head projects the rows whose next token is scored, as on a device with Triton.

    The head asks `_use_triton` by the name that its own module has imported, and nothing else asks by that one: the
    products below it ask theirs and stay torch's. Yields what was asked. Raises RuntimeError where a TRL has no such
    question.
    """
    if not hasattr(trl_utils, "_use_triton"):
        raise RuntimeError(
            "the fused head of this TRL does not ask `trl.trainer.utils._use_triton`; see how it decides"
        )
    with mock.patch.object(trl_utils, "_use_triton", return_value=True) as asked:
        yield asked


def run(workload: Workload, options: argparse.Namespace, turns: Turns) -> None:
    """DPO by TRL until told to end."""
    asked_of_cpu = options.head == "gpu" and options.device == "cpu"
    with responses_alone() if asked_of_cpu else nullcontext():
        _train(workload, options, turns)


def _train(workload: Workload, options: argparse.Namespace, turns: Turns) -> None:
    callback = StepTurns(turns)
    backbone = workload.backbone()
    if options.fresh:
        model = fresh_stock_llava(backbone, torch.device(options.device), DTYPES[options.dtype])
    else:
        model = LlavaForConditionalGeneration.from_pretrained(workload.model, dtype=DTYPES[options.dtype])
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        trainer = ToldLoss(
            model=model,
            args=_arguments(folder, options),
            train_dataset=_dataset(workload.pairs(options.images, options.rejected)),
            processing_class=_processor(workload.model),
            peft_config=plain_lora(backbone, options.rank),
            callbacks=[callback],
            losses=callback.losses,
        )
        trainer.train()


def _arguments(folder: str, options: argparse.Namespace) -> DPOConfig:
    """TRL's defaults but for what makes the two sides alike: rate, clipping, batch, precision, no logging."""
    return DPOConfig(
        output_dir=folder,
        beta=BETA,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        optim="adamw_torch",
        per_device_train_batch_size=options.pairs * options.rejected,
        gradient_accumulation_steps=1,
        num_train_epochs=1000,
        max_length=None,
        bf16=options.precision == "bf16-mixed",
        gradient_checkpointing=options.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=options.device == "cpu",
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_steps=10**6,
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
    )


def _dataset(path: Path) -> Dataset:
    """The same records in TRL's columns, with the prompt as our template writes it; a row for each rejected answer."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [
        {
            "images": [str(path.parent / name) for name in record["images"]],
            "prompt": f"<s>USER: {record['prompt']} ASSISTANT:",
            "chosen": f" {record['chosen']}</s>",
            "rejected": f" {rejected}</s>",
        }
        for record in records
        for rejected in _several(record["rejected"])
    ]
    text = Value("string")
    features = Features({"images": ListFeature(ImageFeature()), "prompt": text, "chosen": text, "rejected": text})
    return Dataset.from_list(rows, features=features)


def _several(rejected: str | list[str]) -> list[str]:
    return [rejected] if isinstance(rejected, str) else rejected


def _processor(folder: Path) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=LlavaImageProcessorPil.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        patch_size=VISION["patch_size"],
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )
