"""Every wrong answer."""

from lookright.selection.base import Candidate, Selection


class NoSelection(Selection):
    """Takes every answer that differs from the ground truth: naive pairs."""

    def keeps(self, candidate: Candidate) -> bool:
        """See `Selection.keeps`: always."""
        del candidate
        return True
