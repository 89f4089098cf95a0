"""A loader whose place is kept by the data module that owns it."""

from typing import Any

from torch.utils.data import DataLoader


class ResumableLoader(DataLoader):
    """Lightning warns where a run goes on with a loader that keeps no state; here the data module keeps it."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing of its own."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to do."""
