"""TRL's side: its DPOTrainer as it is, on the same pairs, adapters and optimiser."""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

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

from benchmarks.turns import Turns
from benchmarks.workload import BETA, LEARNING_RATE, SEED, VISION, Workload, plain_lora


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


def run(workload: Workload, options: argparse.Namespace, turns: Turns) -> None:
    """DPO by TRL until told to end."""
    callback = StepTurns(turns)
    model = LlavaForConditionalGeneration.from_pretrained(workload.model, dtype=torch.float32)
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        trainer = ToldLoss(
            model=model,
            args=_arguments(folder, options),
            train_dataset=_dataset(workload.pairs(options.images)),
            processing_class=_processor(workload.model),
            peft_config=plain_lora(workload.backbone()),
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
        per_device_train_batch_size=options.pairs,
        gradient_accumulation_steps=1,
        num_train_epochs=1000,
        max_length=None,
        bf16=options.precision == "bf16-mixed",
        gradient_checkpointing=options.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_steps=10**6,
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
    )


def _dataset(path: Path) -> Dataset:
    """The same records in TRL's columns, with the prompt as our template writes it."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    rows = {
        "images": [[str(path.parent / name) for name in record["images"]] for record in records],
        "prompt": [f"<s>USER: {record['prompt']} ASSISTANT:" for record in records],
        "chosen": [f" {record['chosen']}</s>" for record in records],
        "rejected": [f" {record['rejected']}</s>" for record in records],
    }
    text = Value("string")
    features = Features({"images": ListFeature(ImageFeature()), "prompt": text, "chosen": text, "rejected": text})
    return Dataset.from_dict(rows, features=features)


def _processor(folder: Path) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=LlavaImageProcessorPil.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        patch_size=VISION["patch_size"],
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )
