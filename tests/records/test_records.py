import json
from pathlib import Path

import pytest

from lookright.common.jsonl import cut_torn_line
from lookright.errors import ConfigError, RecordError
from lookright.records.records import (
    preference_from_dict,
    prompt_from_dict,
    read_prompts,
    to_dict,
    write_jsonl,
)
from lookright.types import Preference, Prompt, Region

REGION = Region(picture=0, box=(0, 0, 4, 2.5), source="s/1")
PROMPT = Prompt(
    id="p", images=["a.png"], prompt="<image>\nWhat?", ground_truth="é", format="pic_in_pic", target=0, regions=[REGION]
)


def preference(**keys: object) -> Preference:
    return Preference(
        **({"id": "p", "images": ["a.png"], "prompt": "<image>\nQ", "chosen": "a", "rejected": ["b"]} | keys)
    )


def test_prompts_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "instructions.jsonl"
    write_jsonl(path, [PROMPT, PROMPT])
    assert list(read_prompts(path)) == [PROMPT, PROMPT]
    assert "é" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "record",
    [
        preference(),
        preference(rejected=["b", "c"], scores={"perplexity": 1.5}, provenance={"seed": 3}),
        preference(format="sequence", target=0, regions=[REGION]),
    ],
)
def test_preferences_come_back_as_they_were(tmp_path: Path, record: Preference) -> None:
    write_jsonl(tmp_path / "preferences.jsonl", [record])
    (line,) = (tmp_path / "preferences.jsonl").read_text(encoding="utf-8").splitlines()
    assert preference_from_dict(json.loads(line)) == record


def test_one_rejected_answer_is_a_string_and_unknown_geometry_is_left_out() -> None:
    data = to_dict(preference())
    assert data["rejected"] == "b"
    assert not {"format", "target", "regions"} & set(data)
    assert to_dict(preference(rejected=["b", "c"]))["rejected"] == ["b", "c"]
    assert preference_from_dict(data | {"target": None}) == preference()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"scroes": {}},
            "unknown key 'scroes'; valid are id, images, prompt, ground_truth, format, target, regions, provenance",
        ),
        ({"id": 3}, "id=3 is int, not str"),
        ({"target": True}, "target=True is bool, not int"),
        ({"images": "a.png"}, "images='a.png' is str, not list"),
        ({"images": [1]}, r"images=\[1\]: every item is a string"),
        ({"regions": [{"picture": 0, "box": [1, 2, 3], "source": "s"}]}, r"regions\[0\]="),
        ({"regions": [{"picture": 0, "box": [1, 2, 3, 4]}]}, r"regions\[0\]="),
        ({"regions": None}, "regions=None is not a list"),
        ({"target": None}, "target=None is NoneType, not int"),
    ],
)
def test_a_wrong_value_names_its_key(change: dict, message: str) -> None:
    with pytest.raises(RecordError, match=message) as error:
        prompt_from_dict(to_dict(PROMPT) | change)
    assert error.value.reason == "malformed"


def test_a_missing_key_and_a_wrong_kind_are_named() -> None:
    data = to_dict(PROMPT)
    del data["ground_truth"]
    with pytest.raises(RecordError, match="'ground_truth' is missing; a prompt needs it"):
        prompt_from_dict(data)
    with pytest.raises(RecordError, match="found list"):
        preference_from_dict([])


def test_the_word_of_earlier_versions_for_the_ground_truth_is_read() -> None:
    old = {"answer" if key == "ground_truth" else key: value for key, value in to_dict(PROMPT).items()}
    assert prompt_from_dict(old) == PROMPT
    with pytest.raises(RecordError, match="unknown key 'answer'"):
        prompt_from_dict(to_dict(PROMPT) | {"answer": "x"})


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    line = json.dumps(to_dict(PROMPT))
    path.write_text(f"{line}\n\n{line[:30]}\n")
    with pytest.raises(RecordError, match=rf"{path}:3: not valid json") as error:
        list(read_prompts(path))
    assert error.value.reason == "json"
    with pytest.raises(ConfigError, match="none.jsonl: no such file"):
        list(read_prompts(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("content", "kept", "cut"),
    [
        (b"", b"", 0),
        (b"a\nb\n", b"a\nb\n", 0),
        (b"a\nbc", b"a\n", 2),
        (b"abc", b"", 3),
        (b"a\n" + b"b" * 200_000, b"a\n", 200_000),
    ],
)
def test_a_torn_last_line_is_cut(tmp_path: Path, content: bytes, kept: bytes, cut: int) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert cut_torn_line(path) == cut
    assert path.read_bytes() == kept
