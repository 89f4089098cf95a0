"""`tune_adaptive.py` from a composed config to answers under every setting, a table, and the decoding to take."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lookright.answering.adaptive_grid import AdaptiveGrid, Setting
from lookright.answering.prefill import DecoderInput
from lookright.backbones.base import Backbone
from lookright.backbones.loading import check_adapter, load_policy, pick_device, torch_dtype
from lookright.commands.infer import open_output, with_run
from lookright.common.jsonl import AppendOnly, read_lines, write_atomically
from lookright.common.matching import is_correct
from lookright.common.streams import batches, progress
from lookright.composing.companions import companion_answers
from lookright.config.check import Problems
from lookright.config.entry import with_output
from lookright.config.made_by import MadeBy, describe_data, made_by
from lookright.errors import ConfigError, LookRightError, RecordError
from lookright.evaluation.adaptive_choice import Choice, choose, setting_text, table
from lookright.evaluation.questions import Questions
from lookright.packing.encode import encode_question
from lookright.records.pictures import Pictures
from lookright.types import Prompt

ANSWERS_FILE = "answers.jsonl"
KEYS = ("backbone", "adapter", "data", "grid", "dtype")
"""What the answers of a folder depend on."""
RECOMMENDED, BEST = "recommended", "best_adaptive"
"""Options of the `decode` group that a run writes: what it advises, and the best setting where greedy is better too."""


def tune_adaptive(config: DictConfig) -> dict[str, Any]:
    """Try a grid of adaptive decoding on questions that no score is reported on; returns what `tuning.json` holds.

    Answers are appended as they come, so a killed run goes on. The output folder is a `--config-dir` of infer.py,
    with `decode=recommended` and `decode=best_adaptive`.
    """
    config = with_run(with_output(config))
    parts = _Parts(config)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    parts.questions.prepare(parts.backbone)
    prompts = [prompt for _, group in parts.questions.groups() for prompt in group]
    refuse_test_questions(prompts)
    parts.grid.check(parts.backbone, prompts)
    folder = open_output(config, ANSWERS_FILE, KEYS)
    policy = load_policy(parts.backbone, config.adapter, parts.device, parts.dtype)
    _ask(parts, policy, folder, config.batch_size)
    lines = _lines(parts.questions, folder)
    choice = choose(lines, parts.grid.settings, parts.grid.arms, config.significance, config.seed)
    record = made_by(config, "tune_adaptive.py", describe_data(config.data))
    record.write(folder)
    return _report(choice, parts, folder, record)


class _Parts:
    """What the config names, without weights. Raises ConfigError with all problems at once."""

    def __init__(self, config: DictConfig) -> None:
        problems = Problems(config)
        with problems:
            self.device = pick_device(config.device)
        with problems:
            self.dtype = torch_dtype(config.dtype)
        with problems:
            check_adapter(config.adapter)
        with problems:
            if config.batch_size < 1 or not 0 < config.significance <= 1:
                raise ConfigError(
                    f"batch_size={config.batch_size}, significance={config.significance}; set 1 or more, and a "
                    "p-value above 0 and at most 1"
                )
        self.grid: AdaptiveGrid = problems.build("grid", "all")
        self.questions: Questions = problems.build("data", "all")
        self.backbone: Backbone = problems.build("backbone")
        if self.grid is not None and self.backbone is not None:
            with problems:
                self.grid.check(self.backbone)
        problems.finish()


def refuse_test_questions(prompts: list[Prompt]) -> None:
    """Raise ConfigError where questions are known to be of a test split; many records from elsewhere do not say."""
    found = [one.id for one in prompts if str(one.provenance.get("split", "")).lower().startswith("test")]
    if found:
        raise ConfigError(
            f"data.path: {len(found)} of {len(prompts)} questions are of a test split ({found[0]} first), and values "
            "that are chosen on them would make every score there worthless; set data.path to questions that "
            "generate.py stage=compose made of split=train, with another seed than the pairs"
        )


def _ask(parts: _Parts, policy: nn.Module, folder: Path, batch_size: int) -> None:
    """Append a line a question: confidence, and whether plain decoding and each arm answer it right."""
    with AppendOnly(folder / ANSWERS_FILE) as written:
        for pictures, prompts in parts.questions.groups():
            done = sum(prompt.id in written.done for prompt in prompts)
            lines = _answered(parts, policy, prompts, pictures, batch_size, written.done)
            for line in progress(lines, len(prompts), "answer", done):
                written.add(line)


def _answered(
    parts: _Parts, policy: nn.Module, prompts: list[Prompt], pictures: Pictures, batch_size: int, done: set[str]
) -> Iterator[dict[str, Any]]:
    """Lines that are not done; a batch of which some are is answered as a whole again, as by `Answerer`."""
    for batch in batches(prompts, batch_size):
        if all(prompt.id in done for prompt in batch):
            continue
        asked: list[tuple[Prompt, DecoderInput]] = []
        for prompt in batch:
            try:
                asked.append((prompt, encode_question(parts.backbone, prompt, pictures)))
            except RecordError as error:
                if prompt.id not in done:
                    parts.questions.leave_out(prompt, error)
        if not asked:
            continue
        ways = list(parts.grid.answer(parts.backbone, policy, [question for _, question in asked]))
        for (prompt, _), answers in zip(asked, zip(*ways, strict=True), strict=True):
            if prompt.id not in done:
                others = companion_answers(prompt)
                yield {
                    "id": prompt.id,
                    "format": prompt.format,
                    "source": prompt.provenance.get("source"),
                    "source_picture": prompt.provenance.get("source_picture"),
                    "confidence": answers[0].confidence,
                    "right": [is_correct(answer.text, prompt.answer, others) for answer in answers],
                }


def _lines(questions: Questions, folder: Path) -> list[dict[str, Any]]:
    """The questions' lines, in their order."""
    found = {line["id"]: line for line in read_lines(folder / ANSWERS_FILE)}
    prompts = [prompt for _, group in questions.groups() for prompt in group]
    missing = next((prompt.id for prompt in prompts if prompt.id not in found), None)
    if missing is not None:
        raise LookRightError(f"question {missing} has no answer; run again with the same output")
    return [found[prompt.id] for prompt in prompts]


def _report(choice: Choice, parts: _Parts, folder: Path, record: MadeBy) -> dict[str, Any]:
    best, greedy = choice.best, choice.greedy
    found = best.confirmed
    verdict = (
        f"{setting_text(best.setting)}\n{best.choosing:.1f} % against {greedy.choosing:.1f} % greedy on the "
        f"{choice.num_questions[0]} questions that chose it; on the other {choice.num_questions[1]} "
        f"{best.confirming:.1f} % against {greedy.confirming:.1f} %: {found.points.value:+.1f} points "
        f"[{found.points.low:+.1f}, {found.points.high:+.1f}], +{found.gained} -{found.lost}, McNemar p = "
        f"{found.p_value:.3f}"
    )
    advice = "adaptive decoding helps" if choice.helps else "greedy decoding is best: no setting was confirmed"
    rows = table(choice, lambda setting: f"`{setting_text(setting)}`")
    result = {
        "helps": choice.helps,
        "recommended": setting_text(best.setting if choice.helps else None),
        "best_adaptive": best.result(),
        "num_questions": {"choosing": choice.num_questions[0], "confirming": choice.num_questions[1]},
        "trials": [trial.result() for trial in choice.trials],
        "dropped": dict(parts.questions.dropped),
    }
    (folder / "tuning.json").write_text(json.dumps(result, indent=2) + "\n")
    (folder / "tuning.md").write_text("\n".join([f"`{record.command}`", "", *rows, "", verdict, "", advice, ""]))
    for name, setting in ((RECOMMENDED, best.setting if choice.helps else None), (BEST, best.setting)):
        _write_option(folder / "decode" / f"{name}.yaml", parts.grid, setting, f"{verdict}\n{advice}")
    print("\n".join([*rows, "", f"best: {verdict}", advice]))
    print(f"wrote {folder / 'tuning.json'}, {folder / 'tuning.md'} and {folder / 'decode'}; use them with")
    print(f"  python infer.py --config-dir {folder} decode={RECOMMENDED} ...")
    return result


def _write_option(path: Path, grid: AdaptiveGrid, setting: Setting | None, why: str) -> None:
    """An option of the `decode` group."""
    target = "adaptive.AdaptiveDecoder" if setting is not None else "decoder.Decoder"
    options = {
        "_target_": f"lookright.answering.{target}",
        "max_new_tokens": grid.max_new_tokens,
        "num_beams": 1,
        "sampling": None,
        **({} if setting is None else setting.options()),
    }
    comment = "".join(f"# {line}\n" for line in why.splitlines())
    write_atomically(path, [comment, OmegaConf.to_yaml(OmegaConf.create(options))])
