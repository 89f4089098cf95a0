"""What kind of multi-image hallucination a wrong answer is, as far as the answers alone can tell.

The two kinds are those of MIA-DPO, which defines them in words. Ours are operational: they need the answer
of each other shown image to the same question, which the sources know.

- `sequence_confusion`: the prediction gives, by the same rule that decides correctness, the answer of
  another shown image. It answered for the wrong image.
- `element_interference`: it is no such answer, but joins what belongs to several images: it has words
  of the target's answer together with words that only a companion's answer has ("red square" where the
  target is a red circle and another image a blue square; "circle and square"), or it has words known to
  be true of a companion and not of the target.
- `other`: neither; a plain mistake.

A wrong "yes" to a question that another image answers with "yes" counts as sequence confusion: with two
possible answers the two causes cannot be told apart, so compare shares between models, on the same questions.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from lookright.answering.answerer import ScoredAnswer
from lookright.common.answers import normal_words, same_answer
from lookright.common.formats import format_order
from lookright.common.matching import is_correct, says_another
from lookright.composing.companions import companion_answers
from lookright.evaluation.groups import Line, format_of, groups_of, percent
from lookright.evaluation.intervals import wilson
from lookright.evaluation.metric import Breakdown, Measure, Metric
from lookright.evaluation.rules import in_words, truths_of

ErrorKind = Literal["sequence_confusion", "element_interference", "other"]
YES_OR_NO = (["yes"], ["no"])
ERROR_KINDS: tuple[ErrorKind, ...] = ("sequence_confusion", "element_interference", "other")


def error_kind(
    prediction: str,
    answer: str,
    companion_answers: Sequence[str | None],
    companion_facts: Collection[str] = (),
    target_facts: Collection[str] = (),
) -> ErrorKind | None:
    """Kind of a wrong prediction; None where no companion's answer is known, so nothing can be told.

    `companion_answers` are the other shown images' answers to the same question, None where unknown;
    `companion_facts` and `target_facts` are further texts true of them, such as answers to other questions.
    Call it for wrong predictions only.
    """
    known = [given for given in companion_answers if given is not None]
    if says_another(prediction, answer, known):
        return "sequence_confusion"
    if not known and not companion_facts:
        return None
    different = [given for given in known if not same_answer(given, answer)]
    said, target = set(normal_words(prediction)), set(normal_words(answer))
    only_companions = {word for given in different for word in normal_words(given)} - target
    mixes_answers = bool(said & target) and bool(said & only_companions)
    foreign = _words(companion_facts) - _words(target_facts) - target
    return "element_interference" if mixes_answers or said & foreign else "other"


def wrong_kind(prediction: str, answer: str) -> bool:
    """Whether a prediction opens with yes or no where the ground truth is neither: it did not take the question."""
    return normal_words(answer) not in YES_OR_NO and normal_words(prediction)[:1] in YES_OR_NO


def _words(texts: Collection[str]) -> set[str]:
    return {word for text in texts for word in normal_words(text)}


class ErrorKinds(Metric):
    """Kinds of wrong answers.

    `errors`: per format and `multi_image`, the number of wrong answers, of those that can be judged, each kind's share
    of the judged in percent, and `num_wrong_kind`, yes or no where something else was asked.
    """

    title = "Kinds of errors"
    lead = (
        "Sequence confusion gives the answer of another shown image; element interference mixes words of several. "
        "Shares of the wrong answers whose companions' answers are known. The last column counts yes or no to "
        "questions that ask for something else."
    )
    measures = (
        Measure(
            key="other_image",
            title="Answers that another shown image has",
            short="another image's",
            told=lambda line: (
                not line["correct"] and line["error_kind"] == "sequence_confusion" if "error_kind" in line else None
            ),
            good=-1,
            of_errors=True,
            several=True,
        ),
        Measure(
            key="wrong_kind",
            title="Yes or no where something else was asked",
            short="yes or no",
            told=lambda line: not line["correct"] and wrong_kind(line["prediction"], line["ground_truth"]),
            good=-1,
            of_errors=True,
            several=True,
        ),
    )

    def __init__(self) -> None:
        self._kinds: dict[str, Counter[str | None]] = defaultdict(Counter)
        self._wrong_kind: Counter[str] = Counter()

    def line(self, item: ScoredAnswer) -> dict[str, Any]:
        """See `Metric.line`; None where the answer is right, or not to be judged. Letters of options count as words."""
        prompt = item.prompt
        others = [in_words(answer, prompt) for answer in companion_answers(prompt)]
        text, truth = in_words(item.answer.text, prompt), in_words(prompt.ground_truth, prompt)
        right = item.correct
        if right is None:
            right = any(is_correct(text, in_words(one, prompt), others) for one in truths_of(prompt))
        return {"error_kind": None if right else error_kind(text, truth, others)}

    def add(self, line: Line) -> None:
        """See `Metric.add`."""
        if line["correct"]:
            return
        for group in groups_of(format_of(line)):
            self._kinds[group][line.get("error_kind")] += 1
            self._wrong_kind[group] += wrong_kind(line["prediction"], line["ground_truth"])

    def result(self) -> dict[str, Any]:
        """See `Metric.result`."""
        return {"errors": {name: self._group(name) for name in sorted(self._kinds, key=format_order)}}

    def breakdowns(self, result: Mapping[str, Any]) -> list[Breakdown]:
        """Return the kinds of each format that has judged ones."""
        rows = {
            name: [found["num_wrong"], found["num_judged"], *(found[kind] for kind in ERROR_KINDS)]
            + [found["num_wrong_kind"]]
            for name, found in result["errors"].items()
            if found["num_judged"]
        }
        kinds = [f"{kind.replace('_', ' ').capitalize()}, %" for kind in ERROR_KINDS]
        head = ["Wrong", "Judged", *kinds, "Yes or no, unasked"]
        return [Breakdown(title=self.title, lead=self.lead, head=head, rows=rows)] if rows else []

    def _group(self, name: str) -> dict[str, Any]:
        """Counts of one group's wrong answers and the kinds' shares of the judged ones, percent."""
        kinds = self._kinds[name]
        judged = sum(kinds[kind] for kind in ERROR_KINDS)
        shares = {kind: percent(wilson(kinds[kind], judged)) for kind in ERROR_KINDS} if judged else {}
        counts = {"num_wrong": kinds.total(), "num_judged": judged, "num_wrong_kind": self._wrong_kind[name]}
        return counts | shares
