"""What a stretch of pretraining shows."""

from collections.abc import Mapping
from dataclasses import dataclass

from lookright.errors import ConfigError


@dataclass(slots=True, kw_only=True)
class Phase:
    """A stretch of `steps` batches of `batch_size` prompts each.

    `kind`: `vision` (pictures, a class for every token) or `language` (questions and answers); `weights`
    are those of the formats; `num_questions` are asked behind each prefix at most; `yes_no` also asks
    questions answered yes or no, where a source can tell them apart; `rate` scales the learning rates;
    `attention_weight` is that of the attention term, which holds the row that predicts an answer's first token
    on the image that was asked about, 0 for none. `misnamed` is the share of questions about one of several images
    that stand under the name of any of them, drawn anew: what makes a model that answers about the wrong one.
    """

    kind: str
    steps: int
    batch_size: int
    weights: Mapping[str, float]
    num_questions: int = 6
    yes_no: bool = True
    rate: float = 1.0
    attention_weight: float = 0.0
    misnamed: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("vision", "language"):
            raise ConfigError(f"data.phases: kind={self.kind!r}; valid: vision, language")
        if min(self.steps, self.batch_size, self.num_questions) < 1 or self.rate <= 0:
            raise ConfigError("data.phases: steps, batch_size and num_questions are 1 or more, rate is above 0")
        if self.attention_weight < 0 or (self.attention_weight and self.kind == "vision"):
            raise ConfigError(
                f"data.phases: attention_weight={self.attention_weight} of a {self.kind} phase; set 0 or more, and 0 "
                "where no question is asked"
            )

        if not 0 <= self.misnamed <= 1:
            raise ConfigError(f"data.phases: misnamed={self.misnamed}; a share in [0, 1]")

    @property
    def num_items(self) -> int:
        """Prompts in the phase."""
        return self.steps * self.batch_size
