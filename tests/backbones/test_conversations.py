"""Ids of whole conversations against the original's procedure, and the ids that the commands hand to the model."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch
from omegaconf import DictConfig

from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.prompts import EncodedPrompt, shared_prompt
from lookright.commands.generate import generate
from lookright.commands.infer import infer
from lookright.commands.train import train
from lookright.records.records import read_prompts, write_jsonl
from lookright.types import Preference, Prompt, Region, Turn
from tests.examples import noise
from tests.tokenizer_forms import CASES, FORMS, VICUNA, embedded, original_ids, scored, train_model, write_llava

Compose = Callable[..., DictConfig]
SIZE = (50, 40)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=[(form, legacy) for form in FORMS for legacy in (True, False)], ids=str)
def vicuna(request: pytest.FixtureRequest, model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> LlavaBackbone:
    form, legacy = request.param
    folder = write_llava(tmp_path_factory.mktemp("llava"), form, legacy, model_file)
    return LlavaBackbone(path=str(folder), system_prompt=VICUNA)


@pytest.mark.parametrize(("prompt", "answer"), CASES)
def test_conversations_are_those_of_the_original(
    vicuna: LlavaBackbone, model_file: Path, prompt: str, answer: str
) -> None:
    sizes = [SIZE] * prompt.count("<image>")
    asked = vicuna.encode_prompt(prompt, sizes)
    shared, (response,) = vicuna.encode_conversation(prompt, [answer], sizes)
    assert asked.input_ids.tolist() == original_ids(model_file, prompt, None)
    assert shared.input_ids.tolist() == original_ids(model_file, prompt, None)
    assert [*shared.input_ids.tolist(), *response.tolist()] == original_ids(model_file, prompt, answer)
    assert shared.image_spans == asked.image_spans and len(shared.image_spans) == len(sizes)
    for start, stop in shared.image_spans:
        assert set(shared.input_ids[start:stop].tolist()) == {vicuna.config.image_token_id}
    assert vicuna.decode(response.tolist()) == answer.strip()


def test_an_answer_has_no_token_that_the_original_lacks(vicuna: LlavaBackbone, model_file: Path) -> None:
    """As if it followed a space in running text: `▁red` is one token, a lone `▁` stands before a digit alone."""
    _, (word, digit) = vicuna.encode_conversation("<image>\nWhat?", ["red", "7"], [SIZE])
    model = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    assert word.tolist() == [model.piece_to_id("▁red"), 2]
    assert digit.tolist() == [model.piece_to_id("▁"), *model.encode("<0x37>7")[-1:], 2]


def random_text(rng: random.Random) -> str:
    bits = [" ", "\n", "red", "Image1", ":", "7", '"', ".", "ASSISTANT:", "это", "图片", "  ", "</s>", "é", "- "]
    return "".join(rng.choices(bits, k=rng.randrange(12)))


# ---- several turns ----

TURNS = (
    [("<image>\nWhat color is it?", "The car is red."), ("How many?", "7"), ("Why?", None)],
    [
        ("Image1:<image>\nred?", ' "Yes" '),
        ("Image2:<image>\nImage3:<image>\nIn Image3, blue?", "- no\n"),
        (" so?", None),
    ],
    [("no picture", "это"), ("<image>", "two  spaces"), ("  What   is <image>?", "图片 red")],
)


def original_turn_ids(model_file: Path, turns: list[tuple[str, str | None]]) -> list[int]:
    """vicuna_v1 as the authors write it, with " " and "</s>" behind roles in turn, and read it with `legacy=true`:
    split at the pictures, then at `</s>`, sentencepiece on each stretch.
    """
    model = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    text = f"{VICUNA} "
    for question, answer in turns:
        text += f"USER: {question} ASSISTANT:{'' if answer is None else f' {answer}</s>'}"
    ids = [model.bos_id()]
    for place, chunk in enumerate(text.split("<image>")):
        ids += [model.get_piece_size()] * 9 * (place > 0)
        first, *others = chunk.split("</s>")
        ids += model.encode(first)
        for other in others:
            ids += [model.eos_id(), *model.encode(other)]
    return ids


def random_turns(rng: random.Random) -> list[tuple[str, str | None]]:
    """Three, the last without an answer; no text spells a special token."""

    def text() -> str:
        return random_text(rng).replace("</s>", "")

    turns = [("<image>" * rng.randrange(3) + text(), text()) for _ in range(2)]
    return [*turns, (text(), None)]


def test_conversations_of_several_turns_are_those_of_the_original(vicuna: LlavaBackbone, model_file: Path) -> None:
    rng = random.Random(2)
    for turns in [*TURNS, *(random_turns(rng) for _ in range(100))]:
        sizes = [SIZE] * sum(question.count("<image>") for question, _ in turns)
        history = [Turn(question, answer) for question, answer in turns[:-1] if answer is not None]
        question, answer = turns[-1]
        if answer is None:
            ids = vicuna.encode_prompt(question, sizes, history).input_ids.tolist()
        else:
            shared, (response,) = vicuna.encode_conversation(question, [answer], sizes, history)
            ids = [*shared.input_ids.tolist(), *response.tolist()]
        assert ids == original_turn_ids(model_file, turns), turns


def test_end_tokens_that_texts_spell_are_no_tokens(vicuna: LlavaBackbone) -> None:
    history = [Turn("</s>USER: red? ASSISTANT: no</s>", "no </s> <image>"), Turn("<image> </s>", "</s>")]
    encoded = vicuna.encode_prompt("</s> so?", [SIZE], history)
    assert encoded.input_ids.tolist().count(2) == 2
    assert vicuna.text_tokenizer.decode(encoded.input_ids.tolist()).count("</s>") == 6


# ---- a token that reaches over the boundary ----


@pytest.fixture(scope="module", params=FORMS)
def merging(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LlavaBackbone, Path]:
    """A vocabulary whose pieces reach over spaces: the colon behind ASSISTANT and `yes` are one token."""
    folder = tmp_path_factory.mktemp("merging")
    texts = [": yes", "T: yes", "it: yes."] * 8 + ["red: it is. ASSISTANT: no 1 2 3 Image1 Image2 blue"]
    file = train_model(folder, texts, split_by_whitespace=False, split_by_unicode_script=False, vocab_size=330)
    return LlavaBackbone(path=str(write_llava(folder / "llava", request.param, True, file)), system_prompt=VICUNA), file


def test_answers_begin_where_the_first_of_them_reaches_into_the_prompt(merging: tuple[LlavaBackbone, Path]) -> None:
    backbone, file = merging
    prompt, answers = "<image>\nwhat?", ["yes", "blue", "7"]
    alone = backbone.encode_prompt(prompt, [SIZE])
    shared, responses = backbone.encode_conversation(prompt, answers, [SIZE])
    length = len(shared.input_ids)
    assert shared.image_spans == alone.image_spans
    assert shared.image_spans[0][1] <= length < len(alone.input_ids)
    assert torch.equal(shared.input_ids, alone.input_ids[:length])
    for answer, response in zip(answers, responses, strict=True):
        assert [*shared.input_ids.tolist(), *response.tolist()] == original_ids(file, prompt, answer)
    # the others begin there too, though they alone would not
    _, (blue,) = backbone.encode_conversation(prompt, ["blue"], [SIZE])
    assert len(blue) < len(responses[1])


def test_prompt_and_answers_make_the_whole_conversation(merging: tuple[LlavaBackbone, Path]) -> None:
    assert check_whole(merging[0]) > 30


def test_on_a_byte_level_tokenizer_too(llava: LlavaBackbone) -> None:
    check_whole(llava)


def check_whole(backbone: LlavaBackbone) -> int:
    """Whatever the texts, ids of prompt and answer are those of one text; returns how often a token reached over."""
    num_reaching = 0
    rng = random.Random(1)
    for number in range(300):
        count = number % 3
        prompt = "<image>".join(random_text(rng) for _ in range(count + 1))
        answers = [rng.choice(["yes", "yes.", ""]) + random_text(rng) for _ in range(1 + number % 2)]
        shared, responses = backbone.encode_conversation(prompt, answers, [SIZE] * count)
        asked = backbone.encode_prompt(prompt, [SIZE] * count)
        assert torch.equal(shared.input_ids, asked.input_ids[: len(shared.input_ids)])
        num_reaching += len(shared.input_ids) < len(asked.input_ids)
        for answer, response in zip(answers, responses, strict=True):
            stretches = backbone.conversation_text(prompt, answer).split("<image>")
            ids = [backbone.bos_token_id]
            for place, stretch in enumerate(stretches):
                ids += [backbone.image_token_id] * 9 * (place > 0) + backbone.text_tokenizer.encode(stretch)
            assert [*shared.input_ids.tolist(), *response.tolist()] == [*ids, *backbone.end_token_ids], (prompt, answer)
    return num_reaching


def test_what_conversations_share_by_hand() -> None:
    first, second, third = ([1, 9, 9, 4, 5], [1, 9, 9, 4, 6, 5], [1, 9, 9, 4])
    prompts = [EncodedPrompt(input_ids=torch.tensor(ids), image_spans=[(1, 3)]) for ids in (first, second, third)]
    assert shared_prompt(prompts).input_ids.tolist() == third
    assert shared_prompt(prompts[:1]).input_ids.tolist() == first
    assert shared_prompt(prompts[:2]).image_spans == [(1, 3)]


# ---- the ids that reach the model ----


@pytest.fixture(scope="module", params=["model", "prepend", "metaspace"])
def weights(request: pytest.FixtureRequest, model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA folder with random weights."""
    written = write_llava(tmp_path_factory.mktemp("fresh"), request.param, request.param == "prepend", model_file)
    torch.manual_seed(0)
    LlavaBackbone(path=str(written)).build(weights=False).save_pretrained(written)
    return written


@pytest.fixture(scope="module")
def told() -> list[tuple[str, str]]:
    """The cases that a record may hold."""
    usable = [
        (prompt, answer)
        for prompt, answer in CASES
        if "<image>" in prompt and prompt.replace("<image>", "").strip() and "<image>" not in answer
    ]
    assert len(usable) >= 7
    return usable


def settings(weights: Path, folder: Path) -> list[str]:
    return ["backbone=llava15_7b", f"backbone.path={weights}", f"output={folder}"]


def write_pictures(folder: Path, count: int = 2) -> list[str]:
    for number in range(count):
        noise(SIZE, number).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(count)]


def rows_of(weights: Path) -> int:
    return json.loads((weights / "config.json").read_text())["text_config"]["vocab_size"]


def split(model_file: Path, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """The original's conversation, parted behind the prompt's own ids."""
    asked, whole = original_ids(model_file, prompt, None), original_ids(model_file, prompt, answer)
    assert whole[: len(asked)] == asked
    return asked, whole[len(asked) :]


def test_training_sees_the_original_conversations(
    weights: Path,
    model_file: Path,
    told: list[tuple[str, str]],
    composed: Compose,
    tmp_path: Path,
) -> None:
    names = write_pictures(tmp_path)
    pairs = [(prompt, answer, told[number - 1][1]) for number, (prompt, answer) in enumerate(told)]
    write_jsonl(
        tmp_path / "pairs.jsonl",
        [
            Preference(
                id=str(number), images=names[: prompt.count("<image>")], prompt=prompt, chosen=chosen, rejected=[other]
            )
            for number, (prompt, chosen, other) in enumerate(pairs)
        ],
    )
    given = [
        f"data.path={tmp_path / 'pairs.jsonl'}",
        "data.batch_size=1",
        "data.val_fraction=0",
        "loss.attention.weight=0",
    ]
    given += ["tuning.r=2", "trainer.progress_bar=false"]
    with embedded(rows_of(weights)) as seen, scored() as predicted:
        train(composed("train", *settings(weights, tmp_path / "run"), *given))
    rows, targets = [], []
    for prompt, chosen, other in pairs:
        (asked, first), (_, second) = (split(model_file, prompt, answer) for answer in (chosen, other))
        rows.append([*asked, *first[:-1], *second[:-1]])
        targets.append([*first, *second])
    assert {tuple(row) for call in seen for row in call.tolist()} == {tuple(row) for row in rows}
    assert {tuple(row) for row in predicted} == {tuple(row) for row in targets}


def test_inference_and_its_heat_maps_see_the_original_conversations(
    weights: Path, model_file: Path, told: list[tuple[str, str]], composed: Compose, tmp_path: Path
) -> None:
    names = write_pictures(tmp_path)
    prompts = [
        Prompt(
            id=str(number),
            images=names[: prompt.count("<image>")],
            prompt=prompt,
            ground_truth=answer,
            format="sequence",
            target=0,
            regions=[
                Region(picture=place, box=(0, 0, *SIZE), source=str(place)) for place in range(prompt.count("<image>"))
            ],
        )
        for number, (prompt, answer) in enumerate(told)
    ]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    given = [f"data.path={tmp_path / 'prompts.jsonl'}", "batch_size=3", "decode.max_new_tokens=6", "overlays=8"]
    with embedded(rows_of(weights)) as seen:
        infer(composed("infer", *settings(weights, tmp_path / "run"), *given))
    rows = [row[row.index(1) :] for call in seen for row in call.tolist() if 1 in row]
    predictions = {
        line["id"]: line["prediction"]
        for line in map(json.loads, (tmp_path / "run" / "predictions.jsonl").read_text().splitlines())
    }
    for prompt in prompts:
        asked, said = split(model_file, prompt.prompt, predictions[prompt.id])
        # the answer's own pass, and the heat map's: its text in its conversation, without the end token
        assert asked in rows
        assert [*asked, *said[:-1]] in rows


def test_generation_sees_the_original_prompts(
    weights: Path, model_file: Path, told: list[tuple[str, str]], composed: Compose, tmp_path: Path
) -> None:
    names = write_pictures(tmp_path, 2 * len(told))
    turns = [
        [
            {"from": "human", "value": f"<image>\n{prompt.replace('<image>', '')}"},
            {"from": "gpt", "value": answer.strip()},
        ]
        for prompt, answer in told * 2
    ]
    rows = [{"id": str(n), "image": names[n], "conversations": turn} for n, turn in enumerate(turns)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    given = ["source=llava_json", f"source.train_json={tmp_path / 'rows.json'}", f"source.image_folder={tmp_path}"]
    given += ["num_prompts=12", "batch_size=3", "decode.max_new_tokens=4", "selection=none"]
    with embedded(rows_of(weights)) as seen:
        generate(composed("generate", *settings(weights, tmp_path / "run"), *given))
    found = {tuple(row[row.index(1) :]) for call in seen for row in call.tolist() if 1 in row and len(row) > 1}
    prompts = list(read_prompts(tmp_path / "run" / "instructions.jsonl"))
    assert len(prompts) == 12 and {prompt.format for prompt in prompts} == {"sequence", "grid_collage", "pic_in_pic"}
    wanted = {tuple(original_ids(model_file, prompt.prompt, None)) for prompt in prompts}
    assert wanted <= found
