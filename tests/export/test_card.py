"""The card of a run: base, data, settings, metrics, how to load it, limits; valid YAML in front."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig

from lookright.commands.train import train
from lookright.export.command import export


@pytest.fixture(scope="module")
def run(composed: Callable[..., DictConfig], small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(composed("train", *small_run, "trainer.max_steps=3", f"output={folder}"))
    (folder / "eval").mkdir()
    entry = {"value": 61.25, "low": 50.0, "high": 70.0, "num_questions": 120}
    (folder / "eval" / "metrics.json").write_text(json.dumps({"accuracy": {"multi_image": entry}}))
    return folder


@pytest.mark.parametrize("merge", [True, False])
def test_a_card_is_filled_in(composed: Callable[..., DictConfig], run: Path, tmp_path: Path, merge: bool) -> None:
    given = [f"run={run}", f"merge={merge}", "license=apache-2.0", "base=some/llava", f"output={tmp_path / 'out'}"]
    export(composed("export", *given))
    _, front, card = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(front)
    assert (head["base_model"], head["license"]) == ("some/llava", "apache-2.0")
    assert (head["library_name"], "lora" in head["tags"]) == (("transformers", False) if merge else ("peft", True))
    summary = json.loads((run / "summary.json").read_text())
    for told in (
        f"preferences.jsonl; {summary['examples']} pairs trained, {summary['held_out']} held out",
        f"{summary['steps']} steps",
        "| accuracy | multi_image | 61.25 | 50 to 70 | 120 |",
        "| tuning | LoraTuning, r=2, alpha=4, dropout=0.3",
        "| reference | AdapterOff |",
        "kind=DPOLoss, kind.beta=0.1",
        "## Limits",
        "PeftModel.from_pretrained" if not merge else "AutoProcessor.from_pretrained",
    ):
        assert told in card, told
    assert all(word not in card for word in ("None", "{{", "More Information Needed"))
    assert ("its adapter is merged into its weights" in card) == merge
    settings = tmp_path / "out" / "adapter_config.json"
    assert merge != settings.is_file()
    assert merge or json.loads(settings.read_text())["base_model_name_or_path"] == "some/llava"


def test_the_card_of_a_run_that_tuned_all_weights(
    composed: Callable[..., DictConfig], small_run: list[str], llava_weights: Path, tmp_path: Path
) -> None:
    """Its base is what it began with, not its own weights, and it has no adapter."""
    own = [one for one in small_run if not one.startswith("tuning.")]
    train(
        composed(
            "train", *own, "tuning=full", "reference=frozen_copy", "trainer.max_steps=1", f"output={tmp_path / 'run'}"
        )
    )
    export(composed("export", f"run={tmp_path / 'run'}", f"output={tmp_path / 'out'}"))
    _, front, card = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["base_model"] == str(llava_weights) and head["base_model_relation"] == "finetune"
    assert "A vision-language model, tuned on pairs" in card and "adapter" not in card


def test_the_card_of_an_adapter_from_elsewhere_claims_nothing(
    composed: Callable[..., DictConfig], run: Path, llava_weights: Path, tmp_path: Path
) -> None:
    shutil.copytree(run / "adapter", tmp_path / "a: b" / "adapter")
    path = f"backbone.path={llava_weights}"
    export(
        composed("export", path, f"adapter={tmp_path / 'a: b' / 'adapter'}", "base=a: b", f"output={tmp_path / 'out'}")
    )
    _, front, card = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "a: b"
    assert "of whose training nothing is known here" in card and "LookRight" not in card.split("- Written by")[0]
