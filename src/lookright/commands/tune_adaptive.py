"""`tune_adaptive.py` from a composed config to answers under every setting, a table, and the decoding to take."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from lookright.answering.adaptive_grid import AdaptiveGrid, Setting
from lookright.backbones.adapter_files import check_adapter
from lookright.backbones.base import Backbone
from lookright.backbones.loading import dtype_key, load_policy, placing, use_threads
from lookright.commands.cli import start
from lookright.commands.infer import open_output
from lookright.common.files import write_whole
from lookright.common.jsonl import AppendOnly, read_lines, write_atomically
from lookright.common.locks import locked
from lookright.common.stopping import stoppable
from lookright.common.streams import batches, progress
from lookright.common.strict_json import finite
from lookright.config.check import Problems
from lookright.config.entry import with_output
from lookright.config.made_by import MadeBy, describe_data, made_by
from lookright.config.runs import with_run
from lookright.errors import ConfigError, LookRightError, RecordError
from lookright.evaluation.adaptive_choice import Choice, choose, setting_text, table
from lookright.evaluation.metric import Metrics
from lookright.evaluation.overlap import TUNED_ON, write_tuned_on
from lookright.evaluation.questions import Questions
from lookright.evaluation.rules import Rules
from lookright.packing.encode import encode_question
from lookright.packing.question import DecoderInput
from lookright.records.pictures import Pictures
from lookright.types import Prompt

ANSWERS_FILE = "answers.jsonl"
KEYS = ("backbone", "adapter", "data", "grid", "dtype", "metrics")
"""What the answers of a folder depend on."""
RECOMMENDED, BEST = "recommended", "best"
"""Options of the `decode` group that a run writes for each scope, `best_all` for one: what it advises, greedy decoding
perhaps, and the best setting in any case."""


def tune_adaptive(config: DictConfig) -> dict[str, Any]:
    """Try a grid of adaptive decoding on questions that no score is reported on; returns what `tuning.json` holds.

    Answers are appended as they come, so a killed run goes on. The output folder is a `--config-dir` of infer.py,
    with `decode=recommended_all` and `decode=best_all`, and the same for `target`: each scope is chosen by itself,
    since one that is told the target knows more than greedy decoding.
    """
    config = with_run(with_output(config))
    parts = _Parts(config)
    folder = Path(config.output)
    with stoppable(lambda: f"what is answered stays; go on with the same command and output={folder}"), locked(folder):
        return _tune(config, parts)


def _tune(config: DictConfig, parts: "_Parts") -> dict[str, Any]:
    use_threads(config.num_threads)
    parts.questions.prepare(parts.backbone)
    prompts = [prompt for _, group in parts.questions.groups() for prompt in group]
    refuse_test_questions(prompts)
    parts.rules.check(prompts)
    parts.grid.check(parts.backbone, prompts)
    folder = open_output(config, ANSWERS_FILE, KEYS)
    record = made_by(config, "tune_adaptive.py", describe_data(config.data))
    record.write(folder)
    write_tuned_on(folder / TUNED_ON, prompts)
    policy = load_policy(parts.backbone, config.adapter, parts.device, parts.dtype)
    _ask(parts, policy, folder, config.batch_size)
    lines = _lines(parts.questions, folder)
    settings = parts.grid.settings
    choices = {
        scope: choose(
            lines, [one for one in settings if one.scope == scope], parts.grid.arms, config.significance, config.seed
        )
        for scope in parts.grid.scopes
    }
    return _report(choices, parts, folder, record)


class _Parts:
    """What the config names, without weights. Raises ConfigError with all problems at once."""

    def __init__(self, config: DictConfig) -> None:
        problems = Problems(config)
        with problems:
            self.device, self.dtype = placing(config.device, config.dtype)
            # what answers depend on is saved as it was, not as `auto`
            config.dtype = dtype_key(self.dtype)
        with problems:
            check_adapter(config.adapter)
        with problems:
            if config.batch_size < 1 or not 0 < config.significance <= 1:
                raise ConfigError(
                    f"batch_size={config.batch_size}, significance={config.significance}; set 1 or more, and a "
                    "p-value above 0 and at most 1"
                )
        self.grid: AdaptiveGrid = problems.build("grid", "all")
        self.rules = _rules(problems)
        self.questions: Questions = problems.build("data", "all")
        self.backbone: Backbone = problems.build("backbone")
        if self.grid is not None and self.backbone is not None:
            with problems:
                self.grid.check(self.backbone)
        problems.finish()


def _rules(problems: Problems) -> Rules:
    """The rules of `metrics.accuracy`, as infer.py takes them; the rule `judge` is a problem."""
    accuracy = problems.build("metrics.accuracy", "all")
    rules = Metrics(parts={} if accuracy is None else {"accuracy": accuracy}).rules
    by_key = {"rule": rules.rule, **{f"rules.{name}": rule for name, rule in rules.by_set.items()}}
    judged = [f"metrics.accuracy.{key}" for key, rule in by_key.items() if rule == "judge"]
    with problems:
        if judged:
            raise ConfigError(
                f"{judged[0]}=judge: a question has many answers here, and no judge is asked; set contained, exact, "
                "choice or vqa"
            )
    return rules


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
                verdicts = [parts.rules.verdict(answer.text, prompt) for answer in answers]
                scores = [verdict.score for verdict in verdicts if verdict.score is not None]
                yield {
                    "id": prompt.id,
                    "format": prompt.format,
                    "source": prompt.provenance.get("source"),
                    "source_picture": prompt.provenance.get("source_picture"),
                    "confidence": answers[0].confidence,
                    "rule": parts.rules.of(prompt),
                    "right": [verdict.correct for verdict in verdicts],
                    **({"scores": scores} if scores else {}),
                }


def _lines(questions: Questions, folder: Path) -> list[dict[str, Any]]:
    """The questions' lines, in their order."""
    found = {line["id"]: line for line in read_lines(folder / ANSWERS_FILE)}
    prompts = [prompt for _, group in questions.groups() for prompt in group]
    missing = next((prompt.id for prompt in prompts if prompt.id not in found), None)
    if missing is not None:
        raise LookRightError(f"question {missing} has no answer; run again with the same output")
    return [found[prompt.id] for prompt in prompts]


def _report(choices: Mapping[str, Choice], parts: _Parts, folder: Path, record: MadeBy) -> dict[str, Any]:
    matching = {"rule": parts.rules.rule, "rules": parts.rules.by_set}
    result: dict[str, Any] = {name: _result(choice) for name, choice in choices.items()}
    result |= {"matching": matching, "dropped": dict(parts.questions.dropped)}
    write_whole(folder / "tuning.json", json.dumps(finite(result), indent=2, allow_nan=False) + "\n")
    rules = parts.rules.describe()
    lines = [rules, ""]
    for scope, choice in choices.items():
        told = "told which image is meant, which greedy decoding is not" if scope == "target" else "all images alike"
        verdict = _verdict(choice)
        lines += [f"### scope {scope}: {told}", "", *table(choice), "", *verdict, ""]
        for name, setting in ((RECOMMENDED, choice.recommended), (BEST, choice.best.setting)):
            _write_option(folder / "decode" / f"{name}_{scope}.yaml", parts.grid, setting, [*verdict, rules])
    write_whole(folder / "tuning.md", "\n".join([f"`{record.command}`", "", *lines]))
    print("\n".join(lines))
    print(f"wrote {folder / 'tuning.json'}, {folder / 'tuning.md'} and {folder / 'decode'}; use them with")
    for scope in choices:
        print(f"  python infer.py --config-dir {folder} decode={RECOMMENDED}_{scope} ...")
    return result


def _result(choice: Choice) -> dict[str, Any]:
    return {
        "helps": choice.helps,
        "recommended": setting_text(choice.recommended),
        "best": choice.best.result(),
        "num_questions": {"choosing": choice.num_questions[0], "confirming": choice.num_questions[1]},
        "trials": [trial.result() for trial in choice.trials],
    }


def _verdict(choice: Choice) -> list[str]:
    """The best setting, what it gains on either half, and what is advised."""
    best, greedy, found = choice.best, choice.greedy, choice.best.confirmed
    points = found.points
    return [
        f"best: {setting_text(best.setting)}",
        f"{best.choosing:.1f} % against {greedy.choosing:.1f} % greedy on the {choice.num_questions[0]} questions that "
        f"chose it; on the other {choice.num_questions[1]} {best.confirming:.1f} % against {greedy.confirming:.1f} %: "
        f"{points.value:+.1f} points [{points.low:+.1f}, {points.high:+.1f}], +{found.gained} -{found.lost}, "
        f"McNemar p = {found.p_value:.2g}",
        "adaptive decoding helps" if choice.helps else "greedy decoding is best: no setting was confirmed",
    ]


def _write_option(path: Path, grid: AdaptiveGrid, setting: Setting | None, why: list[str]) -> None:
    """An option of the `decode` group."""
    target = "adaptive.AdaptiveDecoder" if setting is not None else "decoder.Decoder"
    options = {
        "_target_": f"lookright.answering.{target}",
        "max_new_tokens": grid.max_new_tokens,
        "num_beams": 1,
        "sampling": None,
        **({} if setting is None else setting.options()),
        **({} if setting is None else {"tuned_on": str((path.parents[1] / TUNED_ON).absolute())}),
    }
    comment = "".join(f"# {line}\n" for line in why)
    write_atomically(path, [comment, OmegaConf.to_yaml(OmegaConf.create(options))])


def job(config: DictConfig) -> None:
    """Run one job."""
    tune_adaptive(config)


if __name__ == "__main__":
    start("tune_adaptive", job)
