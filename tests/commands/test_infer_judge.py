"""A judge where answers are made in parts: shards that are joined, and every run of a sweep."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from lookright.commands.infer import infer
from lookright.errors import ConfigError, LookRightError
from lookright.evaluation.predictions import metrics_of_run, read_predictions
from lookright.records.records import write_jsonl
from tests.commands.test_infer import predictions, question
from tests.commands.test_infer_sweep import finish_two_runs
from tests.evaluation.judge_server import Answered, JudgeServer, said

Run = Callable[..., Any]
JUDGE = ["metrics.judge.model=grader", "metrics.judge.backoff=0.01", "metrics.judge.retries=0"]
JUDGE += ["metrics.accuracy.rule=judge"]


def graded(request: dict[str, Any], seen: int = 0) -> Answered:
    """A score of 1 to 5 by the text of the answer, so that runs which answer differently are graded so."""
    del seen
    return said(f"Score: {1 + len(answer_of(request)) % 5}")


def answer_of(request: dict[str, Any]) -> str:
    """The answer to grade; nothing where the judge is asked for a word alone."""
    return request["messages"][0]["content"].partition("Answer to grade:\n===\n")[2].removesuffix("\n===")


@pytest.fixture(scope="module")
def run(composed: Callable[..., DictConfig], llava_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Nine questions in batches of three, right by what a server grades: run(server, output, ...)."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "images").mkdir()
    write_jsonl(folder / "instructions.jsonl", [question(folder, number) for number in range(9)])

    def make(server: JudgeServer | None, output: Path, *overrides: str) -> Any:
        judge = [] if server is None else ["metrics=[default,judge]", f"metrics.judge.url={server.url}", *JUDGE]
        given = [f"data.path={folder / 'instructions.jsonl'}", "decode.max_new_tokens=3", "batch_size=3", "overlays=0"]
        return infer(composed("infer", *given, *judge, f"output={output}", *overrides))

    return make


@pytest.fixture(scope="module")
def judged(run: Run, llava_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    with JudgeServer(graded) as server:
        run(server, folder, f"backbone.path={llava_weights}")
    return folder


def test_shards_are_judged_where_they_are_joined(run: Run, llava_weights: Path, tmp_path: Path) -> None:
    """Each answer is judged once, by the run that measures, and the numbers are those of one process."""
    weights = f"backbone.path={llava_weights}"
    with JudgeServer(graded) as server:
        whole = run(server, tmp_path / "whole", weights)
        wanted = sorted(answer_of(request) for request in server.requests if answer_of(request))
        server.requests.clear()
        shards = [weights, "shard.count=2"]
        for index in (0, 1):
            assert run(server, tmp_path / "parts", *shards, f"shard.index={index}") is None
        # a word each before weights load, no answer
        assert [answer_of(request) for request in server.requests] == ["", ""]
        assert not (tmp_path / "parts" / "judgements.jsonl").exists()
        joined = run(server, tmp_path / "parts", *shards, "stage=measure")
        assert sorted(answer_of(request) for request in server.requests if answer_of(request)) == wanted
        assert len(wanted) == 9
        asked = len(server.requests)
        assert run(server, tmp_path / "parts", *shards, "stage=measure") == joined
        assert len(server.requests) == asked + 1, "measured again: the judge is asked for a word alone"
    assert joined == whole
    for name in ("predictions.jsonl", "metrics.json", "judge.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    scores = {line["id"]: 1 + len(line["prediction"]) % 5 for line in predictions(tmp_path / "whole")}
    entry = whole["judge_score"]["multi_image"]
    several = [scores[line["id"]] for line in predictions(tmp_path / "whole") if line["num_images"] > 1]
    assert entry["value"] == pytest.approx(sum(several) / len(several)) and len(set(several)) > 1


def test_a_join_whose_judge_fails_goes_on(run: Run, llava_weights: Path, tmp_path: Path) -> None:
    def tiring(request: dict[str, Any], seen: int) -> Answered:
        return graded(request) if len(server.requests) < limit else Answered(503, "busy")

    shards = [f"backbone.path={llava_weights}", "shard.count=2"]
    limit = 1000
    with JudgeServer(tiring) as server:
        for index in (0, 1):
            run(server, tmp_path, *shards, f"shard.index={index}")
        limit = len(server.requests) + 5
        with pytest.raises(LookRightError, match="status 503: busy; what is judged stays, go on with the same command"):
            run(server, tmp_path, *shards, "stage=measure", "metrics.judge.concurrency=1")
        assert not (tmp_path / "metrics.json").exists()
        limit = 1000
        with (tmp_path / "judgements.jsonl").open("a") as file:
            file.write('{"id": "q8", "sco')
        server.requests.clear()
        run(server, tmp_path, *shards, "stage=measure", "metrics.judge.concurrency=2", "metrics.judge.retries=3")
    judged = [json.loads(line)["id"] for line in (tmp_path / "judgements.jsonl").read_text().splitlines()]
    assert sorted(judged) == sorted(f"q{number}" for number in range(9))
    assert sum(bool(answer_of(request)) for request in server.requests) == 6


@pytest.fixture(scope="module")
def sweep(composed: Callable[..., DictConfig], small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs that answer differently."""
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    finish_two_runs(composed, small_run, folder)
    return folder


def test_every_run_of_a_sweep_is_judged(run: Run, sweep: Path, tmp_path: Path) -> None:
    with JudgeServer(graded) as server:
        results = run(server, tmp_path / "all", f"run={sweep}")
        alone = {name: run(server, tmp_path / name, f"run={sweep / name}") for name in ("0", "1")}
    assert results == alone
    assert results["0"]["judge_score"] != results["1"]["judge_score"]
    with (tmp_path / "all" / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        found = results[row["run"]]
        assert float(row["judge_score/multi_image"]) == found["judge_score"]["multi_image"]["value"]
        assert float(row["accuracy/multi_image"]) == found["accuracy"]["multi_image"]["value"]
    assert "judge_score/multi_image" in (tmp_path / "all" / "report.md").read_text().splitlines()[0]


def test_a_judge_that_fails_one_run_loses_no_other(run: Run, sweep: Path, tmp_path: Path) -> None:
    def failing(request: dict[str, Any], seen: int) -> Answered:
        """All is well from the second run on, which asks for a word first."""
        runs = sum(not answer_of(one) for one in server.requests)
        return Answered(500, "oops") if runs < 2 and answer_of(request) else graded(request)

    with JudgeServer(failing) as server:
        with pytest.raises(LookRightError, match=r"1 of 2 runs failed\nrun 0: judge grader at .*status 500: oops"):
            run(server, tmp_path, f"run={sweep}")
        assert "| 1 |" in (tmp_path / "report.md").read_text() and not (tmp_path / "0" / "metrics.json").exists()
        server.requests.clear()
        server.script = graded
        assert list(run(server, tmp_path, f"run={sweep}")) == ["0", "1"]
        assert sum(bool(answer_of(request)) for request in server.requests) == 9, "what run 0 lacked, and no more"


def test_shards_of_a_sweep_are_judged(run: Run, sweep: Path, tmp_path: Path) -> None:
    given = [f"run={sweep}", "shard.count=2"]
    with JudgeServer(graded) as server:
        for index in (0, 1):
            run(server, tmp_path / "parts", *given, f"shard.index={index}")
        joined = run(server, tmp_path / "parts", *given, "stage=measure")
        assert joined == run(server, tmp_path / "whole", f"run={sweep}")
    for name in ("0/metrics.json", "1/metrics.json", "report.csv", "report.md"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_answers_that_were_made_again_do_not_keep_their_scores(run: Run, sweep: Path, tmp_path: Path) -> None:
    """Predictions were deleted and other weights answered, while judgements stayed."""
    with JudgeServer(graded) as server:
        run(server, tmp_path / "out", f"run={sweep / '0'}")
        other = run(server, tmp_path / "other", f"run={sweep / '1'}")
        for name in ("predictions.jsonl", "config.yaml", "made_by.json"):
            (tmp_path / "out" / name).unlink()
        with pytest.raises(ConfigError, match=r"judgements.jsonl judges other answers .*delete it"):
            run(server, tmp_path / "out", f"run={sweep / '1'}")
        (tmp_path / "out" / "judgements.jsonl").unlink()
        assert run(server, tmp_path / "out", f"run={sweep / '1'}") == other


def test_answers_that_are_there_get_a_judge(run: Run, llava_weights: Path, tmp_path: Path) -> None:
    """As from machines without a network: answered without a judge, measured with one, then with another."""
    weights = f"backbone.path={llava_weights}"
    with JudgeServer(graded) as server:
        plain = run(None, tmp_path, weights)
        assert "judge" not in plain and "judge" not in metrics_of_run(tmp_path).parts
        found = run(server, tmp_path, weights, "metrics.accuracy.rule=contained")
        assert found["accuracy"] == plain["accuracy"] and found["judge_score"]["multi_image"]["num_questions"] == 7
        assert metrics_of_run(tmp_path).parts.keys() >= {"accuracy", "judge"}
        other = [weights, "metrics.accuracy.rule=contained", "metrics.judge.model=other"]
        with pytest.raises(ConfigError, match="judge.json is of another judge or rubric; .*delete judgements.jsonl"):
            run(server, tmp_path, *other)
        (tmp_path / "judgements.jsonl").unlink()
        again = run(server, tmp_path, *other)
        assert again["judge"]["model"] == "other" and again["judge_score"] == found["judge_score"]
        with pytest.raises(ConfigError, match="another config .metrics differ."):
            run(server, tmp_path, weights)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("judgements.jsonl", '{"id": "q0"}\n', "judgements.jsonl:1: the key 'score' is missing"),
        ("judgements.jsonl", '{"id": "q0", "score": "5"}\n', "judgements.jsonl:1: score='5' is str"),
        ("judge.json", "{", "judge.json: not valid json"),
        ("judge.json", "[]", "judge.json: found a json list, not an object"),
        ("judge.json", "{}", "judge.json: threshold=None is no score"),
    ],
)
def test_damaged_files_of_a_judge_are_named(name: str, text: str, wanted: str, judged: Path, tmp_path: Path) -> None:
    shutil.copytree(judged, tmp_path / "out")
    (tmp_path / "out" / name).write_text(text)
    with pytest.raises(LookRightError, match=wanted):
        read_predictions(tmp_path / "out")
