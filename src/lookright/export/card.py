"""The card of exported weights: what they are, what made them, what was measured, how they are loaded."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from omegaconf import DictConfig, OmegaConf

from lookright.common.jsonl import write_atomically
from lookright.config.made_by import describe_data, described_values
from lookright.config.runs import EVAL_FOLDER, NOTHING, read_config

CARD_FILE = "README.md"
GROUPS = ("loss", "reference", "tuning", "optimizer", "schedule", "data", "trainer")
"""Of the config of a run: whose values the card shows."""
MAIN_METRICS = ("accuracy", "attention_ratio")
SHOWN_METRICS = ("train/", "val/")


def write_card(config: DictConfig, run: str | None, note: Mapping[str, Any], base: str, folder: Path) -> None:
    """Write `README.md` into what is exported; `note` is what `export.json` holds, `base` what the base is called."""
    home = _run_folder(config, run)
    saved = None if home is None else read_config(home, "run", builds=NOTHING)
    trained: Any = {} if saved is None else OmegaConf.to_container(saved, resolve=False)
    summary = _read(home, "summary.json")
    backbone: Any = OmegaConf.to_container(config.backbone, resolve=True)
    text = (
        _environment()
        .get_template("card.md.j2")
        .render(
            base=base,
            license=config.license,
            note=note,
            merged=note["layout"] != "adapter",
            tuned=config.adapter is not None or run is not None,
            summary=summary,
            data=describe_data(trained["data"]) if trained else None,
            settings={key: _described(trained[key]) for key in GROUPS if trained.get(key)},
            metrics={
                name: value
                for name, value in summary.get("metrics", {}).items()
                if name.startswith(SHOWN_METRICS) and value is not None
            },
            measured=list(_measured(_read(home, f"{EVAL_FOLDER}/metrics.json"))),
            options=", ".join(f"`{one}`" for one in described_values(backbone, "backbone.") if ".path=" not in one),
        )
    )
    write_atomically(folder / CARD_FILE, [text])


def _described(options: Mapping[str, Any]) -> str:
    """The class of a group and its values."""
    return ", ".join([str(options["_target_"]).rpartition(".")[2], *described_values(options)])


def _run_folder(config: DictConfig, run: str | None) -> Path | None:
    """The run that made the weights: the one named, or the one that the adapter lies in."""
    places = [Path(run)] if run is not None else [] if config.adapter is None else [Path(config.adapter).parent]
    return next((place for place in places if (place / "config.yaml").is_file()), None)


def _read(folder: Path | None, name: str) -> dict[str, Any]:
    if folder is None or not (folder / name).is_file():
        return {}
    found: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return found


def _measured(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of a table: metric, group, value with its interval, number of questions."""
    for key in MAIN_METRICS:
        for group, entry in result.get(key, {}).items():
            yield {"metric": key, "group": group, **entry}


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("lookright.export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
