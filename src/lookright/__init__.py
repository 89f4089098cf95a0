"""Preference tuning of vision-language models on several images.

From Python: `load` a model, `Model.ask` and `Model.score`; loss terms and their sum for a trainer of one's own. What
is named here is kept; it is imported when it is first used, so that `import lookright` is quick and changes nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lookright.answering.adaptive import AdaptiveDecoder
    from lookright.answering.decoder import Decoder, Sampling
    from lookright.api import Model, Reply, load
    from lookright.errors import ConfigError, LookRightError, RecordError
    from lookright.losses.attention import AttentionLoss
    from lookright.losses.base import AttentionRead, PairScores, PreferenceTerm, Reads, SideScores, Term
    from lookright.losses.composite import CompositeLoss, Weighted
    from lookright.losses.preference.dpo import DPOLoss
    from lookright.losses.preference.hinge import HingeLoss
    from lookright.losses.preference.ipo import IPOLoss
    from lookright.losses.preference.kto_pair import KTOPairLoss
    from lookright.losses.preference.orpo import ORPOLoss
    from lookright.losses.preference.robust import RobustDPOLoss
    from lookright.losses.preference.simpo import SimPOLoss
    from lookright.losses.sft import SFTLoss
    from lookright.reference.adapter_off import AdapterOff
    from lookright.reference.frozen_copy import FrozenCopy
    from lookright.tuning.full import FullTuning
    from lookright.tuning.lora import LoraTuning
    from lookright.types import Preference, Prompt, Region

_HOMES = {
    "lookright.answering.adaptive": ("AdaptiveDecoder",),
    "lookright.answering.decoder": ("Decoder", "Sampling"),
    "lookright.api": ("Model", "Reply", "load"),
    "lookright.errors": ("ConfigError", "LookRightError", "RecordError"),
    "lookright.losses.attention": ("AttentionLoss",),
    "lookright.losses.base": ("AttentionRead", "PairScores", "PreferenceTerm", "Reads", "SideScores", "Term"),
    "lookright.losses.composite": ("CompositeLoss", "Weighted"),
    "lookright.losses.preference.dpo": ("DPOLoss",),
    "lookright.losses.preference.hinge": ("HingeLoss",),
    "lookright.losses.preference.ipo": ("IPOLoss",),
    "lookright.losses.preference.kto_pair": ("KTOPairLoss",),
    "lookright.losses.preference.orpo": ("ORPOLoss",),
    "lookright.losses.preference.robust": ("RobustDPOLoss",),
    "lookright.losses.preference.simpo": ("SimPOLoss",),
    "lookright.losses.sft": ("SFTLoss",),
    "lookright.reference.adapter_off": ("AdapterOff",),
    "lookright.reference.frozen_copy": ("FrozenCopy",),
    "lookright.tuning.full": ("FullTuning",),
    "lookright.tuning.lora": ("LoraTuning",),
    "lookright.types": ("Preference", "Prompt", "Region"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AdapterOff",
    "AdaptiveDecoder",
    "AttentionLoss",
    "AttentionRead",
    "CompositeLoss",
    "ConfigError",
    "DPOLoss",
    "Decoder",
    "FrozenCopy",
    "FullTuning",
    "HingeLoss",
    "IPOLoss",
    "KTOPairLoss",
    "LookRightError",
    "LoraTuning",
    "Model",
    "ORPOLoss",
    "PairScores",
    "Preference",
    "PreferenceTerm",
    "Prompt",
    "Reads",
    "RecordError",
    "Region",
    "Reply",
    "RobustDPOLoss",
    "SFTLoss",
    "Sampling",
    "SideScores",
    "SimPOLoss",
    "Term",
    "Weighted",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    """What can be asked for, imported or not."""
    return sorted({*globals(), *__all__})
