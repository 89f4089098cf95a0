"""`generate.py` from a composed config to the files of a run."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lookright.backbones.base import Backbone
from lookright.config.check import Problems
from lookright.config.entry import with_output
from lookright.data.encode import row_length
from lookright.data.pictures import PictureFolder
from lookright.data.records import prompt_from_dict
from lookright.data.validate import BadRecords
from lookright.errors import ConfigError, RecordError
from lookright.formats.base import Composer
from lookright.formats.companions import CompanionDrawer
from lookright.generation.answer import Answerer
from lookright.generation.compose import check_counts, compose, make_lots
from lookright.generation.select import merge_shards, rows, select
from lookright.generation.workspace import Workspace, open_workspace
from lookright.losses.band import one_layer
from lookright.reports.generation import GenerationReport
from lookright.runtime import check_adapter, load_policy, pick_device, torch_dtype
from lookright.selection.pipeline import SelectionPipeline
from lookright.sources.base import Source
from lookright.streams import AppendOnly, progress, read_lines, write_atomically
from lookright.types import Prompt

STAGES = ("compose", "answer", "select")


def generate(config: DictConfig) -> dict[str, Any] | None:
    """Run the stages; returns what `summary.json` holds, None for one shard of several.

    With several shards every shard composes and answers its part; `stage=select` then joins them.
    """
    config = with_output(config)
    run = _Run(config)
    workspace = open_workspace(config)
    if "compose" in run.stages:
        run.compose(workspace)
    if "answer" in run.stages:
        run.answer(workspace)
    if workspace.count > 1 and config.stage != "select":
        print(f"shard {workspace.index} of {workspace.count} is done; stage=select joins all of them")
        return None
    summary = run.select(workspace) if "select" in run.stages else _composed_summary(workspace)
    (workspace.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    _tell(summary, workspace)
    return summary


class _Run:
    """What the config names, instantiated and checked as far as the stages need it, without weights.

    Raises ConfigError with all problems at once.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        problems = Problems(config)
        self.stages: tuple[str, ...] = ()
        with problems:
            self.stages = _stages(config.stage)
        with problems:
            BadRecords(config.on_bad_record, "on_bad_record")
        self.composers: list[Composer] = _composers(problems)
        if "compose" in self.stages:
            with problems:
                check_counts(OmegaConf.to_container(config)["num_prompts"], config.formats)
            self.source: Source = problems.build("source")
        if "answer" in self.stages:
            self._check_answering(problems)
        if "select" in self.stages:
            self._check_selecting(problems)
        problems.finish()
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)

    def _check_answering(self, problems: Problems) -> None:
        config = self.config
        with problems:
            self.device = pick_device(config.device)
        with problems:
            self.dtype = torch_dtype(config.dtype)
        with problems:
            check_adapter(config.adapter)
        self.decoder = problems.build("decode")
        self.noise = problems.build("noise")
        self.backbone: Backbone = problems.build("backbone")
        if self.backbone is not None:
            with problems:
                self.ratio_layer = one_layer(self.backbone.num_layers, config.ratio_layer)

    def _check_selecting(self, problems: Problems) -> None:
        filters = [problems.build(f"filters.{name}") for name, node in self.config.filters.items() if node is not None]
        selection = problems.build("selection", "all")
        self.pipeline = SelectionPipeline(selection, filters)
        rule = getattr(selection, "match", None) or selection
        if not hasattr(rule, "threshold"):
            return
        with problems:
            unknown = sorted(set(rule.thresholds) - set(self.config.composers))
            if unknown:
                raise ConfigError(
                    f"selection.thresholds.{unknown[0]} is no format; valid: {', '.join(self.config.composers)}"
                )
        for name, count in ((one.name, count) for one in self.composers for count in one.mixture):
            with problems:
                rule.threshold(name, count)

    def compose(self, workspace: Workspace) -> None:
        """Prompts and pictures of this shard."""
        config = self.config
        drawer = CompanionDrawer(self.source, config.split, config.companions, config.shortfall)
        plain = OmegaConf.to_container(config, resolve=True)
        lots = make_lots(
            self.source, config.split, self.composers, drawer, plain["num_prompts"], plain["weights"], config.seed
        )
        left_out = dict(sorted(getattr(self.source, "dropped", {}).items()))
        facts = {"name": self.source.name, "rows": len(self.source.rows(config.split)), "left_out": left_out}
        if not workspace.source_facts.is_file():
            write_atomically(workspace.source_facts, [json.dumps(facts) + "\n"])
        compose(lots, self.source, workspace, config.num_workers, config.on_bad_record)

    def answer(self, workspace: Workspace) -> None:
        """The model's own answers of this shard."""
        config = self.config
        if not workspace.instructions.is_file():
            raise ConfigError(f"stage=answer: {workspace.instructions} is not there; run stage=compose first")
        with AppendOnly(workspace.answers) as written, AppendOnly(workspace.skipped) as skipped:
            pictures = PictureFolder(workspace.folder)
            num_open = self._check_budget(workspace, pictures, written, skipped)
            if not num_open:
                return
            answerer = Answerer(
                backbone=self.backbone,
                policy=load_policy(self.backbone, config.adapter, self.device, self.dtype),
                decoder=self.decoder,
                ratio_layer=self.ratio_layer,
                batch_size=config.batch_size,
                noise=self.noise,
            )
            scored = answerer.answer_batches(_batches(workspace, skipped), pictures, written.done)
            done = len(written.done)
            for item in progress(scored, num_open + done, "answer", done):
                written.add(item.line())

    def _check_budget(
        self, workspace: Workspace, pictures: PictureFolder, written: AppendOnly, skipped: AppendOnly
    ) -> int:
        """Number of prompts that want an answer. Raises LookRightError for those that do not fit the model."""
        bad = BadRecords(self.config.on_bad_record, "on_bad_record")
        num_open = num_prompts = 0
        for line in read_lines(workspace.instructions):
            num_prompts += 1
            if line["id"] in written.done or line["id"] in skipped.done:
                continue
            try:
                row_length(self.backbone, prompt_from_dict(line), pictures)
                num_open += 1
            except RecordError as error:
                bad.add(f"prompt {line['id']}", error)
                if self.config.on_bad_record == "skip":
                    skipped.add(_skipped_answer(workspace, line, error))
        bad.finish(num_prompts)
        return num_open

    def select(self, workspace: Workspace) -> dict[str, Any]:
        """Pairs, counts and the report."""
        merge_shards(workspace)
        tally, decisions = select(workspace, self.pipeline)
        skipped = _skipped(workspace)
        report = GenerationReport(
            workspace.folder,
            threshold=getattr(self.pipeline.selection, "threshold", None),
            reasons=self.pipeline.reasons,
            num_examples=self.config.report_examples,
        )
        for prompt, answer in rows(workspace):
            report.add(prompt, answer["answer"], decisions[prompt.id])
        for reason, count in skipped.items():
            report.add_skipped(reason, count)
        report.write(workspace.folder / "report.html")
        return tally.summary() | {"skipped": skipped, "source": _source_facts(workspace)}


def _stages(stage: str) -> tuple[str, ...]:
    if stage == "all":
        return STAGES
    if stage not in STAGES:
        raise ConfigError(f"stage={stage!r}; valid: all, {', '.join(STAGES)}")
    return (stage,)


def _composers(problems: Problems) -> list[Composer]:
    config = problems.config
    unknown = sorted(set(config.formats) - set(config.composers))
    with problems:
        if unknown or not config.formats:
            raise ConfigError(f"formats={list(config.formats)}: name some of {', '.join(config.composers)}")
    built = [problems.build(f"composers.{name}", "all") for name in config.formats if name in config.composers]
    return [composer for composer in built if composer is not None]


def _batches(workspace: Workspace, skipped: AppendOnly) -> Iterator[list[Prompt]]:
    """Prompts in the batches that they are answered in, the same whatever was done and however many shards."""
    for _, lines in groupby(read_lines(workspace.instructions), key=workspace.batch_of):
        batch = [prompt_from_dict(line) for line in lines if line["id"] not in skipped.done]
        if batch:
            yield batch


def _skipped_answer(workspace: Workspace, line: dict[str, Any], error: RecordError) -> dict[str, Any]:
    lot, number = workspace.place(line)
    return {
        "id": line["id"],
        "stage": "answer",
        "lot": workspace.lots[lot],
        "number": number,
        "reason": error.reason,
        "message": str(error),
    }


def _skipped(workspace: Workspace) -> dict[str, int]:
    reasons = Counter(line["reason"] for line in read_lines(workspace.final("skipped")))
    return dict(sorted(reasons.items()))


def _source_facts(workspace: Workspace) -> dict[str, Any]:
    return json.loads(workspace.source_facts.read_text())


def _composed_summary(workspace: Workspace) -> dict[str, Any]:
    """Counts of a run that ends before selection."""
    cells = Counter((line["format"], len(line["regions"])) for line in read_lines(workspace.final("instructions")))
    answered = workspace.answers.is_file()
    return {
        "composed": cells.total(),
        **({"answered": sum(1 for _ in read_lines(workspace.answers))} if answered else {}),
        "cells": [{"format": name, "num_images": count, "composed": n} for (name, count), n in sorted(cells.items())],
        "skipped": _skipped(workspace),
        "source": _source_facts(workspace),
    }


def _tell(summary: dict[str, Any], workspace: Workspace) -> None:
    """One line for the console."""
    counts = ", ".join(f"{summary[key]} {key}" for key in ("composed", "answered", "kept") if key in summary)
    dropped = {**summary.get("dropped", {}), **summary["skipped"]}
    reasons = f" (left out: {', '.join(f'{number} {reason}' for reason, number in dropped.items())})" if dropped else ""
    name = "preferences" if "kept" in summary else "answers" if "answered" in summary else "instructions"
    print(f"{counts}{reasons}; wrote {workspace.final(name)}")
