"""What a stored number depends on: content gives new keys, everything else is refused by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lookright.backbones.llava import LlavaBackbone
from lookright.errors import LookRightError
from lookright.packing.keys import response_keys
from lookright.reference.identity import NO_ADAPTER, adapter_identity, hash_tensors
from lookright.reference.store import SUFFIX, LogpStore
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from lookright.types import Preference
from tests.examples import lively_model, make_example, noise, shake_adapters
from tests.reference.cached_parts import NUM_RESPONSES, counted_passes, load_data, prepared, records, write_data


def refusal(tmp_path: Path, backbone: LlavaBackbone, folder: str = "store", **options: object) -> str:
    """The message with which a run on the store is refused."""
    with pytest.raises(LookRightError) as error:
        prepared(backbone, load_data(tmp_path / "data" / "preferences.jsonl", backbone), tmp_path / folder, **options)
    message = str(error.value)
    assert f"reference.folder={tmp_path / folder}" in message and "delete" in message.lower()
    return message


def named(message: str) -> set[str]:
    """Names of the lines that say what differs."""
    return {line.split(": was ")[0].strip() for line in message.splitlines() if ": was " in line}


@pytest.fixture()
def stored(tmp_path: Path, llava: LlavaBackbone) -> Path:
    """A store filled from float64 LoRA."""
    prepared(llava, load_data(write_data(tmp_path / "data"), llava), tmp_path / "store")
    return tmp_path


def test_other_weights_are_refused(stored: Path, llava: LlavaBackbone) -> None:
    assert named(refusal(stored, llava, seed=1)) == {"model weights"}


def test_one_changed_bit_in_one_weight_is_refused(stored: Path, llava: LlavaBackbone) -> None:
    model = lively_model(llava)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = hash_tensors(state)
    name = "model.multi_modal_projector.linear_2.bias"
    state[name][-1] = torch.nextafter(state[name][-1], torch.tensor(9.0, dtype=torch.float64))
    assert hash_tensors(state) != before


def test_another_type_is_refused(stored: Path, llava: LlavaBackbone) -> None:
    assert "type of the weights (trainer.model_dtype)" in named(refusal(stored, llava, dtype=torch.float32))


def test_another_precision_is_refused(stored: Path, llava: LlavaBackbone) -> None:
    message = refusal(stored, llava, precision="bf16-mixed")
    assert named(message) == {"precision (trainer.precision)"}
    assert "was 32-true" in message and "is bf16-mixed" in message


def test_another_template_is_refused(stored: Path, llava: LlavaBackbone, llava_folder: Path) -> None:
    other = LlavaBackbone(path=str(llava_folder), system_prompt="In Image1")
    assert named(refusal(stored, other)) == {"prompt template and tokenizer"}


def test_another_processor_is_refused(stored: Path, llava: LlavaBackbone, llava_folder: Path) -> None:
    other = LlavaBackbone(path=str(llava_folder), image_aspect="crop")
    assert named(refusal(stored, other)) == {"image processor"}


def test_another_configuration_is_refused(
    stored: Path, llava: LlavaBackbone, llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = LlavaBackbone(path=str(llava_folder))
    other.config.text_config.rope_parameters["rope_theta"] = 5e5
    assert named(refusal(stored, other)) == {"model configuration"}


def test_an_adapter_under_the_policy_is_refused(stored: Path, llava: LlavaBackbone) -> None:
    policy = LoraTuning(r=4, alpha=8, dropout=0.0).apply(llava, lively_model(llava))
    shake_adapters(policy).save_pretrained(stored / "adapter")
    tuning = LoraTuning(adapter=str(stored / "adapter"))
    assert named(refusal(stored, llava, tuning=tuning)) == {"adapter"}


def test_another_way_of_computing_is_refused(
    stored: Path, llava: LlavaBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookright.reference.identity.METHOD", "packed rows 2")
    assert named(refusal(stored, llava)) == {"way of computing"}


def test_the_rank_of_a_fresh_adapter_and_full_tuning_share_a_store(
    stored: Path, llava: LlavaBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data(stored / "data" / "preferences.jsonl", llava)
    for tuning in (LoraTuning(r=8, alpha=4), FullTuning()):
        with counted_passes(monkeypatch) as passes:
            prepared(llava, data, stored / "store", tuning=tuning)
        assert len(passes) == 1, "nothing but the comparison"


def test_an_adapter_is_known_by_its_content(llava: LlavaBackbone) -> None:
    def policy(alpha: int = 8, seed: int = 1) -> torch.nn.Module:
        return shake_adapters(LoraTuning(r=4, alpha=alpha).apply(llava, lively_model(llava)), seed)

    torch.manual_seed(0)
    first = adapter_identity(policy())
    torch.manual_seed(0)
    assert adapter_identity(policy()) == first != NO_ADAPTER
    torch.manual_seed(0)
    assert adapter_identity(policy(alpha=16)) != first
    torch.manual_seed(0)
    assert adapter_identity(policy(seed=2)) != first
    assert adapter_identity(LoraTuning(r=4, alpha=8).apply(llava, lively_model(llava))) == NO_ADAPTER


def one_answer(rows: list[Preference]) -> list[Preference]:
    return [replace(row, chosen="green triangle") if row.id == "r4" else row for row in rows]


def one_rejected(rows: list[Preference]) -> list[Preference]:
    return [replace(row, rejected=[*row.rejected, "circle"]) if row.id == "r1" else row for row in rows]


def one_question(rows: list[Preference]) -> list[Preference]:
    return [replace(row, prompt=f"{row.prompt} yes?") if row.id == "r3" else row for row in rows]


@pytest.mark.parametrize(
    ("change", "record", "added"), [(one_answer, "r4", 1), (one_rejected, "r1", 1), (one_question, "r3", 3)]
)
def test_changed_records_are_computed_anew_and_no_others(
    stored: Path,
    llava: LlavaBackbone,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[list[Preference]], list[Preference]],
    record: str,
    added: int,
) -> None:
    data = load_data(write_data(stored / "data", change), llava, batch_size=1)
    with counted_passes(monkeypatch) as passes:
        pair = prepared(llava, data, stored / "store")
    assert passes[1:] == [[record]]
    assert len(pair.reference.store) == NUM_RESPONSES + added


def test_a_changed_picture_is_computed_anew(
    stored: Path, llava: LlavaBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = stored / "data" / "2_1.png"
    image = noise((40, 64), 21)
    image.putpixel((20, 30), tuple(255 - value for value in image.getpixel((20, 30))))
    image.save(picture)
    data = load_data(stored / "data" / "preferences.jsonl", llava, batch_size=1)
    with counted_passes(monkeypatch) as passes:
        prepared(llava, data, stored / "store")
    assert passes[1:] == [["r2"]]


def test_renamed_and_reordered_records_are_found(
    stored: Path, llava: LlavaBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_data(stored / "data", lambda rows: [replace(row, id=f"x{row.id}", format=None) for row in rows[::-1]])
    with counted_passes(monkeypatch) as passes:
        prepared(llava, load_data(path, llava), stored / "store")
    assert len(passes) == 1


def test_numbers_that_the_live_reference_does_not_give_are_refused(stored: Path, llava: LlavaBackbone) -> None:
    """As if a library had changed what it computes: everything that is known by name is the same."""
    manifest = json.loads((stored / "store" / "manifest.json").read_text())
    (shard,) = (stored / "store").glob(f"*{SUFFIX}")
    mark = shard.read_bytes()[8:24]
    wrong = LogpStore(stored / "wrong", mark, manifest["components"], manifest["versions"] | {"torch": "0.1"})
    right = LogpStore(stored / "store", mark, manifest["components"], {})
    keys = [key.hex() for key in right._values]
    wrong.add(keys, [right[key] + 1e-3 for key in keys])
    message = refusal(stored, llava, "wrong")
    assert "record r1 has " in message and "torch 0.1" in message and f"torch {torch.__version__}" in message


def test_a_key_depends_on_all_that_the_model_is_given(llava: LlavaBackbone) -> None:
    example = make_example(llava, 2, ["red", "blue circle"])
    keys = response_keys(example)
    assert len(set(keys)) == 2 and keys == response_keys(make_example(llava, 2, ["red", "blue circle"]))
    assert response_keys(make_example(llava, 2, ["red"]))[0] == keys[0], "other answers play no part"
    others = [
        make_example(llava, 2, ["red"], seed=1),
        make_example(llava, 2, ["red"], target=1),
        make_example(llava, 3, ["red"]),
        make_example(llava, 2, ["red."]),
    ]
    example.responses[0].num_unscored = 1
    found = {response_keys(other)[0] for other in [*others, example]}
    assert len(found) == 5 and keys[0] not in found
    swapped = make_example(llava, 2, ["red"])
    swapped.pixels.reverse()
    assert response_keys(swapped)[0] not in found | {keys[0]}


def test_the_records_are_what_the_counts_say() -> None:
    assert sum(1 + len(row.rejected) for row in records()) == NUM_RESPONSES
