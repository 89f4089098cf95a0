"""LookRight from Python: load a model, ask it about pictures, see where it looked, score answers, tune it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image
from torch import nn

from lookright.answering.answerer import Answerer, ScoredAnswer, check_answering
from lookright.answering.decoder import Decoder
from lookright.answering.heat import attention_heat
from lookright.answering.shares import Shares, attention_shares
from lookright.attention.band import layer_band
from lookright.backbones.adapter_files import check_adapter
from lookright.backbones.base import Backbone
from lookright.backbones.loading import load_policy, placing
from lookright.composing.asked import asked_prompt
from lookright.config import schema
from lookright.config.check import Problems
from lookright.config.folders import CONFIG_FOLDER
from lookright.config.runs import run_model
from lookright.errors import ConfigError
from lookright.losses.base import AttentionRead, PairScores
from lookright.losses.composite import CompositeLoss, pair_scores
from lookright.packing.batch import move, pack
from lookright.packing.encode import encode_preference, row_length
from lookright.packing.forward import RatioRead
from lookright.records.held_pictures import HeldPictures, Picture
from lookright.records.pictures import Pictures
from lookright.records.validate import check_record
from lookright.reference.adapter_off import AdapterOff
from lookright.reference.base import ModelPair, Reference
from lookright.reference.frozen_copy import FrozenCopy
from lookright.reports.heat import heat_levels, heat_peak, overlay
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from lookright.types import Preference, Prompt, Region, Turn

PART_KEYS = ("backbone", "adapter", "decode", "device", "dtype", "ratio_layer", "ratio_rows", "seed")
"""What of a config of `infer.py` makes a model."""


def load(
    backbone: str | None = None,
    *,
    run: str | Path | None = None,
    trust: Collection[str] = (),
    adapter: str | Path | None = None,
    decode: str | Decoder = "greedy",
    device: str = "auto",
    dtype: str = "auto",
    ratio_layer: int | None = None,
    ratio_rows: str = "response",
    **options: Any,
) -> "Model":
    """Load a model as `infer.py` does, ready to answer.

    `backbone` and `decode` name files of `conf/backbone/` and `conf/decode/`, or `decode` is a decoder; `options` are
    keys of the backbone's file, such as `path`. `run` is the folder of a training run, which brings its own backbone
    and adapter; where that backbone is a class of your own, `trust` names its package, and nothing else of such a
    folder is called. `adapter` is an adapter's folder alone. The other arguments are keys of `infer.py`. Raises
    ConfigError with all problems at once.
    """
    named = decode if isinstance(decode, str) else "greedy"
    config = _composed([f"backbone={'tiny_llava' if backbone is None else backbone}", f"decode={named}"])
    if run is not None:
        own = [name for name, value in (("backbone", backbone), ("adapter", adapter)) if value is not None] + [*options]
        if own:
            raise ConfigError(f"run={run} brings its own backbone and adapter; remove {', '.join(own)}")
        config.backbone, config.adapter = run_model(run, trust)
    elif adapter is not None:
        config.adapter = str(adapter)
    config.update(device=device, dtype=dtype, ratio_layer=ratio_layer, ratio_rows=ratio_rows)
    with open_dict(config.backbone):
        config.backbone.update(
            {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
        )
    return ModelParts(config, None if isinstance(decode, str) else decode).load()


@dataclass(slots=True, frozen=True, kw_only=True)
class Reply:
    """What a model said about pictures, and where it looked; `scored` has all that is known of the answer."""

    scored: ScoredAnswer
    pictures: HeldPictures
    answerer: Answerer

    @property
    def text(self) -> str:
        """The answer."""
        return self.scored.answer.text

    @property
    def attention_ratio(self) -> float | None:
        """Share of the image attention on the image asked about, in [0, 1]; None where that is not known."""
        return self.scored.attention_ratio

    @property
    def even_ratio(self) -> float | None:
        """What the attention ratio of an even look would be."""
        return self.scored.even_ratio

    @property
    def confidence(self) -> float:
        """Probability of the first token under plain decoding, in [0, 1]."""
        return self.scored.answer.confidence

    def shares(self) -> Shares:
        """Share of every image of the attention that the answer's rows gave, and of an even look; by one more pass."""
        (found,) = attention_shares(self.answerer, [self.scored], self.pictures)
        return found

    def heat_maps(self, longest: int = 480) -> list[Image.Image]:
        """Each picture under a map of the attention that the answer's rows gave it, on one scale for all.

        Means over heads and rows in the layer of the attention ratio; `longest`: pixels of the longer side.
        """
        prompt = self.scored.prompt
        heat = attention_heat(self.answerer, prompt, self.scored.answer.token_ids, self.pictures)
        images = [self.pictures.open(name) for name in prompt.images]
        levels = heat_levels([(image.size, values) for image, values in zip(images, heat, strict=True)], longest)
        peak = heat_peak(levels)
        return [overlay(image, level, peak) for image, level in zip(images, levels, strict=True)]


class Model:
    """A loaded model: `answerer` answers with it, `pair` holds it as a policy beside its reference.

    The reference is the model with its adapter off; there is none where it has no adapter.
    """

    def __init__(self, answerer: Answerer, reference: Reference | None = None) -> None:
        self.answerer = answerer
        self.pair = ModelPair(answerer.backbone, answerer.policy, reference)

    @property
    def backbone(self) -> Backbone:
        """Of which family it is."""
        return self.answerer.backbone

    @property
    def policy(self) -> nn.Module:
        """The weights: transformers' model, or PEFT's around it."""
        return self.answerer.policy

    def ask(
        self,
        pictures: Sequence[Picture] | Picture,
        question: str,
        *,
        target: int | None = None,
        regions: Sequence[Region] | None = None,
        history: Sequence[tuple[str, str]] = (),
    ) -> Reply:
        """Answer a question about pictures, which are PIL images, the bytes of files, or paths.

        `question` holds `<image>` once for each picture; where it has none, several pictures go before it as
        `Image1:<image>` ..., one alone as `<image>`. `target` is the 0-based index of the image asked about among
        `regions`, one for each source image; what is not given is read off the question ("In Image2, ...") and the
        pictures, as for records without geometry. `history` holds earlier questions with their answers, the first
        first; `pictures`, and numbers of images, are then those of the whole conversation, which go before its first
        question where no question has an `<image>`. Raises RecordError for pictures or a question that cannot be used,
        ConfigError where the decoder needs a target and none is known.
        """
        held = _held(pictures)
        prompt = asked_prompt(held, question, target, regions, [Turn(*turn) for turn in history])
        (reply,) = self.reply(prompt, held)
        return reply

    def reply(self, prompt: Prompt, pictures: HeldPictures, num_answers: int = 1) -> list["Reply"]:
        """Answer a prompt about pictures that are held, several times where the decoder draws. Raises as `ask` does."""
        row_length(self.backbone, prompt, pictures)
        self.answerer.decoder.check(self.backbone, [prompt])
        self.answerer.decoder.check_num_answers(num_answers)
        if num_answers == 1:
            scored = list(self.answerer.answer([prompt], pictures))
        else:
            (scored,) = self.answerer.several([prompt], pictures, num_answers)
        return [Reply(scored=one, pictures=pictures, answerer=self.answerer) for one in scored]

    def score(
        self,
        pictures: Sequence[Picture] | Picture,
        question: str,
        chosen: str,
        rejected: str | Sequence[str],
        *,
        target: int | None = None,
        regions: Sequence[Region] | None = None,
        loss: CompositeLoss | None = None,
    ) -> PairScores:
        """Log-probabilities of two answers to a question, as the loss terms take them: one pair of P.

        Pictures, question, `target` and `regions` as in `ask`; the rest as in `score_records`. Raises RecordError.
        """
        held = _held(pictures)
        prompt = asked_prompt(held, question, target, regions)
        record = Preference(
            id=prompt.id,
            images=prompt.images,
            prompt=prompt.prompt,
            chosen=chosen,
            rejected=[rejected] if isinstance(rejected, str) else list(rejected),
            format=prompt.format,
            target=prompt.target,
            regions=prompt.regions,
        )
        check_record(record, held)
        row_length(self.backbone, record, held)
        return self.score_records([record], held, loss)

    def score_records(
        self, records: Sequence[Preference], pictures: Pictures, loss: CompositeLoss | None = None
    ) -> PairScores:
        """Log-probabilities of the answers of P pairs in one pass, with gradient where the policy trains.

        The attention ratio of the chosen answer is read where the terms of `loss` read it, without a loss in the
        layer and rows of `ask`; NaN where the target is not known. The reference runs where there is one, unless no
        term of `loss` needs it.
        """
        backbone, device = self.backbone, next(self.policy.parameters()).device
        batch = move(pack([encode_preference(backbone, record, pictures) for record in records]), device)
        features = self.pair.image_features(batch)
        wanted = self.pair.reference is not None and (loss is None or loss.needs_reference)
        reference = self.pair.reference_logps(batch, features) if wanted else None
        asked = AttentionRead((self.answerer.ratio_layer,), self.answerer.ratio_rows)
        reads = [asked] if loss is None else list(dict.fromkeys(loss.attention_reads.values()))
        places = [
            RatioRead(layers=tuple(layer_band(backbone.num_layers, read.layers)), rows=read.positions) for read in reads
        ]
        return pair_scores(batch, self.pair.score(batch, features, places), reference, reads)

    def tune(self, tuning: LoraTuning | FullTuning, reference: Reference | None = None) -> "Model":
        """Make the policy train and return the model: adapters are put into it, or its own weights step.

        `reference` is the model without its adapters, or a frozen copy where all weights train. The policy stays in
        evaluation mode, also after `ask`; `pair.train()` turns the adapters' dropout on. Raises ConfigError where it
        has adapters already, or the reference does not fit.
        """
        if self.policy is not self.pair.model:
            raise ConfigError(
                "the model has an adapter; load it without, and let LoraTuning(adapter=...) go on from it"
            )
        self.answerer.policy = tuning.apply(self.backbone, self.policy)
        if reference is None:
            reference = AdapterOff() if isinstance(tuning, LoraTuning) else FrozenCopy()
        self.pair = ModelPair(self.backbone, self.policy, reference)
        return self

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """What an optimiser steps."""
        return (parameter for parameter in self.policy.parameters() if parameter.requires_grad)


def _held(pictures: Sequence[Picture] | Picture) -> HeldPictures:
    """Pictures in memory; one alone need not be in a list."""
    return HeldPictures([pictures] if isinstance(pictures, Image.Image | bytes | str | Path) else list(pictures))


def _composed(overrides: list[str]) -> DictConfig:
    """What makes a model of a config of `infer.py`. Raises ConfigError for a choice that does not exist."""
    schema.register()
    # a program with a Hydra of its own, such as one that `hydra.main` runs, gets it back
    own = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            config = compose("infer", overrides)
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file).partition("/")
        path = "; weights of your own are one of these with path=..." if group == "backbone" else ""
        raise ConfigError(f"{group}={name!r}; valid: {', '.join(error.options or [])}{path}") from error
    except HydraException as error:
        raise ConfigError(f"{', '.join(overrides)}: {error}; give names of files in conf/") from error
    finally:
        GlobalHydra.instance().hydra = own
    return OmegaConf.masked_copy(config, list(PART_KEYS))


class ModelParts:
    """What a config says of a model, checked before its weights load. Raises ConfigError with all problems at once."""

    def __init__(self, config: DictConfig, decoder: Decoder | None = None) -> None:
        self.config = config
        problems = Problems(config)
        with problems:
            self.device, self.dtype = placing(config.device, config.dtype)
        with problems:
            check_adapter(config.adapter)
        self.decoder: Decoder = problems.build("decode") if decoder is None else decoder
        self.backbone: Backbone = problems.build("backbone")
        self.ratio_layer = check_answering(problems, self.backbone, self.decoder)
        problems.finish()

    def load(self) -> Model:
        """Load the weights."""
        config = self.config
        answerer = Answerer(
            backbone=self.backbone,
            policy=load_policy(self.backbone, config.adapter, self.device, self.dtype),
            decoder=self.decoder,
            ratio_layer=self.ratio_layer,
            batch_size=1,
            ratio_rows=config.ratio_rows,
        )
        return Model(answerer, None if config.adapter is None else AdapterOff())
