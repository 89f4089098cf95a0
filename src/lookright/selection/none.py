"""Every wrong answer."""

from lookright.selection.base import Candidate


class NoSelection:
    """Takes every answer that differs from the ground truth: naive pairs."""

    reasons = ("not_selected",)
    needs_attention = False
    needs_companions = False
    needs_prepare = False

    def see(self, candidate: Candidate) -> None:
        """Nothing to learn."""

    def keeps(self, candidate: Candidate) -> bool:
        """Always."""
        del candidate
        return True

    def drop_reason(self, candidate: Candidate) -> str:
        """The only one."""
        del candidate
        return self.reasons[0]
