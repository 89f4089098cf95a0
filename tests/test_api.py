"""The model from Python: answers and numbers of infer.py, scores of the slow definition, steps that train adapters."""

import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image

import lookright
from lookright.answering.heat import attention_heat
from lookright.backbones.llava import LlavaBackbone
from lookright.commands.infer import infer
from lookright.config.folders import CONFIG_FOLDER
from lookright.packing.encode import encode_preference
from lookright.records.records import write_jsonl
from lookright.reports.heat import heat_levels, heat_peak, overlay
from lookright.types import Preference, Prompt, Region
from tests.examples import SIZES, noise, shake_adapters
from tests.plain import plain_logps, plain_ratios, stock_model

QUESTION = "In Image2, what color is the shape?"
SHOWN = "Image1:<image>\nImage2:<image>\nImage3:<image>\n"


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [noise(size, number) for number, size in enumerate(SIZES[:3])]


@pytest.fixture(scope="module")
def model(llava_weights: Path) -> lookright.Model:
    return lookright.load("tiny_llava", path=llava_weights, decode=lookright.Decoder(max_new_tokens=4))


def record(folder: Path, pictures: list[Image.Image]) -> Path:
    """The question about the pictures, as a file of records."""
    names = [f"{number}.png" for number in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        picture.save(folder / name)
    regions = [Region(picture=n, box=(0, 0, *picture.size), source=f"{n}") for n, picture in enumerate(pictures)]
    prompt = Prompt(
        id="q", images=names, prompt=SHOWN + QUESTION, ground_truth="red", format="sequence", target=1, regions=regions
    )
    write_jsonl(folder / "questions.jsonl", [prompt])
    return folder / "questions.jsonl"


def prediction(folder: Path) -> dict:
    (line,) = (folder / "predictions.jsonl").read_text().splitlines()
    return json.loads(line)


@pytest.mark.parametrize("name", ["tiny_llava", "tiny_ixc25"])
@pytest.mark.parametrize("decode", ["greedy", "adaptive"])
def test_answers_are_those_of_infer(
    name: str, decode: str, composed: Callable[..., DictConfig], pictures: list[Image.Image], tmp_path: Path
) -> None:
    """To the last bit, with the pictures in memory."""
    path = record(tmp_path, pictures)
    chosen = [f"backbone={name}", f"decode={decode}", "overlays=0", "batch_size=1"]
    infer(composed("infer", *chosen, f"data.path={path}", f"output={tmp_path / 'out'}"))
    line = prediction(tmp_path / "out")
    reply = lookright.load(name, decode=decode).ask(pictures, QUESTION)
    assert reply.text == line["prediction"]
    assert (reply.attention_ratio, reply.even_ratio) == (line["attention_ratio"], line["even_ratio"])
    assert reply.confidence == line["confidence"]
    assert reply.scored.scaled_ratio == line["scaled_ratio"]
    assert 0 < reply.attention_ratio < 1 and reply.even_ratio != reply.attention_ratio


def test_a_run_brings_its_model(
    composed: Callable[..., DictConfig], llava_weights: Path, pictures: list[Image.Image], tmp_path: Path
) -> None:
    tuned = lookright.load("tiny_llava", path=llava_weights).tune(lookright.LoraTuning(r=2, alpha=4))
    shake_adapters(tuned.policy, size=1.0)
    tuned.policy.save_pretrained(tmp_path / "run" / "adapter")
    OmegaConf.save(composed("train", f"backbone.path={llava_weights}", "data.path=x"), tmp_path / "run" / "config.yaml")
    run = f"run={tmp_path / 'run'}"
    path = record(tmp_path, pictures)
    infer(composed("infer", run, f"data.path={path}", "overlays=0", "batch_size=1", f"output={tmp_path / 'out'}"))
    line = prediction(tmp_path / "out")
    loaded = lookright.load(run=tmp_path / "run")
    reply = loaded.ask(pictures, QUESTION)
    assert (reply.text, reply.attention_ratio) == (line["prediction"], line["attention_ratio"])
    alone = lookright.load("tiny_llava", path=llava_weights, adapter=tmp_path / "run" / "adapter")
    assert alone.ask(pictures, QUESTION).attention_ratio == reply.attention_ratio
    base = lookright.load("tiny_llava", path=llava_weights)
    assert base.ask(pictures, QUESTION).attention_ratio != reply.attention_ratio

    # with its adapter off it is its own reference
    of_base = base.score(pictures, QUESTION, "red", "blue")
    scores = loaded.score(pictures, QUESTION, "red", "blue")
    assert of_base.reference_chosen is None
    torch.testing.assert_close(scores.reference_chosen, of_base.policy_chosen.logps, rtol=0, atol=1e-5)
    torch.testing.assert_close(scores.reference_rejected, of_base.policy_rejected.logps, rtol=0, atol=1e-5)
    assert abs(scores.policy_chosen.logps - of_base.policy_chosen.logps) > 0.01
    with pytest.raises(lookright.ConfigError, match="brings its own backbone and adapter; remove backbone, path"):
        lookright.load("tiny_llava", path="x", run=tmp_path / "run")
    # nor one that is nothing, which was taken without a word
    with pytest.raises(lookright.ConfigError, match="remove system_prompt, quantization"):
        lookright.load(run=tmp_path / "run", system_prompt="", quantization=None)


def test_pictures_are_images_bytes_or_paths(
    model: lookright.Model, pictures: list[Image.Image], tmp_path: Path
) -> None:
    record(tmp_path, pictures)
    files = [tmp_path / f"{number}.png" for number in range(3)]
    data = [path.read_bytes() for path in files]
    replies = [model.ask(given, QUESTION) for given in (pictures, files, [str(path) for path in files], data)]
    assert len({(reply.text, reply.attention_ratio) for reply in replies}) == 1
    # transparency lies on white and what a camera says of its position is heeded, as in files
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    pictures[0].transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    again = model.ask([Image.open(io.BytesIO(turned.getvalue())), *pictures[1:]], QUESTION)
    assert again.attention_ratio == replies[0].attention_ratio
    assert again.heat_maps()[0].size == replies[0].heat_maps()[0].size


def test_one_picture_need_not_be_in_a_list(model: lookright.Model, pictures: list[Image.Image]) -> None:
    reply = model.ask(pictures[0], "what color is the shape?")
    assert reply.scored.prompt.prompt == "<image>\nwhat color is the shape?"
    assert (reply.attention_ratio, reply.even_ratio) == (1.0, 1.0)
    assert reply.text == model.ask([pictures[0]], "<image>\nwhat color is the shape?").text


@pytest.mark.parametrize(
    ("question", "given", "target", "prompt"),
    [
        (QUESTION, {}, 1, SHOWN + QUESTION),
        (QUESTION, {"target": 2}, 2, SHOWN + QUESTION),
        ("what color is it?", {}, None, f"{SHOWN}what color is it?"),
        ("what color is it?", {"target": 0}, 0, f"{SHOWN}what color is it?"),
        ("<image> <image> or <image>?", {"target": 2}, 2, "<image> <image> or <image>?"),
    ],
)
def test_placeholders_and_target(
    model: lookright.Model,
    pictures: list[Image.Image],
    question: str,
    given: dict[str, int],
    target: int | None,
    prompt: str,
) -> None:
    reply = model.ask(pictures, question, **given)
    assert (reply.scored.prompt.prompt, reply.scored.prompt.target) == (prompt, target)
    assert (reply.attention_ratio is None) == (target is None)


def test_earlier_turns(model: lookright.Model, pictures: list[Image.Image]) -> None:
    """Pictures and their numbers are those of the whole conversation."""
    history = [("In Image1, what is it?", "red <image>"), ("and in Image2?", "blue")]
    reply = model.ask(pictures, "In Image3, what is it?", history=history)
    prompt = reply.scored.prompt
    assert [turn.question for turn in prompt.history] == [f"{SHOWN}In Image1, what is it?", "and in Image2?"]
    assert (prompt.prompt, prompt.target) == ("In Image3, what is it?", 2)
    shares = reply.shares().shares
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert reply.attention_ratio == pytest.approx(shares[2], abs=1e-5)
    assert len(reply.heat_maps(longest=40)) == 3
    # its score reads the same conversation: the history moves every number
    alone = model.ask(pictures, "In Image3, what is it?")
    assert abs(alone.attention_ratio - reply.attention_ratio) > 1e-4
    placed = model.ask(pictures, "<image>\nIn Image3, what is it?", history=[("<image> or <image>?", "no")])
    assert (placed.scored.prompt.history[0].question, placed.scored.prompt.target) == ("<image> or <image>?", 2)
    with pytest.raises(lookright.RecordError, match="3 pictures but 1 <image>"):
        model.ask(pictures, "so?", history=[("<image> red?", "no")])
    with pytest.raises(lookright.RecordError, match="the limit is 2048"):
        model.ask(pictures, "so?", history=[("red?", "no " * 4096)])


def test_the_target_decides_what_the_ratio_is_of(model: lookright.Model, pictures: list[Image.Image]) -> None:
    """Whole pictures lie beside one another, so their ratios add up to 1."""
    ratios = [model.ask(pictures, "what color is it?", target=target).attention_ratio for target in range(3)]
    assert sum(ratios) == pytest.approx(1, abs=1e-6)
    assert max(ratios) - min(ratios) > 0.01, "the test would prove little"


def test_regions_of_a_collage(model: lookright.Model) -> None:
    collage = noise((90, 30), 5)
    regions = [Region(picture=0, box=(30 * place, 0, 30 * place + 30, 30), source=f"{place}") for place in range(3)]
    replies = [model.ask(collage, f"In Image{place + 1}, what color is it?", regions=regions) for place in range(3)]
    assert [reply.scored.prompt.target for reply in replies] == [0, 1, 2]
    assert model.ask(collage, "In Image2, what color is it?").attention_ratio is None, "of no published layout"
    given = model.ask(collage, "what color is it?", target=1, regions=regions)
    assert given.even_ratio == pytest.approx(1 / 3, abs=0.05)
    single = model.ask(collage, "what color is it?", regions=regions[:1])
    assert (single.scored.prompt.target, single.attention_ratio) == (0, pytest.approx(1.0))
    published = model.ask(noise((936, 488), 0), "In Image2, what color is it?")
    assert [region.box for region in published.scored.prompt.regions] == [(0, 40, 448, 488), (488, 40, 936, 488)]


def test_heat_maps(model: lookright.Model, pictures: list[Image.Image]) -> None:
    reply = model.ask(pictures, QUESTION)
    maps = reply.heat_maps(longest=100)
    assert [max(image.size) for image in maps] == [100] * 3
    assert reply.scored.answer.token_ids[-1] not in model.backbone.end_token_ids, "it was cut"
    heat = attention_heat(model.answerer, reply.scored.prompt, reply.scored.answer.token_ids, reply.pictures)
    levels = heat_levels([(image.size, values) for image, values in zip(pictures, heat, strict=True)], 100)
    for image, picture, level in zip(maps, pictures, levels, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(overlay(picture, level, heat_peak(levels))))
    on = [sum(seen.share * value for seen, value in values) for values in heat]
    assert on[1] / sum(on) == pytest.approx(reply.attention_ratio, abs=1e-5)
    # as text it has an end, whose row looks too
    heat = attention_heat(model.answerer, reply.scored.prompt, reply.text, reply.pictures)
    on = [sum(seen.share * value for seen, value in values) for values in heat]
    scores = model.score(pictures, QUESTION, reply.text, "red green")
    assert on[1] / sum(on) == pytest.approx(float(scores.attention_ratio), abs=1e-5)
    assert abs(on[1] / sum(on) - reply.attention_ratio) > 1e-4


def test_scores_are_those_of_the_slow_definition(llava_weights: Path, pictures: list[Image.Image]) -> None:
    """One row an answer by stock transformers, whole maps by eager attention."""
    model = lookright.load("tiny_llava", path=llava_weights, dtype="float64")
    rejected = ["blue circle", "no"]
    scores = model.score(pictures, QUESTION, "red", rejected)
    backbone = LlavaBackbone(path=str(llava_weights))
    stock = stock_model(backbone, model.pair.model)
    held = model.ask(pictures, QUESTION).pictures
    regions = [Region(picture=n, box=(0, 0, *picture.size), source="") for n, picture in enumerate(pictures)]
    pair = Preference(
        id="p",
        images=held.names,
        prompt=SHOWN + QUESTION,
        chosen="red",
        rejected=rejected,
        target=1,
        regions=regions,
    )
    example = encode_preference(backbone, pair, held)
    with torch.no_grad():
        logps = plain_logps(stock, [example])
        ratio = plain_ratios(stock, example, example.responses[0])[3]
    # transformers normalises and rotates in float32 whatever the model's precision is
    torch.testing.assert_close(scores.policy_chosen.logps, logps[:1], rtol=0, atol=1e-6)
    torch.testing.assert_close(scores.policy_rejected.logps[0], logps[1:], rtol=0, atol=1e-6)
    assert float(scores.attention_ratio) == pytest.approx(float(ratio), abs=1e-6)
    margin = float(logps[0] - logps[1:].mean())
    assert abs(margin) > 0.01
    assert float(scores.logps_margins()["logps_margin"]) == pytest.approx(margin, abs=1e-6)


def test_a_loop_of_ones_own_trains_the_adapter_alone(llava_weights: Path, pictures: list[Image.Image]) -> None:
    model = lookright.load("tiny_llava", path=llava_weights)
    before = {name: value.clone() for name, value in model.pair.model.state_dict().items()}
    model.tune(lookright.LoraTuning(r=4, alpha=8))
    attention = lookright.AttentionLoss(threshold=1.0)
    loss = lookright.CompositeLoss(
        {"preference": lookright.Weighted(1.0, lookright.DPOLoss()), "attention": lookright.Weighted(1.0, attention)}
    )
    optimizer = torch.optim.AdamW(model.trained_parameters(), lr=5e-3)
    seen = []
    for _ in range(6):
        values, terms = loss(model.score(pictures, QUESTION, "red", "blue circle", loss=loss))
        values.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(terms)
    assert float(seen[0]["loss_dpo"]) == pytest.approx(math.log(2), abs=1e-5)
    assert seen[-1]["loss_dpo"] < seen[0]["loss_dpo"] and seen[-1]["loss_attention"] < seen[0]["loss_attention"]
    after = dict(model.pair.model.named_parameters())
    for name, value in before.items():
        own = after.get(name, after.get(name.replace(".weight", ".base_layer.weight")))
        if own is not None:
            assert torch.equal(own, value), name
    with pytest.raises(lookright.ConfigError, match="has an adapter; load it without"):
        model.tune(lookright.LoraTuning())


def test_what_a_loss_does_not_need_does_not_run(llava_weights: Path, pictures: list[Image.Image]) -> None:
    model = lookright.load("tiny_llava", path=llava_weights).tune(lookright.LoraTuning(r=2, alpha=4))
    likelihood = lookright.CompositeLoss({"sft": lookright.Weighted(1.0, lookright.SFTLoss())})
    scores = model.score(pictures, QUESTION, "red", "blue", loss=likelihood)
    assert scores.reference_chosen is None and scores.attention_ratio is None
    early = lookright.AttentionLoss(layers=[1], positions="first")
    late = lookright.AttentionLoss(layers=[4])
    two = lookright.CompositeLoss({"early": lookright.Weighted(1.0, early), "late": lookright.Weighted(1.0, late)})
    _, terms = two(model.score(pictures, QUESTION, "red", "blue", loss=two))
    assert terms["loss_early"] != terms["loss_late"]


def test_full_tuning_is_held_against_a_copy(llava_weights: Path, pictures: list[Image.Image]) -> None:
    model = lookright.load("tiny_llava", path=llava_weights).tune(lookright.FullTuning())
    loss = lookright.CompositeLoss({"preference": lookright.Weighted(1.0, lookright.DPOLoss())})
    optimizer = torch.optim.SGD(model.trained_parameters(), lr=0.1)
    first = model.score(pictures, QUESTION, "red", "blue", loss=loss)
    loss(first)[0].mean().backward()
    optimizer.step()
    second = model.score(pictures, QUESTION, "red", "blue", loss=loss)
    torch.testing.assert_close(second.reference_chosen, first.reference_chosen, rtol=0, atol=1e-6)
    assert second.policy_chosen.logps > first.policy_chosen.logps


def test_many_pairs_in_one_pass(llava_weights: Path, tmp_path: Path) -> None:
    from lookright.records.pictures import PictureFolder
    from lookright.records.records import preference_from_dict
    from tests.examples import write_pairs

    records = [preference_from_dict(json.loads(line)) for line in write_pairs(tmp_path, 3).read_text().splitlines()]
    folder = PictureFolder(tmp_path)
    model = lookright.load("tiny_llava", path=llava_weights)
    together = model.score_records(records, folder)
    for place, record in enumerate(records):
        alone = model.score_records([record], folder)
        torch.testing.assert_close(together.policy_chosen.logps[place], alone.policy_chosen.logps[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together.attention_ratio[place], alone.attention_ratio[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("question", "given", "message"),
    [
        ("", {}, "the question holds no text"),
        ("<image> <image>", {}, "the question holds no text"),
        ("<image> which?", {}, "3 pictures but 1 <image> in the prompt"),
        ("<img> which?", {}, "the placeholder of another model; write <image> once"),
        ("In Image4, what is it?", {}, "target=3 but the record has 3 regions"),
        ("what is it?", {"target": 3}, "target=3 but the record has 3 regions"),
        ("what is it?", {"regions": [Region(picture=0, box=(0, 0, 99, 9), source="")]}, "outside of its picture of 50"),
        ("word " * 3000, {}, "set backbone.max_length higher"),
    ],
)
def test_questions_that_cannot_be_used(
    model: lookright.Model, pictures: list[Image.Image], question: str, given: dict, message: str
) -> None:
    with pytest.raises(lookright.RecordError, match=message):
        model.ask(pictures, question, **given)
    with pytest.raises(lookright.RecordError, match=message):
        model.score(pictures, question, "red", "blue", **given)


def test_answers_that_cannot_be_scored(model: lookright.Model, pictures: list[Image.Image]) -> None:
    for chosen, rejected, message in (
        ("red", "red", "chosen and rejected are the same"),
        ("red", [], "chosen or rejected is empty"),
        ("red", "<image>", "an answer holds <image>"),
    ):
        with pytest.raises(lookright.RecordError, match=message):
            model.score(pictures, QUESTION, chosen, rejected)


def test_pictures_that_cannot_be_used(model: lookright.Model, pictures: list[Image.Image], tmp_path: Path) -> None:
    whole = io.BytesIO()
    pictures[0].save(whole, "PNG")
    torn = whole.getvalue()[:900]
    for bad, message in (
        (np.zeros((8, 8, 3)), r"pictures\[1\] is ndarray; give a PIL image"),
        (tmp_path / "none.png", r"pictures\[1\]: cannot read the picture .*none.png \(No such file"),
        (b"no picture", r"pictures\[1\]: broken picture of 10 bytes"),
        (torn, r"pictures\[1\]: broken picture"),
        (Image.open(io.BytesIO(torn)), r"pictures\[1\]: the picture cannot be decoded"),
        (Image.new("RGB", (900, 2)), r"pictures\[1\]: 900 x 2 pixels are 450 to 1"),
    ):
        with pytest.raises(lookright.RecordError, match=message):
            model.ask([pictures[0], bad], "In Image2, what is it?")
    with pytest.raises(lookright.RecordError, match="the record has no picture"):
        model.ask([], "what is it?")


def test_a_decoder_that_needs_the_target(llava_weights: Path, pictures: list[Image.Image]) -> None:
    decoder = lookright.AdaptiveDecoder(max_new_tokens=2, scope="target")
    model = lookright.load("tiny_llava", path=llava_weights, decode=decoder)
    assert model.ask(pictures, QUESTION).scored.scaled_ratio is not None
    with pytest.raises(lookright.ConfigError, match="scope=target"):
        model.ask(pictures, "what color is it?")


def test_all_problems_of_a_load_are_told_at_once(llava_weights: Path) -> None:
    with pytest.raises(lookright.ConfigError) as error:
        lookright.load(
            "tiny_llava",
            path=llava_weights,
            adapter="nowhere",
            device="gpu",
            dtype="half",
            ratio_layer=99,
            ratio_rows="last",
            image_aspekt="pad",
        )
    for part in (
        "backbone.image_aspekt does not exist; did you mean image_aspect?",
        "adapter=nowhere holds no adapter_config.json",
        "device='gpu'; valid: auto, cpu",
        "dtype='half'; valid: float32",
        "ratio_rows='last'; valid: response",
    ):
        assert part in str(error.value)
    with pytest.raises(lookright.ConfigError, match="ratio_layer=99; this model has layers 0 to 5"):
        lookright.load("tiny_llava", path=llava_weights, ratio_layer=99)
    with pytest.raises(lookright.ConfigError, match="backbone='llava'; valid: ixc25_7b, llava15_13b"):
        lookright.load("llava")
    with pytest.raises(lookright.ConfigError, match="decode='beam'; valid: adaptive, greedy, sample"):
        lookright.load(decode="beam")
    with pytest.raises(lookright.ConfigError, match="backbone.path is not set"):
        lookright.load("llava15_7b")


def test_a_program_with_a_hydra_of_its_own_keeps_it(llava_weights: Path) -> None:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        lookright.load("tiny_llava", path=llava_weights)
        assert compose("infer", ["backbone=tiny_ixc25", "data.path=x"]).data.path == "x"


def test_random_state_is_left_alone(model: lookright.Model, pictures: list[Image.Image]) -> None:
    torch.manual_seed(3)
    random.seed(3)
    wanted = torch.rand(1), random.random()
    torch.manual_seed(3)
    random.seed(3)
    model.ask(pictures, QUESTION)
    model.score(pictures, QUESTION, "red", "blue")
    assert (torch.rand(1), random.random()) == wanted
