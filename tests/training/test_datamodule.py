"""Which pairs train, which are held out, which are refused, and that no weights are needed to know."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lookright.backbones.llava import LlavaBackbone
from lookright.errors import ConfigError, LookRightError
from lookright.packing.batch import PackedBatch, pack
from lookright.training.datamodule import PreferenceData
from tests.examples import write_pairs
from tests.published import OLD, write_published


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in this file happens before weights load."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(LlavaBackbone, "build", refuse)


def prepared(path: Path, backbone: LlavaBackbone, needs_target: bool = True, **options: Any) -> PreferenceData:
    data = PreferenceData(str(path), **options)
    data.prepare(backbone, needs_target=needs_target)
    return data


def ids(dataset: Any) -> list[str]:
    return [record.id for record in dataset.records]


def test_held_out_does_not_depend_on_order_or_company(llava: LlavaBackbone, tmp_path: Path) -> None:
    path = write_pairs(tmp_path, 40)
    data = prepared(path, llava, val_fraction=0.3, seed=1)
    held_out = set(ids(data.val_set))
    assert 4 <= len(held_out) <= 20 and not held_out & set(ids(data.train_set))
    assert len(held_out) + len(data.train_set) == 40
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5:-1]))
    again = prepared(path, llava, val_fraction=0.3, seed=1)
    left = {json.loads(line)["id"] for line in lines[6:]}
    assert set(ids(again.val_set)) == held_out & left
    assert set(ids(prepared(path, llava, val_fraction=0.3, seed=2).val_set)) != held_out & left


def test_nothing_is_held_out_where_nothing_is_asked_for(llava: LlavaBackbone, tmp_path: Path) -> None:
    data = prepared(write_pairs(tmp_path, 6), llava, val_fraction=0.0)
    assert len(data.train_set) == 6 and len(data.val_set) == 0 and data.val_dataloader() == []


def test_a_file_of_its_own_for_validation(llava: LlavaBackbone, tmp_path: Path) -> None:
    path, val_path = write_pairs(tmp_path / "a", 6), write_pairs(tmp_path / "b", 4)
    data = prepared(path, llava, val_path=str(val_path), val_fraction=0.9)
    assert (len(data.train_set), len(data.val_set)) == (6, 4)
    assert data.val_set[0].id == "pair-0", "pictures of the validation file are read from its own folder"


def test_batches_are_the_records_packed(llava: LlavaBackbone, tmp_path: Path) -> None:
    data = prepared(write_pairs(tmp_path, 7), llava, val_fraction=0.0, batch_size=3, seed=4)
    order = list(data.train_sampler)
    batches = list(data.train_dataloader())
    assert [batch.ids for batch in batches] == [[f"pair-{index}" for index in indices] for indices in order]
    assert all(isinstance(batch, PackedBatch) for batch in batches)
    wanted = pack([data.train_set[index] for index in order[0]])
    assert torch.equal(batches[0].input_ids, wanted.input_ids) and torch.equal(batches[0].coverage, wanted.coverage)


def test_a_budget_of_tokens_counts_row_tokens(llava: LlavaBackbone, tmp_path: Path) -> None:
    data = prepared(write_pairs(tmp_path, 12), llava, val_fraction=0.0, max_tokens=250)
    batches = list(data.train_dataloader())
    assert sum(batch.num_prompts for batch in batches) == 12 and max(batch.num_prompts for batch in batches) > 1
    assert all(batch.input_ids.shape[1] <= 250 for batch in batches)
    with pytest.raises(ConfigError, match="data.max_tokens=20 is smaller than the largest pair"):
        prepared(write_pairs(tmp_path, 12), llava, val_fraction=0.0, max_tokens=20)


def test_validation_keeps_file_order(llava: LlavaBackbone, tmp_path: Path) -> None:
    data = prepared(write_pairs(tmp_path, 30), llava, val_fraction=0.4, batch_size=2)
    assert [name for batch in data.val_dataloader() for name in batch.ids] == ids(data.val_set)
    numbers = [int(name.split("-")[1]) for name in ids(data.val_set)]
    assert numbers == sorted(numbers) and len(numbers) > 3


def test_other_formats_are_left_out_and_counted(llava: LlavaBackbone, tmp_path: Path) -> None:
    path = write_pairs(tmp_path, 9, formats=("sequence", "grid_collage", "pic_in_pic"))
    data = prepared(path, llava, val_fraction=0.0, formats=["sequence", "pic_in_pic"])
    assert {record.format for record in data.train_set.records} == {"sequence", "pic_in_pic"}
    assert len(data.train_set) == 6 and dict(data.dropped) == {"other_format": 3}
    with pytest.raises(ConfigError, match=r"no record has the format 'colage'; .* grid_collage, pic_in_pic, sequence"):
        prepared(path, llava, formats=["sequence", "colage"])


def test_records_without_geometry_are_refused_where_attention_trains(llava: LlavaBackbone, tmp_path: Path) -> None:
    path = write_pairs(tmp_path, 3, geometry=False)
    with pytest.raises(LookRightError, match="record pair-0.*loss.attention.weight=0") as caught:
        prepared(path, llava, val_fraction=0.0)
    assert str(caught.value).count("[no_target]") == 3
    assert len(prepared(path, llava, needs_target=False, val_fraction=0.0).train_set) == 3


def test_what_is_skipped_is_counted_under_its_reason(llava: LlavaBackbone, tmp_path: Path) -> None:
    path = write_pairs(tmp_path, 6)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    del records[1]["target"], records[1]["regions"]
    records[2]["chosen"] = "red and " * 60
    records[3]["prompt"] = "no placeholder"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    short = copy.copy(llava)
    short.max_length = 200
    data = prepared(path, short, val_fraction=0.0, on_bad_record="skip")
    assert ids(data.train_set) == ["pair-0", "pair-4", "pair-5"]
    assert dict(data.dropped) == {"no_target": 1, "too_long": 1, "placeholders": 1}


def test_a_prompt_over_the_limit_is_named(llava: LlavaBackbone, tmp_path: Path) -> None:
    short = copy.copy(llava)
    short.max_length = 60
    with pytest.raises(LookRightError, match=r"record pair-2: prompt and answer have .* 3 pictures") as caught:
        prepared(write_pairs(tmp_path, 3), short, val_fraction=0.0)
    assert "[too_long]" in str(caught.value) and "backbone.max_length" in str(caught.value)


def test_lengths_of_the_sampler_are_those_of_the_rows(llava: LlavaBackbone, tmp_path: Path) -> None:
    data = prepared(write_pairs(tmp_path, 6), llava, val_fraction=0.0)
    assert data.train_sampler.lengths == [data.train_set[index].num_tokens for index in range(6)]


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_refused_share(fraction: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"data.val_fraction={fraction}"):
        PreferenceData(str(tmp_path), val_fraction=fraction)


def test_published_files_share_ids_and_paths(llava: LlavaBackbone, tmp_path: Path) -> None:
    """Two files with the same ids: all pairs train, each under an id of its own."""
    paths = [str(write_published(tmp_path / name)) for name in ("a", "b")]
    data = PreferenceData(paths, val_fraction=0.0, path_map={OLD: "new"})
    data.prepare(llava, needs_target=True)
    names = ids(data.train_set)
    assert len(names) == len(set(names)) == 64 and dict(data.dropped) == {}
    assert names[:2] == ["2", "2#2"] and names[32:34] == ["2#5", "2#6"]


def test_rows_of_one_source_id_fall_on_one_side(llava: LlavaBackbone, tmp_path: Path) -> None:
    data = prepared(write_published(tmp_path), llava, val_fraction=0.4, seed=3, path_map={OLD: "new"})
    train, held_out = ({name.split("#")[0] for name in ids(part)} for part in (data.train_set, data.val_set))
    assert train and held_out and not train & held_out


def test_an_entry_of_the_path_map_without_use_is_told(llava: LlavaBackbone, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data.path_map: no image path begins with '/mnt/misspelt'"):
        prepared(write_published(tmp_path), llava, path_map={OLD: "new", "/mnt/misspelt": "x"})
    with pytest.raises(LookRightError, match=rf"(?s)32 of 32 records .*set data.path_map={{{OLD}: FOLDER}}"):
        prepared(tmp_path / "pairs.json", llava)
