"""What is refused, and how: one sentence in OpenAI's error object, never a traceback, and the place is free again."""

import asyncio
import base64
import copy
import dataclasses
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from PIL import Image

from lookright.answering.decoder import Decoder
from lookright.backbones.llava import LlavaBackbone
from lookright.common.pictures import FORMATS
from lookright.composing.asked import asked_prompt
from lookright.errors import ConfigError
from lookright.records.held_pictures import HeldPictures
from lookright.serve.app import Parts, Server
from lookright.serve.engine import Engine
from lookright.serve.jobs import Decoding, Job
from lookright.serve.models import Models, adapter_folders
from lookright.serve.refusals import Refusal
from lookright.serve.settings import Limits, check_style
from tests.serve.conftest import Live, address_of, said, served, shown

NUM_FUZZED = 1000
TEXT = [said("what is it?")]
PIXEL = address_of(Image.new("RGB", (8, 8), "red"))


def told(response: httpx.Response) -> str:
    """The one sentence of an error object."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and "\n" not in error["message"] and "Traceback" not in error["message"]
    return error["message"]


def part(address: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": address}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([part("http://localhost/a.png"), *TEXT], "no picture is fetched"),
        ([part("https://example.org/a.png"), *TEXT], "no picture is fetched"),
        ([part("file:///etc/passwd"), *TEXT], "no picture is fetched"),
        ([part("/etc/passwd"), *TEXT], "no picture is fetched"),
        ([part("data:image/png,abc"), *TEXT], "no picture is fetched"),
        ([part("data:image/png;base64,%%%"), *TEXT], "no base64"),
        ([part("data:image/png;base64,AAAA"), *TEXT], "cannot be read"),
        ([part(7), *TEXT], "begins with data:image/"),
        ([{"type": "image_url"}, *TEXT], "begins with data:image/"),
        ([{"type": "input_audio", "input_audio": {}}, *TEXT], "valid: text, image_url"),
        ([{"type": "text"}], "is not a text"),
        ([3], "valid: text, image_url"),
        ([], "a text or a list of parts"),
        ({}, "a text or a list of parts"),
        ("  ", "holds no text"),
        ("<image> what is it?", "none came with it"),
    ],
)
def test_contents(content: Any, words: str, live: Live) -> None:
    response = live.ask(content)
    assert response.status_code == 400 and words in told(response)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2"),
        ({"temperature": "1"}, "temperature: Input should be a valid number"),
        ({"top_p": 0}, "top_p: Input should be greater than 0"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"n": 9}, "n=9, at most 8"),
        ({"stop": ["a", ""]}, "stop holds up to 4 texts"),
        ({"stop": [1]}, "stop"),
        ({"tools": [{"type": "function"}]}, "tools is not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"logprobs": True}, "logprobs is not supported"),
        ({"top_k": 5}, "'top_k' is not a field"),
        ({"stream_options": {"include_usage": True}}, "stream_options is for stream=true"),
        ({"stream": True, "lookright": {"heat": True}}, "whole answers alone"),
        ({"lookright": {"decode": "beam"}}, "lookright.decode: Input should be 'greedy' or 'adaptive'"),
        ({"lookright": {"tagret": 1}}, "'lookright.tagret' is not a field that is known here; valid: decode"),
        ({"lookright": {"target": 3}}, "none came with it"),
    ],
)
def test_fields(fields: dict[str, Any], words: str, live: Live) -> None:
    response = live.ask("what is it?", **fields)
    assert response.status_code == 400 and words in told(response)


def test_fields_that_ask_for_nothing_are_taken(live: Live) -> None:
    plain = live.text("what is it?", max_tokens=2)
    fields = {"user": "me", "tools": [], "frequency_penalty": 0, "logit_bias": {}, "seed": None, "metadata": {"a": "b"}}
    assert live.text("what is it?", max_tokens=2, response_format={"type": "text"}, logprobs=False, **fields) == plain


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (["user", "user"], "messages[1]: the user speaks twice in a row"),
        (["user", "assistant", "user", "user"], "messages[3]: the user speaks twice in a row"),
        (["assistant", "user"], "messages[0]: the assistant speaks, and no user message is before it"),
        (["system", "assistant", "user"], "messages[1]: the assistant speaks"),
        (["user", "assistant", "assistant", "user"], "messages[2]: the assistant speaks"),
        (["user", "assistant"], "the last message is the assistant's; end with what the user asks"),
        (["system"], "no user message"),
        (["user", "system"], "before the user's"),
        (["user", "assistant", "system", "user"], "before the user's"),
        (["tool"], "valid: system, developer, user, assistant"),
        (["user", "assistant", "tool", "user"], "valid: system, developer, user, assistant"),
    ],
)
def test_turns(roles: list[str], words: str, live: Live) -> None:
    response = live.chat({"messages": [{"role": role, "content": "what is it?"} for role in roles]})
    assert response.status_code == 400 and words in told(response)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "messages[1]: the assistant message is empty"),
        ("", "messages[1]: the assistant message is empty"),
        (" \n", "messages[1]: the assistant message is empty"),
        ([], "messages[1]: the assistant message is empty"),
        ([said("")], "messages[1]: the assistant message is empty"),
        (0, "messages[1].content is a text or a list of parts"),
        ([{"type": "refusal", "refusal": "no"}], "valid: text, image_url"),
        ([part(PIXEL)], "messages[1]: an assistant message is text, without pictures"),
        ([said("red"), part(PIXEL)], "messages[1]: an assistant message is text, without pictures"),
    ],
)
def test_earlier_answers(content: Any, words: str, live: Live) -> None:
    messages = [
        {"role": "user", "content": "what is it?"},
        {"role": "assistant", "content": content},
        {"role": "user", "content": "why?"},
    ]
    response = live.chat({"messages": messages})
    assert response.status_code == 400 and words in told(response)


def test_earlier_questions(live: Live) -> None:
    answered = [{"role": "assistant", "content": "red"}, {"role": "user", "content": "why?"}]

    def refused(content: Any, last: Any = "why?", **fields: Any) -> str:
        turns = [{"role": "user", "content": content}, answered[0], {"role": "user", "content": last}]
        response = live.chat({"messages": turns, **fields})
        assert response.status_code == 400
        return told(response)

    assert "messages[0]: the user message holds no text" in refused([part(PIXEL)])
    assert "messages[2]: the user message holds no text" in refused("what is it?", [part(PIXEL)])
    assert "none came with it" in refused("what is <image>?")
    # a place of one turn is not for a picture of another
    assert "1 pictures but 2 <image>" in refused([part(PIXEL), *TEXT], "and <image>?")
    assert "2 regions" in refused([part(PIXEL), *TEXT], [part(PIXEL), *TEXT], lookright={"target": 2})


def test_bodies(live: Live) -> None:
    kind = {"content-type": "application/json"}
    for body, words in ((b"{", "no JSON"), (b"[]", "JSON list"), (b"\xff", "no JSON"), (b"[" * 100_000, "no JSON")):
        response = live.client.post("/v1/chat/completions", content=body, headers=kind)
        assert response.status_code == 400 and words in told(response)
    text = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
    assert "surrogate" in told(live.client.post("/v1/chat/completions", content=text, headers=kind))
    plain = live.client.post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert plain.status_code == 415 and "application/json" in told(plain)
    assert live.client.get("/v1/chat/completions").status_code == 405
    assert live.client.get("/v1/none").status_code == 404 and told(live.client.get("/v1/none"))
    unknown = live.ask("what is it?", model="gpt-4o")
    assert unknown.status_code == 404 and "valid: tuned, other, base" in told(unknown)


@pytest.mark.parametrize("body", [{"messages": ["x"] * 60_000}, {f"field{n}": 1 for n in range(60_000)}])
def test_bodies_of_many_small_values(body: dict[str, Any], live: Live) -> None:
    """A sentence for each of them would take the server minutes."""
    response = live.chat(body)
    assert response.status_code == 413 and "more than 50000 values" in told(response)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_text_that_no_context_holds_is_not_read(
    earlier: bool, live: Live, weights: LlavaBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: Any) -> None:
        raise AssertionError("it would take minutes")

    monkeypatch.setattr(LlavaBackbone, "encode_conversation", read)
    count = 256 * weights.max_length + 1
    turns = [("user", "x" * count)]
    turns = [*turns, ("assistant", "red"), ("user", "why?")] if earlier else turns
    response = live.chat({"messages": [{"role": role, "content": text} for role, text in turns]})
    assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"
    assert f"characters, which {weights.max_length} tokens cannot hold" in told(response)


def test_limits(models: Models, picture: Callable[..., Image.Image]) -> None:
    limits = Limits(pictures=2, pixels=400, bytes=2000, body=20000, seconds=30)
    with served(models, limits) as live:
        small, large = picture((20, 16)), picture((30, 20))
        assert live.ask([shown(small), shown(small), *TEXT]).status_code == 200
        assert "3 pictures, at most 2" in told(live.ask([*[shown(small)] * 3, *TEXT]))
        turns = [{"role": "user", "content": [shown(small), *TEXT]}, {"role": "assistant", "content": "red"}]
        assert "3 pictures, at most 2" in told(live.chat({"messages": turns * 2 + turns[:1]}))
        assert live.chat({"messages": turns + turns[:1]}).status_code == 200
        assert "30 x 20 pixels, at most 400" in told(live.ask([shown(large), *TEXT]))
        assert "more than 2000 bytes" in told(live.ask([part(f"data:image/png;base64,{'A' * 4000}"), *TEXT]))
        whole = live.ask("a" * 30000)
        assert whole.status_code == 413 and "more than 20000 bytes" in told(whole)
        long = live.ask("x y " * 4500)
        assert long.status_code == 400 and long.json()["error"]["code"] == "context_length_exceeded"
        assert "tokens" in told(long)
        assert live.engine.num_inside == 0


def test_a_large_picture_is_refused_by_its_header(live: Live) -> None:
    """A few bytes that would be a gigabyte of pixels."""
    file = address_of(Image.new("1", (9000, 9000)))
    start = time.monotonic()
    response = live.ask([part(file), *TEXT])
    assert response.status_code == 400 and "pixels" in told(response) and time.monotonic() - start < 5


def test_files_that_start_programs_are_not_decoded(live: Live, picture: Callable[..., Image.Image]) -> None:
    response = live.ask([part(address_of(picture((20, 16)), "EPS")), *TEXT])
    assert response.status_code == 400 and "send one of JPEG, PNG" in told(response)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_kind_that_a_refusal_names_is_decoded(kind: str, live: Live, picture: Callable[..., Image.Image]) -> None:
    response = live.ask([part(address_of(picture((20, 16)), kind)), *TEXT], max_tokens=1)
    assert response.status_code == 200, response.text


# ---- names, pages and keys ----


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost", 200), ("[::1]", 200), ("10.1.2.3", 200), ("mine.lan", 200), ("evil.org", 403)],
)
def test_names_that_lead_here(host: str, status: int, models: Models) -> None:
    with served(models, allowed_hosts=["mine.lan"]) as live:
        response = live.client.get("/v1/models", headers={"host": f"{host}:8000"})
        assert response.status_code == status
        if status == 403:
            assert "allowed_hosts" in told(response)


def test_pages_of_others_may_not_ask(live: Live) -> None:
    for origin in ("http://evil.org", "null", "http://localhost:1", "file://", "http://[", f"{live.address}.evil.org"):
        response = live.ask("what is it?")
        refused = live.client.post("/v1/chat/completions", json={"messages": []}, headers={"origin": origin})
        assert response.status_code == 200 and refused.status_code == 403 and "own page" in told(refused)
        assert "access-control-allow-origin" not in refused.headers
    own = live.client.get("/v1/models", headers={"origin": live.address})
    assert own.status_code == 200
    asked = live.client.options("/v1/chat/completions", headers={"origin": "http://evil.org"})
    assert asked.status_code == 403


def test_keys(models: Models) -> None:
    with served(models, api_key="s3crét") as live:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}):
            response = live.client.get("/v1/models", headers=headers)
            assert response.status_code == 401 and "Authorization: Bearer" in told(response)
        right = httpx.Headers({"authorization": "Bearer s3crét"}, encoding="utf-8")
        assert live.client.get("/v1/models", headers=right).status_code == 200
        assert live.client.post("/lookright/look", json={}).status_code == 401
        assert live.client.get("/health").status_code == 200
        page = live.client.get("/")
        assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]


# ---- what waits ----


@contextmanager
def slow(models: Models, **limits: Any) -> Iterator[Live]:
    """A server of which every batch waits until its `gate` is opened."""
    gate = threading.Event()

    class Slow(Decoder):
        def answer(self, *arguments: Any) -> Any:
            gate.wait(20)
            return super().answer(*arguments)

    with served(models, Limits(**{"seconds": 30, **limits}), decoder=Slow(max_new_tokens=4), batch_size=2) as live:
        live.gate = gate
        try:
            yield live
        finally:
            gate.set()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_one_more_than_may_wait_is_told_to_come_again(models: Models) -> None:
    with slow(models, waiting=5) as live, ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(live.ask, "what is it?") for _ in range(5)]
        until(lambda: live.engine.num_inside == 5)
        refused = live.ask("what is it?")
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1" and "5 requests" in told(refused)
        live.gate.set()
        assert [one.result().status_code for one in asked] == [200] * 5
        until(lambda: live.engine.num_inside == 0)
        assert live.ask("what is it?").status_code == 200


def test_time_is_over(models: Models) -> None:
    with slow(models, seconds=1) as live:
        for stream in (False, True):
            response = live.ask("what is it?", stream=stream)
            if not stream:
                assert response.status_code == 504 and "within 1 s" in told(response)
            else:
                # the stream had begun
                lines = [line for line in response.text.split("\n\n") if "error" in line]
                assert len(lines) == 1 and "within 1 s" in lines[0] and response.text.endswith("[DONE]\n\n")
        live.gate.set()
        until(lambda: live.engine.num_inside == 0)
        assert live.ask("what is it?").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_frees_the_place(stream: bool, models: Models) -> None:
    with slow(models) as live:
        body = {"messages": [{"role": "user", "content": "what is it?"}], "stream": stream}

        async def leave() -> None:
            async with httpx.AsyncClient(base_url=live.address) as client:
                asked = [asyncio.create_task(client.post("/v1/chat/completions", json=body)) for _ in range(6)]
                while live.engine.num_inside < 6:
                    await asyncio.sleep(0.02)
                for one in asked:
                    one.cancel()

        asyncio.run(leave())
        # those that were begun end with their batch, the others at once
        until(lambda: live.engine.num_inside <= 2)
        live.gate.set()
        until(lambda: live.engine.num_inside == 0)
        assert live.ask("what is it?").status_code == 200


def waiting_job(models: Models, seconds: float = 60.0) -> tuple[Engine, Job]:
    """An engine that was never started, and a job for it."""
    engine = Engine(models=models, decoder=Decoder(), ratio_layer=1)
    pictures = HeldPictures([Image.new("RGB", (20, 16))])
    question = engine.question(asked_prompt(pictures, "what is it?"), pictures)
    deadline = time.monotonic() + seconds
    return engine, Job(model="base", question=question, decoding=Decoding(decode="greedy"), tokens=4, deadline=deadline)


def test_who_leaves_while_the_server_stops(models: Models) -> None:
    """The queue changes while its jobs are refused."""
    engine, first = waiting_job(models)
    second, third = (dataclasses.replace(first, future=Future()) for _ in range(2))
    for job in (first, second, third):
        engine.submit(job)
    first.future.add_done_callback(lambda _: engine.cancel(second))
    engine.stop()
    for job in (first, second, third):
        with pytest.raises(Refusal, match="the server is stopping"):
            job.future.result(timeout=0)


def test_time_that_is_over_while_a_part_is_sent(models: Models) -> None:
    """A client that reads slowly is told, and its sender is not interrupted."""
    engine, job = waiting_job(models, seconds=0.2)
    server = Server(engine=engine, limits=Limits(seconds=1))

    async def read() -> None:
        parts = Parts()
        parts.put_nowait((0, "red"))
        async for item in server._streamed(job, parts):
            assert item == (0, "red")
            await asyncio.sleep(0.4)

    with pytest.raises(Refusal, match="no answer within 1 s"):
        asyncio.run(read())
    assert job.cancelled


def test_a_body_that_does_not_come(models: Models) -> None:
    with served(models, Limits(seconds=1)) as live:
        with socket.create_connection(("127.0.0.1", int(live.address.rsplit(":", 1)[1]))) as client:
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 99\r\n\r\n{"
            )
            client.settimeout(10)
            assert b"408" in client.recv(4096)
        until(lambda: live.engine.num_inside == 0)


def test_an_error_of_ours_is_told_as_one(models: Models, capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(Decoder):
        def answer(self, *arguments: Any) -> Any:
            raise KeyError("a defect")

    with served(models, decoder=Broken()) as live:
        response = live.ask("what is it?")
        assert response.status_code == 500 and "an error of its own" in told(response)
        assert "a defect" not in response.text
        assert live.client.get("/health").status_code == 200 and live.engine.num_inside == 0
    assert "a defect" in capfd.readouterr().err


# ---- a thousand malformed requests ----


def fuzzed(rng: random.Random, picture: str) -> bytes:
    """A chat request with something wrong in it; now and then it happens to be right."""
    body: Any = {
        "model": "base",
        "max_tokens": 1,
        "lookright": {"ratio": False},
        "messages": [{"role": "user", "content": [part(picture), said("what is it?")]}],
    }
    if rng.random() < 0.5:
        turns = [{"role": "user", "content": "red?"}, {"role": "assistant", "content": [said("no")]}]
        body["messages"] = [*turns, *body["messages"]]
        if rng.random() < 0.3:
            rng.shuffle(body["messages"])
    odd: list[Any] = [
        None,
        True,
        -1,
        0,
        1e308,
        "",
        "x",
        [],
        {},
        [[]],
        {"a": 1},
        "\x00",
        "é" * 50,
        2**70,
        "<image>",
        [None],
    ]
    for _ in range(rng.randint(1, 3)):
        _break(body, rng, odd)
    data = json.dumps(body).encode()
    if rng.random() < 0.3:
        place = rng.randrange(len(data))
        data = (
            data[:place] + rng.choice([b"", b"\xff", b"}", b"[", b'"', b"\\", b"0"]) + data[place + rng.randint(0, 3) :]
        )
    return data


def _break(body: Any, rng: random.Random, odd: list[Any]) -> None:
    """Change one place anywhere in the body."""
    places: list[tuple[Any, Any]] = []
    held = [body]
    while held:
        value = held.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
        places += [(value, key) for key in keys]
        held += [value[key] for key in keys]
    holder, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.7:
        holder[key] = copy.deepcopy(rng.choice(odd))
    elif isinstance(holder, dict) and kind < 0.85:
        names = [
            "stop",
            "n",
            "stream",
            "temperature",
            "logprobs",
            "tools",
            "seed",
            "xyz",
            "type",
            "role",
            "url",
            "text",
        ]
        holder[rng.choice(names)] = copy.deepcopy(rng.choice(odd))
    elif isinstance(holder[key], str) and holder[key]:
        cut = rng.randrange(len(holder[key]))
        holder[key] = holder[key][:cut] + rng.choice(["", "\u2028", "<image>", "%"]) + holder[key][cut + 1 :]
    else:
        del holder[key]


def test_malformed_requests_get_a_sentence(live: Live, picture: Callable[..., Image.Image]) -> None:
    rng = random.Random(0)
    address = address_of(picture((20, 16)))
    assert base64.b64decode(address.partition(",")[2])
    bodies = [fuzzed(rng, address) for _ in range(NUM_FUZZED)]

    def send(body: bytes) -> httpx.Response:
        headers = {"content-type": "application/json"}
        return live.client.post("/v1/chat/completions", content=body, headers=headers)

    with ThreadPoolExecutor(4) as pool:
        responses = list(pool.map(send, bodies))
    refused = [one for one in responses if one.status_code != 200]
    assert len(refused) > NUM_FUZZED * 0.7
    for body, response in zip(bodies, responses, strict=True):
        assert response.status_code == 200 or 400 <= response.status_code < 500, (body[:300], response.text)
        if response.status_code != 200:
            told(response)
    until(lambda: live.engine.num_inside == 0)
    assert live.ask("what is it?").status_code == 200


# ---- before anything loads ----


def test_adapters_and_limits_are_checked(tmp_path: Any, adapters: dict[str, str]) -> None:
    assert adapter_folders(None, {}) == {}
    assert list(adapter_folders(adapters["tuned"], {"other": adapters["other"]})) == ["tuned", "other"]
    with pytest.raises(ConfigError, match="adapters.base: the name is taken"):
        adapter_folders(None, {"base": adapters["tuned"]})
    with pytest.raises(ConfigError, match="adapters.mine=.* holds no adapter_config.json"):
        adapter_folders(None, {"mine": str(tmp_path)})
    with pytest.raises(ConfigError, match="limits.waiting=0; set 1 or more"):
        Limits(waiting=0)
    with pytest.raises(ConfigError, match="prompt_style='none'; valid: auto, labelled, interleaved"):
        check_style("none")
