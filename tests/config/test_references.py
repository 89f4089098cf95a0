"""Keys that refer to others: which key sets a value, and what a saved config keeps."""

import pytest
from omegaconf import DictConfig, OmegaConf

from lookright.config.check import check_config
from lookright.config.references import lost_references, origin, references, resolved
from lookright.errors import ConfigError

OmegaConf.register_new_resolver("doubled", lambda number: 2 * number, replace=True)


@pytest.fixture()
def config() -> DictConfig:
    """A chain of two references, one to a whole node, one into another group, a resolver, a list."""
    return OmegaConf.create(
        {
            "seed": 3,
            "a": {
                "short": 1,
                "longer": "${a.short}",
                "node": {"deep": 5},
                "other": "${a.node}",
                "chain": {"value": "${a.longer}"},
                "seed": "${seed}",
                "twice": "${doubled:4}",
                "items": ["${a.short}", {"x": "${a.node.deep}"}],
            },
        }
    )


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("a.short", "a.short"),
        ("a.longer", "a.short"),
        ("a.chain.value", "a.short"),
        ("a.other.deep", "a.node.deep"),
        ("a.other.nowhere", "a.node.nowhere"),
        ("a.seed", "seed"),
        ("a.items.1.x", "a.node.deep"),
        ("a.twice", "a.twice"),
        ("not.there", "not.there"),
    ],
)
def test_the_key_that_sets_a_value(config: DictConfig, path: str, wanted: str) -> None:
    assert origin(config, path) == wanted


def test_what_is_referred_to(config: DictConfig) -> None:
    assert references(config) == {"a.short", "a.node", "a.longer", "seed", "a.node.deep"}
    assert lost_references(config) == []
    config.a.node = None
    assert lost_references(config) == ["a.node.deep"]


def test_a_saved_config_keeps_references_and_has_all_else_filled_in(config: DictConfig) -> None:
    saved = resolved(config)
    assert OmegaConf.to_container(saved, resolve=True) == OmegaConf.to_container(config, resolve=True)
    plain = OmegaConf.to_container(saved, resolve=False)["a"]
    assert (plain["longer"], plain["other"], plain["items"][0]) == ("${a.short}", "${a.node}", "${a.short}")
    assert (plain["seed"], plain["twice"]) == ("${seed}", 8)


def test_a_reference_by_place_is_filled_in() -> None:
    config = OmegaConf.create({"a": {"short": 1, "beside": "${.short}"}})
    assert OmegaConf.to_container(resolved(config), resolve=False) == {"a": {"short": 1, "beside": 1}}


def test_short_names_are_those_that_something_refers_to() -> None:
    target = {"_target_": "lookright.losses.composite.CompositeLoss", "terms": {"one": "${part.alpha}"}, "alpha": 1.0}
    known = {"part": target, "beside": {"weight": "${part.inner.weight}"}}
    known["part"]["inner"] = {"weight": 1, "wieght": 2}
    known["part"]["alhpa"] = 2.0
    with pytest.raises(ConfigError) as error:
        check_config(OmegaConf.create(known))
    lines = sorted(str(error.value).split("\n"))
    assert lines == [
        "part.alhpa does not exist; did you mean alpha? valid names: alpha, inner, terms",
        "part.inner.wieght does not exist; did you mean weight? valid names: weight",
    ]
