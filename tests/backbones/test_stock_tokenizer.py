"""What stock AutoTokenizer makes of a written tokenizer is what sentencepiece makes, in every published form."""

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lookright.backbones.stock_tokenizer import our_ids, write_stock_tokenizer
from lookright.backbones.tokenizer import read_tokenizer, tokenizer_file
from tests.tokenizer_forms import CASES, FORMS, TEXT, train_model, write_llava


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_model(tmp_path_factory.mktemp("sentencepiece"))


def texts() -> list[str]:
    """Prompts of every edge, and random stretches around pictures; none spells a special token."""
    rng = random.Random(0)
    made = ["".join(rng.choices([*TEXT, " ", " ", "<image>", "\n", "é"], k=60)) for _ in range(200)]
    prompts = [f"USER: {prompt} ASSISTANT: {answer}" for prompt, answer in CASES]
    return [text for text in [*prompts, *made] if "<" not in text.replace("<image>", "")]


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "not legacy"])
@pytest.mark.parametrize("form", FORMS)
def test_stock_ids_are_ours(model_file: Path, form: str, legacy: bool, tmp_path: Path) -> None:
    source = write_llava(tmp_path / "source", form, legacy, model_file)
    file = tokenizer_file(source)
    ours = read_tokenizer(file)
    image = json.loads((source / "config.json").read_text())["image_token_id"]
    ids = {"bos_id": 1, "end_id": 2, "pad_id": 0, "image_id": image}
    assert write_stock_tokenizer(file, tmp_path / "out", ours, limit=4096, **ids)
    stock = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "max_length" not in stock.init_kwargs, "a processor would cut prompts to what a file was last used with"
    for text in texts():
        wanted = our_ids(ours, text, 1, image)
        assert stock(text)["input_ids"] == wanted, text
        if "<image>" not in text:
            assert stock.decode(wanted, skip_special_tokens=True).strip() == ours.decode(wanted).strip()
    assert (stock.bos_token, stock.eos_token, stock.eos_token_id) == ("<s>", "</s>", 2)
    assert stock.convert_tokens_to_ids("<image>") == image


@pytest.mark.parametrize("normalized", [False, True], ids=["", "normalized"])
@pytest.mark.parametrize("form", FORMS[1:])
def test_stock_ids_of_several_turns_are_ours(model_file: Path, form: str, normalized: bool, tmp_path: Path) -> None:
    """Also where special tokens are looked for in normalised text, as LLaMA's older files have it."""
    source = write_llava(tmp_path / "source", form, True, model_file)
    file = tokenizer_file(source)
    data = json.loads(file.read_text())
    for token in data["added_tokens"]:
        token["normalized"] = normalized and token["content"] != "<image>"
    file.write_text(json.dumps(data))
    ours = read_tokenizer(file)
    image = json.loads((source / "config.json").read_text())["image_token_id"]
    ids = {"bos_id": 1, "end_id": 2, "pad_id": 0, "image_id": image}
    assert write_stock_tokenizer(file, tmp_path / "out", ours, limit=4096, **ids)
    stock = AutoTokenizer.from_pretrained(tmp_path / "out")
    for first, second in pairwise(texts()):
        wanted = [*our_ids(ours, first, 1, image), 2, *our_ids(ours, second, 1, image)[1:]]
        assert stock(f"{first}</s>{second}")["input_ids"] == wanted, (first, second)


def test_files_that_give_our_ids_are_copied(llava_folder: Path, tmp_path: Path) -> None:
    file = tokenizer_file(llava_folder)
    ids = {"bos_id": 1, "end_id": 2, "pad_id": 0, "image_id": 3}
    assert write_stock_tokenizer(file, tmp_path, read_tokenizer(file), limit=4096, **ids)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (llava_folder / name).read_bytes()


def test_a_vocabulary_that_needs_the_id_of_pictures_is_told(model_file: Path, tmp_path: Path) -> None:
    ids = {"bos_id": 1, "end_id": 2, "pad_id": 0, "image_id": 7}
    assert not write_stock_tokenizer(model_file, tmp_path, read_tokenizer(model_file), limit=4096, **ids)
