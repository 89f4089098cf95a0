"""`generate.py` from a composed config to the files of a run."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, groupby
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lookright.answering.answerer import Answerer, answers_of, several_line
from lookright.backbones.loading import load_policy
from lookright.commands.cli import start
from lookright.commands.generate_parts import GenerationParts
from lookright.common.files import write_whole
from lookright.common.jsonl import AppendOnly, read_lines, write_atomically
from lookright.common.stopping import stoppable
from lookright.common.streams import in_threads, progress
from lookright.common.strict_json import finite
from lookright.composing.companions import companion_answers
from lookright.composing.compose import check_composed, compose, make_lots
from lookright.composing.workspace import Workspace, only_writer, open_workspace, workspace_of
from lookright.config.entry import with_output
from lookright.config.inputs import model_name
from lookright.config.made_by import MadeBy, described_values, made_by
from lookright.errors import ConfigError, LookRightError, RecordError
from lookright.packing.encode import row_length
from lookright.records.pictures import PictureFolder
from lookright.records.readers import BAR_AFTER
from lookright.records.records import prompt_from_dict, to_dict
from lookright.records.validate import BadRecords, OnBadRecord
from lookright.reports.generation import GenerationReport
from lookright.selection.attention import AttentionSelection
from lookright.selection.base import Decision
from lookright.selection.confusion import check_companion_answers
from lookright.selection.select import merge_shards, select
from lookright.types import Prompt


def generate(config: DictConfig) -> dict[str, Any] | None:
    """Run the stages; returns what `summary.json` holds, None for one shard of several.

    With several shards every shard composes and answers its part; `stage=select` then joins them.
    """
    config = with_output(config)
    parts = GenerationParts(config)
    workspace = workspace_of(config)
    with (
        stoppable(lambda: f"what is done stays; go on with the same command and output={workspace.folder}"),
        only_writer(workspace, joins=config.stage == "select"),
    ):
        return _generate(parts, open_workspace(config))


def _generate(parts: GenerationParts, workspace: Workspace) -> dict[str, Any] | None:
    config = parts.config
    record = made_by(config, "generate.py", _data(config))
    record.write(workspace.folder, workspace.record_name(joins=config.stage == "select"))
    if "compose" in parts.stages:
        _compose(parts, workspace)
    if "answer" in parts.stages:
        if "select" in parts.stages and parts.pipeline.selection.needs_companions:
            _check_companions(workspace)
        _answer(parts, workspace)
    if workspace.num_shards > 1 and config.stage != "select":
        print(f"shard {workspace.shard} of {workspace.num_shards} is done; stage=select joins all of them")
        return None
    summary = _select(parts, workspace, record) if "select" in parts.stages else _composed_summary(workspace)
    write_whole(workspace.folder / "summary.json", json.dumps(finite(summary), indent=2, allow_nan=False) + "\n")
    _tell(summary, workspace)
    return summary


def _data(config: DictConfig) -> str:
    """Source, split and number of prompts in words."""
    values = ", ".join(described_values(config.source))
    name = str(config.source["_target_"]).rpartition(".")[2]
    name = f"{name} ({values})" if values else name
    several = f", num_answers={config.num_answers}" if config.num_answers > 1 else ""
    return f"{name}, {config.split} split, num_prompts={config.num_prompts}{several}, seed={config.seed}"


def _compose(parts: GenerationParts, workspace: Workspace) -> None:
    """Prompts and pictures of this shard."""
    config = parts.config
    drawer = parts.companions(parts.source, config.split)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    lots = make_lots(
        parts.source, config.split, parts.composers, drawer, plain["num_prompts"], plain["weights"], config.seed
    )
    left_out = dict(sorted(getattr(parts.source, "dropped", {}).items()))
    facts = {"name": parts.source.name, "rows": len(parts.source.rows(config.split)), "left_out": left_out}
    if not workspace.source_facts.is_file():
        write_atomically(workspace.source_facts, [json.dumps(facts) + "\n"])
    compose(lots, parts.source, workspace, config.num_workers, config.on_bad_record)
    if workspace.num_shards == 1:
        check_composed(workspace, [composer.name for composer in parts.composers])


def _check_companions(workspace: Workspace) -> None:
    """Raise RecordError before hours of answers for a prompt that selection could make nothing of afterwards."""
    for prompt in map(prompt_from_dict, read_lines(workspace.instructions)):
        check_companion_answers(f"prompt {prompt.id}", companion_answers(prompt))


def _answer(parts: GenerationParts, workspace: Workspace) -> None:
    """The model's own answers of this shard."""
    config = parts.config
    if not workspace.instructions.is_file():
        raise ConfigError(f"stage=answer: {workspace.instructions} is not there; run stage=compose first")
    with AppendOnly(workspace.answers) as written, AppendOnly(workspace.skipped) as skipped:
        pictures = PictureFolder(workspace.folder)
        num_open = _check_budget(parts, workspace, pictures, written, skipped)
        if not num_open:
            return
        answerer = Answerer(
            backbone=parts.backbone,
            policy=load_policy(parts.backbone, config.adapter, parts.device, parts.dtype),
            decoder=parts.decoder,
            ratio_layer=parts.ratio_layer,
            batch_size=config.batch_size,
            noise=parts.noise,
            ratio_rows=config.ratio_rows,
            unreadable=partial(_leave_out, workspace, skipped, config.on_bad_record),
        )
        batches = _batches(workspace, skipped)
        lines = _answer_lines(answerer, config.num_answers, batches, pictures, written.done)
        done = len(written.done)
        for line in progress(lines, num_open + done, "answer", done):
            written.add(line)


def _answer_lines(
    answerer: Answerer, num_answers: int, batches: Iterable[list[Prompt]], pictures: PictureFolder, done: set[str]
) -> Iterator[dict[str, Any]]:
    """A line for each prompt that is not done."""
    if num_answers == 1:
        return (item.line() for item in answerer.answer_batches(batches, pictures, done))
    prompts = chain.from_iterable(batches)
    return (several_line(items) for items in answerer.several(prompts, pictures, num_answers, done))


def _check_budget(
    parts: GenerationParts, workspace: Workspace, pictures: PictureFolder, written: AppendOnly, skipped: AppendOnly
) -> int:
    """Number of prompts that want an answer. Raises LookRightError for those that do not fit the model."""
    bad = BadRecords(parts.config.on_bad_record, "on_bad_record")
    num_open = num_prompts = 0
    with workspace.instructions.open("rb") as file:
        total = sum(1 for _ in file)
    checked = in_threads(partial(_decode_pictures, pictures), read_lines(workspace.instructions))
    for line in progress(checked, total, "check pictures", delay=BAR_AFTER):
        num_prompts += 1
        if line["id"] in written.done or line["id"] in skipped.done:
            continue
        try:
            row_length(parts.backbone, prompt_from_dict(line), pictures)
            num_open += 1
        except RecordError as error:
            bad.add(f"prompt {line['id']}", error)
            if parts.config.on_bad_record == "skip":
                skipped.add(_skipped_answer(workspace, line, error))
    bad.finish(num_prompts)
    return num_open


def _decode_pictures(pictures: PictureFolder, line: dict[str, Any]) -> dict[str, Any]:
    """The line, once it is known whether its pictures decode: from then on their sizes are known."""
    with suppress(RecordError):
        for name in line["images"]:
            pictures.size(name)
    return line


def _leave_out(
    workspace: Workspace, skipped: AppendOnly, on_bad_record: OnBadRecord, prompt: Prompt, error: RecordError
) -> None:
    """Note a prompt that gets no answer since its picture broke after the check. Raises LookRightError."""
    if on_bad_record == "error":
        raise LookRightError(
            f"prompt {prompt.id}: {error} [{error.reason}]; it was whole when it was checked. Repair it and run again "
            "to go on, or set on_bad_record=skip to leave such prompts out"
        ) from error
    skipped.add(_skipped_answer(workspace, to_dict(prompt), error))


def _select(parts: GenerationParts, workspace: Workspace, record: MadeBy) -> dict[str, Any]:
    """Pairs, counts and the report, which says what made it."""
    if workspace.num_shards == 1 and not workspace.answers.is_file():
        raise ConfigError(f"stage=select: {workspace.answers} is not there; run stage=compose and stage=answer first")
    merge_shards(workspace)
    if workspace.num_shards > 1:
        check_composed(workspace, [composer.name for composer in parts.composers])
    rule = parts.pipeline.selection
    report = GenerationReport(
        PictureFolder(workspace.folder),
        threshold=rule.threshold if isinstance(rule, AttentionSelection) else None,
        reasons=parts.pipeline.reasons,
        num_examples=parts.config.report_examples,
    )

    def told(prompt: Prompt, answers: list[dict[str, Any]], decisions: list[Decision]) -> None:
        for number, (answer, decision) in enumerate(zip(answers, decisions, strict=True)):
            report.add(prompt, answer["prediction"], decision, number)

    tally = select(workspace, parts.pipeline, told, model_name(record.inputs))
    skipped = _skipped(workspace)
    for reason, count in skipped.items():
        report.add_skipped(reason, count)
    report.write(workspace.folder / "report.html", record)
    return tally.summary() | {"skipped": skipped, "source": _source_facts(workspace)}


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
        **({"answered": sum(len(answers_of(line)) for line in read_lines(workspace.answers))} if answered else {}),
        "cells": [{"format": name, "num_images": count, "composed": n} for (name, count), n in sorted(cells.items())],
        "skipped": _skipped(workspace),
        "source": _source_facts(workspace),
    }


def _tell(summary: dict[str, Any], workspace: Workspace) -> None:
    """One line for the console."""
    keys = ("composed", "prompts", "answered", "kept", "preferences")
    counts = ", ".join(f"{summary[key]} {key}" for key in keys if key in summary)
    dropped = {**summary.get("dropped", {}), **summary["skipped"]}
    reasons = f" (left out: {', '.join(f'{number} {reason}' for reason, number in dropped.items())})" if dropped else ""
    name = "preferences" if "kept" in summary else "answers" if "answered" in summary else "instructions"
    print(f"{counts}{reasons}; wrote {workspace.final(name)}")


def job(config: DictConfig) -> None:
    """Run one job."""
    generate(config)


if __name__ == "__main__":
    start("generate", job)
