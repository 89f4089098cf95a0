"""Ids of whole conversations against the official training text and the sentencepiece library."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch

from lookright.backbones.ixc25 import Ixc25Backbone
from lookright.backbones.ixc25.checkpoint import save_checkpoint
from lookright.packing.batch import pack
from lookright.packing.encode import encode_preference
from lookright.records.readers import load_preferences
from lookright.records.records import write_jsonl
from lookright.types import Preference, Turn
from tests.examples import noise
from tests.tokenizer_forms import CASES, FORMS, train_model, write_form

START, END = "[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]"
SIZE = (84, 84)
NUM_TOKENS = 25
"""Of a picture of one tile: 2 grids of 9, 6 row ends, 1 in between."""


@pytest.fixture(scope="module", params=["dummy prefix", "no dummy prefix", "merging"])
def model_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentencepiece models with the turn pieces; `merging` has pieces that reach from the template into an answer."""
    folder = tmp_path_factory.mktemp("sp")
    settings = {"user_defined_symbols": [START, END], "add_dummy_prefix": request.param == "dummy prefix"}
    if request.param != "merging":
        return train_model(folder, **settings)
    texts = ["assistant|yes", "t|yes", "user red assistant no"] * 8
    settings |= {"split_by_unicode_script": False, "vocab_size": 330}
    file = train_model(folder, texts, **settings)
    # a line feed cannot be in a training sentence: another character stood for it
    file.write_bytes(file.read_bytes().replace(b"|", b"\n"))
    assert any("\nyes" in piece for piece in pieces(file))
    return file


def pieces(file: Path) -> list[str]:
    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    return [model.id_to_piece(number) for number in range(model.get_piece_size())]


@pytest.fixture(params=FORMS)
def official(request: pytest.FixtureRequest, model_file: Path, make_model: Callable, tmp_path: Path) -> Ixc25Backbone:
    save_checkpoint(make_model(vocab_size=640), tmp_path)
    write_form(tmp_path, request.param, model_file, markers=(START, END))
    return Ixc25Backbone(path=str(tmp_path))


def official_ids(file: Path, prompt: str, answer: str) -> list[int]:
    """Prompt and answer as the official training writes and splits them, up to the end of the answer's turn."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    text = f"{START}user\n{prompt}{END}\n{START}assistant\n{answer.strip()}{END}\n"
    parts = text.split("<image>", prompt.count("<image>"))
    ids = [1, *model.encode(parts[0])]
    for part in parts[1:]:
        ids += [0] * NUM_TOKENS + model.encode(part)
    end = model.piece_to_id(END)
    return ids[: len(ids) - ids[::-1].index(end)]


def random_text(rng: random.Random) -> str:
    bits = [" ", "\n", "red", "Image1", ":", "7", '"', "это", "图片", "  ", "</s>", "yes", "- ", "▁"]
    return "".join(rng.choices(bits, k=rng.randrange(10)))


def test_conversations_are_those_of_the_official_training(official: Ixc25Backbone, model_file: Path) -> None:
    rng = random.Random(0)
    cases = [*CASES, *((f"{random_text(rng)}<image>{random_text(rng)}", random_text(rng)) for _ in range(150))]
    reaching = any("\n" in piece and len(piece) > 1 for piece in pieces(model_file))
    for prompt, answer in cases:
        sizes = [SIZE] * prompt.count("<image>")
        shared, (response,) = official.encode_conversation(prompt, [answer], sizes)
        ids = [*shared.input_ids.tolist(), *response.tolist()]
        assert ids == official_ids(model_file, prompt, answer), (prompt, answer)
        asked = official.encode_prompt(prompt, sizes)
        assert torch.equal(shared.input_ids, asked.input_ids[: len(shared.input_ids)])
        if not reaching:
            assert len(shared.input_ids) == len(asked.input_ids)
            assert official.decode(response.tolist()) == answer.strip().replace("▁", " ").strip()


def official_turn_ids(file: Path, turns: list[tuple[str, str]], question: str) -> list[int]:
    """The whole conversation as one text, as the official chat writes it, split at the pictures alone."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    opening, closing = f"{START}user\n", f"{END}\n{START}assistant\n"
    text = "".join(f"{opening}{asked}{closing}{said.strip()}{END}\n" for asked, said in turns)
    first, *others = f"{text}{opening}{question}{closing}".split("<image>")
    ids = [1, *model.encode(first)]
    for part in others:
        ids += [0] * NUM_TOKENS + model.encode(part)
    return ids


def test_conversations_of_several_turns_are_those_of_the_official_chat(
    official: Ixc25Backbone, model_file: Path
) -> None:
    rng = random.Random(1)
    for number in range(100):
        turns = [
            (f"{'<image>' * (number % 3)}{random_text(rng)}", random_text(rng)),
            (f"{random_text(rng)}{'<image>' * (number % 2)}", random_text(rng)),
        ]
        question = f"<image>{random_text(rng)}"
        sizes = [SIZE] * sum(text.count("<image>") for text in (*(asked for asked, _ in turns), question))
        encoded = official.encode_prompt(question, sizes, [Turn(*turn) for turn in turns])
        assert encoded.input_ids.tolist() == official_turn_ids(model_file, turns, question), (turns, question)
        assert len(encoded.image_spans) == len(sizes)


def test_the_packed_row_holds_them(official: Ixc25Backbone, model_file: Path, tmp_path: Path) -> None:
    """Also where the answers reach into the template: both begin at the same place."""
    noise(SIZE, 0).save(tmp_path / "0.png")
    prompt, chosen, rejected = "Image1:<image>\nIs it red?", "yes, it is", "  no, 7 of 45 % "
    record = Preference(id="p", images=["0.png"], prompt=prompt, chosen=chosen, rejected=[rejected])
    write_jsonl(tmp_path / "pairs.jsonl", [record])
    loaded = load_preferences(tmp_path / "pairs.jsonl")
    batch = pack([encode_preference(official, loaded.records[0], loaded.pictures)])
    first, second = (official_ids(model_file, prompt, answer) for answer in (chosen, rejected))
    same = next(place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    length = min(same, len(official.encode_prompt(prompt, [SIZE]).input_ids))
    assert batch.input_ids[0].tolist() == [*first[:-1], *second[length:-1]]
    assert batch.scored.targets.tolist() == [*first[length:], *second[length:]]
