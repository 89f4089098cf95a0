"""From config values to the composite."""

import pytest
from omegaconf import OmegaConf
from torch import Tensor

from lookright.errors import ConfigError
from lookright.losses.base import PairScores, PreferenceTerm
from lookright.losses.build import build_loss, preference_class, preference_kinds

KINDS = ["dpo", "hinge", "ipo", "kto_pair", "orpo", "robust", "simpo"]


class ElsewhereLoss(PreferenceTerm):
    """A term outside the package."""

    name = "elsewhere"

    def __init__(self, beta: float = 0.1, colour: str = "red") -> None:
        super().__init__(beta)
        self.colour = colour

    def __call__(self, scores: PairScores) -> Tensor:
        return scores.policy_chosen.logps


def test_the_kinds_are_the_files() -> None:
    assert preference_kinds() == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_builds_under_its_own_name(kind: str) -> None:
    loss = build_loss(kind=kind, gamma=0.0)
    assert list(loss.terms) == [kind] == [preference_class(kind).name]
    assert loss.needs_reference == (kind not in ("simpo", "orpo"))


def test_defaults_and_attention_from_a_hydra_node() -> None:
    node = OmegaConf.create({"attention": {"weight": 0.9, "threshold": 0.7, "layers": [1, 2]}})
    loss = build_loss(**node)
    assert {name: weight for name, (weight, _) in loss.terms.items()} == {"dpo": 1.0, "sft": 0.1, "attention": 0.9}
    assert loss.terms["attention"][1].threshold == 0.7
    assert list(loss.attention_layers) == [1, 2]
    assert loss.terms["dpo"][1].beta == 0.1
    assert str(loss) == "1 x dpo + 0.1 x sft + 0.9 x attention"


def test_null_is_the_kinds_own_default() -> None:
    assert build_loss(kind="simpo", beta=None, target_margin=None).terms["simpo"][1].beta == 2.0
    assert build_loss(kind="robust", label_smoothing=None).terms["robust"][1].label_smoothing == 0.1
    assert build_loss(kind="dpo", beta=0.3, label_smoothing=0.1).terms["dpo"][1].label_smoothing == 0.1


def test_alpha_zero_needs_no_reference() -> None:
    assert not build_loss(alpha=0.0, gamma=1.0, attention={"weight": 0.9}).needs_reference


def test_option_of_another_kind() -> None:
    with pytest.raises(
        ConfigError,
        match=r"loss\.label_smoothing=0\.1 is not used by loss\.kind=ipo, which takes loss\.beta, loss\.average",
    ):
        build_loss(kind="ipo", label_smoothing=0.1)
    with pytest.raises(ConfigError, match=r"loss\.target_margin=1\.0 is not used by loss\.kind=dpo"):
        build_loss(target_margin=1.0)
    build_loss(kind="ipo", label_smoothing=0.0)  # asks for nothing


def test_orpo_holds_its_own_likelihood_term() -> None:
    with pytest.raises(ConfigError, match=r"loss\.kind=orpo already contains.*set loss\.gamma=0"):
        build_loss(kind="orpo", gamma=0.1)
    build_loss(kind="orpo", gamma=0.0)
    build_loss(kind="orpo", alpha=0.0, gamma=1.0)


def test_unknown_kind_names_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="dpo, hinge, ipo, kto_pair, orpo, robust, simpo"):
        build_loss(kind="dpoo")
    with pytest.raises(ConfigError, match="cannot be imported"):
        build_loss(kind="no_such_package.Loss")


def test_a_term_from_elsewhere() -> None:
    kind = f"{ElsewhereLoss.__module__}.ElsewhereLoss"
    try:
        term = build_loss(kind=kind, colour="blue").terms["elsewhere"][1]
    except ConfigError:
        pytest.skip("test modules are not importable by name under this import mode")
    assert term.colour == "blue"


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build_loss(kind="dpo", alpha=-1, beta=0, attention={"weight": "a lot", "threshold": 0.7})
    assert len(str(caught.value).splitlines()) == 3
    with pytest.raises(ConfigError, match=r"loss\.attention\.tau is unknown; valid keys are weight, threshold, layers"):
        build_loss(attention={"tau": 0.7})


def test_all_weights_zero() -> None:
    with pytest.raises(ConfigError, match="nothing would train"):
        build_loss(alpha=0, gamma=0, attention={"weight": 0.0})
