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

from collections.abc import Collection, Sequence
from typing import Literal

from lookright.common.answers import normal_words, same_answer
from lookright.common.matching import says_another

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
