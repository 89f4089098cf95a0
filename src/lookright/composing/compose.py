"""Stage compose: single-image rows become multi-image prompts with their pictures."""

import os
import signal
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lookright.common.jsonl import AppendOnly, read_lines
from lookright.common.stopping import end_with, unheard
from lookright.common.streams import progress
from lookright.composing.companions import CompanionDrawer
from lookright.composing.formats.base import Composer
from lookright.composing.plan import PromptPlan, PromptPlanner, compose_plan
from lookright.composing.sources.base import Source, Split
from lookright.composing.workspace import ONE_LOT, Workspace
from lookright.errors import ConfigError, RecordError, WorkerLost
from lookright.records.records import to_dict
from lookright.records.validate import OnBadRecord
from lookright.types import Prompt

Outcome = Prompt | RecordError
_WORKER: dict[str, Any] = {}
"""What a worker process composes with."""


@dataclass(slots=True, frozen=True, kw_only=True)
class PromptSeries:
    """So many prompt numbers of one planner; `name` tells its prompts from those of other lots."""

    name: str
    planner: PromptPlanner
    count: int


@dataclass(slots=True, frozen=True, kw_only=True)
class PromptNumber:
    """A prompt number of a lot."""

    lot: str
    number: int

    @property
    def key(self) -> str:
        """Its id where no prompt came of it."""
        return f"{self.lot}/{self.number}"

    def skipped(self, error: RecordError) -> dict[str, Any]:
        """For skipped.jsonl."""
        return {
            "id": self.key,
            "stage": "compose",
            "lot": self.lot,
            "number": self.number,
            "reason": error.reason,
            "message": str(error),
        }


def check_counts(num_prompts: Any, formats: Sequence[str]) -> None:
    """Raise ConfigError for numbers of prompts that cannot be planned."""
    if isinstance(num_prompts, Mapping):
        unknown = sorted(set(num_prompts) - set(formats))
        if unknown:
            raise ConfigError(f"num_prompts.{unknown[0]}: not among formats={list(formats)}; add it there")
    counts = list(num_prompts.values()) if isinstance(num_prompts, Mapping) else [num_prompts]
    if not counts or any(isinstance(count, bool) or not isinstance(count, int) or count < 1 for count in counts):
        raise ConfigError(f"num_prompts={num_prompts}; set a number of 1 or more, or one for each format")


def make_lots(
    source: Source,
    split: Split,
    composers: Sequence[Composer],
    drawer: CompanionDrawer,
    num_prompts: int | Mapping[str, int],
    weights: Mapping[str, float] | None,
    seed: int,
) -> list[PromptSeries]:
    """One lot with the formats in their proportions, or one lot a format where `num_prompts` names formats."""
    if isinstance(num_prompts, int):
        planner = PromptPlanner(source, split, composers, drawer, weights, seed)
        return [PromptSeries(name=ONE_LOT, planner=planner, count=num_prompts)]
    by_name = {composer.name: composer for composer in composers}
    return [
        PromptSeries(name=name, planner=PromptPlanner(source, split, [by_name[name]], drawer, None, seed), count=count)
        for name, count in num_prompts.items()
    ]


def compose(
    lots: Sequence[PromptSeries], source: Source, workspace: Workspace, num_workers: int, on_bad_record: OnBadRecord
) -> None:
    """Write this shard's prompts and pictures; what is there already is left alone.

    Prompts come in the order of their numbers, whatever the number of workers. A source picture that cannot
    be read raises RecordError, or is noted in `skipped` where `on_bad_record` says so.
    """
    with AppendOnly(workspace.instructions) as written, AppendOnly(workspace.skipped) as skipped:
        plans = _open_plans(lots, workspace, written, skipped)
        done = len(written.done) + len(skipped.done)
        total = sum(1 for lot in lots for _ in workspace.numbers(lot.count))
        outcomes = _composed(plans, source, workspace.folder, num_workers)
        for numbered, outcome in progress(outcomes, total, f"compose {source.name}", done):
            if isinstance(outcome, Prompt):
                written.add(to_dict(outcome))
            elif on_bad_record == "skip" or isinstance(outcome, _NoPlan):
                skipped.add(numbered.skipped(outcome))
            else:
                raise RecordError(
                    outcome.reason, f"{outcome}; repair it, or set on_bad_record=skip to leave such prompts out"
                )


def check_composed(workspace: Workspace, formats: Sequence[str]) -> None:
    """Warn of formats that no prompt came of; raise ConfigError, with the reasons, where there is no prompt at all."""
    made = Counter(line.get("format") for line in read_lines(workspace.final("instructions")))
    reasons = Counter(str(line.get("reason")) for line in read_lines(workspace.final("skipped")))
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "none"
    if not made:
        raise ConfigError(
            f"no prompt was composed (left out: {left_out}); see {workspace.final('skipped')} for each reason, and set "
            "source, split, formats or companions otherwise"
        )
    for name in formats:
        if not made[name]:
            warnings.warn(
                f"formats: no prompt of {name} was composed, of {made.total()} in all (left out: {left_out}); set "
                "weights or num_prompts so that it gets some, or take it out of formats",
                stacklevel=2,
            )


class _NoPlan(RecordError):
    """A prompt number that the formats or the companions leave no prompt for: expected, and always counted."""


def _open_plans(
    lots: Sequence[PromptSeries], workspace: Workspace, written: AppendOnly, skipped: AppendOnly
) -> Iterator[tuple[PromptNumber, PromptPlan | _NoPlan]]:
    """Plans of this shard that are not done."""
    for lot in lots:
        for number in workspace.numbers(lot.count):
            numbered = PromptNumber(lot=lot.name, number=number)
            if numbered.key in skipped.done:
                continue
            try:
                plan = lot.planner.plan(number)
            except RecordError as error:
                yield numbered, _NoPlan(error.reason, str(error))
                continue
            if plan.id not in written.done:
                yield numbered, plan


def _composed(
    plans: Iterator[tuple[PromptNumber, PromptPlan | _NoPlan]], source: Source, folder: Path, num_workers: int
) -> Iterator[tuple[PromptNumber, Outcome]]:
    if num_workers == 0:
        yield from ((numbered, _outcome(plan, source, folder)) for numbered, plan in plans)
        return
    given = (source, folder, os.getpid())
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=_start_worker, initargs=given)
    pending: deque[tuple[PromptNumber, Future[Outcome]]] = deque()
    try:
        for numbered, plan in plans:
            # the pool starts its workers as work comes
            with unheard(signal.SIGINT):
                pending.append((numbered, pool.submit(_work, plan)))
            if len(pending) >= 8 * num_workers:
                numbered, future = pending.popleft()
                yield numbered, future.result()
        for numbered, future in pending:
            yield numbered, future.result()
    except BrokenProcessPool as error:
        raise WorkerLost(
            "a process that composes prompts was killed, as the system does where memory runs out: set a lower "
            f"num_workers than {num_workers}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _outcome(plan: PromptPlan | _NoPlan, source: Source, folder: Path) -> Outcome:
    if isinstance(plan, _NoPlan):
        return plan
    try:
        return compose_plan(plan, source, folder)
    except RecordError as error:
        return error


def _start_worker(source: Source, folder: Path, parent: int) -> None:
    end_with(parent)
    _WORKER.update(source=source, folder=folder)


def _work(plan: PromptPlan | _NoPlan) -> Outcome:
    return _outcome(plan, **_WORKER)
