"""Conversations of several turns: answered as a slow reference answers them, their pictures counted together."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import lookright
from lookright.backbones.base import Backbone
from lookright.backbones.ixc25.backbone import Ixc25Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.serve.messages import read_messages
from lookright.serve.models import Models
from lookright.serve.settings import Limits
from lookright.types import FollowUp, Turn
from tests.serve.conftest import TOKENS, Live, said, served, shown

ASSETS = Path(lookright.__file__).parent / "backbones" / "assets"
QUESTIONS = ("In Image2, what color is the shape?", "In Image3, what color is the shape?")


def user(*content: Any) -> dict[str, Any]:
    """A user message of texts and pictures."""
    return {
        "role": "user",
        "content": [shown(one) if isinstance(one, Image.Image) else said(one) for one in content],
    }


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def choice(live: Live, messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    response = live.chat({"messages": messages, **fields})
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


@pytest.fixture()
def squares(picture: Callable[..., Image.Image]) -> list[Image.Image]:
    """Three, of which no token sees padding."""
    return [picture((28, 28), number) for number in range(3)]


# ---- against a slow reference ----


def tiny(backbone: Backbone) -> Iterator[tuple[Live, Backbone]]:
    with served(Models(backbone, {}, torch.device("cpu"), torch.float32)) as live:
        yield live, backbone


@pytest.fixture(scope="module")
def tiny_llava() -> Iterator[tuple[Live, Backbone]]:
    """The shipped weights."""
    yield from tiny(LlavaBackbone(path=str(ASSETS / "tiny_llava")))


@pytest.fixture(scope="module")
def tiny_ixc25() -> Iterator[tuple[Live, Backbone]]:
    """The shipped weights."""
    yield from tiny(Ixc25Backbone(path=str(ASSETS / "tiny_ixc25"), hd_num=4, max_length=2048))


@torch.no_grad()
def test_llava_answers_and_looks_as_stock_classes_do(
    tiny_llava: tuple[Live, Backbone], squares: list[Image.Image]
) -> None:
    """Chat template, processor, generate and eager attention of transformers alone."""
    live, backbone = tiny_llava
    processor = AutoProcessor.from_pretrained(ASSETS / "tiny_llava", backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(
        ASSETS / "tiny_llava", dtype=torch.float32, attn_implementation="eager"
    )
    first = choice(live, [user(*squares[:2], QUESTIONS[0])])["message"]["content"]
    messages = [user(*squares[:2], QUESTIONS[0]), assistant(first), user(squares[2], QUESTIONS[1])]
    told = live.chat({"messages": messages}).json()
    texts = [f"Image1:<image>\nImage2:<image>\n{QUESTIONS[0]}", first, f"Image3:<image>\n{QUESTIONS[1]}"]
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), texts, strict=True)]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    inputs = processor(images=squares, text=text, return_tensors="pt")
    (row,) = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    length = inputs["input_ids"].shape[1]
    answer = told["choices"][0]["message"]["content"]
    assert answer == processor.decode(row[length:], skip_special_tokens=True).strip() != ""
    assert told["usage"] == {
        "prompt_tokens": length,
        "completion_tokens": len(row) - length,
        "total_tokens": len(row),
    }
    maps = model(**inputs | {"input_ids": row[None], "attention_mask": None}, output_attentions=True).attentions
    rows_HK = maps[backbone.num_layers // 2][0, :, length - 1 : -1].mean(1)
    # the tokens of the three pictures, one after the other
    columns = (row == processor.image_token_id).nonzero().flatten().view(3, -1)
    on_each = rows_HK.mean(0)[columns].sum(1)
    looked = told["choices"][0]["lookright"]
    assert looked["attention"] == pytest.approx((on_each / on_each.sum()).tolist(), abs=1e-4)
    assert max(looked["attention"]) - min(looked["attention"]) > 0.02, "a mix-up of pictures would show"
    assert looked["target"] == 2
    assert looked["attention_ratio"] == pytest.approx(looked["attention"][2], abs=1e-5)


@torch.no_grad()
def test_internlm_answers_as_its_official_chat_does(
    tiny_ixc25: tuple[Live, Backbone], squares: list[Image.Image]
) -> None:
    """The official text by hand, split at the pictures; whole passes without a cache."""
    live, backbone = tiny_ixc25
    first = choice(live, [user(*squares[:2], QUESTIONS[0])])["message"]["content"]
    messages = [user(*squares[:2], QUESTIONS[0]), assistant(first), user(squares[2], QUESTIONS[1])]
    told = live.chat({"messages": messages}).json()
    end, start = "[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]"
    text = (
        f"{start}user\nImage1:<image>\nImage2:<image>\n{QUESTIONS[0]}{end}\n{start}assistant\n{first}{end}\n"
        f"{start}user\nImage3:<image>\n{QUESTIONS[1]}{end}\n{start}assistant\n"
    )
    opening, *others = (backbone.text_tokenizer.encode(part) for part in text.split("<image>"))
    counts = [backbone.token_map(picture.size, 3).num_tokens for picture in squares]
    ids = [backbone.bos_token_id, *opening]
    for count, part in zip(counts, others, strict=True):
        ids += [backbone.image_token_id] * count + part
    model: Any = backbone.build().eval()
    pixels = [backbone.preprocess(picture, 3) for picture in squares]
    row = model.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        pixels=pixels,
        use_cache=False,
        do_sample=False,
        max_new_tokens=TOKENS,
    )[0]
    answer = told["choices"][0]["message"]["content"]
    assert answer == backbone.decode(row[len(ids) :].tolist()) != ""
    assert told["usage"]["prompt_tokens"] == len(ids)
    assert told["choices"][0]["lookright"]["target"] == 2
    assert sum(told["choices"][0]["lookright"]["attention"]) == pytest.approx(1)


@pytest.mark.parametrize("name", ["tiny_llava", "tiny_ixc25"])
def test_python_and_the_server_say_the_same(
    name: str, request: pytest.FixtureRequest, squares: list[Image.Image]
) -> None:
    live, _ = request.getfixturevalue(name)
    messages = [user(*squares, QUESTIONS[0]), assistant("blue"), user("And in Image1?")]
    told = choice(live, messages)
    model = lookright.load(name, decode=lookright.Decoder(max_new_tokens=TOKENS))
    reply = model.ask(squares, "And in Image1?", history=[(QUESTIONS[0], "blue")])
    assert told["message"]["content"] == reply.text
    assert told["lookright"]["attention_ratio"] == pytest.approx(reply.attention_ratio, abs=1e-5)
    assert told["lookright"]["attention"] == pytest.approx(reply.shares().shares, abs=1e-5)
    assert told["lookright"]["target"] == 0
    alone = model.ask(squares, "And in Image1?")
    assert alone.attention_ratio != pytest.approx(reply.attention_ratio, abs=1e-3), "what came before changes it"


def test_turns_beside_single_questions(live: Live, squares: list[Image.Image]) -> None:
    """In one batch, whatever their lengths."""
    asked = [
        [user(*squares[:1], "what is it?")],
        [user(*squares[:1], "what is it?"), assistant("red"), user("In Image1, is it blue?")],
        [user(*squares, QUESTIONS[0]), assistant("red"), user("why?"), assistant("no"), user(squares[0], "and here?")],
        [user("what is it?"), assistant("red"), user("why?")],
    ]
    alone = [choice(live, messages) for messages in asked]
    assert len({one["message"]["content"] for one in alone}) == 4
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda messages: choice(live, messages), asked * 3))
    for one, other in zip(alone * 3, together, strict=True):
        assert other["message"]["content"] == one["message"]["content"]
        assert other["lookright"]["attention"] == pytest.approx(one["lookright"]["attention"], abs=1e-5)


def test_streams_and_looks_of_a_second_turn(live: Live, squares: list[Image.Image]) -> None:
    messages = [user(squares[0], "what is it?"), assistant("red"), user(squares[1], "In Image2, what is it?")]
    told = choice(live, messages, model="base", lookright={"heat": True})
    lines = live.chat({"messages": messages, "model": "base", "stream": True}).text.split("\n\n")
    parts = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in parts) == told["message"]["content"]
    body = {"model": "base", "messages": messages, "answer": told["message"]["content"]}
    look = live.client.post("/lookright/look", json=body).json()
    heat = told["lookright"]["heat"]
    assert [len(one["boxes"]) for one in look["pictures"]] == [9, 9]
    # the first token's row is the prompt's last, whatever tokens the answer has
    first, again = (torch.tensor(one["peaks"])[:, 0] for one in (heat, look))
    assert again.tolist() == pytest.approx(first.tolist(), rel=1e-3)
    other = live.client.post("/lookright/look", json=body | {"messages": messages[2:]}).json()
    assert torch.tensor(other["peaks"])[:, 0].tolist() != pytest.approx(first.tolist(), rel=1e-3)


# ---- what is asked ----


def asked(messages: list[dict[str, Any]], style: str = "auto", target: int | None = None) -> FollowUp:
    prompt = read_messages(messages, style, target, Limits()).prompt
    assert isinstance(prompt, FollowUp)
    return prompt


def test_labels_go_on_from_earlier_turns(squares: list[Image.Image]) -> None:
    prompt = asked([user(*squares[:2], "red?"), assistant("no"), user("why?"), assistant("so"), user(squares[2], "x?")])
    assert prompt.history == (Turn("Image1:<image>\nImage2:<image>\nred?", "no"), Turn("why?", "so"))
    assert (prompt.prompt, prompt.images) == ("Image3:<image>\nx?", ["0", "1", "2"])
    # one alone has no number yet, as when it was asked about
    prompt = asked([user(squares[0], "red?"), assistant("no"), user(*squares[1:], "x?")])
    assert prompt.history == (Turn("<image>\nred?", "no"),)
    assert prompt.prompt == "Image2:<image>\nImage3:<image>\nx?"
    mixed = [user(squares[0], "red?"), assistant("no"), user("is", squares[1], "or", squares[2], "?")]
    assert asked(mixed).prompt == "is\n<image>\nor\n<image>\n?"
    assert asked(mixed, style="labelled").prompt == "Image2:<image>\nImage3:<image>\nis\nor\n?"
    assert asked([user("hello?"), assistant("yes"), user(squares[0], "x?")]).prompt == "<image>\nx?"


def test_the_system_speaks_before_the_first_turn(squares: list[Image.Image]) -> None:
    system = {"role": "system", "content": "Be short."}
    prompt = asked([system, user(squares[0], "red?"), assistant([said("no,"), said("blue")]), user("why?")])
    assert prompt.history == (Turn("Be short.\n<image>\nred?", "no,\nblue"),) and prompt.prompt == "why?"


@pytest.mark.parametrize(
    ("question", "given", "target"),
    [
        ("In Image3, what is it?", None, 2),
        ("what is in the first picture?", None, 0),
        ("In Image1, or in Image2?", None, 0),
        ("what is it?", None, None),
        ("In Image4, what is it?", None, None),
        ("what is it?", 1, 1),
    ],
)
def test_the_target_is_what_the_last_question_names(
    question: str, given: int | None, target: int | None, squares: list[Image.Image]
) -> None:
    messages = [user(*squares[:2], "In Image2, what is it?"), assistant("red"), user(squares[2], question)]
    prompt = asked(messages, target=given)
    assert prompt.target == target
    if target is not None:
        assert [region.picture for region in prompt.regions or []] == [0, 1, 2]


def test_one_picture_is_the_target_of_every_turn(squares: list[Image.Image]) -> None:
    prompt = asked([user(squares[0], "red?"), assistant("no"), user("why?")])
    assert (prompt.target, prompt.format) == (0, "single_image")
    labelled = asked([user("Image1:", squares[0], "red?"), assistant("no"), user("In Image1, why?")], "interleaved")
    assert (labelled.target, labelled.format) == (0, "sequence")


def test_without_pictures(live: Live) -> None:
    messages = [user("what is it?"), assistant("red"), user("why?")]
    told = choice(live, messages)
    assert told["lookright"]["attention"] is None and told["message"]["content"]
    assert told["message"]["content"] != choice(live, messages[2:])["message"]["content"]


def test_an_openai_client_goes_on_with_the_message_that_it_got(live: Live, squares: list[Image.Image]) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{live.address}/v1", api_key="none")
    messages: list[Any] = [user(squares[0], "what is it?")]
    first = client.chat.completions.create(model="base", messages=messages).choices[0].message
    messages += [first, user(squares[1], "In Image2, what is it?")]
    second = client.chat.completions.create(model="base", messages=messages).choices[0]
    plain = [messages[0], assistant(first.content), messages[2]]
    assert second.message.content == choice(live, plain, model="base")["message"]["content"]
    assert len(second.lookright["attention"]) == 2
