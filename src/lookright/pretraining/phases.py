"""What a stretch of pretraining shows."""

from collections.abc import Mapping
from dataclasses import dataclass

from lookright.errors import ConfigError


@dataclass(slots=True, kw_only=True)
class Phase:
    """A stretch of `steps` batches of `batch_size` prompts each.

    `kind`: `vision` (pictures, a class for every token) or `language` (questions and answers); `weights`
    are those of the formats; `num_questions` are asked behind each prefix at most; `yes_no` also asks
    questions answered yes or no, where a source can tell them apart; `rate` scales the learning rates.
    """

    kind: str
    steps: int
    batch_size: int
    weights: Mapping[str, float]
    num_questions: int = 6
    yes_no: bool = True
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("vision", "language"):
            raise ConfigError(f"data.phases: kind={self.kind!r}; valid: vision, language")
        if min(self.steps, self.batch_size, self.num_questions) < 1 or self.rate <= 0:
            raise ConfigError("data.phases: steps, batch_size and num_questions are 1 or more, rate is above 0")

    @property
    def num_items(self) -> int:
        """Prompts in the phase."""
        return self.steps * self.batch_size
