"""A decoder from outside the package: one class and one YAML, for test sets and for preference pairs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from transformers import AutoTokenizer

from lookright.backbones.llava import LlavaBackbone
from lookright.commands.generate import generate
from lookright.errors import ConfigError
from tests.seams.conftest import Outside

MODULE = '''
from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor

from lookright.answering.decoder import Decoder
from lookright.errors import ConfigError


class Without(Decoder):
    """Greedy decoding that never says some tokens."""

    def __init__(self, forbidden: list[int], max_new_tokens: int = 512):
        super().__init__(max_new_tokens)
        self.forbidden = forbidden

    def check(self, backbone, prompts=()):
        if set(self.forbidden) & set(backbone.end_token_ids):
            raise ConfigError("decode.forbidden holds the end token; leave it out")

    def generate_options(self, backbone, state):
        suppress = SuppressTokensLogitsProcessor(self.forbidden, device=state.input_ids.device)
        return {"logits_processor": LogitsProcessorList([suppress])}

    def answer_fields(self, state, scaling):
        return [{"factor": 3.0} for _ in range(len(state.input_ids))]
'''
YAML = "_target_: from_outside.Without\nforbidden: []\nmax_new_tokens: 3\n"


def answers(folder: Path) -> dict[str, str]:
    return {line["id"]: line["prediction"] for line in map(json.loads, (folder / "answers.jsonl").open())}


def test_answers_avoid_what_the_decoder_forbids(
    outside: Outside,
    searching: Callable[..., DictConfig],
    generating: list[str],
    llava: LlavaBackbone,
    llava_weights: Path,
    tmp_path: Path,
) -> None:
    """Without a list it is greedy decoding; with what greedy says first, every answer begins with something else."""
    folder = outside(MODULE, {"decode/without.yaml": YAML})
    runs = {}
    for name, overrides in (("greedy", []), ("none", ["decode=without"])):
        generate(searching("generate", folder, *generating, *overrides, f"output={tmp_path / name}"))
        runs[name] = answers(tmp_path / name)
    assert runs["none"] == runs["greedy"]
    tokenizer = AutoTokenizer.from_pretrained(llava_weights)
    said = sorted({token for text in runs["greedy"].values() for token in tokenizer.encode(text)})
    said = [token for token in said if token not in llava.end_token_ids]
    given = ["decode=without", f"decode.forbidden={said}", f"output={tmp_path / 'without'}"]
    generate(searching("generate", folder, *generating, *given))
    without = answers(tmp_path / "without")
    assert without.keys() == runs["greedy"].keys()
    assert all(without[key] != text for key, text in runs["greedy"].items() if text)


def test_its_check_speaks_before_weights_load(
    outside: Outside, searching: Callable[..., DictConfig], generating: list[str], llava: LlavaBackbone
) -> None:
    folder = outside(MODULE, {"decode/without.yaml": YAML})
    end = f"decode.forbidden={list(llava.end_token_ids)}"
    with pytest.raises(ConfigError, match="decode.forbidden holds the end token"):
        generate(searching("generate", folder, *generating, "decode=without", end))
