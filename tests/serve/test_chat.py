"""What the server answers: as `infer.py` answers, whatever waits beside it, in the shape of OpenAI's API."""

import asyncio
import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import lookright
from lookright.answering.adaptive import AdaptiveDecoder
from lookright.answering.answerer import Answerer, ScoredAnswer
from lookright.answering.decoder import Decoder
from lookright.answering.heat import attention_heat
from lookright.backbones.ixc25.backbone import Ixc25Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.loading import load_policy
from lookright.composing.asked import asked_prompt
from lookright.composing.formats.sequence import labelled_pictures
from lookright.records.held_pictures import HeldPictures
from lookright.serve import app, replies
from lookright.serve.models import Models
from lookright.serve.replies import heat
from tests.serve.conftest import TOKENS, Live, said, served, shown

ASSETS = Path(lookright.__file__).parent / "backbones" / "assets"
NUM_QUESTIONS = 24
QUESTIONS = ("what color is the shape?", "is there a square here?", "red or blue?", "what is it?")


@cache
def policy(backbone: LlavaBackbone, adapter: str | None) -> nn.Module:
    """The model that `infer.py` loads."""
    return load_policy(backbone, adapter, torch.device("cpu"), torch.float32)


def expected(
    backbone: LlavaBackbone,
    adapter: str | None,
    images: list[Image.Image],
    question: str,
    decoder: Decoder | None = None,
) -> ScoredAnswer:
    """What `infer.py` says, one prompt at a time."""
    answerer = Answerer(
        backbone=backbone,
        policy=policy(backbone, adapter),
        decoder=decoder or Decoder(max_new_tokens=TOKENS),
        ratio_layer=backbone.num_layers // 2,
        batch_size=1,
    )
    held = HeldPictures(images)
    (scored,) = answerer.answer([asked_prompt(held, question)], held)
    return scored


def cases(picture: Callable[..., Image.Image]) -> list[tuple[list[Image.Image], str]]:
    return [
        (
            [picture((16 + 3 * place, 14 + number), 10 * number + place) for place in range(1 + number % 5)],
            f"In Image{1 + number % (1 + number % 5)}, {QUESTIONS[number % 4]}",
        )
        for number in range(NUM_QUESTIONS)
    ]


@pytest.mark.parametrize("name", ["base", "tuned", "other"])
def test_answers_are_those_of_infer_whatever_waits_beside_them(
    name: str, live: Live, weights: LlavaBackbone, adapters: dict[str, str], picture: Callable[..., Image.Image]
) -> None:
    asked = cases(picture)

    def ask(case: tuple[list[Image.Image], str]) -> dict[str, Any]:
        return live.told([*map(shown, case[0]), said(case[1])], model=name)

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(ask, asked))
    assert len({one["choices"][0]["message"]["content"] for one in told}) > 5, "the questions tell models apart"
    for (images, question), one in zip(asked, told, strict=True):
        scored = expected(weights, adapters.get(name), images, question)
        (choice,) = one["choices"]
        assert choice["message"]["content"] == scored.answer.text
        assert choice["lookright"]["attention_ratio"] == pytest.approx(scored.attention_ratio, abs=1e-5)
        assert choice["lookright"]["even_ratio"] == pytest.approx(scored.even_ratio)
        assert choice["lookright"]["perplexity"] == pytest.approx(scored.perplexity, rel=1e-4)
        assert choice["lookright"]["confidence"] == pytest.approx(scored.answer.confidence, abs=1e-5)
        assert one["usage"]["completion_tokens"] == len(scored.answer.token_ids)
        assert choice["lookright"]["prompt"] == scored.prompt.prompt


def test_models_differ(live: Live, pictures: list[Image.Image]) -> None:
    """Switching between adapters leaves nothing behind."""
    content = [*map(shown, pictures), said("In Image2, what is it?")]
    first = {name: live.text(content, model=name) for name in ("base", "tuned", "other")}
    assert len(set(first.values())) == 3
    for name in ("other", "base", "tuned", "base", "other"):
        assert live.text(content, model=name) == first[name]


def test_the_attention_on_pictures_is_the_heat_of_infer(
    live: Live, weights: LlavaBackbone, pictures: list[Image.Image]
) -> None:
    told = live.told([*map(shown, pictures), said("In Image3, what is it?")], lookright={"heat": True})["choices"][0]
    held = HeldPictures(pictures)
    scored = expected(weights, None, pictures, "In Image3, what is it?")
    answerer = Answerer(
        backbone=weights,
        policy=weights.build().eval(),
        decoder=Decoder(),
        ratio_layer=weights.num_layers // 2,
        batch_size=1,
    )
    live_text = live.text([*map(shown, pictures), said("In Image3, what is it?")], model="base")
    assert live_text == scored.answer.text
    heat = attention_heat(answerer, scored.prompt, scored.answer.token_ids, held)
    on_each = [sum(seen.share * value for seen, value in values) for values in heat]
    base = live.told([*map(shown, pictures), said("In Image3, what is it?")], model="base", max_tokens=TOKENS)
    shares = base["choices"][0]["lookright"]["attention"]
    assert sum(shares) == pytest.approx(1) and len(shares) == 3
    assert shares == pytest.approx([one / sum(on_each) for one in on_each], abs=1e-5)
    assert told["lookright"]["heat"]["num_heads"] == 4


def test_prompts_by_style(live: Live, pictures: list[Image.Image]) -> None:
    parts = [*map(shown, pictures[:2]), said("what is it?")]
    mixed = [said("First:"), shown(pictures[0]), said("then"), shown(pictures[1]), said("what is it?")]

    def prompt(content: Any, **options: Any) -> str:
        return live.told(content, lookright=options)["choices"][0]["lookright"]["prompt"]

    labelled = labelled_pictures(2)
    assert prompt(parts) == f"{labelled}what is it?"
    # behind the question, as some clients send them
    assert prompt([parts[2], *parts[:2]]) == f"{labelled}what is it?"
    assert prompt([shown(pictures[0]), said("what is it?")]) == "<image>\nwhat is it?"
    assert prompt(parts, style="interleaved") == "<image>\n<image>\nwhat is it?"
    assert prompt(mixed) == "First:<image>\nthen\n<image>\nwhat is it?"
    assert prompt(mixed, style="labelled") == f"{labelled}First:\nthen\nwhat is it?"
    # places that the text marks
    assert prompt([*map(shown, pictures[:2]), said("<image> or <image>?")]) == "<image> or <image>?"
    exact = f"{labelled}In Image2, what is it?".split("<image>")
    pieces = [said(exact[0]), shown(pictures[0]), said(exact[1]), shown(pictures[1]), said(exact[2])]
    assert prompt(pieces) == f"{labelled}In Image2, what is it?"


def test_system_messages_come_first(live: Live, pictures: list[Image.Image]) -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [shown(pictures[0]), said("what is it?")]},
    ]
    told = live.chat({"messages": messages}).json()
    assert told["choices"][0]["lookright"]["prompt"] == "Be short.\n<image>\nwhat is it?"


def test_a_question_without_pictures(live: Live) -> None:
    told = live.told("what is it?")["choices"][0]
    assert told["lookright"]["attention"] is None and told["message"]["content"]


def test_the_target_is_read_off_or_given(live: Live, pictures: list[Image.Image]) -> None:
    parts = list(map(shown, pictures))

    def look(text: str, **options: Any) -> dict[str, Any]:
        return live.told([*parts, said(text)], lookright=options)["choices"][0]["lookright"]

    assert look("In Image2, what is it?")["target"] == 1
    given = look("what is it?", target=2)
    assert given["target"] == 2 and given["attention_ratio"] == pytest.approx(given["attention"][2], abs=1e-5)
    unknown = look("what is it?")
    assert unknown["target"] is None and unknown["attention_ratio"] is None and len(unknown["attention"]) == 3
    assert look("In Image7, what is it?")["target"] is None
    without = look("what is it?", ratio=False)
    assert "attention" not in without and "confidence" in without


def test_limits_of_tokens_and_why_an_answer_ended(live: Live, pictures: list[Image.Image]) -> None:
    content = [shown(pictures[0]), said("what is it?")]
    whole = live.told(content)
    for field in ("max_tokens", "max_completion_tokens"):
        short = live.told(content, **{field: 3})
        assert short["usage"]["completion_tokens"] == 3 and short["choices"][0]["finish_reason"] == "length"
        assert whole["choices"][0]["message"]["content"].startswith(short["choices"][0]["message"]["content"])
    assert whole["usage"]["total_tokens"] == whole["usage"]["prompt_tokens"] + whole["usage"]["completion_tokens"]
    # 9 tokens of the picture
    assert whole["usage"]["prompt_tokens"] > 9


def test_limits_of_requests_that_are_answered_together(models: Models, pictures: list[Image.Image]) -> None:
    content = [shown(pictures[0]), said("what is it?")]
    with served(models) as live:
        whole = live.text(content)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(live.told, content, max_tokens=number) for number in range(1, 9)]
            told = [one.result() for one in asked]
    for number, one in enumerate(told, 1):
        assert one["usage"]["completion_tokens"] == number
        assert whole.startswith(one["choices"][0]["message"]["content"])


def test_stops(live: Live, pictures: list[Image.Image]) -> None:
    content = [*map(shown, pictures), said("what is it?")]
    whole = live.text(content)
    stop = whole[len(whole) // 2 :][:2]
    told = live.told(content, stop=["never said", stop])
    assert told["choices"][0]["message"]["content"] == whole[: whole.index(stop)]
    assert told["choices"][0]["finish_reason"] == "stop"
    assert streamed(live, content, stop=stop)[0] == whole[: whole.index(stop)]


def streamed(live: Live, content: Any, **fields: Any) -> tuple[str, list[dict[str, Any]]]:
    """The text of a stream, and its parts."""
    body = {"messages": [{"role": "user", "content": content}], "stream": True, **fields}
    with live.client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    parts = [json.loads(line) for line in lines[:-1]]
    texts = [part["choices"][0]["delta"].get("content", "") for part in parts if part["choices"]]
    return "".join(texts), parts


def test_streams_say_what_whole_answers_say(live: Live, pictures: list[Image.Image]) -> None:
    content = [*map(shown, pictures), said("In Image1, what is it?")]
    whole = live.told(content)
    text, parts = streamed(live, content, stream_options={"include_usage": True})
    assert text == whole["choices"][0]["message"]["content"]
    assert parts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len(parts) > 5, "it came in parts"
    assert parts[-1]["choices"] == [] and parts[-1]["usage"] == whole["usage"]
    assert all(part["usage"] is None for part in parts[:-1])
    last = parts[-2]["choices"][0]
    assert last["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert last["lookright"]["attention"] == pytest.approx(whole["choices"][0]["lookright"]["attention"])
    assert len({part["id"] for part in parts}) == 1


def test_several_answers(live: Live, pictures: list[Image.Image]) -> None:
    content = [shown(pictures[0]), said("what is it?")]
    same = live.told(content, n=3)["choices"]
    assert [one["index"] for one in same] == [0, 1, 2] and len({one["message"]["content"] for one in same}) == 1
    drawn = live.told(content, n=3, temperature=1.5, seed=7)
    texts = [one["message"]["content"] for one in drawn["choices"]]
    assert len(set(texts)) == 3
    assert drawn["usage"]["completion_tokens"] > TOKENS
    again = live.told(content, n=3, temperature=1.5, seed=7)
    assert [one["message"]["content"] for one in again["choices"]] == texts
    other = live.told(content, n=3, temperature=1.5, seed=8)
    assert [one["message"]["content"] for one in other["choices"]] != texts
    parts = streamed(live, content, n=2, temperature=1.5, seed=7)[1]
    assert {part["choices"][0]["index"] for part in parts} == {0, 1}


def test_drawing_with_and_without_a_seed(live: Live, pictures: list[Image.Image]) -> None:
    content = [shown(pictures[0]), said("what is it?")]
    greedy = live.text(content)
    assert live.text(content, temperature=0) == greedy
    with ThreadPoolExecutor(6) as pool:
        seeded = list(pool.map(lambda _: live.text(content, temperature=2.0, seed=3), range(6)))
        free = list(pool.map(lambda _: live.text(content, temperature=2.0), range(6)))
    assert len(set(seeded)) == 1 and len(set(free)) > 1
    assert live.text(content, temperature=2.0, top_p=1e-6, seed=1) == greedy


def test_adaptive_decoding_is_that_of_infer(
    live: Live, models: Models, weights: LlavaBackbone, pictures: list[Image.Image]
) -> None:
    content = [*map(shown, pictures), said("In Image2, what is it?")]
    scored = expected(weights, None, pictures, "In Image2, what is it?", AdaptiveDecoder(max_new_tokens=TOKENS))
    told = live.told(content, model="base", max_tokens=TOKENS, lookright={"decode": "adaptive"})["choices"][0]
    assert told["message"]["content"] == scored.answer.text
    assert told["lookright"]["factor"] == pytest.approx(scored.answer.factor) and scored.answer.factor != 1
    with served(models, decoder=AdaptiveDecoder(max_new_tokens=TOKENS, scope="target")) as server:
        own = server.told(content, model="base")["choices"][0]["lookright"]
        assert own["factor"] == pytest.approx(0.7)
        assert "factor" not in server.told(content, lookright={"decode": "greedy"})["choices"][0]["lookright"]
        refused = server.ask([*map(shown, pictures), said("what is it?")])
        assert refused.status_code == 400 and "scope=target" in refused.json()["error"]["message"]


def test_looks_by_token_band_and_head(live: Live, weights: LlavaBackbone, pictures: list[Image.Image]) -> None:
    content = [*map(shown, pictures), said("In Image3, what is it?")]
    told = live.told(content, model="base", lookright={"heat": True})["choices"][0]
    heat = told["lookright"]["heat"]
    assert "".join(heat["tokens"]) == told["message"]["content"]
    assert [len(one["boxes"]) for one in heat["pictures"]] == [9, 9, 9]
    values = read_maps(heat)
    assert values.shape == (6, TOKENS, 27)
    # the parts of the depth make up all layers, weighted by how many they hold
    sizes = torch.tensor([band["layers"][1] - band["layers"][0] + 1 for band in heat["bands"][2:]])
    assert int(sizes.sum()) == weights.num_layers
    together = (values[2:] * sizes[:, None, None]).sum(0) / weights.num_layers
    assert (together - values[1]).abs().max() < values[1].max() / 100
    # over the answer, the measured layer's look is the share of each picture
    weight = torch.tensor([box[4] for one in heat["pictures"] for box in one["boxes"]])
    on_each = (values[0].sum(0) * weight).view(3, 9).sum(1)
    assert (on_each / on_each.sum()).tolist() == pytest.approx(told["lookright"]["attention"], abs=0.01)
    body = {"model": "base", "messages": [{"role": "user", "content": content}], "answer": told["message"]["content"]}
    whole = live.client.post("/lookright/look", json=body).json()
    by_head = live.client.post("/lookright/look", json=body | {"token": 1}).json()
    assert by_head["shape"] == [6, 4, 27]
    assert (read_maps(by_head).mean(1) - read_maps(whole)[:, 1]).abs().max() < 0.01
    late = live.client.post("/lookright/look", json=body | {"token": 99})
    assert late.status_code == 400 and "0-based" in late.json()["error"]["message"]
    assert late.json()["error"]["param"] == "token"


def test_looks_by_the_tokens_that_came(live: Live, pictures: list[Image.Image]) -> None:
    """Tokens that are half a character are others once their text is read again."""
    messages = [{"role": "user", "content": [*map(shown, pictures), said("In Image3, what is it?")]}]
    body = {"model": "base", "messages": messages}
    told = live.chat(body | {"lookright": {"heat": True}, "temperature": 2.0, "seed": 1}).json()["choices"][0]
    heat = told["lookright"]["heat"]
    given = {"token_ids": heat["token_ids"]}
    assert live.client.post("/lookright/look", json=body | given).json() == heat
    as_text = live.client.post("/lookright/look", json=body | {"answer": told["message"]["content"]}).json()
    assert as_text["token_ids"] != heat["token_ids"]
    last = live.client.post("/lookright/look", json=body | given | {"token": len(heat["token_ids"]) - 1}).json()
    assert (read_maps(last).mean(1) - read_maps(heat)[:, -1]).abs().max() < 0.01
    for wrong, words in (
        ({"token_ids": [-1]}, "token_ids are from 0 to"),
        ({"token_ids": [10**6]}, "token_ids are from 0 to"),
        (given | {"answer": "red"}, "either answer or token_ids"),
        ({}, "either answer or token_ids"),
    ):
        refused = live.client.post("/lookright/look", json=body | wrong)
        assert refused.status_code == 400 and words in refused.json()["error"]["message"]


def read_maps(heat: dict[str, Any]) -> torch.Tensor:
    """As the page reads them."""
    levels = torch.frombuffer(bytearray(base64.b64decode(heat["maps"])), dtype=torch.uint8).view(heat["shape"])
    return levels.float() / 255 * torch.tensor(heat["peaks"])[..., None]


def test_models_health_and_info(live: Live) -> None:
    models = live.client.get("/v1/models").json()
    assert [one["id"] for one in models["data"]] == ["tuned", "other", "base"]
    assert live.client.get("/v1/models/base").json()["id"] == "base"
    assert live.client.get("/v1/models/none").status_code == 404
    assert live.client.get("/health").json()["status"] == "ok"
    info = live.client.get("/lookright/info").json()
    assert info["models"] == ["tuned", "other", "base"]
    colours = info["colours"]
    assert all(sum(dark) < sum(light) for dark, light in pairwise(colours)), "from dark to light"


def test_internlm_with_and_without_pictures(picture: Callable[..., Image.Image]) -> None:
    """The shipped weights: tiles, separators and partial LoRA."""
    backbone = Ixc25Backbone(path=str(ASSETS / "tiny_ixc25"), hd_num=4, max_length=2048)
    images = [picture((40, 30), 1), picture((30, 60), 2)]
    with served(Models(backbone, {}, torch.device("cpu"), torch.float32)) as live:
        told = live.told([*map(shown, images), said("In Image2, what is it?")], lookright={"heat": True})["choices"][0]
        assert live.engine.models.names == ["base"]
        assert live.text("what is it?")
    scored = expected(backbone, None, images, "In Image2, what is it?")
    assert told["message"]["content"] == scored.answer.text
    assert told["lookright"]["attention_ratio"] == pytest.approx(scored.attention_ratio, abs=1e-4)
    heat = told["lookright"]["heat"]
    assert read_maps(heat).shape[-1] == sum(len(one["boxes"]) for one in heat["pictures"])


def test_openai_client(live: Live, pictures: list[Image.Image]) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{live.address}/v1", api_key="none")
    assert [one.id for one in client.models.list()] == ["tuned", "other", "base"]
    messages: Any = [{"role": "user", "content": [*map(shown, pictures), said("In Image2, what is it?")]}]
    whole = client.chat.completions.create(model="tuned", messages=messages, temperature=0)
    choice = whole.choices[0]
    assert choice.lookright["attention_ratio"] == pytest.approx(choice.lookright["attention"][1], abs=1e-5)
    parts = list(
        client.chat.completions.create(
            model="tuned", messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == choice.message.content
    assert parts[-1].usage == whole.usage
    extra = client.chat.completions.create(
        model="base", messages=messages, extra_body={"lookright": {"decode": "adaptive", "ratio": False}}
    )
    assert extra.choices[0].lookright["factor"] == pytest.approx(0.7)
    with pytest.raises(openai.NotFoundError, match="valid: tuned, other, base"):
        client.chat.completions.create(model="gpt-4o", messages=messages)
    with pytest.raises(openai.BadRequestError, match="no picture is fetched"):
        client.chat.completions.create(
            model="base",
            messages=[
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://localhost/a.png"}}]}
            ],
        )


def test_a_decoder_of_ones_own_answers_unless_a_request_says_another(
    models: Models, pictures: list[Image.Image]
) -> None:
    class Short(Decoder):
        """Ends every answer at its second token."""

        def generate_options(self, backbone: Any, state: Any) -> dict[str, Any]:
            length = state.input_ids.shape[1] + 2
            return {"stopping_criteria": [lambda ids, scores: torch.full((len(ids),), ids.shape[1] >= length)]}

    content = [shown(pictures[0]), said("what is it?")]
    with served(models, decoder=Short(max_new_tokens=TOKENS)) as server:
        own, plain = (server.told(content, lookright={"decode": name})["usage"] for name in (None, "greedy"))
    assert (own["completion_tokens"], plain["completion_tokens"]) == (2, TOKENS)

    class Sharp(AdaptiveDecoder):
        """Whose factor is told, as that of the one it builds on."""

    with served(models, decoder=Sharp(max_new_tokens=2, alpha_low=3.0, alpha_high=3.0)) as server:
        assert server.told(content)["choices"][0]["lookright"]["factor"] == 3.0


def test_a_look_at_an_answer_without_words(live: Live, pictures: list[Image.Image]) -> None:
    messages = [{"role": "user", "content": [shown(pictures[0]), said("what is it?")]}]
    body = {"model": "base", "messages": messages, "answer": ""}
    whole = live.client.post("/lookright/look", json=body).json()
    assert whole["shape"][1] == len(whole["tokens"]) and set(whole["tokens"]) == {""}
    assert live.client.post("/lookright/look", json=body | {"token": 0}).json()["shape"] == [6, 4, 9]
    for options in ({"heat": True}, {"decode": "adaptive"}, {"target": 0}):
        refused = live.client.post("/lookright/look", json=body | {"lookright": options})
        assert refused.status_code == 400 and refused.json()["error"]["message"].endswith("valid: style")


def test_heat_is_written_beside_the_loop_that_serves_others(
    live: Live, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens take long to spell in a long answer."""
    written = []

    def spied(*arguments: Any) -> dict[str, Any]:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        written.append(True)
        return heat(*arguments)

    for module in (app, replies):
        monkeypatch.setattr(module, "heat", spied)
    messages = [{"role": "user", "content": [shown(pictures[0]), said("what is it?")]}]
    live.chat({"messages": messages, "lookright": {"heat": True}}).raise_for_status()
    live.client.post("/lookright/look", json={"messages": messages, "answer": "red"}).raise_for_status()
    assert len(written) == 2
