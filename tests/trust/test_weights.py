"""Weights, adapters and checkpoints of others: their pickles, their code and the modules that they name stay unread."""

import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from lookright.backbones.adapter_files import check_adapter
from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.loading import load_policy, with_adapter
from lookright.backbones.shards import read_tensors
from lookright.commands.train import train
from lookright.errors import ConfigError, LookRightError
from lookright.tuning.lora import LoraTuning

Compose = Callable[..., DictConfig]
MODULE = """
from pathlib import Path
Path({mark!r}).touch()
"""


class _Program:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def zipped(mark: Path) -> bytes:
    """As torch.save writes it since 1.6."""
    file = io.BytesIO()
    torch.save({"global_step": _Program(mark), "weight": _Program(mark)}, file)
    return file.getvalue()


def legacy(mark: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": _Program(mark)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def bare(mark: Path) -> bytes:
    return pickle.dumps({"weight": _Program(mark)})


def in_script(mark: Path) -> bytes:
    """A TorchScript archive, which torch.load hands to torch.jit where it may."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/constants.pkl", bare(mark))
        archive.writestr("archive/data.pkl", bare(mark))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


PICKLES = (zipped, legacy, bare, in_script)


@pytest.fixture()
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is there once a pickle, or the module `nap`, was read."""
    (tmp_path / "nap.py").write_text(MODULE.format(mark=str(tmp_path / "mark")))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield tmp_path / "mark"
    sys.modules.pop("nap", None)


@pytest.mark.parametrize("pickled", PICKLES)
def test_the_pickles_of_this_file_do_touch_it(pickled: Callable[[Path], bytes], tmp_path: Path) -> None:
    if pickled is in_script:
        pickle.loads(bare(tmp_path / "mark"))
    else:
        torch.load(io.BytesIO(pickled(tmp_path / "mark")), weights_only=False) if pickled is not bare else (
            pickle.loads(pickled(tmp_path / "mark"))
        )
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("pickled", PICKLES)
def test_no_reader_of_weights_unpickles(
    pickled: Callable[[Path], bytes], mark: Path, llava_weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(llava_weights, folder)
    for file in (*folder.glob("*.safetensors"), *folder.glob("*.index.json")):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickled(mark))
    for read in (
        lambda: LlavaBackbone(path=str(folder)).build(),
        lambda: list(read_tensors(folder / "pytorch_model.bin", skip=lambda _: False)),
    ):
        with pytest.raises((LookRightError, RuntimeError, ValueError, pickle.UnpicklingError, OSError)):
            read()
    assert not mark.exists()


@pytest.mark.parametrize("pickled", PICKLES)
def test_no_adapter_is_unpickled(
    pickled: Callable[[Path], bytes], mark: Path, adapter: Path, llava_weights: Path
) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickled(mark))
    with pytest.raises((LookRightError, RuntimeError, ValueError, pickle.UnpicklingError)):
        load_policy(LlavaBackbone(path=str(llava_weights)), str(adapter), torch.device("cpu"), torch.float32)
    assert not mark.exists()


@pytest.mark.parametrize("pickled", PICKLES)
def test_a_run_does_not_go_on_from_a_pickle(
    pickled: Callable[[Path], bytes], mark: Path, composed: Compose, small_run: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(composed("train", *small_run), resolve=True))
    (run / "checkpoints" / "step=3.ckpt").write_bytes(pickled(mark))
    with pytest.raises(ConfigError, match="holds no whole checkpoints/step=N.ckpt"):
        train(composed("train", f"resume={run}"))
    assert not mark.exists()


def test_a_checkpoint_that_is_a_folder_wants_trust(composed: Compose, small_run: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints" / "step=3.ckpt").mkdir(parents=True)
    (run / "checkpoints" / "step=3.ckpt" / "latest").write_text("step")
    (run / "config.yaml").write_text("trainer: {}")
    with pytest.raises(ConfigError, match=r"which DeepSpeed reads by pickle.*set trust=\[deepspeed\]"):
        train(composed("train", f"resume={run}"))
    with pytest.raises(ConfigError, match="saved by another version"):
        train(composed("train", f"resume={run}", "trust=[deepspeed]"))


def edited(file: Path, **keys: Any) -> None:
    data = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(data | keys))


def test_code_that_a_model_names_is_not_called(mark: Path, llava_weights: Path, tmp_path: Path) -> None:
    """`auto_map` is what `trust_remote_code` would follow; nobody is asked either."""
    folder = tmp_path / "model"
    shutil.copytree(llava_weights, folder)
    shutil.copy(tmp_path / "nap.py", folder / "nap.py")
    names = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoTokenizer", "AutoProcessor")
    edited(folder / "config.json", auto_map=dict.fromkeys(names, "nap.Nap"))
    edited(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "nap.Nap"})
    LlavaBackbone(path=str(folder)).build()
    edited(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["nap.Nap", None]}, tokenizer_class="Nap")
    try:
        LlavaBackbone(path=str(folder))
    except ValueError as error:
        assert "trust_remote_code" in str(error)
    assert not mark.exists()


@pytest.mark.parametrize("place", [(), ("text_config",), ("vision_config",)])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_kernels_of_a_hub_are_refused(place: tuple[str, ...], key: str, llava_weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llava_weights, folder)
    settings: Any = json.loads((folder / "config.json").read_text())
    inner = settings
    for part in place:
        inner = inner[part]
    inner[key] = "stranger/kernels"
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=f"config.json holds {key}='stranger/kernels'"):
        LlavaBackbone(path=str(folder))


@pytest.fixture()
def adapter(llava_weights: Path, tmp_path: Path) -> Path:
    backbone = LlavaBackbone(path=str(llava_weights))
    LoraTuning(r=2, alpha=4).apply(backbone, backbone.build()).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_the_base_that_an_adapter_names_is_not_loaded(mark: Path, adapter: Path, llava_weights: Path) -> None:
    mapping = {"base_model_class": "Nap", "parent_library": "nap"}
    edited(adapter / "adapter_config.json", base_model_name_or_path="/nowhere/at/all", auto_mapping=mapping)
    backbone = LlavaBackbone(path=str(llava_weights))
    check_adapter(str(adapter))
    with_adapter(backbone.build(), str(adapter))
    assert not mark.exists() and "nap" not in sys.modules


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"peft_type": "PROMPT_TUNING", "tokenizer_name_or_path": "stranger/it"}, "peft_type='PROMPT_TUNING'"),
        ({"peft_type": "XLORA", "adapters": {"x": "stranger/it"}}, "peft_type='XLORA'"),
        ({"peft_type": ["LORA"]}, "peft_type=['LORA']"),
        ({"megatron_config": {"x": 1}, "megatron_core": "nap"}, "PEFT imports the module 'nap'"),
    ],
)
def test_adapters_that_fetch_or_import_are_refused(
    keys: dict[str, Any], told: str, mark: Path, adapter: Path, llava_weights: Path
) -> None:
    edited(adapter / "adapter_config.json", **keys)
    for read in (
        lambda: check_adapter(str(adapter)),
        lambda: LoraTuning(adapter=str(adapter)).apply(LlavaBackbone(path=str(llava_weights)), torch.nn.Module()),
    ):
        with pytest.raises(ConfigError) as caught:
            read()
        assert told in str(caught.value)
    assert not mark.exists() and "nap" not in sys.modules


def test_an_adapter_without_weights_says_so(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"holds no adapter_model\.safetensors, the weights of the adapter"):
        check_adapter(str(adapter))
