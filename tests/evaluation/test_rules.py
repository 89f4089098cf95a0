"""Rules of matching: each against a definition told again, and by set in a whole run."""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from lookright.answering.answerer import ScoredAnswer
from lookright.answering.decoder import Answer
from lookright.common.answers import same_answer
from lookright.common.matching import is_correct
from lookright.errors import ConfigError, ParameterError, RecordError
from lookright.evaluation.accuracy import Accuracy
from lookright.evaluation.choices import options_of, parse_choice, parse_options
from lookright.evaluation.error_kinds import ErrorKinds
from lookright.evaluation.metric import Metrics
from lookright.evaluation.predictions import default_metrics, prediction_line
from lookright.evaluation.rules import Rules, truths_of
from lookright.evaluation.vqa import CONTRACTIONS, vqa_normal, vqa_score
from lookright.records.records import prompt_from_dict, to_dict
from lookright.types import Prompt

CHOICE = "<image>\nWhich animal is it?\nA. cat\nB. dog\nC. red dog\nD. horse\nAnswer with the option's letter."


def asked(truth: str, text: str = "<image>\nWhat is it?", **provenance: Any) -> Prompt:
    return Prompt(
        id="q", images=["a.png"], prompt=text, ground_truth=truth, format="sequence", target=None, regions=None,
        provenance=provenance,
    )  # fmt: skip


def said(prompt: Prompt, text: str) -> ScoredAnswer:
    answer = Answer(token_ids=[1], text=text, confidence=0.5)
    return ScoredAnswer(prompt=prompt, answer=answer, attention_ratio=None, even_ratio=None, perplexity=1.0)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The Dog", "dog"),
        ("two", "2"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("well", "well"),
        # a sign between letters becomes a space, beside a space it goes
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),
        ("yes, it is", "yes it is"),
        # a comma between digits: all signs go
        ("1,000", "1000"),
        ("1,000/day", "1000day"),
        ("3.5 m.", "3.5 m"),
        ("a.m.", "am"),
        ("11:30", "11:30"),
        ("red\nblue\t", "red blue"),
        ("", ""),
    ],
)
def test_vqa_normal_form_by_hand(text: str, wanted: str) -> None:
    assert vqa_normal(text) == wanted


def slow_vqa(prediction: str, truths: Sequence[str]) -> float:
    """Every annotator left out once; three of the other nine are enough."""
    scores = []
    for place in range(len(truths)):
        others = [truth for number, truth in enumerate(truths) if number != place]
        scores.append(min(sum(vqa_normal(other) == vqa_normal(prediction) for other in others) / 3, 1))
    return sum(scores) / len(scores)


@pytest.mark.parametrize(("agreeing", "wanted"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_score_of_ten_answers(agreeing: int, wanted: float) -> None:
    """By hand: of 3, the 3 leave-outs that drop one agree with 2/3, the other seven with 1: (3 x 2/3 + 7) / 10."""
    truths = ["Two"] * agreeing + [f"other {number}" for number in range(10 - agreeing)]
    assert vqa_score("2.", truths) == pytest.approx(wanted) == pytest.approx(slow_vqa("2.", truths))


def test_vqa_score_of_few_answers() -> None:
    assert [vqa_score("the dog", truths) for truths in (["dog"], ["cat", "dog"], ["cat"])] == [1, 1, 0]
    assert "shed" not in CONTRACTIONS and "well" not in CONTRACTIONS and "id" not in CONTRACTIONS


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (CHOICE, ["cat", "dog", "red dog", "horse"]),
        ("Is it (A) red (B) dark blue, (C) 3.5 m?", ["red", "dark blue", "3.5 m?"]),
        ("A) red\nB) blue", ["red", "blue"]),
        ("A: red B: blue", ["red", "blue"]),
        ("Picture A. It shows a dog. What is it?\nA. dog\nB. cat\nC. cow", ["dog", "cat", "cow"]),
        ("What is in Image A?", []),
        ("A. alone", []),
    ],
)
def test_options_are_parsed_from_the_question(text: str, wanted: list[str]) -> None:
    assert parse_options(text) == wanted


def test_options_of_the_record_come_first() -> None:
    assert options_of(asked("A", CHOICE, options=["A. x", "B. y"])) == ["x", "y"]
    assert options_of(asked("A", CHOICE, options=["A", "B x"])) == ["A", "B x"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("B", "B"), ("b", "B"), ("(B)", "B"), ("B.", "B"), ("B)", "B"), ("**B**", "B"),
        ("The answer is B", "B"), ("The correct option is (B).", "B"), ("Answer: B", "B"), ("answer: **B**", "B"),
        ("B: dog", "B"), ("B. dog", "B"), ("(B) dog", "B"), ("B dog", "B"), ("I choose B", "B"),
        ("dog", "B"), ("A dog.", "B"), ("It is a dog", "B"), ("It is a red dog.", "C"), ("the red dog", "C"),
        ("B. The other options, A and C, are wrong", "B"),
        # none or several
        ("", None), ("bird", None), ("A or B", None), ("(A) or (B)", None), ("A, B", None),
        ("The answer is A or B", None),
        ("a cat and a dog", None), ("B: horse", None), ("A: horse", None), ("A. dog", None), ("E", None),
        ("not B", None), ("Not A", None), ("not a dog", None),
        ("(A) and (C)", None), ("I am not sure", None),
    ],
)  # fmt: skip
def test_which_option_is_named(text: str, wanted: str | None) -> None:
    assert parse_choice(text, parse_options(CHOICE)) == wanted


def test_letters_without_known_options() -> None:
    assert [parse_choice(text) for text in ("(C)", "The answer is E", "dog", "Z")] == ["C", "E", None, None]


@pytest.mark.parametrize("text", ["red", "Red.", "the red", "dark red", "It is red", "not red", "blue", "reds", ""])
def test_exact_and_contained_are_what_they_were(text: str) -> None:
    prompt = asked("red", region_answers=["red", "blue"])
    plain = " ".join(word for word in re.findall(r"\w+", text.lower()) if word not in ("a", "an", "the"))
    assert Rules("exact").verdict(text, prompt).correct == (plain == "red") == same_answer(text, "red")
    assert Rules().verdict(text, prompt).correct == is_correct(text, "red", ["red", "blue"])


def test_several_ground_truths_by_each_rule() -> None:
    prompt = asked("couch", ground_truths=["couch"] * 5 + ["sofa"] * 4 + ["bench"])
    found = {rule: [Rules(rule).verdict(text, prompt) for text in ("A sofa.", "it is a sofa", "bed", "bench")]
             for rule in ("exact", "contained", "vqa")}  # fmt: skip
    assert [one.correct for one in found["exact"]] == [True, False, False, True]
    assert [one.correct for one in found["contained"]] == [True, True, False, True]
    assert [one.score for one in found["vqa"]] == pytest.approx([1.0, 0.0, 0.0, 0.3])
    assert [one.correct for one in found["vqa"]] == [True, False, False, False]
    assert Rules("judge").verdict("sofa", prompt).correct is None


def test_a_record_carries_truths_and_options() -> None:
    row = {"id": "1", "images": ["a.png"], "prompt": "<image> ?", "format": "sequence", "target": 0, "regions": []}
    truths = [{"answer": "couch", "answer_id": 1}, {"answer": "sofa"}, {"answer": "sofa"}]
    prompt = prompt_from_dict(row | {"ground_truth": truths, "options": ["sofa", "bed"], "provenance": {"source": "x"}})
    assert prompt.ground_truth == "sofa" and truths_of(prompt) == ["couch", "sofa", "sofa"]
    assert prompt.provenance["options"] == ["sofa", "bed"] and prompt.provenance["source"] == "x"
    assert prompt_from_dict(to_dict(prompt)) == prompt
    for wrong in ({"ground_truth": []}, {"ground_truth": [3]}, {"ground_truth": "x", "options": "AB"}):
        with pytest.raises(RecordError, match="is no list of texts"):
            prompt_from_dict(row | wrong)


def test_rule_by_file_before_source() -> None:
    rules = Rules("contained", {"mmmu": "choice", "easy_vqa": "vqa", "blink.json": "exact"})
    assert rules.of(asked("x", source="easy_vqa", data_file="mmmu.jsonl")) == "choice"
    assert rules.of(asked("x", source="easy_vqa", data_file="blink.json")) == "exact"
    assert rules.of(asked("x", source="easy_vqa", data_file="other.jsonl")) == "vqa"
    assert rules.of(asked("x", source="noise")) == "contained"


def test_what_a_rule_cannot_do_is_told_before() -> None:
    with pytest.raises(ParameterError, match="rule='exakt'; valid: contained, exact"):
        Accuracy("exakt")
    with pytest.raises(ParameterError, match=r"rules.mmmu='chioce'"):
        Accuracy(rules={"mmmu": "chioce"})
    with pytest.raises(ConfigError, match="metrics.accuracy.rules.mmmu: no question is of such a file or source"):
        Accuracy(rules={"mmmu": "choice"}).check([asked("x", source="noise")])
    with pytest.raises(ConfigError, match="the ground truth 'bird' of question q is none of its options .A: cat"):
        Accuracy("choice").check([asked("bird", CHOICE)])
    Accuracy("choice").check([asked("B", CHOICE), asked("horse", CHOICE), asked("C")])


def measured(metrics: Metrics, items: list[ScoredAnswer]) -> list[dict[str, Any]]:
    lines = [prediction_line(item, metrics) for item in items]
    for line in lines:
        metrics.add(line)
    return lines


def test_each_number_says_its_rule() -> None:
    metrics = Metrics(parts={"accuracy": Accuracy("contained", {"mc": "choice", "soft": "vqa"})})
    truths = ["red"] * 2 + ["blue"] * 8
    items = [
        said(asked("red", data_file="a.jsonl"), "It is red"),
        said(asked("B", CHOICE, data_file="mc.jsonl"), "dog"),
        said(asked("B", CHOICE, data_file="mc.jsonl"), "A or B"),
        said(asked("blue", ground_truths=truths, data_file="soft.jsonl"), "red"),
    ]
    lines = measured(metrics, items)
    assert [line["correct"] for line in lines] == [True, True, False, True]
    assert [line["rule"] for line in lines] == ["contained", "choice", "choice", "vqa"]
    assert [line.get("unparsed") for line in lines] == [None, False, True, None]
    assert [line.get("score") for line in lines] == [None, None, None, pytest.approx(0.6)]
    entry = metrics.result()["accuracy"]["sequence"]
    assert entry["value"] == pytest.approx(100 * (1 + 1 + 0 + 0.6) / 4) and entry["num_questions"] == 4
    assert entry["rule"] == "choice, contained, vqa" and entry["num_unparsed"] == 1
    assert 0 <= entry["low"] < entry["value"] < entry["high"] <= 100
    assert "choice in mc; vqa in soft" in metrics.parts["accuracy"].lead
    plain = default_metrics()
    measured(plain, items[:1])
    assert plain.result()["accuracy"]["sequence"]["rule"] == "contained"


def test_error_kinds_by_any_rule() -> None:
    """Companions' answers are known: an answer that is wrong by its rule has a kind, letters of options as words."""
    known = {"region_answers": ["dog", "cat"], "data_file": "x.jsonl"}
    cases = [
        ("choice", asked("B", CHOICE, **known), "A", "sequence_confusion"),
        ("choice", asked("B", CHOICE, **known), "(D)", "other"),
        ("choice", asked("B", CHOICE, **known), "B", None),
        ("vqa", asked("dog", **known), "cat", "sequence_confusion"),
        ("vqa", asked("dog", **known), "dog", None),
        ("exact", asked("dog", **known), "It is a cat", "sequence_confusion"),
        ("exact", asked("dog", **known), "it is a dog", "other"),
        ("contained", asked("dog", **known), "it is a dog", None),
    ]
    for rule, prompt, text, wanted in cases:
        prompt = Prompt(**{**to_dict(prompt), "target": 0, "regions": None})
        metrics = Metrics(parts={"accuracy": Accuracy(rule), "errors": ErrorKinds()})
        (line,) = measured(metrics, [said(prompt, text)])
        assert line["error_kind"] == wanted, (rule, text)
