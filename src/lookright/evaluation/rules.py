"""Rules of matching: by which of them a prediction counts as right, for all questions or by set of questions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lookright.common.answers import same_answer
from lookright.common.matching import is_correct
from lookright.composing.companions import companion_answers
from lookright.errors import ConfigError, ParameterError
from lookright.evaluation.choices import LETTERS, options_of, parse_choice
from lookright.evaluation.vqa import vqa_score
from lookright.types import Prompt

RULES = {
    "contained": "the ground truth stands in the answer, not negated, and no other image's answer does",
    "exact": "equal but for case, articles, punctuation and number words",
    "choice": "names the right option by letter or text; what names none or several is wrong, and counted",
    "vqa": "VQA v2 accuracy: the share of annotators that agree, three being enough",
    "judge": "the judge's score reaches the threshold",
}
"""Names of the rules and what is right by them."""
DEFAULT_RULE = "contained"


@dataclass(slots=True, frozen=True, kw_only=True)
class Verdict:
    """What a rule says of a prediction: `correct` is None where a judge is still to be asked.

    `score`, in [0, 1], is there where a rule gives more than right and wrong; it is right from a half on. `unparsed`:
    no option could be made out.
    """

    rule: str
    correct: bool | None
    score: float | None = None
    unparsed: bool | None = None

    def line(self) -> dict[str, bool | float | str | None]:
        """For predictions.jsonl; what a rule does not tell is left out."""
        known = {"score": self.score, "unparsed": self.unparsed}
        told = {key: value for key, value in known.items() if value is not None}
        return {"correct": self.correct, "rule": self.rule} | told


class Rules:
    """`rule`, and `by_set` others for the questions of a file or a source, by its name.

    A file's name counts with or without its ending, and before that of the source that a record names. Raises
    ParameterError for an unknown rule.
    """

    def __init__(self, rule: str = DEFAULT_RULE, by_set: Mapping[str, str] | None = None) -> None:
        self.rule, self.by_set = rule, dict(by_set or {})
        for key, name in {"rule": rule, **{f"rules.{key}": name for key, name in self.by_set.items()}}.items():
            if name not in RULES:
                raise ParameterError(key, f"={name!r}; valid: {', '.join(RULES)}")

    @property
    def names(self) -> list[str]:
        """All rules that are in use."""
        return list(dict.fromkeys([self.rule, *self.by_set.values()]))

    def of(self, prompt: Prompt) -> str:
        """Return the rule of a question."""
        found = self._set_of(prompt)
        return self.rule if found is None else self.by_set[found]

    def verdict(self, prediction: str, prompt: Prompt) -> Verdict:
        """Return what the question's rule says; of several ground truths each is right."""
        rule, truths = self.of(prompt), truths_of(prompt)
        if rule == "judge":
            return Verdict(rule=rule, correct=None)
        if rule == "vqa":
            score = vqa_score(prediction, truths)
            return Verdict(rule=rule, correct=score >= 0.5, score=score)
        if rule == "choice":
            options = options_of(prompt)
            said = parse_choice(prediction, options)
            right = said is not None and said in {parse_choice(truth, options) for truth in truths}
            return Verdict(rule=rule, correct=right, unparsed=said is None)
        if rule == "exact":
            return Verdict(rule=rule, correct=any(same_answer(prediction, truth) for truth in truths))
        others = companion_answers(prompt)
        return Verdict(rule=rule, correct=any(is_correct(prediction, truth, others) for truth in truths))

    def check(self, prompts: Iterable[Prompt]) -> None:
        """Raise ConfigError for a set of which no question is, and for a choice whose right option is not known."""
        used: set[str] = set()
        for prompt in prompts:
            found = self._set_of(prompt)
            used |= set() if found is None else {found}
            if self.of(prompt) == "choice":
                options = options_of(prompt)
                lost = next((truth for truth in truths_of(prompt) if parse_choice(truth, options) is None), None)
                if lost is not None:
                    known = ", ".join(f"{letter}: {one}" for letter, one in zip(LETTERS, options, strict=False))
                    raise ConfigError(
                        f"metrics.accuracy.rule=choice: the ground truth {lost!r} of question {prompt.id} is none of "
                        f"its options ({known or 'none is known'}); give its letter or text, put options in the "
                        "record, or set another rule for its set with metrics.accuracy.rules"
                    )
        strange = [name for name in self.by_set if name not in used]
        if strange:
            raise ConfigError(
                f"metrics.accuracy.rules.{strange[0]}: no question is of such a file or source; name a file of "
                "data.path or a source that records name"
            )

    def describe(self) -> str:
        """Return the rules in a sentence or two, for a page."""
        sets = "".join(f"; {name} in {key}" for key, name in self.by_set.items())
        meant = " ".join(f"{name.capitalize()}: {RULES[name]}." for name in self.names)
        return f"Right by the rule {self.rule}{sets}. {meant}"

    def _set_of(self, prompt: Prompt) -> str | None:
        file = str(prompt.provenance.get("data_file", ""))
        names = (file, Path(file).stem, str(prompt.provenance.get("source", "")))
        return next((name for name in names if name in self.by_set), None)


def truths_of(prompt: Prompt) -> list[str]:
    """Return all ground truths of a question, each annotator's where there are several."""
    return list(prompt.provenance.get("ground_truths") or [prompt.ground_truth])


def in_words(text: str, prompt: Prompt) -> str:
    """Return the text of the option that an answer names by its letter; the answer itself where it names none."""
    options = options_of(prompt)
    letter = parse_choice(text, options) if options else None
    return text if letter is None else options[LETTERS.index(letter)]
