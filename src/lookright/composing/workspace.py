"""The folder of a run in shards: which files, whose shard, and that a resumed generation is the same run."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from lookright.common.files import write_whole
from lookright.common.locks import LOCK_FILE, locked
from lookright.config.made_by import MADE_BY_FILE, refuse_other_inputs
from lookright.config.runs import CONFIG_FILE, NOTHING, read_config, refuse_other_command
from lookright.errors import ConfigError

ONE_LOT = "all"
COMPOSE_KEYS = ("source", "split", "formats", "composers", "weights", "companions", "seed", "num_prompts")
ANSWER_KEYS = (
    *COMPOSE_KEYS,
    "backbone",
    "adapter",
    "num_answers",
    "decode",
    "noise",
    "ratio_layer",
    "ratio_rows",
    "dtype",
)

SELECT_KEYS = ("selection", "filters")


@dataclass(slots=True, frozen=True, kw_only=True)
class Workspace:
    """Paths below `folder` for `shard` (0-based) of `num_shards`; a single shard writes the final files at once.

    `lots` names the series of prompt numbers; numbers of one answer batch (`batch_size`) stay in one shard, so
    that every answer is computed in the same batch however many shards there are.
    """

    folder: Path
    shard: int = 0
    num_shards: int = 1
    batch_size: int = 1
    lots: tuple[str, ...] = (ONE_LOT,)

    def __post_init__(self) -> None:
        if self.num_shards < 1 or not 0 <= self.shard < self.num_shards:
            raise ConfigError(f"shard.index={self.shard}, shard.count={self.num_shards}: an index is 0 to count - 1")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size}; set 1 or more")

    def numbers(self, total: int) -> Iterator[int]:
        """Numbers below `total` that are this shard's."""
        return (number for number in range(total) if number // self.batch_size % self.num_shards == self.shard)

    def place(self, line: Mapping[str, Any]) -> tuple[int, int]:
        """Number of the lot and number within it, of a line of instructions.jsonl: the order of the final files."""
        name = ONE_LOT if self.lots == (ONE_LOT,) else line["format"]
        return self.lots.index(name), line["provenance"]["number"]

    def batch_of(self, line: Mapping[str, Any]) -> tuple[int, int]:
        """What the lines of one answer batch share."""
        lot, number = self.place(line)
        return lot, number // self.batch_size

    @property
    def instructions(self) -> Path:
        """Composed prompts of this shard."""
        return self._part("instructions", self.shard)

    @property
    def answers(self) -> Path:
        """The model's own answers of this shard."""
        return self._part("answers", self.shard)

    @property
    def skipped(self) -> Path:
        """Prompt numbers of this shard that no prompt came of, and prompts that get no answer, with their reasons."""
        return self._part("skipped", self.shard)

    @property
    def predictions(self) -> Path:
        """Answers of `infer.py` of this shard."""
        return self._part("predictions", self.shard)

    @property
    def source_facts(self) -> Path:
        """What the source held and left out; every shard writes the same."""
        return self.folder / "source.json"

    def record_name(self, *, joins: bool) -> str:
        """Where the record of a run goes: each shard has its own, the run that `joins` them that of the whole."""
        if joins or self.num_shards == 1:
            return MADE_BY_FILE
        stem, suffix = MADE_BY_FILE.split(".")
        return f"shards/{stem}-{self.shard:05d}-of-{self.num_shards:05d}.{suffix}"

    def parts(self, name: str, stage: str = "select") -> list[Path]:
        """The files `name` of all shards, for the stage that joins them. Raises ConfigError naming those not there."""
        paths = [self._part(name, index) for index in range(self.num_shards)]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise ConfigError(f"stage={stage} needs every shard; missing: {', '.join(missing)}; run those shards first")
        return paths

    def final(self, name: str) -> Path:
        """The one file that all shards end in."""
        return self.folder / f"{name}.jsonl"

    def _part(self, name: str, index: int) -> Path:
        if self.num_shards == 1:
            return self.final(name)
        return self.folder / "shards" / f"{name}-{index:05d}-of-{self.num_shards:05d}.jsonl"


def workspace_of(config: DictConfig) -> Workspace:
    """The workspace of a config, as yet without a look at the disk. Raises ConfigError."""
    lots = tuple(config.num_prompts) if OmegaConf.is_dict(config.num_prompts) else (ONE_LOT,)
    return Workspace(
        folder=Path(config.output),
        shard=config.shard.index,
        num_shards=config.shard.count,
        batch_size=config.batch_size,
        lots=lots,
    )


@contextmanager
def only_writer(workspace: Workspace, *, joins: bool) -> Iterator[None]:
    """Hold the lock of a workspace inside: of its shard, or of all shards where the run `joins` them.

    Raises ConfigError where another process has it.
    """
    shards = range(workspace.num_shards) if joins else [workspace.shard]
    names = [LOCK_FILE]
    if workspace.num_shards > 1:
        names = [f"{LOCK_FILE}-{shard:05d}-of-{workspace.num_shards:05d}" for shard in shards]
    with ExitStack() as held:
        for name in names:
            held.enter_context(locked(workspace.folder, name))
        yield


def open_workspace(config: DictConfig) -> Workspace:
    """The workspace, its config saved; raises ConfigError where the folder holds another run."""
    workspace = workspace_of(config)
    saved_path = workspace.folder / CONFIG_FILE
    refuse_other_command(workspace.folder, "output", config)
    workspace.folder.mkdir(parents=True, exist_ok=True)
    if not saved_path.is_file():
        _save(config, saved_path)
        return workspace
    if not config.resume and workspace.instructions.is_file():
        raise ConfigError(
            f"output={workspace.folder} holds a run already and resume=false; set resume=true to go on, "
            "or another output"
        )
    # one answer is what runs had before the key was there
    saved = OmegaConf.merge({"num_answers": 1}, read_config(workspace.folder, "output", builds=NOTHING))
    if config.dtype == "auto":
        # a stage that answers knows its device; what answered before stays known
        config.dtype = saved.dtype
    answered = any(workspace.folder.glob("answers.jsonl")) or any(workspace.folder.glob("shards/answers-*"))
    keys = ANSWER_KEYS if answered else COMPOSE_KEYS
    changed = [place for key in keys for place in _changes(_plain(saved, key), _plain(config, key), key)]
    if saved.shard.count != config.shard.count:
        changed.append("shard.count")
    elif config.shard.count > 1 and saved.batch_size != config.batch_size:
        changed.append("batch_size")
    if changed:
        shown = "; ".join(f"{key} was {_plain(saved, key)}, is {_plain(config, key)}" for key in changed)
        raise ConfigError(
            f"output={workspace.folder} was begun with another config ({shown}); set these back, or another output"
        )
    refuse_other_inputs(workspace.folder, config, keys)
    _refuse_other_pairs(workspace, saved, config)
    _save(config, saved_path)
    return workspace


def _refuse_other_pairs(workspace: Workspace, saved: DictConfig | ListConfig, config: DictConfig) -> None:
    """Raise ConfigError where pairs are there that another selection made, and nobody asked to replace them.

    Whatever the stage: the saved config says what they were made by.
    """
    pairs = workspace.final("preferences")
    if config.overwrite or not pairs.is_file():
        return
    changed = [place for key in SELECT_KEYS for place in _changes(_plain(saved, key), _plain(config, key), key)]
    if changed:
        shown = "; ".join(f"{key} was {_plain(saved, key)}, is {_plain(config, key)}" for key in changed)
        raise ConfigError(
            f"{pairs} is there, made by another selection ({shown}), and a run may have been trained on it; set "
            "another output, or overwrite=true to replace it"
        )


def _changes(before: Any, now: Any, key: str) -> Iterator[str]:
    """Dotted keys whose values differ, as deep as both hold mappings with text keys."""
    nested = all(isinstance(value, dict) and all(isinstance(name, str) for name in value) for value in (before, now))
    if not nested:
        if before != now:
            yield key
        return
    for name in dict.fromkeys((*before, *now)):
        yield from _changes(before.get(name), now.get(name), f"{key}.{name}")


def _plain(config: DictConfig | ListConfig, key: str) -> Any:
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _save(config: DictConfig, path: Path) -> None:
    write_whole(path, OmegaConf.to_yaml(config, resolve=True))
