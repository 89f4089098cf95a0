"""What a config of `generate.py` names, built and checked before anything runs."""

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lookright.answering.answerer import check_answering
from lookright.backbones.adapter_files import check_adapter
from lookright.backbones.base import Backbone
from lookright.backbones.loading import dtype_key, placing, use_threads
from lookright.composing.companions import CompanionDrawer
from lookright.composing.compose import check_counts
from lookright.composing.formats.base import Composer
from lookright.composing.plan import format_weights
from lookright.composing.sources.base import Source, Split
from lookright.composing.workspace import workspace_of
from lookright.config.check import Problems
from lookright.errors import ConfigError
from lookright.records.validate import BadRecords
from lookright.selection.attention import AttentionSelection
from lookright.selection.base import Selection
from lookright.selection.pipeline import SelectionPipeline
from lookright.selection.random import RandomSelection

STAGES = ("compose", "answer", "select")


class GenerationParts:
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
        with problems:
            workspace_of(config)
        for key in ("num_workers", "report_examples"):
            with problems:
                if config[key] < 0:
                    raise ConfigError(f"{key}={config[key]}; set 0 or more")
        self.composers: list[Composer] = _composers(problems)
        if "compose" in self.stages:
            with problems:
                plain: Any = OmegaConf.to_container(config)
                check_counts(plain["num_prompts"], config.formats)
                if not OmegaConf.is_dict(config.num_prompts) and self.composers:
                    format_weights(self.composers, plain["weights"])
            self.source: Source = problems.build("source")
            self.companions: Callable[[Source, Split], CompanionDrawer] = problems.build("companions")
        if "answer" in self.stages:
            self._check_answering(problems)
        if "select" in self.stages:
            self._check_selecting(problems)
        problems.finish()
        use_threads(config.num_threads)

    def _check_answering(self, problems: Problems) -> None:
        config = self.config
        with problems:
            self.device, self.dtype = placing(config.device, config.dtype)
            # what answers depend on is saved as it was, not as `auto`
            config.dtype = dtype_key(self.dtype)
        with problems:
            check_adapter(config.adapter)
        self.decoder = problems.build("decode")
        with problems:
            if self.decoder is not None:
                self.decoder.check_num_answers(self.config.num_answers)
        self.noise = problems.build("noise")
        with problems:
            unknown = sorted(set(getattr(self.noise, "std", ())) - set(config.composers))
            if unknown:
                raise ConfigError(
                    f"noise.std names {unknown[0]}, which is no format; valid: {', '.join(config.composers)}"
                )
        self.backbone: Backbone = problems.build("backbone")
        self.ratio_layer = check_answering(problems, self.backbone, self.decoder)

    def _check_selecting(self, problems: Problems) -> None:
        filters = [problems.build(f"filters.{name}") for name, node in self.config.filters.items() if node is not None]
        selection = problems.build("selection", "all")
        self.pipeline = SelectionPipeline(selection, filters)
        with problems:
            if selection is not None and not isinstance(selection, Selection):
                raise ConfigError(
                    f"selection._target_={self.config.selection['_target_']} is no lookright.selection.base.Selection"
                )
        rule = selection.match if isinstance(selection, RandomSelection) else selection
        if not isinstance(rule, AttentionSelection):
            return
        rule.adopt(self.composers)
        with problems:
            unknown = sorted(set(rule.thresholds) - set(self.config.composers))
            if unknown:
                raise ConfigError(
                    f"selection.thresholds.{unknown[0]} is no format; valid: {', '.join(self.config.composers)}"
                )
        for name, count in ((one.name, count) for one in self.composers for count in one.mixture):
            with problems:
                rule.threshold(name, count)


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
    for name, composer in zip(config.formats, built, strict=False):
        with problems:
            if composer is not None and composer.name != name:
                raise ConfigError(f"composers.{name} makes the format {composer.name}; name it so in composers, too")
    return [composer for composer in built if composer is not None]
