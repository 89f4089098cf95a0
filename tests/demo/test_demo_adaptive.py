"""Adaptive decoding in the demo: its questions, its command lines, and what is left to the longer command."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from lookright.config.check import check_config
from lookright.demo import adaptive, commands
from lookright.errors import LookRightError

FOLDER = Path("outputs/demo")


def test_values_are_chosen_on_the_training_split_with_another_seed(composed: Callable[..., DictConfig]) -> None:
    for source in commands.SOURCES:
        config = composed("generate", *adaptive.validation_set(source, FOLDER)[1:])
        pairs = composed("generate", *commands.generate(source, "tiny_llava", FOLDER)[1:])
        test = composed("generate", *commands.test_set(source, FOLDER)[1:])
        check_config(config)
        assert (config.split, config.stage) == ("train", "compose") and config.seed != pairs.seed
        assert config.source == pairs.source and config.composers == test.composers
        assert config.companions == test.companions


@pytest.mark.parametrize("name", adaptive.MODELS)
def test_a_model_gets_its_own_values_and_is_asked_the_test_questions(
    name: str, composed: Callable[..., DictConfig]
) -> None:
    tune, infer = adaptive.tune(name, "tiny_llava", FOLDER, 2), adaptive.infer(name, "tiny_llava", FOLDER, "all", 2)
    config = composed("tune_adaptive", *tune[1:])
    check_config(config)
    assert all("validation" in path for path in config.data.path)
    assert config.grid.max_new_tokens == 8
    assert infer[:3] == ["infer.py", "--config-dir", str(config.output)] and "decode=best_all" in infer
    greedy = commands.infer(name, "tiny_llava", FOLDER, 2)
    changed = ("decode=", "overlays=", "output=")
    kept = [one for one in greedy if not one.startswith(changed)]
    assert [one for one in infer if not one.startswith(changed)][:1] + kept[1:] == kept
    assert set(kept) <= set(infer)
    assert infer[-1] != greedy[-1] and infer[-1].endswith(f"{name}_adaptive_seed2")
    told = adaptive.infer(name, "tiny_llava", FOLDER, "target", 2)
    assert "decode=best_target" in told and told[-1].endswith(f"{name}_told_seed2")


def test_questions_about_pictures_of_the_tuning_prompts_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "SOURCES", {"drawn": [], "all_seen": []})

    def write(place: str, source: str, rows: list[tuple[str, int]]) -> None:
        (tmp_path / place / source).mkdir(parents=True, exist_ok=True)
        lines = [
            {"id": f"{number}", "format": name, "provenance": {"source_picture": f"train/{picture}"}}
            for number, (name, picture) in enumerate(rows)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / place / source / "instructions.jsonl").write_text(text)

    for source in ("drawn", "all_seen"):
        write("pairs", source, [("sequence", 1), ("grid_collage", 2)])
    write(
        "validation", "drawn", [("sequence", 3), ("grid_collage", 1), *(("grid_collage", 10 + n) for n in range(400))]
    )
    write("validation", "all_seen", [("sequence", 2)])
    (path,) = adaptive.keep_unseen(tmp_path)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert Counter(line["format"] for line in kept) == {"sequence": 1, "grid_collage": adaptive.KEPT}
    assert not {"train/1", "train/2"} & {line["provenance"]["source_picture"] for line in kept}
    assert f"data.path=[{path}]" in adaptive.tune("base", "tiny_llava", tmp_path)
    write("validation", "drawn", [("sequence", 2)])
    with pytest.raises(LookRightError, match="every picture of every source is in the tuning set"):
        adaptive.keep_unseen(tmp_path)


def test_what_was_found_is_told_as_overrides(tmp_path: Path) -> None:
    folder = adaptive.tuning_folder("tuned", tmp_path)
    folder.mkdir(parents=True)
    setting = {
        "threshold": 0.3,
        "alpha_low": 1.0,
        "alpha_high": 1.5,
        "layers": [0.44, 0.7],
        "steps": "first",
        "scope": "target",
    }
    told = {"best": {"setting": setting}, "recommended": "decode=greedy"}
    alike = {"best": {"setting": setting | {"scope": "all", "layers": None}}, "recommended": "decode=adaptive"}
    (folder / "tuning.json").write_text(json.dumps({"all": alike, "target": told}))
    values = "decode=adaptive decode.threshold=0.3 decode.alpha_low=1.0 decode.alpha_high=1.5"
    assert adaptive.finding("tuned", tmp_path) == {
        "all": {"best": values, "recommended": "decode=adaptive"},
        "target": {"best": f"{values} decode.layers=[0.44,0.7] decode.scope=target", "recommended": "decode=greedy"},
    }
