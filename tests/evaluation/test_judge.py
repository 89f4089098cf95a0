"""The judge against a server on a real socket: scores, retries, what fails, what a killed run asks again."""

import base64
import io
import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lookright.errors import ConfigError, LookRightError, ParameterError
from lookright.evaluation.accuracy import Accuracy
from lookright.evaluation.judge import JUDGEMENTS_FILE, RUBRIC, Judge, parse_score, request_text
from lookright.evaluation.judge_client import Reply
from lookright.evaluation.metric import Metrics
from lookright.evaluation.predictions import read_predictions
from lookright.types import Prompt
from tests.evaluation.judge_server import Answered, JudgeServer, said

Script = Callable[[dict[str, Any], int], Answered]


class OnePicture:
    def open(self, name: str) -> Image.Image:
        assert name == "a.png"
        return Image.new("RGB", (3, 2), (255, 0, 0))

    def size(self, name: str) -> tuple[int, int]:
        return (3, 2)


def prompt(number: int) -> Prompt:
    return Prompt(
        id=f"q{number}", images=["a.png"], prompt="<image>\nWhat is it?", ground_truth="a dog", format="sequence",
        target=None, regions=None,
    )  # fmt: skip


def answers(count: int) -> list[tuple[OnePicture, Prompt, dict[str, Any]]]:
    facts = {"format": "sequence", "num_images": 2, "ground_truth": "a dog", "rule": "judge", "correct": None}
    return [
        (OnePicture(), prompt(number), {"id": f"q{number}", "prediction": f"answer {number}", **facts})
        for number in range(count)
    ]


def number_of(request: dict[str, Any]) -> int:
    content = request["messages"][0]["content"]
    text = content if isinstance(content, str) else content[-1]["text"]
    return int(text.split("answer ")[-1].split("\n")[0]) if "answer " in text else 0


def by_number(request: dict[str, Any], seen: int) -> Answered:
    del seen
    return said(f"A reason.\nScore: {1 + number_of(request) % 5}")


def judge(server: JudgeServer, **options: Any) -> Judge:
    return Judge(**{"url": server.url, "model": "grader", "backoff": 0.01, "timeout": 5.0} | options)


def written(folder: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / JUDGEMENTS_FILE).read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: line for line in lines}


def write_predictions(folder: Path, items: list[Any]) -> None:
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for _, _, line in items))


def test_scores_means_and_the_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = answers(12)
    write_predictions(tmp_path, items)

    def slowly(request: dict[str, Any], seen: int) -> Answered:
        return replace(by_number(request, seen), wait=0.1)

    with JudgeServer(slowly) as server:
        one = judge(server, concurrency=3)
        one.check([])
        one.finish(tmp_path, items)
    assert {key: line["score"] for key, line in written(tmp_path).items()} == {f"q{n}": 1 + n % 5 for n in range(12)}
    assert 1 < server.busiest <= 3 and len(server.requests) == 13
    request = server.requests[1]
    assert (request["model"], request["temperature"], request["path"]) == ("grader", 0.0, "/v1/chat/completions")
    assert request["messages"][0]["content"] == request_text(prompt(0), f"answer {number_of(request)}")
    raw = json.loads(written(tmp_path)["q3"]["raw"])
    assert raw["choices"][0]["message"]["content"] == written(tmp_path)["q3"]["reply"] == "A reason.\nScore: 4"
    facts = json.loads((tmp_path / "judge.json").read_text())
    assert facts["model"] == "grader" and facts["rubric"] == RUBRIC and len(facts["rubric_sha256"]) == 64
    assert RUBRIC in capsys.readouterr().out
    metrics = Metrics(parts={"accuracy": Accuracy("judge"), "judge": one})
    for line in read_predictions(tmp_path).values():
        metrics.add(line)
    found = metrics.result()
    scores = [1 + n % 5 for n in range(12)]
    mean = sum(scores) / 12
    spread = (sum((score - mean) ** 2 for score in scores) / 11 / 12) ** 0.5
    entry = found["judge_score"]["sequence"]
    assert (entry["value"], entry["num_questions"]) == (pytest.approx(mean), 12)
    assert entry["low"] == pytest.approx(mean - 1.959964 * spread, abs=1e-6)
    # 4 and 5 are right
    accuracy = found["accuracy"]["sequence"]
    assert accuracy["value"] == pytest.approx(100 * sum(score >= 4 for score in scores) / 12)
    assert accuracy["rule"] == "judge" and accuracy["num_unparsed"] == 0


@pytest.mark.parametrize(
    "first",
    [
        Answered(status=429, headers={"Retry-After": "0"}),
        Answered(status=500, body="oops"),
        Answered(status=200, body="{not json"),
        Answered(status=200, body='{"choices": []}'),
        Answered(status=200, body='{"choices": [{"message": {"content": null}}]}'),
        Answered(wait=1.5),
    ],
)
def test_what_passes_is_tried_again(first: Answered, tmp_path: Path) -> None:
    def script(request: dict[str, Any], seen: int) -> Answered:
        return first if seen == 0 and number_of(request) == 1 else by_number(request, seen)

    with JudgeServer(script) as server:
        judge(server, timeout=0.7, retries=2).finish(tmp_path, answers(3))
        assert {key: line["score"] for key, line in written(tmp_path).items()} == {"q0": 1, "q1": 2, "q2": 3}
        assert len(server.requests) == 4


def test_waits_grow_and_retry_after_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    waits: list[float] = []
    with JudgeServer(
        lambda request, seen: Answered(status=429, headers={"Retry-After": "7"} if seen == 1 else {})
    ) as server:
        one = judge(server, retries=4, backoff=1.0)
        monkeypatch.setattr(one.client.stopping, "wait", lambda seconds: waits.append(seconds))
        with pytest.raises(LookRightError, match="status 429"):
            one.client.ask("x")
    assert waits == [1.0, 7.0, 4.0, 8.0]


def test_a_judge_that_stays_away_ends_the_run_and_it_goes_on(tmp_path: Path) -> None:
    items = answers(8)
    with JudgeServer(
        lambda request, seen: Answered(503, "busy") if number_of(request) == 5 else by_number(request, seen)
    ) as server:
        with pytest.raises(LookRightError, match=r"judge grader at .*status 503: busy; what is judged stays, go on"):
            judge(server, retries=1, concurrency=2).finish(tmp_path, items)
        before = written(tmp_path)
        assert 3 <= len(before) < 8 and "q5" not in before
    with (tmp_path / JUDGEMENTS_FILE).open("a") as file:
        file.write('{"id": "q7", "sco')
    with JudgeServer(by_number) as server:
        facts = json.loads((tmp_path / "judge.json").read_text()) | {"url": server.url}
        (tmp_path / "judge.json").write_text(json.dumps(facts))
        judge(server).finish(tmp_path, items)
        assert sorted(map(number_of, server.requests)) == sorted(set(range(8)) - {int(key[1:]) for key in before})
        asked = len(server.requests)
        judge(server).finish(tmp_path, items)
        assert len(server.requests) == asked
        with pytest.raises(ConfigError, match="is of another judge or rubric"):
            judge(server, model="other").finish(tmp_path, items)
    assert len(written(tmp_path)) == 8


def test_replies_without_a_score_are_counted_and_named(tmp_path: Path) -> None:
    replies = {
        0: said("It is fine."),
        1: said("Score: 3\nScore: 4"),
        2: Answered(400, "too long"),
        3: Answered(200, "<html>"),
    }
    items = answers(5)
    write_predictions(tmp_path, items)
    with JudgeServer(lambda request, seen: replies.get(number_of(request), said("Score: 5"))) as server:
        one = judge(server, retries=1)
        one.finish(tmp_path, items)
    lines = written(tmp_path)
    assert [lines[f"q{number}"]["score"] for number in range(5)] == [None, None, None, None, 5]
    assert lines["q2"]["error"] == "answered with status 400: too long" and lines["q3"]["raw"] == "<html>"
    metrics = Metrics(parts={"accuracy": Accuracy("judge"), "judge": one})
    for line in read_predictions(tmp_path).values():
        metrics.add(line)
    found = metrics.result()
    assert found["judge"]["num_unparsed"] == 4 and found["judge"]["unparsed"] == ["q0", "q1", "q2", "q3"]
    assert found["judge_score"]["sequence"]["value"] == 5 and found["judge_score"]["sequence"]["num_questions"] == 1
    assert found["accuracy"]["sequence"]["value"] == 20 and found["accuracy"]["sequence"]["num_unparsed"] == 4


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Right.\nScore: 5", 5), ("**Score:** 4", 4), ("score = 3/5", 3), ("Score: 2.", 2), ("1", 1),
        ("Score: 3\nScore: 3", 3), ("Score: 6", None), ("Score: 0", None), ("Score: 4.5", None), ("", None),
        ("I would say 4", None), ("Score: 3\nScore: 4", None), ("12", None), ("The score is 4 of 5", None),
        ("Score: -3", None), ("Score - 3", 3),
    ],
)  # fmt: skip
def test_parsing(text: str, wanted: int | None) -> None:
    assert parse_score(Reply(body="", text=text)) == wanted


def test_probe_fails_in_a_sentence() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(
        ConfigError, match=r"judge m at .* cannot be reached .*Set metrics.judge.url, model and api_key"
    ):
        Judge(url=closed, model="m", backoff=0.01).check([])
    cases = {401: "the key is read from the environment variable LOOKRIGHT_JUDGE_KEY", 404: "status 404: no such model"}
    for status, text in cases.items():
        with JudgeServer(lambda request, seen, status=status: Answered(status, "no such model")) as server:
            with pytest.raises(ConfigError, match=text):
                judge(server).check([])
            assert len(server.requests) == 1
    with (
        JudgeServer(lambda request, seen: Answered(200, "<html>")) as server,
        pytest.raises(ConfigError, match="OpenAI-comp"),
    ):
        judge(server).check([])


def test_the_key_is_sent_and_kept_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("LOOKRIGHT_JUDGE_KEY", "secret-4711")
    with JudgeServer(by_number) as server:
        one = judge(server)
        one.finish(tmp_path, answers(2))
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret-4711"}
    texts = [path.read_text() for path in tmp_path.iterdir()] + [repr(one.client), "".join(capsys.readouterr())]
    assert not any("secret-4711" in text for text in texts)
    with JudgeServer(by_number) as server:
        judge(server, api_key_env=None).finish(tmp_path / "none", answers(1))
    assert "Authorization" not in server.headers[0]


def test_pictures_are_sent_when_told(tmp_path: Path) -> None:
    with JudgeServer(by_number) as server:
        judge(server).finish(tmp_path / "text", answers(1))
        judge(server, pictures=True).finish(tmp_path / "seen", answers(1))
    plain, seen = (request["messages"][0]["content"] for request in server.requests)
    assert isinstance(plain, str) and plain == seen[1]["text"]
    kind, _, data = seen[0]["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0)) == (255, 0, 0)


def test_what_is_refused() -> None:
    for options, wanted in [
        ({"url": "localhost:8000"}, "url='localhost:8000'"),
        ({"url": "http://me:pw@host/v1"}, "url holds a name, a password"),
        ({"threshold": 6}, "threshold=6"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"timeout": 0}, "timeout=0"),
        ({"retries": -1}, "retries=-1"),
    ]:
        with pytest.raises(ParameterError, match=wanted):
            Judge(**{"url": "http://localhost/v1", "model": "m"} | options)
    with pytest.raises(ConfigError, match="the rule judge needs one"):
        Metrics(parts={"accuracy": Accuracy("judge")}).check([])


def test_answers_that_wait_for_their_judge_are_not_compared(tmp_path: Path) -> None:
    write_predictions(tmp_path, answers(1))
    with pytest.raises(ConfigError, match="question q0 waits for its judge"):
        read_predictions(tmp_path)
    assert read_predictions(tmp_path, judged=False)["q0"]["correct"] is None
