"""Wrong answers that belong to another shown image, given while looking elsewhere."""

from collections.abc import Sequence

from lookright.common.matching import says_another
from lookright.errors import RecordError
from lookright.selection.attention import AttentionSelection
from lookright.selection.base import Candidate


class ConfusionSelection(AttentionSelection):
    """Takes what `AttentionSelection` takes where the answer is that of another shown image; has the same settings.

    Whose an answer is follows the error kind `sequence_confusion`: the rule for correct answers, held against what
    the same question is answered for each of the other images.
    """

    reasons = ("attention_ratio", "no_confusion")
    needs_companions = True

    def keeps(self, candidate: Candidate) -> bool:
        """Raises RecordError (`no_companion_answers`) where no other image's answer is known, whatever the ratio."""
        check_companion_answers(candidate.id, candidate.companion_answers)
        others = candidate.companion_answers
        return super().keeps(candidate) and says_another(candidate.rejected, candidate.chosen, others)

    def drop_reason(self, candidate: Candidate) -> str:
        """The ratio where that is too high; else no other shown image has the answer."""
        attention_ratio, no_confusion = self.reasons
        return no_confusion if super().keeps(candidate) else attention_ratio


def check_companion_answers(record_id: str, answers: Sequence[str]) -> None:
    """Raise RecordError (`no_companion_answers`) for a prompt of which no other shown image's answer is known."""
    if not answers:
        raise RecordError(
            "no_companion_answers",
            f"{record_id}: what its question is answered for the other images shown is not known, and "
            "selection=confusion decides by it; set companions=same_question (and another output), or "
            "selection=attention, random or none",
        )
