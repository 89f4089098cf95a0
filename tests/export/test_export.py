"""`python -m lookright.export` as a function: what stock classes and PEFT load answers as the adapter did."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from lookright.answering.decoder import Decoder
from lookright.backbones.base import Backbone
from lookright.backbones.ixc25 import Ixc25Backbone
from lookright.backbones.ixc25.checkpoint import official_shapes
from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.loading import load_policy
from lookright.composing.formats.sequence import labelled_pictures
from lookright.errors import ConfigError, LookRightError
from lookright.export.command import export
from lookright.packing.question import DecoderInput
from lookright.tuning.lora import LoraTuning
from tests.backbones.ixc25.small import write_small
from tests.examples import SIZES, lively_model, noise, shake_adapters, trained_parameters
from tests.tokenizer_forms import train_model

Compose = Callable[..., DictConfig]
Asked = list[tuple[list[Image.Image], str]]
COLOURS = ("red", "blue", "green")


def questions(count: int) -> Asked:
    """Pictures, 1 to 5 of them, and a question about one."""
    rng = random.Random(0)
    asked = []
    for number in range(count):
        num_pictures = number % 5 + 1
        pictures = [noise(SIZES[(number + place) % 5], 10 * number + place) for place in range(num_pictures)]
        asked.append((pictures, f"In Image{rng.randint(1, num_pictures)}, is there a {rng.choice(COLOURS)} circle?"))
    return asked


def our_answers(backbone: Backbone, policy: nn.Module, asked: Asked) -> list[list[int]]:
    """Token ids without the end token."""
    found = []
    for pictures, question in asked:
        text = labelled_pictures(len(pictures)) + question
        prompt = backbone.encode_prompt(text, [picture.size for picture in pictures])
        pixels = [backbone.preprocess(picture, len(pictures)) for picture in pictures]
        (answer,) = Decoder(max_new_tokens=8).answer(backbone, policy, [DecoderInput(prompt=prompt, pixels=pixels)])
        found.append([token for token in answer.token_ids if token not in backbone.end_token_ids])
    return found


def turn(pictures: list[Image.Image], question: str) -> list[dict[str, Any]]:
    """As chat templates take it."""
    content: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures, start=1):
        content += [{"type": "text", "text": f"Image{number}:"}, {"type": "image", "image": picture}]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def stock_answers(folder: Path, asked: Asked, adapter: Path | None = None) -> list[list[int]]:
    """By transformers alone, and PEFT where there is an adapter."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model = model if adapter is None else PeftModel.from_pretrained(model, adapter)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    found = []
    for pictures, question in asked:
        inputs = processor.apply_chat_template(
            turn(pictures, question), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        (row,) = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        answer = row[inputs["input_ids"].shape[1] :].tolist()
        found.append([token for token in answer if token != processor.tokenizer.eos_token_id])
    return found


def save_adapter(backbone: Backbone, folder: Path, **options: Any) -> Path:
    """An adapter that has moved, projector too where it trains."""
    model = backbone.build().eval()
    policy = shake_adapters(LoraTuning(r=4, alpha=8, **options).apply(backbone, model), size=0.2)
    for name, parameter in trained_parameters(policy).items():
        if ".lora_" not in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    policy.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lively_llava(llava: LlavaBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose answers depend on the pictures."""
    folder = tmp_path_factory.mktemp("lively")
    llava.save_pretrained(lively_model(llava, torch.float32), folder)
    return folder


@pytest.fixture(scope="module")
def original_llava(lively_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authors' layout with a sentencepiece vocabulary, no token for pictures in it."""
    folder = tmp_path_factory.mktemp("original") / "llava"
    backbone = LlavaBackbone(path=str(lively_llava))
    model = backbone.build()
    rows = train_model(folder.parent / "tokenizer")
    size = 600
    with torch.no_grad():
        for part in (model.get_input_embeddings(), model.get_output_embeddings()):
            part.weight = nn.Parameter(torch.randn(size, part.weight.shape[1]) * part.weight.std())
    model.config.text_config.vocab_size = size
    backbone.export(model, folder, layout="original", home=folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "tokenizer.model").write_bytes(rows.read_bytes())
    return folder


@pytest.fixture(scope="module")
def adapter(lively_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(LlavaBackbone(path=str(lively_llava)), tmp_path_factory.mktemp("run") / "adapter")


@pytest.mark.parametrize("projector", [False, True], ids=["decoder", "projector too"])
def test_merged_weights_answer_in_stock_classes_as_the_adapter_does(
    composed: Compose, lively_llava: Path, tmp_path: Path, projector: bool
) -> None:
    backbone = LlavaBackbone(path=str(lively_llava), system_prompt="A chat.")
    adapter = save_adapter(backbone, tmp_path / "adapter", train_projector=projector)
    given = [f"backbone.path={lively_llava}", "backbone.system_prompt=A chat.", f"adapter={adapter}", "shard_gb=1e-4"]
    note = export(composed("export", *given, f"output={tmp_path / 'out'}"))
    asked = questions(20)
    policy = load_policy(backbone, str(adapter), torch.device("cpu"), torch.float32)
    wanted = our_answers(backbone, policy, asked)
    assert len({tuple(ids) for ids in wanted}) > 5, "answers depend on what is shown"
    assert wanted != our_answers(backbone, load_policy(backbone, None, torch.device("cpu"), torch.float32), asked)
    assert stock_answers(tmp_path / "out", asked) == wanted
    assert note["adapter_against_base"]["largest"] > 0.1
    assert note["merged_against_adapter"]["largest"] < 1e-3 and note["written_against_merged"]["largest"] < 1e-3
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 3
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "out"}, "nothing is left beside"


def test_the_pipeline_answers_too(composed: Compose, lively_llava: Path, adapter: Path, tmp_path: Path) -> None:
    export(composed("export", f"backbone.path={lively_llava}", f"adapter={adapter}", f"output={tmp_path / 'out'}"))
    asked = questions(4)
    pipe = pipeline("image-text-to-text", model=str(tmp_path / "out"))
    backbone = LlavaBackbone(path=str(lively_llava))
    policy = load_policy(backbone, str(adapter), torch.device("cpu"), torch.float32)
    for (pictures, question), ids in zip(asked, our_answers(backbone, policy, asked), strict=True):
        (found,) = pipe(turn(pictures, question), max_new_tokens=8, do_sample=False, return_full_text=False)
        assert found["generated_text"].strip() == backbone.decode(ids)


def test_the_authors_layout_becomes_stock(composed: Compose, original_llava: Path, tmp_path: Path) -> None:
    """Its tokenizer.model is turned into one with a token for pictures, which no answer has."""
    backbone = LlavaBackbone(path=str(original_llava))
    assert backbone.loaded_layout == "original"
    adapter = save_adapter(backbone, tmp_path / "adapter")
    given = [f"backbone.path={original_llava}", f"adapter={adapter}", "+backbone.vision_tower=null"]
    export(composed("export", *given, f"output={tmp_path / 'out'}"))
    asked = questions(20)
    wanted = our_answers(backbone, load_policy(backbone, str(adapter), torch.device("cpu"), torch.float32), asked)
    assert len({tuple(ids) for ids in wanted}) > 5
    assert stock_answers(tmp_path / "out", asked) == wanted
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["image_token_index"], config["text_config"]["vocab_size"]) == (600, 640)


@pytest.mark.parametrize("source", ["stock", "original"])
def test_the_authors_layout_is_written(
    composed: Compose, lively_llava: Path, original_llava: Path, tmp_path: Path, source: str
) -> None:
    path = lively_llava if source == "stock" else original_llava
    backbone = LlavaBackbone(path=str(path))
    adapter = save_adapter(backbone, tmp_path / "adapter")
    export(
        composed(
            "export", f"backbone.path={path}", f"adapter={adapter}", "layout=original", f"output={tmp_path / 'out'}"
        )
    )
    again = LlavaBackbone(path=str(tmp_path / "out"))
    assert again.loaded_layout == "original"
    asked = questions(10)
    wanted = our_answers(backbone, load_policy(backbone, str(adapter), torch.device("cpu"), torch.float32), asked)
    assert our_answers(again, again.build().eval(), asked) == wanted


def test_the_official_folder_of_xcomposer(composed: Compose, tmp_path: Path) -> None:
    """Names, shapes and type of the official checkpoint; its code and task LoRAs are taken along."""
    source = write_small(tmp_path / "base")
    (source / "modeling_internlm_xcomposer2.py").write_text("# code\n")
    config = json.loads((source / "config.json").read_text())
    auto_map = {"AutoModel": "modeling_internlm_xcomposer2.InternLMXComposer2ForCausalLM"}
    (source / "config.json").write_text(json.dumps(config | {"auto_map": auto_map, "torch_dtype": "bfloat16"}))
    task = {"model.layers.0.attention.wo.lora_sft_A.weight": torch.randn(3, 32, dtype=torch.bfloat16)}
    index = json.loads((source / "model.safetensors.index.json").read_text())
    save_file(task, source / "task.safetensors")
    index["weight_map"] |= dict.fromkeys(task, "task.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    backbone = Ixc25Backbone(path=str(source), hd_num=4)
    adapter = save_adapter(backbone, tmp_path / "adapter", train_projector=True)
    given = ["backbone=tiny_ixc25", f"backbone.path={source}", f"adapter={adapter}"]
    note = export(composed("export", *given, "dtype=float32", f"output={tmp_path / 'out'}"))
    assert note["layout"] == "official" and note["merged_against_adapter"]["largest"] < 1e-3
    asked = questions(10)
    again = Ixc25Backbone(path=str(tmp_path / "out"), hd_num=4)
    wanted = our_answers(backbone, load_policy(backbone, str(adapter), torch.device("cpu"), torch.float32), asked)
    assert our_answers(again, again.build().eval(), asked) == wanted
    export(composed("export", *given, f"output={tmp_path / 'half'}"))
    found = {
        name: value for file in (tmp_path / "half").glob("*.safetensors") for name, value in load_file(file).items()
    }
    shapes = official_shapes(backbone.build(weights=False)) | {name: tuple(value.shape) for name, value in task.items()}
    assert {name: tuple(value.shape) for name, value in found.items()} == shapes
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert all(torch.equal(found[name], value) for name, value in task.items())
    names = set(json.loads((tmp_path / "half" / "model.safetensors.index.json").read_text())["weight_map"])
    assert names == shapes.keys()
    written = json.loads((tmp_path / "half" / "config.json").read_text())
    assert (written["auto_map"], written["torch_dtype"]) == (auto_map, "bfloat16")
    assert (tmp_path / "half" / "modeling_internlm_xcomposer2.py").read_text() == "# code\n"


@torch.no_grad()
def test_an_adapter_loads_by_peft_onto_the_base_that_it_names(
    composed: Compose, lively_llava: Path, adapter: Path, tmp_path: Path
) -> None:
    export(
        composed(
            "export", f"backbone.path={lively_llava}", f"adapter={adapter}", "merge=false", f"output={tmp_path / 'out'}"
        )
    )
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(lively_llava)
    backbone = LlavaBackbone(path=str(lively_llava))
    policy = load_policy(backbone, str(adapter), torch.device("cpu"), torch.float32)
    asked = questions(5)
    found = stock_answers(Path(settings["base_model_name_or_path"]), asked, tmp_path / "out")
    assert found == our_answers(backbone, policy, asked)


def test_what_rounding_does_is_told(
    composed: Compose, lively_llava: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"backbone.path={lively_llava}", f"adapter={adapter}", "dtype=bfloat16"]
    note = export(composed("export", *given, f"output={tmp_path / 'out'}"))
    assert 1e-3 < note["merged_against_adapter"]["largest"] < 1
    assert f"in bfloat16: {note['merged_against_adapter']['largest']:.3g} at most" in capsys.readouterr().out
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == torch.bfloat16


def test_an_adapter_that_changes_nothing_is_told(
    composed: Compose, lively_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = LlavaBackbone(path=str(lively_llava))
    LoraTuning(r=2, alpha=4).apply(backbone, backbone.build()).save_pretrained(tmp_path / "adapter")
    given = [f"backbone.path={lively_llava}", f"adapter={tmp_path / 'adapter'}"]
    note = export(composed("export", *given, f"output={tmp_path / 'out'}"))
    assert note["adapter_against_base"]["largest"] == 0
    assert "changes nothing" in capsys.readouterr().err
    assert "it changes nothing" in (tmp_path / "out" / "README.md").read_text()


def test_the_base_alone(composed: Compose, lively_llava: Path, tmp_path: Path) -> None:
    # what a killed export left
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "config.json").write_text("torn")
    note = export(composed("export", f"backbone.path={lively_llava}", "license=mit", f"output={tmp_path / 'out'}"))
    assert "merged_against_adapter" not in note and note["written_against_merged"]["largest"] < 1e-3
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1, "all may read what all may read"
    card = (tmp_path / "out" / "README.md").read_text()
    facts = yaml.safe_load(card.split("---\n")[1])
    assert (facts["base_model"], facts["library_name"], facts["license"]) == (str(lively_llava), "transformers", "mit")


# ---- what goes wrong leaves nothing ----


def test_what_is_refused_before_weights_load(
    composed: Compose, lively_llava: Path, adapter: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    base = f"backbone.path={lively_llava}"
    cases = {
        "exists and is not empty; set another output": [f"output={taken}"],
        "is a file": [f"output={taken / 'file'}"],
        "layout='official': LlavaBackbone has none of that name; valid: stock, original": ["layout=official"],
        "dtype='half'; valid: float32": ["dtype=half"],
        "merge=false writes an adapter, and there is none": ["merge=false"],
        "shard_gb=0.0": ["shard_gb=0"],
        "layout=stock is that of merged weights": ["layout=stock", "merge=false", f"adapter={adapter}"],
        "backbone.quantization=null adapter=": ["backbone.quantization=4bit", f"adapter={adapter}"],
    }
    for message, given in cases.items():
        with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
            export(composed("export", base, f"output={tmp_path / 'out'}", *given))
    assert {path.name for path in tmp_path.iterdir()} == {"taken"}


def test_parts_of_zero_are_refused(composed: Compose, lively_llava: Path, adapter: Path, tmp_path: Path) -> None:
    parts = tmp_path / "run" / "checkpoints" / "step=2.ckpt" / "checkpoint"
    parts.mkdir(parents=True)
    (parts / "zero_pp_rank_0_mp_rank_00_model_states.pt").touch()
    with pytest.raises(ConfigError, match="run=.*holds parts of a ZeRO checkpoint .* resume=RUN_DIR"):
        export(composed("export", f"run={tmp_path / 'run'}", f"output={tmp_path / 'out'}"))
    empty = {name: torch.zeros(0) for name in load_file(adapter / "adapter_model.safetensors")}
    (tmp_path / "adapter").mkdir()
    save_file(empty, tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    with pytest.raises(ConfigError, match=f"has {len(empty)} empty tensors .* ZeRO-3 did not gather"):
        export(
            composed(
                "export",
                f"backbone.path={lively_llava}",
                f"adapter={tmp_path / 'adapter'}",
                f"output={tmp_path / 'out'}",
            )
        )


def test_weights_that_answer_otherwise_are_not_left_there(
    composed: Compose, lively_llava: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = LlavaBackbone.export

    def broken(self: LlavaBackbone, model: Any, folder: Path, **options: Any) -> None:
        model.model.language_model.layers[0].mlp.down_proj.weight.data.add_(0.1)
        written(self, model, folder, **options)

    monkeypatch.setattr(LlavaBackbone, "export", broken)
    with pytest.raises(LookRightError, match="what was written does not answer as the model did"):
        export(composed("export", f"backbone.path={lively_llava}", f"adapter={adapter}", f"output={tmp_path / 'out'}"))
    assert list(tmp_path.iterdir()) == []
