"""Stage select: the model's answers become preference pairs, or are dropped under a reason."""

import heapq
import json
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lookright.common.jsonl import read_lines, write_atomically
from lookright.composing.workspace import Workspace
from lookright.errors import LookRightError
from lookright.records.records import prompt_from_dict, to_line
from lookright.selection.base import Candidate, Decision
from lookright.selection.pipeline import SelectionPipeline
from lookright.types import Preference, Prompt

Row = tuple[Prompt, dict[str, Any]]


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts per format and number of images: answered, kept, and dropped under each reason."""

    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    kept: Counter[tuple[str, int]] = field(default_factory=Counter)
    dropped: Counter[tuple[str, int, str]] = field(default_factory=Counter)

    def add(self, prompt: Prompt, decision: Decision) -> None:
        """Count one decision."""
        cell = (prompt.format, prompt.num_images)
        self.answered[cell] += 1
        if decision.keep:
            self.kept[cell] += 1
        else:
            self.dropped[*cell, decision.reason] += 1

    def summary(self) -> dict[str, Any]:
        """Plain containers: totals, drops by reason, and one entry a cell."""
        cells = [
            {
                "format": name,
                "num_images": count,
                "answered": self.answered[name, count],
                "kept": self.kept[name, count],
                "dropped": {r: n for (f, c, r), n in sorted(self.dropped.items()) if (f, c) == (name, count)},
            }
            for name, count in sorted(self.answered)
        ]
        reasons: Counter[str] = Counter()
        for (_, _, reason), number in self.dropped.items():
            reasons[reason] += number
        return {
            "answered": self.answered.total(),
            "kept": self.kept.total(),
            "dropped": dict(sorted(reasons.items())),
            "cells": cells,
        }


def merge_shards(workspace: Workspace) -> None:
    """Write the final files from those of all shards, in the order that one shard alone would write.

    Every shard's file is in that order already, so they are merged as streams. Raises LookRightError for a
    prompt without an answer.
    """
    if workspace.count == 1:
        return
    order = array("L")

    def placed(shard: int, path: Path) -> Iterator[tuple[tuple[int, int], int, dict[str, Any]]]:
        return ((workspace.place(line), shard, line) for line in read_lines(path))

    def instructions() -> Iterator[str]:
        parts = [placed(shard, path) for shard, path in enumerate(workspace.parts("instructions"))]
        for _, shard, line in heapq.merge(*parts, key=lambda item: item[0]):
            order.append(shard)
            yield _text(line)

    write_atomically(workspace.final("instructions"), instructions())
    skipped = [line for path in workspace.parts("skipped") for line in read_lines(path)]
    skipped.sort(key=lambda line: (line["stage"] != "compose", workspace.lots.index(line["lot"]), line["number"]))
    write_atomically(workspace.final("skipped"), map(_text, skipped))
    unanswered = {line["id"] for line in skipped if line["stage"] == "answer"}
    write_atomically(workspace.final("answers"), _merged_answers(workspace, order, unanswered))


def _merged_answers(workspace: Workspace, order: array, unanswered: set[str]) -> Iterator[str]:
    """Answers in the order of the instructions; `order` is the shard of each."""
    streams = [read_lines(path) for path in workspace.parts("answers")]
    for shard, line in zip(order, read_lines(workspace.final("instructions")), strict=True):
        if line["id"] in unanswered:
            continue
        answer = next(streams[shard], None)
        if answer is None or answer["id"] != line["id"]:
            raise LookRightError(f"prompt {line['id']} has no answer yet; run stage=answer of shard {shard} to its end")
        yield _text(answer)


def rows(workspace: Workspace) -> Iterator[Row]:
    """Prompts with their answers, in the order of the prompts. Raises LookRightError where one has no answer."""
    answers = {line["id"]: line for line in read_lines(workspace.final("answers"))}
    skipped = {line["id"] for line in read_lines(workspace.final("skipped"))}
    for line in read_lines(workspace.final("instructions")):
        if line["id"] in skipped:
            continue
        if line["id"] not in answers:
            raise LookRightError(f"prompt {line['id']} has no answer yet; run stage=answer to its end first")
        yield prompt_from_dict(line), answers[line["id"]]


def candidate(prompt: Prompt, answer: dict[str, Any]) -> Candidate:
    """What selection looks at."""
    return Candidate(
        id=prompt.id,
        format=prompt.format,
        num_images=prompt.num_images,
        chosen=prompt.answer,
        rejected=answer["answer"],
        attention_ratio=answer["attention_ratio"],
        even_ratio=answer.get("even_ratio"),
        perplexity=answer["perplexity"],
    )


def select(workspace: Workspace, pipeline: SelectionPipeline) -> tuple[Tally, dict[str, Decision]]:
    """Write preferences.jsonl; returns the counts and every decision by id."""
    pipeline.prepare(candidate(*row) for row in rows(workspace))
    tally = Tally()
    decisions: dict[str, Decision] = {}

    def kept() -> Iterator[str]:
        for prompt, answer in rows(workspace):
            decision = pipeline.decide(candidate(prompt, answer))
            decisions[prompt.id] = decision
            tally.add(prompt, decision)
            if decision.keep:
                yield to_line(_preference(prompt, answer, decision))

    write_atomically(workspace.final("preferences"), kept())
    return tally, decisions


def _preference(prompt: Prompt, answer: dict[str, Any], decision: Decision) -> Preference:
    noise = {"noise": answer["noise"]} if answer.get("noise") else {}
    return Preference(
        id=prompt.id,
        images=prompt.images,
        prompt=prompt.prompt,
        chosen=prompt.answer,
        rejected=[answer["answer"]],
        format=prompt.format,
        target=prompt.target,
        regions=prompt.regions,
        scores=decision.scores,
        provenance=prompt.provenance | noise,
    )


def _text(line: dict[str, Any]) -> str:
    """As `AppendOnly` writes it."""
    return json.dumps(line, ensure_ascii=False) + "\n"
