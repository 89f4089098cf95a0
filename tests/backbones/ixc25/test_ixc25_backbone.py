"""Prompts, tokens and settings of the backbone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch
from PIL import Image

from lookright.backbones.ixc25 import Ixc25Backbone, Ixc25ForCausalLM
from lookright.backbones.ixc25.tokenizer import load_tokenizer
from lookright.backbones.tokenizer import JsonTokenizer, SentencePieceTokenizer
from lookright.errors import ConfigError, RecordError
from lookright.types import Turn

OPENING, CLOSING = "[UNUSED_TOKEN_146]user\n", "[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n"


def _ids(backbone: Ixc25Backbone, text: str) -> list[int]:
    return backbone.text_tokenizer.encode(text)


# ---- prompts ----


def test_one_picture(ixc25: Ixc25Backbone) -> None:
    encoded = ixc25.encode_prompt("<image>\nIn Image1, what color?", [(84, 84)])
    bos, image = ixc25.config.bos_token_id, ixc25.config.image_token_id
    # 2 grids of 9 tokens, 6 row ends, 1 in between
    expected = [bos, *_ids(ixc25, OPENING), *[image] * 25, *_ids(ixc25, "\nIn Image1, what color?" + CLOSING)]
    assert encoded.input_ids.tolist() == expected
    start = 1 + len(_ids(ixc25, OPENING))
    assert encoded.image_spans == [(start, start + 25)]
    assert encoded.input_ids.dtype == torch.int64


def test_several_pictures_each_text_tokenised_by_itself(ixc25: Ixc25Backbone) -> None:
    sizes = [(84, 84), (168, 84)]
    encoded = ixc25.encode_prompt("Image1 <image>; Image2 <image>; Which?", sizes)
    counts = [ixc25.token_map(size, 2).num_tokens for size in sizes]
    assert counts == [25, 34]
    bos, image = ixc25.config.bos_token_id, ixc25.config.image_token_id
    expected = [
        *[bos, *_ids(ixc25, OPENING + "Image1 "), *[image] * 25],
        *[*_ids(ixc25, "; Image2 "), *[image] * 34],
        *_ids(ixc25, "; Which?" + CLOSING),
    ]
    assert encoded.input_ids.tolist() == expected
    for (start, stop), count in zip(encoded.image_spans, counts, strict=True):
        assert stop - start == count
        assert encoded.input_ids[start:stop].eq(image).all()
    assert encoded.input_ids.eq(image).sum() == sum(counts)


def test_adjacent_pictures_and_text_alone(ixc25: Ixc25Backbone) -> None:
    encoded = ixc25.encode_prompt("<image><image>", [(84, 84), (84, 84)])
    (_, first), (second, _) = encoded.image_spans
    assert first == second
    text = ixc25.encode_prompt("what color?", [])
    assert text.input_ids.tolist() == [ixc25.config.bos_token_id, *_ids(ixc25, OPENING + "what color?" + CLOSING)]


def test_responses_end_their_turn(ixc25: Ixc25Backbone) -> None:
    asked = ixc25.encode_prompt("<image> what color?", [(84, 84)])
    prompt, (response,) = ixc25.encode_conversation("<image> what color?", [" red circle\n"], [(84, 84)])
    assert torch.equal(prompt.input_ids, asked.input_ids) and prompt.image_spans == asked.image_spans
    end = ixc25.text_tokenizer.piece_id("[UNUSED_TOKEN_145]")
    assert response.tolist() == [*_ids(ixc25, "red circle"), end]
    assert ixc25.end_token_ids == [end, ixc25.config.eos_token_id]
    assert ixc25.decode([*response.tolist(), 40, 41]) == "red circle"
    assert ixc25.decode([*_ids(ixc25, " red "), ixc25.config.eos_token_id, 50]) == "red"
    assert ixc25.decode(response) == "red circle"


def test_turns_by_hand(ixc25: Ixc25Backbone) -> None:
    encoded = ixc25.encode_prompt("why?", [(84, 84)], [Turn("<image> red?", " yes\n"), Turn("so?", "no <image>")])
    (start, stop), *others = encoded.image_spans
    assert not others
    end = "[UNUSED_TOKEN_145]\n"
    text = f" red?{CLOSING}yes{end}{OPENING}so?{CLOSING}no <image>{end}{OPENING}why?{CLOSING}"
    assert encoded.input_ids[stop:].tolist() == _ids(ixc25, text)
    assert encoded.input_ids[:start].tolist() == [ixc25.config.bos_token_id, *_ids(ixc25, OPENING)]
    # of three users and two answers
    assert encoded.input_ids.tolist().count(ixc25.end_token_ids[0]) == 5


def test_text_that_gives_the_picture_token_is_an_error(ixc25: Ixc25Backbone) -> None:
    ixc25.image_token_id = ixc25.text_tokenizer.encode("assistant")[0]
    with pytest.raises(RecordError, match="stands for picture rows"):
        ixc25.encode_prompt("what color?", [])


def test_a_placeholder_in_an_answer_stays_text(ixc25: Ixc25Backbone) -> None:
    prompt, (response,) = ixc25.encode_conversation("<image>", ["an <image> </s>"], [(84, 84)])
    assert len(prompt.image_spans) == 1 and ixc25.image_token_id not in response
    assert ixc25.decode(response.tolist()) == "an <image> </s>"


# ---- the sentencepiece file ----


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with the turn pieces as pieces of their own, bytes for what it does not know."""
    folder = tmp_path_factory.mktemp("sp")
    text = folder / "text.txt"
    text.write_text("user assistant Image1 Image2 Which color is the shape in the image red blue ; ?\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=330,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        model_type="bpe",
        hard_vocab_limit=False,
        user_defined_symbols=["\n", "[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]"],
        minloglevel=2,
    )
    return folder / "tokenizer.model"


def test_sentencepiece_keeps_spaces_and_turn_pieces(sentencepiece_file: Path) -> None:
    tokenizer = SentencePieceTokenizer(sentencepiece_file)
    end, start = (tokenizer.piece_id(f"[UNUSED_TOKEN_{n}]") for n in (145, 146))
    newline = tokenizer.piece_id("\n")
    ids = tokenizer.encode(OPENING + "red" + CLOSING)
    assert [ids.count(end), ids.count(start), ids.count(newline)] == [1, 2, 3]
    assert ids[0] == start
    assert ids[-1] == newline
    processor = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_file))
    pieces = processor.id_to_piece(tokenizer.encode("; Image2 "))
    assert "".join(pieces) == ";▁Image2▁"
    assert tokenizer.encode("") == []
    assert tokenizer.piece_id("no such piece") is None
    # control pieces written in a text stay text; what is unknown falls back to bytes, never to id 0
    assert 2 not in tokenizer.encode("</s>")
    assert 0 not in tokenizer.encode("浦语 <image> <unk>")
    for text in ("red; Image2 ", "浦语·灵笔 é\n", OPENING):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_backbone_on_the_sentencepiece_file(sentencepiece_file: Path, make_model: Callable, tmp_path: Path) -> None:
    from lookright.backbones.ixc25.checkpoint import save_checkpoint

    save_checkpoint(make_model(vocab_size=400), tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_file.read_bytes())
    backbone = Ixc25Backbone(path=str(tmp_path))
    tokenizer = SentencePieceTokenizer(sentencepiece_file)
    encoded = backbone.encode_prompt("Image1 <image>; Which?", [(50, 50)])
    expected = [1, *tokenizer.encode(OPENING + "Image1 "), *[0] * 25, *tokenizer.encode("; Which?" + CLOSING)]
    assert encoded.input_ids.tolist() == expected
    assert backbone.end_token_ids == [tokenizer.piece_id("[UNUSED_TOKEN_145]"), 2]
    _, (response,) = backbone.encode_conversation("<image> Which?", ["red blue"], [(50, 50)])
    assert backbone.decode(response.tolist()) == "red blue"
    backbone.save_pretrained(backbone.build(), tmp_path / "copy")
    again = Ixc25Backbone(path=str(tmp_path / "copy"))
    assert torch.equal(again.encode_prompt("Image1 <image>; Which?", [(50, 50)]).input_ids, encoded.input_ids)


def test_a_tokenizer_without_turn_pieces_is_refused(ixc25_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        load_tokenizer(tmp_path, 400)
    text = (ixc25_folder / "tokenizer.json").read_text().replace("UNUSED_TOKEN_146", "UNUSED_TOKEN_7")
    (tmp_path / "tokenizer.json").write_text(text)
    assert JsonTokenizer(tmp_path / "tokenizer.json").piece_id("[UNUSED_TOKEN_146]") is None
    with pytest.raises(ConfigError, match=r"gives \[UNUSED_TOKEN_146\] the id None"):
        load_tokenizer(tmp_path, 400)


# ---- settings ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_transform": "train"}, "valid: inference, finetune, evaluation"),
        ({"hd_num": 0}, "backbone.hd_num=0 leaves no tile"),
        ({"path": None}, "backbone.path is not set"),
        ({"path": "/no/such/folder"}, "is no folder here"),
    ],
)
def test_settings_are_checked_before_anything_loads(settings: dict, message: str, ixc25_folder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        Ixc25Backbone(**({"path": str(ixc25_folder)} | settings))


def test_a_hub_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise OSError("no connection")

    monkeypatch.setattr("lookright.backbones.folder.snapshot_download", fail)
    with pytest.raises(ConfigError, match=r"some/name is no local folder .*no connection"):
        Ixc25Backbone(path="some/name")


@pytest.mark.parametrize("transform", ["inference", "finetune", "evaluation"])
@pytest.mark.parametrize("hd_num", [None, 2])
def test_predicted_tokens_are_what_the_model_makes(
    transform: str, hd_num: int | None, ixc25_folder: Path, model: Ixc25ForCausalLM
) -> None:
    backbone = Ixc25Backbone(path=str(ixc25_folder), image_transform=transform, hd_num=hd_num)
    sizes = [(200, 120), (90, 300), (84, 84)]
    prepared = [backbone.preprocess(Image.new("RGB", size, "red"), 3) for size in sizes]
    features = backbone.encode_images(model, prepared)
    for size, rows in zip(sizes, features, strict=True):
        tokens = backbone.token_map(size, 3)
        assert len(rows) == tokens.num_tokens
        if hd_num:
            assert tokens.plan.tiles_down * tokens.plan.tiles_across <= hd_num
    assert backbone.encode_images(model, []) == []


def test_one_picture_may_have_more_tiles_than_each_of_several(ixc25_folder: Path) -> None:
    backbone = Ixc25Backbone(path=str(ixc25_folder))
    assert backbone.token_map((800, 800), 1).num_tokens == (16 + 1) * 9 + 1 + 5 * 3
    assert backbone.token_map((800, 800), 2).num_tokens == (4 + 1) * 9 + 1 + 3 * 3


def test_adapters_and_frozen_parts_name_real_modules(ixc25: Ixc25Backbone, model: Ixc25ForCausalLM) -> None:
    import re

    matched = {name for name, _ in model.named_modules() if re.fullmatch(ixc25.lora_targets(), name)}
    assert len(matched) == ixc25.num_layers * 5
    assert not [name for name in matched if "Plora" in name]
    names = [name for name, _ in model.named_parameters()]
    parts = (ixc25.vision_prefix, ixc25.projector_prefix)
    counts = [sum(name.startswith(part) for name in names) for part in parts]
    # the ViT: 3 embeddings, 2 norms of 2, 16 a layer; the projector: 2 linear layers
    assert counts == [3 + 4 + 2 * 16, 4]
    others = {name.split(".")[0] for name in names if not name.startswith(parts)}
    assert others == {"model", "output", "plora_glb_GN", "plora_sub_GN"}


def test_our_attention_function_serves_the_decoder_alone(model: Ixc25ForCausalLM) -> None:
    assert model.model.config._attn_implementation == "lookright"
    assert model.vit.vision_tower.config._attn_implementation == "sdpa"


def test_a_fresh_model_has_an_idle_partial_lora(ixc25: Ixc25Backbone) -> None:
    fresh = ixc25.build(weights=False)
    for name, value in fresh.named_parameters():
        assert bool(value.abs().max() == 0) == ("Plora_B" in name or "_GN" in name or name.endswith("bias")), name
    assert fresh.generation_config.eos_token_id == ixc25.end_token_ids
    assert ixc25.build(weights=False, dtype=torch.bfloat16).dtype == torch.bfloat16
