"""`--help`: the keys and groups of one command, with the comments of the files that its config is made of."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lookright.config.entry import explain
from lookright.config.folders import CONFIG_FOLDER, HOME
from lookright.config.help import WIDTH, asked_for_help, print_help
from lookright.config.schema import register

COMMANDS = ("generate", "train", "infer", "tune_adaptive")
OWN = {
    "generate": {"source", "companions", "selection"},
    "train": {"loss", "loss/kind", "reference", "tuning", "optimizer", "schedule", "trainer", "logger", "callbacks"},
    "infer": {"metrics"},
    "tune_adaptive": set(),
}
"""Groups that no other command has."""


@pytest.fixture()
def shown(capsys: pytest.CaptureFixture[str]) -> "callable":
    """The page of a command line: shown("train", "trainer=gpu")."""
    register()

    def show(command: str, *arguments: str) -> str:
        print_help(command, ["--help", *arguments])
        return capsys.readouterr().out

    return show


def flat(text: str) -> str:
    """Words of a page, however its columns are broken."""
    return " ".join(text.split())


def groups(page: str) -> set[str]:
    listed = page.partition("Groups (* is chosen)\n")[2].partition("\n\n")[0]
    return set(re.findall(r"^  (\S+)", listed, re.MULTILINE))


def keys(page: str) -> list[str]:
    return re.findall(r"^  ([\w.]+)=", page.partition("\nKeys\n")[2], re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_groups_are_those_of_the_command_alone(command: str, shown: "callable") -> None:
    found = groups(shown(command))
    assert found >= {"backbone", "hydra/launcher"} | OWN[command]
    assert found & set().union(*(OWN[other] for other in COMMANDS if other != command)) == set()


def leaves(plain: Any, path: str = "") -> Iterator[str]:
    """Keys that can be set; `_target_` is chosen with its file, and a reference is set where it leads."""
    if isinstance(plain, dict) and plain:
        for name, value in plain.items():
            if name != "_target_" and not re.fullmatch(r"\$\{[\w.]+\}", str(value)):
                yield from leaves(value, f"{path}.{name}" if path else str(name))
    else:
        yield path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_stands_there_once(command: str, shown: "callable") -> None:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        plain = OmegaConf.to_container(compose(command))
    found = keys(shown(command))
    assert len(found) == len(set(found))
    assert set(found) == {path for path in leaves(plain) if "_" not in path.rpartition(".")[2][:1]}


@pytest.mark.parametrize("command", COMMANDS)
def test_it_fits_a_terminal_and_begins_with_the_command(command: str, shown: "callable") -> None:
    page = shown(command)
    assert max(len(line) for line in page.splitlines()) <= WIDTH
    assert page.splitlines()[0].endswith(("and", "metrics.csv,", "report.html.", "or"))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_is_one_of_the_readme_and_composes(command: str, shown: "callable") -> None:
    example = flat(shown(command).partition("\n\n")[2].partition("\n\n")[0].replace("\\\n", " "))
    assert example in (HOME / "README.md").read_text()
    program, *overrides = shlex.split(example)[1:]
    assert program == f"{command}.py"
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        assert not OmegaConf.missing_keys(compose(command, overrides))


def test_comments_stand_beside_their_keys(shown: "callable") -> None:
    page = shown("train")
    assert re.search(r"^  tuning\.targets=null +null is every linear layer of the language model$", page, re.MULTILINE)
    assert "save=last last, or best: whose weights adapter/ or model/ hold at the end;" in flat(page)
    assert "loss.kind.beta=0.1 1/nats; large values hold the policy near its reference" in flat(page)
    assert "data=questions" not in page and "num_prompts" not in page and "perplexity" not in page


def test_overrides_choose_what_is_told(shown: "callable") -> None:
    page = shown("train", "trainer=gpu", "loss/kind=ipo", "seed=7", "callbacks=[early_stopping]", "eval=test_sets")
    assert "\ntrainer=gpu  " in page and "one GPU; every key that is not named here is that of cpu.yaml" in flat(page)
    # a key of the file itself, and one of the file that it builds on with its comment
    assert "  trainer.precision=bf16-mixed" in page
    assert "trainer.max_steps=-1 -1 is no bound" in flat(page)
    assert "loss.kind.beta=0.1 the margin is drawn to 1 / (2 beta) nats" in flat(page)
    assert "  seed=7\n" in page and "*ipo" in page and "*dpo" not in page
    assert "callbacks.early_stopping.patience=3" in page
    assert "eval.data.limit=null the first so many questions of each file; null is all" in flat(page)


def test_an_experiment_gives_values_and_the_key_keeps_its_comment(shown: "callable") -> None:
    page = shown("train", "experiment=demo")
    assert "loss.alpha=0.3 the short names by which" in flat(page)
    assert "loss.attention.positions=first response: all positions that predict it;" in flat(page)
    assert "*demo" in page
    # experiments that train are none of other commands
    assert "demo" not in shown("infer").partition("Keys")[0]


def test_launchers_are_told_where_they_are_chosen(shown: "callable") -> None:
    page = shown("infer", "hydra/launcher=slurm")
    assert "hydra/launcher=slurm" in page
    assert "hydra.launcher.parallel=null jobs of the array that run at once" in flat(page)
    assert "hydra.launcher" not in shown("infer")


def test_folders_of_the_user_are_read(tmp_path: Path, shown: "callable") -> None:
    (tmp_path / "decode").mkdir()
    (tmp_path / "decode" / "mine.yaml").write_text(
        "# all that I want\ndefaults:\n  - greedy\n  - _self_\n# short\nmax_new_tokens: 3\n"
    )
    page = shown("infer", "decode=mine", "--config-dir", str(tmp_path))
    assert "adaptive  greedy  *mine  sample" in page
    assert "decode=mine all that I want decode.max_new_tokens=3 short decode.num_beams=1 above 1 is" in flat(page)


def test_what_is_misspelt_is_told(shown: "callable") -> None:
    with pytest.raises(Exception, match="alhpa") as caught:
        shown("train", "loss.alhpa=1")
    assert "did you mean alpha?" in explain(caught.value, "train")


def test_flags_that_ask() -> None:
    assert asked_for_help(["a=1", "--help"]) and asked_for_help(["-h"])
    assert not asked_for_help(["--hydra-help", "a=-h"])
