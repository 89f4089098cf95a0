import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lookright.composing.companions import CompanionDrawer, RandomCompanions, SameQuestionCompanions
from lookright.composing.formats.base import Composer
from lookright.composing.formats.grid_collage import GridCollage
from lookright.composing.formats.pic_in_pic import PicInPic
from lookright.composing.formats.sequence import SequenceFormat
from lookright.composing.formats.single import SingleImage
from lookright.composing.plan import PromptPlan, PromptPlanner, compose_plan
from lookright.composing.sources.base import Source, Split
from lookright.composing.sources.easy_vqa import EasyVqa
from lookright.errors import ConfigError

MakeSource = Callable[..., Source]


def all_formats() -> list[Composer]:
    return [SequenceFormat(), GridCollage(cell_size=32, margin=8), PicInPic()]


def facts(plan: PromptPlan) -> tuple:
    return plan.number, plan.id, plan.composer.name, plan.target, plan.companions, plan.compose_seed


@pytest.mark.parametrize("shard_count", [1, 2, 3, 7])
def test_shards_make_the_same_union(ten_pictures: Source, shard_count: int) -> None:
    whole = [facts(plan) for plan in PromptPlanner(ten_pictures, "train", all_formats(), seed=5).plans(60)]
    shards = [
        facts(plan)
        for index in range(shard_count)
        for plan in PromptPlanner(ten_pictures, "train", all_formats(), seed=5).plans(60, index, shard_count)
    ]
    assert sorted(shards, key=lambda item: item[0]) == whole


def test_a_number_is_the_same_whatever_came_before(ten_pictures: Source) -> None:
    planner = PromptPlanner(ten_pictures, "train", all_formats(), seed=1)
    late = facts(planner.plan(41))
    assert [facts(plan) for plan in planner.plans(60)][41] == late


def test_no_target_twice_before_all_came_once(ten_pictures: Source) -> None:
    for seed in range(3):
        targets = [plan.target.id for plan in PromptPlanner(ten_pictures, "train", all_formats(), seed=seed).plans(30)]
        assert all(len(set(targets[lap : lap + 10])) == 10 for lap in (0, 10, 20))
        assert targets[:10] != targets[10:20]


def test_seed_and_split_change_the_draw() -> None:
    source = EasyVqa()
    first, again, other = (
        [facts(plan) for plan in PromptPlanner(source, "train", all_formats(), seed=seed).plans(20)]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert not {item[1] for item in first} & {item[1] for item in other}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("rule", [RandomCompanions, SameQuestionCompanions])
def test_splits_are_kept_apart(split: Split, rule: type[CompanionDrawer]) -> None:
    source = EasyVqa()
    planner = PromptPlanner(source, split, all_formats(), rule(source, split))
    plans = list(planner.plans(300))
    assert len(plans) >= 295, "at most a few rare questions lack eight pictures with another answer"
    assert set(planner.skipped) <= {"few_companions"}
    for plan in plans:
        rows = [plan.target, *plan.companions]
        assert all(row.id.startswith(f"easy_vqa/{split}/") and row.picture.startswith(f"{split}/") for row in rows)
        assert len({row.picture for row in rows}) == len(rows)


def test_formats_follow_their_weights() -> None:
    """Default 15.1 : 9.3 : 4.5, within five deviations of 5,000 draws; a weight of 0 is never drawn."""
    source = EasyVqa()
    counts = Counter(plan.composer.name for plan in PromptPlanner(source, "test", all_formats()).plans(5000))
    for name, weight in {"sequence": 15.1, "grid_collage": 9.3, "pic_in_pic": 4.5}.items():
        share = weight / 28.9
        assert abs(counts[name] - 5000 * share) < 5 * (5000 * share * (1 - share)) ** 0.5
    weights = {"sequence": 0, "pic_in_pic": 1, "grid_collage": 0}
    plans = PromptPlanner(source, "test", all_formats(), weights=weights).plans(50)
    assert {plan.composer.name for plan in plans} == {"pic_in_pic"}


def test_what_cannot_be_made_is_counted(painted: MakeSource) -> None:
    asked = [(str(n), "Where?", f"[0, 0, 1, {n}]" if n < 4 else f"place {n}") for n in range(10)]
    source = painted(asked)
    planner = PromptPlanner(source, "train", [GridCollage(mixture={2: 1})])
    assert len(list(planner.plans(10))) == 6
    assert planner.skipped == {"bounding_box": 4}
    few = PromptPlanner(source, "train", [GridCollage(mixture={9: 1})], SameQuestionCompanions(source, "train"))
    assert len(list(few.plans(10))) == 6
    shards = [PromptPlanner(source, "train", [GridCollage(mixture={2: 1})]) for _ in range(3)]
    for index, planner in enumerate(shards):
        list(planner.plans(10, index, 3))
    assert sum((planner.skipped for planner in shards), Counter()) == {"bounding_box": 4}


def test_a_composed_plan_is_written_as_it_was_composed(ten_pictures: Source, tmp_path: Path) -> None:
    planner = PromptPlanner(ten_pictures, "test", [*all_formats(), SingleImage()], weights=None, seed=9)
    by_id = {row.id: row for row in ten_pictures.rows("test")}
    written: Counter[str] = Counter()
    for plan in planner.plans(40):
        prompt = compose_plan(plan, ten_pictures, tmp_path)
        assert re.fullmatch(r"[A-Za-z0-9._-]+", prompt.id)
        assert prompt.images == [f"images/{plan.id}_{n}.png" for n in range(len(prompt.images))]
        assert prompt.prompt.count("<image>") == len(prompt.images)
        assert prompt.ground_truth == plan.target.answer
        assert prompt.regions[prompt.target].source == plan.target.id
        again = plan.composer.compose(plan.target, plan.companions, ten_pictures.open, random.Random(plan.compose_seed))
        for name, picture in zip(prompt.images, again.pictures, strict=True):
            assert Image.open(tmp_path / name).tobytes() == picture.tobytes()
        assert prompt.provenance["source_id"] == plan.target.id
        assert prompt.provenance["seed"] == 9
        assert (prompt.provenance["companions"], prompt.provenance["companions_within"]) == ("random", "split")
        assert prompt.provenance["composer_version"] == plan.composer.composer_version
        assert prompt.provenance["region_answers"] == [by_id[region.source].answer for region in prompt.regions]
        written.update(prompt.images)
    assert max(written.values()) == 1, "two pictures under one name"
    assert len(list((tmp_path / "images").iterdir())) == len(written)


def test_wrong_shards_and_formats_are_refused(ten_pictures: Source) -> None:
    planner = PromptPlanner(ten_pictures, "train", all_formats())
    with pytest.raises(ConfigError, match=r"shard.index=3, shard.count=3"):
        list(planner.plans(5, 3, 3))
    with pytest.raises(ConfigError, match="collage"):
        PromptPlanner(ten_pictures, "train", all_formats(), weights={"collage": 1})
    with pytest.raises(ConfigError, match="0 formats"):
        PromptPlanner(ten_pictures, "train", [])
