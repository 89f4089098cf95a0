"""The settings of adaptive decoding that are tried, and the answers that they need, each generated once.

An answer depends on the factor that its prompt got, and not on the threshold by which it got it. So a grid of
thresholds and pairs of factors needs one answer for each distinct factor, from one pass over the prompt.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, TypeVar

import torch
from torch import nn

from lookright.answering.adaptive import AdaptiveDecoder
from lookright.answering.decoder import Answer, Decoder
from lookright.answering.prefill import prefill
from lookright.backbones.base import Backbone
from lookright.backbones.loading import bare_model
from lookright.errors import ConfigError
from lookright.packing.question import DecoderInput
from lookright.types import Prompt

PUBLISHED = {"threshold": 0.5, "alpha_low": 0.7, "alpha_high": 2.0, "layers": None, "steps": "first", "scope": "all"}
"""What `decode=adaptive` is where nothing else is set."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Arm:
    """One way to scale that does not look at the confidence. `layers` as for `AdaptiveDecoder`, None for all."""

    factor: float
    layers: tuple[int | float, ...] | None
    steps: str
    scope: str


@dataclass(slots=True, frozen=True, kw_only=True)
class Setting:
    """Values of an `AdaptiveDecoder`: which of two arms a prompt's confidence chooses."""

    threshold: float
    alpha_low: float
    alpha_high: float
    layers: tuple[int | float, ...] | None
    steps: str
    scope: str

    def arm(self, factor: float) -> Arm:
        """What a prompt of that factor is answered by."""
        return Arm(factor=factor, layers=self.layers, steps=self.steps, scope=self.scope)

    def options(self) -> dict[str, Any]:
        """As keys of the `decode` group."""
        values = asdict(self)
        return values | {"layers": None if self.layers is None else list(self.layers)}


class AdaptiveGrid:
    """All combinations of the lists, for answers of at most `max_new_tokens`; the published ones come with each scope.

    An entry of `layers` is None for all layers, layer numbers, or two shares of the depth. Raises ConfigError.
    """

    def __init__(
        self,
        thresholds: Sequence[float],
        alpha_low: Sequence[float],
        alpha_high: Sequence[float],
        layers: Sequence[Any] = (None,),
        steps: Sequence[str] = ("first",),
        scopes: Sequence[str] = ("all",),
        max_new_tokens: int = 512,
    ) -> None:
        lists = {
            "thresholds": thresholds,
            "alpha_low": alpha_low,
            "alpha_high": alpha_high,
            "layers": layers,
            "steps": steps,
            "scopes": scopes,
        }
        empty = [name for name, values in lists.items() if len(values) == 0]
        if empty:
            raise ConfigError("\n".join(f"grid.{name} is empty; set one value or more" for name in empty))
        self.max_new_tokens = max_new_tokens
        self.scopes = list(dict.fromkeys(scopes))
        published = [PUBLISHED | {"scope": scope} for scope in self.scopes]
        found = [*published, *(dict(zip(_KEYS, values, strict=True)) for values in product(*lists.values()))]
        self.settings = list(dict.fromkeys(_setting(values) for values in found if not _is_plain(values)))
        with _grid_keys():
            for setting in self.settings:
                self.decoder(setting)

    @property
    def arms(self) -> list[Arm]:
        """Every distinct way to scale; a factor of 1 is plain decoding, and none of them."""
        arms = (one.arm(factor) for one in self.settings for factor in (one.alpha_low, one.alpha_high) if factor != 1)
        return list(dict.fromkeys(arms))

    def decoder(self, setting: Setting) -> AdaptiveDecoder:
        """What decodes by a setting. Raises ConfigError for values that are refused there."""
        return AdaptiveDecoder(self.max_new_tokens, **setting.options())

    def check(self, backbone: Backbone, prompts: Sequence[Prompt] = ()) -> None:
        """See `Decoder.check`; raises ConfigError."""
        with _grid_keys():
            for decoder in self._decoders():
                decoder.check(backbone, prompts)

    def answer(self, backbone: Backbone, policy: nn.Module, inputs: Sequence[DecoderInput]) -> Iterator[list[Answer]]:
        """Answers to a batch: plain ones, then those of every arm, all from one pass over the prompts."""
        model = bare_model(policy.eval())
        state = prefill(backbone, model, inputs)
        for decoder in (Decoder(self.max_new_tokens), *self._decoders()):
            yield decoder.answer_from(backbone, model, state)

    def _decoders(self) -> list[AdaptiveDecoder]:
        return [
            self.decoder(
                Setting(
                    threshold=0.0,
                    alpha_low=arm.factor,
                    alpha_high=arm.factor,
                    layers=arm.layers,
                    steps=arm.steps,
                    scope=arm.scope,
                )
            )
            for arm in self.arms
        ]


@contextmanager
def _grid_keys() -> Iterator[None]:
    """Errors of the decoder name the keys of the grid."""
    try:
        yield
    except ConfigError as error:
        text = str(error).replace("decode.scope=all", "grid.scopes=[all]").replace("decode.scope", "grid.scopes")
        raise ConfigError(text.replace("decode.threshold", "grid.thresholds").replace("decode.", "grid.")) from error


_KEYS = ("threshold", "alpha_low", "alpha_high", "layers", "steps", "scope")


Told = TypeVar("Told", bool, float)


def told_of_setting(
    setting: Setting, arms: Sequence[Arm], confidences: Sequence[float], told: Sequence[Sequence[Told]]
) -> list[Told]:
    """What is told of a setting's answers, right or a score, from each question's `told`: plain, then one an arm."""
    columns = {arm: place for place, arm in enumerate(arms, 1)}
    low, high = (columns.get(setting.arm(factor), 0) for factor in (setting.alpha_low, setting.alpha_high))
    # in float32, as the decoder compares them
    unsure = torch.tensor(confidences, dtype=torch.float32) < setting.threshold
    return [row[low if is_unsure else high] for row, is_unsure in zip(told, unsure.tolist(), strict=True)]


def _is_plain(values: dict[str, Any]) -> bool:
    return values["alpha_low"] == values["alpha_high"] == 1


def _setting(values: dict[str, Any]) -> Setting:
    """With one factor for all the threshold decides nothing: such settings are one."""
    threshold = values["threshold"] if values["alpha_low"] != values["alpha_high"] else PUBLISHED["threshold"]
    layers = values["layers"]
    if layers is not None and (isinstance(layers, str) or not isinstance(layers, Sequence)):
        raise ConfigError(f"grid.layers: {layers!r} is no list; set entries such as null or [0.44, 0.70]")
    return Setting(**values | {"threshold": threshold, "layers": None if layers is None else tuple(layers)})
