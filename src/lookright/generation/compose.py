"""Stage compose: single-image rows become multi-image prompts with their pictures."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from lookright.data.records import to_dict
from lookright.errors import ConfigError, RecordError
from lookright.formats.base import Composer
from lookright.formats.companions import CompanionDrawer
from lookright.formats.plan import PromptPlan, PromptPlanner, compose_plan
from lookright.generation.workspace import Workspace
from lookright.sources.base import Source, Split
from lookright.streams import AppendOnly, progress
from lookright.types import Prompt


@dataclass(slots=True, frozen=True, kw_only=True)
class Lot:
    """So many prompt numbers of one planner; `name` tells its prompts from those of other lots."""

    name: str
    planner: PromptPlanner
    count: int


def make_lots(
    source: Source,
    split: Split,
    composers: Sequence[Composer],
    drawer: CompanionDrawer,
    num_prompts: int | Mapping[str, int],
    weights: Mapping[str, float] | None,
    seed: int,
) -> list[Lot]:
    """One lot with the formats in their proportions, or one lot a format where `num_prompts` names formats.

    Raises ConfigError for a format that is not among the composers.
    """
    if isinstance(num_prompts, int):
        return [Lot(name="all", planner=PromptPlanner(source, split, composers, drawer, weights, seed), count=num_prompts)]
    by_name = {composer.name: composer for composer in composers}
    unknown = sorted(set(num_prompts) - set(by_name))
    if unknown:
        raise ConfigError(f"num_prompts.{unknown[0]}: not among formats={list(by_name)}; add it there")
    return [
        Lot(name=name, planner=PromptPlanner(source, split, [by_name[name]], drawer, None, seed), count=count)
        for name, count in num_prompts.items()
    ]


def compose(lots: Sequence[Lot], source: Source, workspace: Workspace, num_workers: int) -> None:
    """Write this shard's prompts and pictures; what is there already is left alone.

    Prompts come in the order of their numbers, whatever the number of workers.
    """
    with AppendOnly(workspace.instructions) as written, AppendOnly(workspace.skipped) as skipped:
        plans = _open_plans(lots, workspace, written, skipped)
        total = sum(len(range(workspace.index, lot.count, workspace.count)) for lot in lots)
        title = f"compose {source.name}"
        for prompt in progress(_composed(plans, source, workspace.folder, num_workers), total - _done(written, skipped), title):
            written.add(to_dict(prompt))


def _done(written: AppendOnly, skipped: AppendOnly) -> int:
    return len(written.done) + len(skipped.done)


def _open_plans(
    lots: Sequence[Lot], workspace: Workspace, written: AppendOnly, skipped: AppendOnly
) -> Iterator[PromptPlan]:
    """Plans of this shard that are not done; those that cannot be are noted in `skipped`."""
    for lot in lots:
        for number in range(workspace.index, lot.count, workspace.count):
            key = f"{lot.name}/{number}"
            if key in skipped.done:
                continue
            try:
                plan = lot.planner.plan(number)
            except RecordError as error:
                skipped.add({"id": key, "reason": error.reason, "message": str(error)})
                continue
            if plan.id not in written.done:
                yield plan


def _composed(plans: Iterator[PromptPlan], source: Source, folder: Path, num_workers: int) -> Iterator[Prompt]:
    if num_workers == 0:
        yield from (compose_plan(plan, source, folder) for plan in plans)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=_start_worker, initargs=(source, folder)) as pool:
        pending = []
        for plan in plans:
            pending.append(pool.submit(_work, plan))
            if len(pending) >= 8 * num_workers:
                yield pending.pop(0).result()
        yield from (future.result() for future in pending)


def _start_worker(source: Source, folder: Path) -> None:
    global _SOURCE, _FOLDER
    _SOURCE, _FOLDER = source, folder


def _work(plan: PromptPlan) -> Prompt:
    return compose_plan(plan, _SOURCE, _FOLDER)
