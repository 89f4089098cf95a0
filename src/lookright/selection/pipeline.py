"""Differs from the ground truth, selected, passes post-selection: one decision with its reason."""

from collections.abc import Iterable, Sequence

from lookright.common.answers import same_answer
from lookright.selection.base import Candidate, Decision, PostFilter, Selection

SAME_ANSWER = "same_answer"
REPEATED_ANSWER = "repeated_answer"


class SelectionPipeline:
    """A selection rule followed by post-selection.

    The first drop in the order same answer, repeated answer, selection, filters is the reason. Every score
    that can be had is in the decision, whichever step drops the candidate, so that thresholds can be studied
    afterwards.
    """

    def __init__(self, selection: Selection, filters: Sequence[PostFilter] = ()) -> None:
        self.selection, self.filters = selection, list(filters)

    @property
    def reasons(self) -> list[str]:
        """Every reason that a decision can have, in order; only one answer of several to a prompt can be repeated."""
        return [SAME_ANSWER, *self.selection.reasons, *(one.reason for one in self.filters)]

    @property
    def needs_prepare(self) -> bool:
        """Whether `prepare` must be called before `decide`."""
        return self.selection.needs_prepare

    def prepare(self, candidates: Iterable[Candidate]) -> None:
        """First pass over all candidates of all shards, for a selection that needs one; holds none of them.

        Only what would become a pair if it were selected is shown to the selection, so a random draw of
        as many pairs ends in as many pairs.
        """
        if not self.needs_prepare:
            return
        for candidate in candidates:
            different = not same_answer(candidate.chosen, candidate.rejected)
            if different and not candidate.repeated and all(one.keeps(one.score(candidate)) for one in self.filters):
                self.selection.see(candidate)

    def decide(self, candidate: Candidate) -> Decision:
        """Raises RecordError where a score that a step needs is missing."""
        values = {one.reason: one.score(candidate) for one in self.filters}
        scores = dict(values)
        for name in ("attention_ratio", "even_ratio", "perplexity"):
            value = getattr(candidate, name)
            if value is not None:
                scores[name] = value
        reason = self._first_drop(candidate, values)
        return Decision(keep=reason is None, reason=reason, scores=scores)

    def _first_drop(self, candidate: Candidate, values: dict[str, float]) -> str | None:
        if same_answer(candidate.chosen, candidate.rejected):
            return SAME_ANSWER
        if candidate.repeated:
            return REPEATED_ANSWER
        if not self.selection.keeps(candidate):
            return self.selection.drop_reason(candidate)
        return next((one.reason for one in self.filters if not one.keeps(values[one.reason])), None)
