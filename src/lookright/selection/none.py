"""Every wrong answer."""

from lookright.selection.base import Candidate


class NoSelection:
    """Takes every answer that differs from the ground truth: naive pairs."""

    reason = "not_selected"
    needs_attention = False
    needs_prepare = False

    def see(self, candidate: Candidate) -> None:
        """Nothing to learn."""

    def keeps(self, candidate: Candidate) -> bool:
        """Always."""
        del candidate
        return True
