"""Stage select: the model's answers become preference pairs, or are dropped under a reason."""

import heapq
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lookright.answering.answerer import answers_of, check_answers
from lookright.common.answers import same_answer
from lookright.common.jsonl import LinesById, read_lines, write_atomically
from lookright.common.strict_json import dump_line
from lookright.composing.companions import companion_answers
from lookright.composing.workspace import Workspace
from lookright.config.inputs import ANSWERED_BY
from lookright.errors import LookRightError
from lookright.records.records import prompt_from_dict, to_line
from lookright.selection.base import Candidate, Decision
from lookright.selection.pipeline import SelectionPipeline
from lookright.types import Preference, Prompt

Row = tuple[Prompt, dict[str, Any]]


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of answers per format and number of images: all, kept, and dropped under each reason.

    `prompts` counts prompts, `preferences` those of which some answer is kept.
    """

    prompts: int = 0
    preferences: int = 0
    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    kept: Counter[tuple[str, int]] = field(default_factory=Counter)
    dropped: Counter[tuple[str, int, str]] = field(default_factory=Counter)

    def add(self, prompt: Prompt, decisions: Sequence[Decision]) -> None:
        """Count what became of the answers to one prompt."""
        cell = (prompt.format, prompt.num_sources)
        self.prompts += 1
        self.preferences += any(decision.keep for decision in decisions)
        for decision in decisions:
            self.answered[cell] += 1
            if decision.reason is None:
                self.kept[cell] += 1
            else:
                self.dropped[*cell, decision.reason] += 1

    def summary(self) -> dict[str, Any]:
        """Plain containers: totals, drops by reason, and one entry a cell; prompts too where answers outnumber them."""
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
        several = self.answered.total() > self.prompts
        return {
            **({"prompts": self.prompts, "preferences": self.preferences} if several else {}),
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
    if workspace.num_shards == 1:
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


def _merged_answers(workspace: Workspace, order: "array[int]", unanswered: set[str]) -> Iterator[str]:
    """Answers in the order of the instructions; `order` is the shard of each."""
    streams = [read_lines(path) for path in workspace.parts("answers")]
    for shard, line in zip(order, read_lines(workspace.final("instructions")), strict=True):
        if line["id"] in unanswered:
            continue
        answer = next(streams[shard], None)
        if answer is None or answer["id"] != line["id"]:
            raise LookRightError(f"prompt {line['id']} has no answer yet; run stage=answer of shard {shard} to its end")
        yield _text(answer)


def answered_prompts(workspace: Workspace) -> Iterator[Row]:
    """Yield prompts with their lines of answers.jsonl, in order; ids alone are held of all.

    Raises LookRightError where a prompt has no answer.
    """
    skipped = {line["id"] for line in read_lines(workspace.final("skipped"))}
    with LinesById(workspace.final("answers"), check_answers) as answers:
        for line in read_lines(workspace.final("instructions")):
            if line["id"] in skipped:
                continue
            answer = answers.get(line["id"])
            if answer is None:
                raise LookRightError(
                    f"prompt {line['id']} has no answer in {workspace.final('answers')} yet; run stage=answer to its "
                    "end first"
                )
            yield prompt_from_dict(line), answer


def candidates(prompt: Prompt, line: dict[str, Any]) -> list[Candidate]:
    """What selection looks at: the answers to one prompt, those that say what an earlier one says marked.

    Of several answers the n-th goes by the id `ID#n`.
    """
    answers = answers_of(line)
    others = tuple(companion_answers(prompt))
    return [
        Candidate(
            id=prompt.id if len(answers) == 1 else f"{prompt.id}#{number}",
            format=prompt.format,
            num_sources=prompt.num_sources,
            chosen=prompt.ground_truth,
            rejected=answer["prediction"],
            attention_ratio=answer["attention_ratio"],
            even_ratio=answer.get("even_ratio"),
            perplexity=answer["perplexity"],
            companion_answers=others,
            repeated=any(same_answer(answer["prediction"], earlier["prediction"]) for earlier in answers[: number - 1]),
        )
        for number, answer in enumerate(answers, start=1)
    ]


def select(
    workspace: Workspace,
    pipeline: SelectionPipeline,
    told: Callable[[Prompt, list[dict[str, Any]], list[Decision]], None] | None = None,
    answered_by: str | None = None,
) -> Tally:
    """Write preferences.jsonl, with the name of the model that answered; returns the counts.

    `told` hears, prompt by prompt, of its answers and of the decision on each, so that nobody has to hold them all.
    """
    pipeline.prepare(one for row in answered_prompts(workspace) for one in candidates(*row))
    tally = Tally()

    def kept() -> Iterator[str]:
        for prompt, line in answered_prompts(workspace):
            decided = [pipeline.decide(one) for one in candidates(prompt, line)]
            tally.add(prompt, decided)
            if told is not None:
                told(prompt, answers_of(line), decided)
            if any(decision.keep for decision in decided):
                yield to_line(_preference(prompt, line, decided, answered_by))

    write_atomically(workspace.final("preferences"), kept())
    return tally


def _preference(
    prompt: Prompt, line: dict[str, Any], decisions: Sequence[Decision], answered_by: str | None
) -> Preference:
    """One record for a prompt with all its answers that are kept, at least one."""
    kept = [(a["prediction"], d.scores) for a, d in zip(answers_of(line), decisions, strict=True) if d.keep]
    further = {"noise": line["noise"]} if line.get("noise") else {}
    further |= {} if answered_by is None else {ANSWERED_BY: answered_by}
    scores = [scores for _, scores in kept]
    return Preference(
        id=prompt.id,
        images=prompt.images,
        prompt=prompt.prompt,
        chosen=prompt.ground_truth,
        rejected=[answer for answer, _ in kept],
        format=prompt.format,
        target=prompt.target,
        regions=prompt.regions,
        scores=scores[0] if len(kept) == 1 else {name: [one[name] for one in scores] for name in scores[0]},
        provenance=prompt.provenance | further,
    )


def _text(line: dict[str, Any]) -> str:
    """As `AppendOnly` writes it."""
    return dump_line(line, str(line.get("id")))
