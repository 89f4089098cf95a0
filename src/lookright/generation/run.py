"""`generate.py` from a composed config to the files of a run."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lookright.config.check import check_config
from lookright.data.pictures import PictureFolder
from lookright.data.records import prompt_from_dict
from lookright.errors import ConfigError
from lookright.formats.companions import CompanionDrawer
from lookright.generation.answer import Answerer
from lookright.generation.compose import compose, make_lots
from lookright.generation.select import merge_shards, rows, select
from lookright.generation.workspace import Workspace, open_workspace
from lookright.losses.band import half_depth
from lookright.reports.generation import GenerationReport
from lookright.runtime import check_adapter, load_policy, pick_device, torch_dtype
from lookright.selection.pipeline import SelectionPipeline
from lookright.streams import AppendOnly, progress, read_lines
from lookright.types import Prompt

STAGES = ("compose", "answer", "select")


def generate(config: DictConfig) -> dict[str, Any] | None:
    """Run the stages; returns what `summary.json` holds once selection is done.

    With several shards every shard composes and answers its part; `stage=select` then joins them.
    """
    check_config(config)
    stages = _stages(config.stage)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    pipeline = SelectionPipeline(instantiate(config.selection, _convert_="all"), _filters(config))
    if "answer" in stages:
        _check_answering(config)
    workspace = open_workspace(config)
    if "compose" in stages:
        _compose(config, workspace)
    if "answer" in stages:
        _answer(config, workspace)
    if "select" not in stages or (workspace.count > 1 and config.stage == "all"):
        return None
    return _select(config, workspace, pipeline)


def _stages(stage: str) -> tuple[str, ...]:
    if stage == "all":
        return STAGES
    if stage not in STAGES:
        raise ConfigError(f"stage={stage!r}; valid: all, {', '.join(STAGES)}")
    return (stage,)


def _filters(config: DictConfig) -> list[Any]:
    return [instantiate(node) for node in config.filters.values() if node is not None]


def _check_answering(config: DictConfig) -> None:
    """Everything that answering needs and that can be known before any picture is made."""
    pick_device(config.device)
    torch_dtype(config.dtype)
    check_adapter(config.adapter)
    instantiate(config.decode)
    instantiate(config.backbone)


def _compose(config: DictConfig, workspace: Workspace) -> None:
    source = instantiate(config.source)
    unknown = sorted(set(config.formats) - set(config.composers))
    if unknown or not config.formats:
        raise ConfigError(f"formats={list(config.formats)}: name some of {', '.join(config.composers)}")
    composers = [instantiate(config.composers[name], _convert_="all") for name in config.formats]
    drawer = CompanionDrawer(source, config.split, config.companions, config.shortfall)
    num_prompts = OmegaConf.to_container(config).get("num_prompts")
    weights = OmegaConf.to_container(config).get("weights")
    lots = make_lots(source, config.split, composers, drawer, num_prompts, weights, config.seed)
    compose(lots, source, workspace, config.num_workers)


def _answer(config: DictConfig, workspace: Workspace) -> None:
    if not workspace.instructions.is_file():
        raise ConfigError(f"stage=answer: {workspace.instructions} is not there; run stage=compose first")
    with AppendOnly(workspace.answers) as written:
        open_prompts = [line["id"] for line in read_lines(workspace.instructions) if line["id"] not in written.done]
        if not open_prompts:
            return
        backbone = instantiate(config.backbone)
        layer = half_depth(backbone.num_layers) if config.ratio_layer is None else config.ratio_layer
        if not 0 <= layer < backbone.num_layers:
            raise ConfigError(f"ratio_layer={layer}; this model has layers 0 to {backbone.num_layers - 1}")
        policy = load_policy(backbone, config.adapter, pick_device(config.device), torch_dtype(config.dtype))
        answerer = Answerer(
            backbone=backbone,
            policy=policy,
            decoder=instantiate(config.decode),
            ratio_layer=layer,
            batch_size=config.batch_size,
            noise=None if config.noise is None else instantiate(config.noise),
        )
        prompts = _unanswered(workspace, written)
        scored = answerer.answer(prompts, PictureFolder(workspace.folder))
        for item in progress(scored, len(open_prompts), "answer"):
            written.add(item.line())


def _unanswered(workspace: Workspace, written: AppendOnly) -> Iterator[Prompt]:
    for line in read_lines(workspace.instructions):
        if line["id"] not in written.done:
            yield prompt_from_dict(line)


def _select(config: DictConfig, workspace: Workspace, pipeline: SelectionPipeline) -> dict[str, Any]:
    merge_shards(workspace)
    tally, decisions = select(workspace, pipeline)
    skipped = Counter(line["reason"] for line in read_lines(workspace.final("skipped")))
    summary = tally.summary() | {"skipped": dict(sorted(skipped.items()))}
    (workspace.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    report = GenerationReport(
        workspace.folder,
        threshold=getattr(pipeline.selection, "threshold", None),
        reasons=pipeline.reasons,
        num_examples=config.report_examples,
    )
    for prompt, answer in rows(workspace):
        report.add(prompt, answer["answer"], decisions[prompt.id])
    for reason, count in skipped.items():
        report.add_skipped(reason, count)
    report.write(workspace.folder / "report.html")
    return summary
