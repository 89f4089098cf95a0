"""The root of each command's config: which keys there are. What a group holds is its target's signature."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from lookright.config import folders


@dataclass
class ShardConfig:
    """Part `index` (0-based) of `count`; the union of all parts does not depend on `count`."""

    index: int = 0
    count: int = 1


@dataclass
class GenerateConfig:
    """Root of `generate.py`."""

    source: Any = MISSING
    split: str = "train"
    formats: list[str] = field(default_factory=list)
    composers: dict[str, Any] = field(default_factory=dict)
    weights: Any = None
    companions: Any = MISSING
    num_prompts: Any = MISSING
    backbone: Any = MISSING
    adapter: str | None = None
    num_answers: int = 1
    decode: Any = MISSING
    selection: Any = MISSING
    filters: dict[str, Any] = field(default_factory=dict)
    noise: Any = None
    ratio_layer: int | None = None
    ratio_rows: str = "response"
    on_bad_record: str = "error"
    stage: str = "all"
    shard: ShardConfig = field(default_factory=ShardConfig)
    batch_size: int = 16
    num_workers: int = 0
    num_threads: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    output: str | None = None
    resume: bool = True
    overwrite: bool = False
    report_examples: int = 24


@dataclass
class TrainConfig:
    """Root of `train.py`."""

    backbone: Any = MISSING
    data: Any = MISSING
    loss: Any = None
    reference: Any = None
    tuning: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    projector_lr: float | None = 2e-5
    trainer: Any = MISSING
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    eval: Any = None
    save: str = "last"
    seed: int = 0
    output: str | None = None
    resume: str | None = None
    repeat: str | None = None
    trust: list[str] = field(default_factory=list)


@dataclass
class InferConfig:
    """Root of `infer.py`."""

    backbone: Any = None
    run: str | None = None
    trust: list[str] = field(default_factory=list)
    adapter: str | None = None
    data: Any = MISSING
    decode: Any = MISSING
    metrics: dict[str, Any] = field(default_factory=dict)
    ratio_layer: int | None = None
    ratio_rows: str = "response"
    stage: str = "all"
    shard: ShardConfig = field(default_factory=ShardConfig)
    batch_size: int = 16
    num_threads: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    overlays: int = 12
    seed: int = 0
    output: str | None = None


@dataclass
class MatchingConfig:
    """Of the metrics of `infer.py` the one that says which answers are right."""

    accuracy: Any = MISSING


@dataclass
class TuneAdaptiveConfig:
    """Root of `tune_adaptive.py`."""

    backbone: Any = None
    run: str | None = None
    trust: list[str] = field(default_factory=list)
    adapter: str | None = None
    data: Any = MISSING
    grid: Any = MISSING
    metrics: MatchingConfig = field(default_factory=MatchingConfig)
    significance: float = 0.05
    seed: int = 0
    batch_size: int = 16
    num_threads: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    output: str | None = None


@dataclass
class AskConfig:
    """Root of `python -m lookright.ask`."""

    backbone: Any = None
    run: str | None = None
    trust: list[str] = field(default_factory=list)
    adapter: str | None = None
    images: Any = MISSING
    question: str | None = None
    target: int | None = None
    decode: Any = MISSING
    num_answers: int = 1
    format: str = "text"
    ratio_layer: int | None = None
    ratio_rows: str = "response"
    num_threads: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    heat_side: int = 480
    output: str | None = None


@dataclass
class ExportConfig:
    """Root of `python -m lookright.export`."""

    backbone: Any = None
    run: str | None = None
    trust: list[str] = field(default_factory=list)
    adapter: str | None = None
    merge: bool = True
    layout: str | None = None
    dtype: str | None = None
    shard_gb: float = 5.0
    verify: bool = True
    base: str | None = None
    license: str | None = None
    num_threads: int | None = None
    device: str = "auto"
    output: str = MISSING


@dataclass
class LimitsConfig:
    """What one request of `lookright.serve` may hold and take; `serve.settings.Limits` checks it.

    `pixels` and `bytes` of one picture, `body` bytes of all of it, `tokens` of an answer, `answers` to one question
    (`n`), `waiting` requests at once, those being answered among them, `seconds` from the first byte to the last.
    """

    pictures: int = 16
    bytes: int = 2**24
    pixels: int = 2**25
    body: int = 2**26
    tokens: int = 1024
    answers: int = 8
    waiting: int = 256
    seconds: float = 120.0


@dataclass
class ServeConfig:
    """Root of `python -m lookright.serve`."""

    backbone: Any = None
    run: str | None = None
    trust: list[str] = field(default_factory=list)
    adapter: str | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    decode: Any = MISSING
    prompt_style: str = "auto"
    ratio: bool = True
    ratio_layer: int | None = None
    ratio_rows: str = "response"
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    allowed_hosts: list[str] = field(default_factory=list)
    batch_size: int = 16
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    num_threads: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0


def _first(*values: Any) -> Any:
    """The first value that is not null."""
    return next((value for value in values if value is not None), None)


def register() -> None:
    """Put schemas, resolvers and experiments where Hydra finds them."""
    folders.register()
    store = ConfigStore.instance()
    store.store(name="generate_schema", node=GenerateConfig)
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="infer_schema", node=InferConfig)
    store.store(name="tune_adaptive_schema", node=TuneAdaptiveConfig)
    store.store(name="ask_schema", node=AskConfig)
    store.store(name="export_schema", node=ExportConfig)
    store.store(name="serve_schema", node=ServeConfig)
    OmegaConf.register_new_resolver("first", _first, replace=True)
    OmegaConf.register_new_resolver(
        "sample", lambda name: str(Path(__file__).parents[1] / "records" / "sample" / name), replace=True
    )
    OmegaConf.register_new_resolver(
        "asset", lambda name: str(Path(__file__).parents[1] / "backbones" / "assets" / name), replace=True
    )


# a job that a launcher sends elsewhere starts with an import, not with the entry point
register()
