"""A format from outside the package: composed, answered, selected, trained on and evaluated without another edit."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from lookright.commands.generate import generate
from lookright.commands.infer import infer
from lookright.commands.train import train
from lookright.errors import ConfigError
from tests.seams.conftest import Outside

MODULE = '''
from typing import ClassVar

from PIL import Image

from lookright.composing.formats.base import Composed, Composer
from lookright.types import Region


class FilmStrip(Composer):
    """Three pictures below each other."""

    name = "film_strip"
    counts = (3,)
    composer_version = 1
    default_mixture: ClassVar = {3: 1}
    OWN

    def __init__(self, mixture=None, side: int = 20):
        super().__init__(mixture)
        self.side = side

    def compose(self, target, companions, open_picture, rng):
        rows, place = self.arrange(target, companions, rng)
        canvas, regions = Image.new("RGB", (self.side, self.side * len(rows))), []
        for number, row in enumerate(rows):
            canvas.paste(open_picture(row).resize((self.side, self.side)), (0, number * self.side))
            box = (0, number * self.side, self.side, (number + 1) * self.side)
            regions.append(Region(picture=0, box=box, source=row.id))
        prompt = f"<image>\\nIn frame {place + 1}, {target.question}"
        return Composed(pictures=[canvas], prompt=prompt, target=place, regions=regions)
'''
YAML = "film_strip:\n  _target_: from_outside.FilmStrip\n  side: 24\n"
OWN = "weight = 20.0\n    thresholds: ClassVar = {3: 0.9}"
NOT_FILTERED = ["filters.perplexity=null", "filters.length_ratio=null", "filters.edit_distance=null"]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open()]


def test_from_composing_to_reports(
    outside: Outside,
    searching: Callable[..., DictConfig],
    composed: Callable[..., DictConfig],
    generating: list[str],
    small_run: list[str],
    llava_weights: Path,
    tmp_path: Path,
) -> None:
    folder = outside(MODULE.replace("OWN", OWN), {"composers/film_strip.yaml": YAML})
    formats = ["+composers=film_strip", "formats=[sequence,film_strip]", *NOT_FILTERED]
    summary = generate(searching("generate", folder, *generating, *formats, "num_prompts=24"))
    prompts = lines_of(tmp_path / "out" / "instructions.jsonl")
    counts = Counter(prompt["format"] for prompt in prompts)
    # 20 against 15.1, its own share
    assert set(counts) == {"film_strip", "sequence"} and sum(counts.values()) == summary["answered"]
    strips = [prompt for prompt in prompts if prompt["format"] == "film_strip"]
    assert all(prompt["regions"][2]["box"] == [0, 48, 24, 72] for prompt in strips)

    answers = {line["id"]: line for line in lines_of(tmp_path / "out" / "answers.jsonl")}
    pairs = [line["id"] for line in lines_of(tmp_path / "out" / "preferences.jsonl") if line["format"] == "film_strip"]
    below = [prompt["id"] for prompt in strips if answers[prompt["id"]]["attention_ratio"] < 0.9]
    assert set(pairs) <= set(below) and len(pairs) >= 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<th scope="row">Film strip</th><td>3</td><td>0.9</td>' in page
    # the published formats come first
    assert page.index(">Sequence</th>") < page.index(">Film strip</th>")

    pairs_file = tmp_path / "out" / "preferences.jsonl"
    steps = [*small_run, f"data.path={pairs_file}", "data.formats=[film_strip]", "trainer.max_steps=1"]
    train(composed("train", *steps, f"output={tmp_path / 'trained'}"))
    assert json.loads((tmp_path / "trained" / "summary.json").read_text())["examples"] > 0

    questions = [f"data.path={tmp_path / 'out' / 'instructions.jsonl'}", f"backbone.path={llava_weights}", "overlays=2"]
    result = infer(composed("infer", *questions, "decode.max_new_tokens=3", f"output={tmp_path / 'answered'}"))
    assert list(result["accuracy"]) == ["sequence", "film_strip", "multi_image"]
    assert "Film strip" in (tmp_path / "answered" / "report.html").read_text()


def test_what_a_format_does_not_say_is_asked_for(
    outside: Outside, searching: Callable[..., DictConfig], generating: list[str], tmp_path: Path
) -> None:
    folder = outside(MODULE.replace("OWN", ""), {"composers/film_strip.yaml": YAML})
    both = ["+composers=film_strip", "formats=[sequence,film_strip]"]
    with pytest.raises(ConfigError) as error:
        generate(searching("generate", folder, *generating, *both))
    told = str(error.value)
    assert "weights is null, and the format film_strip has no share of its own" in told
    assert "set weights={sequence: 15.1, film_strip: 1}" in told
    assert "selection.thresholds has no format 'film_strip'" in told and "set selection.thresholds.film_strip" in told
    assert not (tmp_path / "out" / "instructions.jsonl").exists()
    given = ["weights={sequence: 1, film_strip: 1}", "+selection.thresholds.film_strip=1", "stage=compose"]
    assert generate(searching("generate", folder, *generating, *both, *given))["composed"] == 12
    # alone it needs no share
    alone = ["+composers=film_strip", "formats=[film_strip]", "stage=compose", f"output={tmp_path / 'alone'}"]
    assert generate(searching("generate", folder, *generating, *alone))["composed"] == 12


def test_random_pairs_match_its_threshold(
    outside: Outside, searching: Callable[..., DictConfig], generating: list[str], tmp_path: Path
) -> None:
    folder = outside(MODULE.replace("OWN", OWN), {"composers/film_strip.yaml": YAML})
    alone = ["+composers=film_strip", "formats=[film_strip]", *NOT_FILTERED]
    kept = generate(searching("generate", folder, *generating, *alone))["kept"]
    drawn = generate(searching("generate", folder, *generating, *alone, "selection=random", "overwrite=true"))["kept"]
    assert drawn == kept > 0


def test_the_name_in_the_config_is_that_of_the_format(
    outside: Outside, searching: Callable[..., DictConfig], generating: list[str]
) -> None:
    folder = outside(MODULE.replace("OWN", OWN), {"composers/strip.yaml": YAML.replace("film_strip", "strip", 1)})
    with pytest.raises(ConfigError, match="composers.strip makes the format film_strip; name it so"):
        generate(searching("generate", folder, *generating, "+composers=strip", "formats=[strip]"))
