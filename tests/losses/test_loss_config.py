"""From the `loss` group to the loss: what the short keys set, and what is told where they are wrong."""

from collections.abc import Callable

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lookright.config.check import Problems
from lookright.config.entry import CONFIG_FOLDER, explain
from lookright.config.references import resolved
from lookright.errors import ConfigError
from lookright.losses.base import AttentionRead, PreferenceTerm
from lookright.losses.composite import CompositeLoss

KINDS = sorted(path.stem for path in (CONFIG_FOLDER / "loss" / "kind").glob("*.yaml"))
Compose = Callable[..., DictConfig]


def loss_of(config: DictConfig) -> CompositeLoss:
    """As `train.py` builds it: with every problem at once."""
    problems = Problems(config)
    loss = problems.build("loss", "all")
    problems.finish()
    return loss


def refused(config: DictConfig) -> list[str]:
    """Lines of the error."""
    with pytest.raises(ConfigError) as caught:
        loss_of(config)
    return str(caught.value).split("\n")


def weights(loss: CompositeLoss) -> dict[str, float]:
    return {name: part.weight for name, part in loss.terms.items()}


def test_defaults(composed: Compose) -> None:
    loss = loss_of(composed("train", "data.path=x"))
    assert weights(loss) == {"dpo": 1.0, "sft": 0.1, "attention": 0.9}
    assert loss.attention_reads == {"attention": AttentionRead(None, "response")}


def test_short_keys_set_terms(composed: Compose) -> None:
    keys = ["loss.alpha=0.5", "loss.gamma=0", "loss.attention.weight=2", "loss.attention.layers=[1,3]"]
    more = ["loss.kind.beta=0.3", "loss.attention.threshold=0.6", "loss.attention.positions=first"]
    loss = loss_of(composed("train", "data.path=x", *keys, *more))
    assert weights(loss) == {"dpo": 0.5, "attention": 2.0}
    assert loss.terms["dpo"].term.beta == 0.3 and loss.terms["attention"].term.threshold == 0.6
    assert loss.attention_reads == {"attention": AttentionRead((1, 3), "first")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_a_file_with_the_defaults_of_its_class(kind: str, composed: Compose) -> None:
    loss = loss_of(composed("train", "data.path=x", f"loss/kind={kind}", "loss.gamma=0"))
    term = loss.terms[kind].term
    assert isinstance(term, PreferenceTerm) and list(loss.terms) == [kind, "attention"]
    assert vars(term) == vars(type(term)())
    assert loss.needs_reference == (kind not in ("simpo", "orpo"))


def test_of_a_sweep_each_job_has_its_weights(composed: Compose) -> None:
    found = [
        weights(loss_of(composed("train", "data.path=x", f"loss.alpha={alpha}", f"loss.gamma={gamma}")))
        for alpha in (0, 1)
        for gamma in (0, 1)
    ]
    dpo, sft, attention = {"dpo": 1.0}, {"sft": 1.0}, {"attention": 0.9}
    assert found == [attention, sft | attention, dpo | attention, dpo | sft | attention]


def test_the_old_spelling_names_the_new_one(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = refused(composed("train", "data.path=x", "loss.kind=ipo"))
    assert line.startswith("loss.kind='ipo' does not fit") and "loss/kind=ipo" in line
    monkeypatch.setattr("sys.argv", ["train.py", "loss.beta=0.2"])
    with pytest.raises(Exception, match="loss.beta") as error:
        composed("train", "loss.beta=0.2")
    assert explain(error.value, "train").startswith("loss.beta does not exist; did you mean loss.kind.beta?")
    monkeypatch.setattr("sys.argv", ["train.py", "loss.attention.rows=first"])
    with pytest.raises(Exception, match="loss.attention.rows") as error:
        composed("train", "loss.attention.rows=first")
    valid = "valid names: formats, layers, positions, threshold, weight"
    assert explain(error.value, "train") == f"loss.attention.rows does not exist; {valid}"


def test_an_option_of_another_kind(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["loss/kind=ipo", "loss.kind.label_smoothing=0.1"]
    monkeypatch.setattr("sys.argv", ["train.py", *given])
    with pytest.raises(Exception, match="label_smoothing") as error:
        composed("train", *given)
    assert explain(error.value, "train") == "loss.kind.label_smoothing does not exist; valid names: average, beta"


def test_every_value_that_is_refused_is_told_under_the_key_that_sets_it(composed: Compose) -> None:
    wrong = ["loss.alpha=-1", "loss.kind.beta=0", "loss.attention.threshold=1.5", "loss.attention.weight=-2"]
    assert sorted(refused(composed("train", "data.path=x", *wrong))) == [
        "loss.alpha=-1 is out of range; set a number >= 0",
        "loss.attention.threshold=1.5 is out of range; set a number > 0 and <= 1",
        "loss.attention.weight=-2 is out of range; set a number >= 0",
        "loss.kind.beta=0 is out of range; set a number > 0",
    ]
    wrong = ["loss.alpha=much", "loss.kind.beta=some", "loss.attention.layers=all"]
    assert sorted(refused(composed("train", "data.path=x", *wrong))) == [
        "loss.alpha='much' does not fit; set a number",
        "loss.attention.layers='all' does not fit; set a list or null",
        "loss.kind.beta='some' does not fit; set a number",
    ]
    (line,) = refused(composed("train", "data.path=x", "loss.attention.positions=last"))
    assert line == "loss.attention.positions='last'; valid: response, generated, first"


def test_a_key_that_nothing_refers_to_is_unknown(composed: Compose) -> None:
    """As an experiment file can have them, where Hydra lets any key pass."""
    wrong = ["+loss.alhpa=1", "+loss.attention.rows=first", "+loss.kind.betta=1", "+loss.terms.sft.wieght=1"]
    lines = sorted(refused(composed("train", "data.path=x", *wrong)))
    assert [line.split("; valid")[0].split(" valid")[0] for line in lines] == [
        "loss.alhpa does not exist; did you mean alpha?",
        "loss.attention.rows does not exist",
        "loss.kind.betta does not exist; did you mean beta?",
        "loss.terms.sft.wieght does not exist; did you mean weight?",
    ]


def test_a_key_that_others_refer_to_and_is_gone_is_named(composed: Compose) -> None:
    lines = refused(composed("train", "data.path=x", "loss.attention=null"))
    assert "loss.attention.weight is not there, and other keys take its value; set loss.attention.weight=..." in lines


def test_no_term_left(composed: Compose) -> None:
    zero = ["loss.alpha=0", "loss.gamma=0", "loss.attention.weight=0"]
    (line,) = refused(composed("train", "data.path=x", *zero))
    assert "nothing would train" in line and "(preference, sft, attention)" in line


def test_the_saved_config_has_each_value_once_and_builds_the_same_loss(composed: Compose) -> None:
    config = composed("train", "data.path=x", "loss.alpha=0.5", "loss/kind=robust")
    text = OmegaConf.to_yaml(resolved(config))
    assert text.count("0.5") == 1 and "${loss.alpha}" in text and "${asset:" not in text
    saved = OmegaConf.create(text)
    assert str(loss_of(saved)) == str(instantiate(config.loss)) == "0.5 x robust + 0.1 x sft + 0.9 x attention"
    saved.loss.alpha = 0.0
    assert list(loss_of(saved).terms) == ["sft", "attention"]
