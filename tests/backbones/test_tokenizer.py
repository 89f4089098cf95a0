"""Every form of a tokenizer against the sentencepiece library on the model that it was made from."""

import json
import random
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer

from lookright.backbones.tokenizer import JsonTokenizer, TextTokenizer, read_tokenizer, tokenizer_file
from lookright.errors import ConfigError
from recipes.tiny.folders import train_tokenizer
from tests.tokenizer_forms import FORMS, train_model, write_form

BITS = (
    *[" ", "  ", "      ", "\n", "\t", "\r", "▁", "red", "Image", "is", "a", "1", "23", "45 %", '"', "'", "|", "- "],
    *[
        "<s>",
        "</s>",
        "<unk>",
        "<image>",
        "<0x41>",
        "В",
        "от",
        "是",
        "红色",
        "\u3000",
        "\xa0",
        "é",
        "e\u0301",
        "🐕",
        "\x00",
    ],
)
"""What random texts are made of."""
MARKERS = ("[START]", "[END]")


def random_texts(count: int = 1500) -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(BITS + MARKERS, k=rng.randrange(25))) for _ in range(count)]


def reference(file: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(file))


@pytest.fixture(scope="module", params=["dummy prefix", "no dummy prefix"])
def model_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    prefix = request.param == "dummy prefix"
    return train_model(folder, add_dummy_prefix=prefix, user_defined_symbols=list(MARKERS))


@pytest.fixture(params=FORMS)
def tokenizer(request: pytest.FixtureRequest, model_file: Path, tmp_path: Path) -> TextTokenizer:
    write_form(tmp_path, request.param, model_file, markers=MARKERS)
    return read_tokenizer(tokenizer_file(tmp_path), markers=MARKERS)


def test_ids_and_texts_are_those_of_sentencepiece(tokenizer: TextTokenizer, model_file: Path) -> None:
    wanted = reference(model_file)
    for text in random_texts():
        ids = wanted.encode(text)
        assert tokenizer.encode(text) == ids, repr(text)
        assert tokenizer.decode(ids) == wanted.decode(ids), repr(text)


def test_parts_of_an_answer_decode_as_sentencepiece_decodes_them(tokenizer: TextTokenizer, model_file: Path) -> None:
    """An answer's ids are the end of a stretch: they may begin with a space, or with none."""
    wanted = reference(model_file)
    for text in random_texts(300):
        ids = wanted.encode(text)
        for cut in (1, 2, len(ids) // 2):
            # the library keeps a second space at the front; the backbones strip
            assert tokenizer.decode(ids[cut:]).strip() == wanted.decode(ids[cut:]).strip(), repr(text)


def test_special_tokens_and_ids_of_padded_rows_give_no_text(tokenizer: TextTokenizer, model_file: Path) -> None:
    ids = reference(model_file).encode("a red circle")
    size = reference(model_file).get_piece_size()
    assert tokenizer.decode([1, *ids, 0, 2, size, size + 63, -200]) == "a red circle"
    assert tokenizer.decode([]) == "" and tokenizer.encode("") == []


def test_special_tokens_in_a_text_stay_text_and_markers_do_not(tokenizer: TextTokenizer) -> None:
    assert [tokenizer.piece_id(piece) for piece in ("<unk>", "<s>", "</s>", "no such piece")] == [0, 1, 2, None]
    ids = tokenizer.encode("</s><s> <unk><image>[START]</s>")
    assert not {0, 1, 2} & set(ids)
    assert ids.count(tokenizer.piece_id("[START]")) == 1
    assert tokenizer.decode(tokenizer.encode("no </s>")) == "no </s>"


def test_a_byte_level_tokenizer_stays_as_it_is(tmp_path: Path) -> None:
    raw = train_tokenizer(["a red circle, a blue one"], 300, ["<s>", "</s>"], bos="<s>")
    raw.enable_truncation(4)
    raw.save(str(tmp_path / "tokenizer.json"))
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain.no_truncation()
    tokenizer = JsonTokenizer(tmp_path / "tokenizer.json")
    for text in ("a red circle, a blue one  ", " a\n\n12 ", "红色"):
        assert tokenizer.encode(text) == plain.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    # the library finds the special token, and the ids of its own truncation are 4
    assert plain.encode("a </s>", add_special_tokens=False).ids[-1] == 1
    assert tokenizer.decode(tokenizer.encode("a </s>")) == "a </s>"


def test_other_steps_of_a_file_are_kept(tmp_path: Path, model_file: Path) -> None:
    """Digits one by one and compatibility forms, as some models have beside the spaces."""
    write_form(tmp_path, "metaspace", model_file)
    file = tmp_path / "tokenizer.json"
    data = json.loads(file.read_text())
    data["normalizer"] = {"type": "NFKC"}
    data["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [data["pre_tokenizer"], {"type": "Punctuation", "behavior": "Isolated"}],
    }
    file.write_text(json.dumps(data))
    wanted = reference(model_file)
    assert JsonTokenizer(file).encode("ｒｅｄ  red") == wanted.encode("red  red")


def test_the_model_is_read_where_both_lie(model_file: Path, tmp_path: Path) -> None:
    write_form(tmp_path, "prepend", model_file)
    assert tokenizer_file(tmp_path).name == "tokenizer.json"
    (tmp_path / "tokenizer.model").write_bytes(model_file.read_bytes())
    assert tokenizer_file(tmp_path).name == "tokenizer.model"


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"backbone.path={tmp_path} holds no tokenizer; copy"):
        tokenizer_file(tmp_path)
