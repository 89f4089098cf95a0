"""Readers of weights, adapters, settings, tables, stores and pictures."""

import io
import json
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from peft import LoraConfig
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save

from lookright.backbones import shards
from lookright.backbones.adapter_files import check_adapter
from lookright.backbones.base import Backbone
from lookright.backbones.ixc25 import Ixc25Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.backbones.shards import check_local_files, fill, tensor_names, weight_files
from lookright.backbones.tokenizer import read_tokenizer
from lookright.common.pictures import open_rgb
from lookright.launching.jobs import Job, Launch, Status
from lookright.records.pictures import PictureFolder
from lookright.records.readers import load_preferences
from lookright.reference.store import MAGIC, LogpStore, read_shard
from lookright.report.runs import _json as read_summary
from tests.fuzz import plain
from tests.fuzz.reader import Reader

ASSETS = Path(shards.__file__).parent / "assets"
STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "n": torch.arange(3)}
LORA = {
    "base_model.model.x.lora_A.weight": torch.ones(2, 4), "base_model.model.x.lora_B.weight": torch.zeros(4, 2)
}  # fmt: skip
SHAPES = {name: tuple(tensor.shape) for name, tensor in STATE.items()}
FINGERPRINT = bytes(range(16))
PAIR = {"images": ["a.png"], "prompt": "What?", "chosen": "x", "rejected": "y"}


def _filled(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    check_local_files(folder)
    fill(weight_files(folder), shapes, lambda name, value: found.update({name: value.clone()}), skip=lambda _: False)
    return found


def _weights(path: Path) -> Any:
    return _filled(path.parent, SHAPES)


def _same_weights(data: bytes, found: Any) -> None:
    """The format's own words: a header, then bytes at its offsets."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    kinds = {"F32": np.float32, "I64": np.int64, "F64": np.float64, "I32": np.int32, "F16": np.float16}
    for name, tensor in found.items():
        start, end = header[name]["data_offsets"]
        assert header[name]["shape"] == list(tensor.shape) and end <= len(body)
        if header[name]["dtype"] in kinds:
            values = np.frombuffer(body[start:end], kinds[header[name]["dtype"]]).reshape(tensor.shape)
            assert np.array_equal(values, tensor.numpy()) and np.isfinite(values).all()
        assert not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _same_pickled(data: bytes, found: Any) -> None:
    for tensor in found.values():
        assert not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _index(path: Path) -> Any:
    (path.parent / "model-1.safetensors").write_bytes(save(STATE))
    return tensor_names(path.parent), _filled(path.parent, SHAPES)


def _same_index(data: bytes, found: Any) -> None:
    told = plain.json_value(data)["weight_map"]
    assert found[0] == set(told) and set(told.values()) == {"model-1.safetensors"}


def _adapter(path: Path) -> Any:
    for name, content in (("adapter_config.json", ADAPTER_CONFIG), ("adapter_model.safetensors", save(LORA))):
        if name != path.name:
            (path.parent / name).write_bytes(content)
    check_adapter(str(path.parent))


def _nothing(data: bytes, found: Any) -> None:
    """There is nothing to compare: a library read it."""


def _same_config(data: bytes, found: Any) -> None:
    told = plain.json_value(data)
    assert told["peft_type"] != "LORA" or told["r"] == 2 or 2 in told["rank_pattern"].values()


def _tokens(path: Path) -> Any:
    tokenizer = read_tokenizer(path)
    return tokenizer.decode(tokenizer.encode("In Image2, what colour?"))


def _shard(path: Path) -> Any:
    return read_shard(path, FINGERPRINT)


def _shard_bytes(fingerprint: bytes = FINGERPRINT) -> bytes:
    head = MAGIC + fingerprint
    data = head + struct.pack("<I", zlib.crc32(head))
    for number in range(4):
        body = struct.pack("<16sd", bytes([number] * 16), -1.5 * number)
        data += body + struct.pack("<I", zlib.crc32(body))
    return data


def _same_shard(data: bytes, found: Any) -> None:
    pairs, damaged = found
    assert all(np.isfinite(value) for _, value in pairs)
    whole = [data[start : start + 28] for start in range(28, len(data) - 27, 28)]
    sound = [one for one in whole if one[24:] == struct.pack("<I", zlib.crc32(one[:24]))]
    assert len(pairs) <= len(sound) and len(pairs) + damaged <= max(len(whole), 0)
    assert all(key + struct.pack("<d", value) in {one[:24] for one in sound} for key, value in pairs)


def _manifest(path: Path) -> Any:
    return LogpStore(path.parent, FINGERPRINT, {"weights": "a"}, {"torch": "2"}).versions


def _same_manifest(data: bytes, found: Any) -> None:
    told = plain.json_value(data)
    assert told["components"] == {"weights": "a"} and told["versions"] == found


def _same_launch(data: bytes, found: Launch) -> None:
    told = plain.json_value(data)
    given = {name: value for name, value in asdict(found).items() if name in told and name not in ("folder", "jobs")}
    assert given == {name: told[name] for name in given}
    for one, job in zip(told["jobs"], found.jobs, strict=True):
        given = {name: getattr(job, name) for name in ("num", "overrides", "swept", "shared") if name in one}
        assert given == {name: one[name] for name in given} and Path(job.folder).name == Path(one["folder"]).name


def _same_status(data: bytes, found: Status) -> None:
    told = plain.json_value(data)
    assert all(value == told[name] for name, value in asdict(found).items() if name in told)


def _summary(path: Path) -> Any:
    return read_summary(path)


def _parquet() -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([PAIR, PAIR | {"chosen": "z"}] * 3), buffer, compression="none")
    return buffer.getvalue()


def _same_table(data: bytes, found: Any) -> None:
    rows = parquet.read_table(io.BytesIO(data)).to_pylist()
    assert len(rows) == len(found)
    for record, row in zip(found, rows, strict=True):
        plain.check_record(record, row)


def _backbone(name: str, made: Callable[..., Backbone], path: Path) -> Any:
    """The shipped small model under this config.json, its weights with it."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for file in (ASSETS / name).iterdir():
            if file.name != path.name:
                (Path(folder) / file.name).symlink_to(file)
        (Path(folder) / path.name).write_bytes(path.read_bytes())
        backbone = made(path=folder)
        return backbone.num_layers, backbone.build()


def _same_backbone(data: bytes, found: Any) -> None:
    """Every weight is in the file, so that sizes which weights depend on are those of the file."""
    told = plain.json_value(data)
    text = told.get("text_config", told)
    num_layers, model = found
    assert (text["num_hidden_layers"], text["hidden_size"], text["vocab_size"]) == (num_layers, 96, len(
        model.get_input_embeddings().weight
    )) and num_layers == 6  # fmt: skip
    assert all(bool(torch.isfinite(one).all()) and not one.is_meta for one in model.parameters())


def _saved_dataset() -> dict[str, bytes]:
    """Files of a folder that `datasets` saved, by name."""
    with tempfile.TemporaryDirectory() as folder:
        datasets.Dataset.from_list(SAVED_ROWS).save_to_disk(folder)
        return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def _dataset(path: Path) -> Any:
    """A folder of its own each time, since tables that were read before are mapped."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=SAVED) as folder:
        for name, content in (SAVED_DATASET | {path.name: path.read_bytes()}).items():
            (Path(folder) / name).write_bytes(content)
        (Path(folder) / "a.png").write_bytes((path.parent / "a.png").read_bytes())
        return load_preferences(Path(folder)).records


def _same_dataset(data: bytes, found: Any) -> None:
    for record, row in zip(found, SAVED_ROWS, strict=True):
        plain.check_record(record, row)


def _same_arrow(data: bytes, found: Any) -> None:
    table = pa.ipc.open_stream(io.BytesIO(data)).read_all()
    table.validate(full=True)
    rows = table.to_pylist()
    assert len(rows) == len(found)
    for record, row in zip(found, rows, strict=True):
        plain.check_record(record, row)


def _pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    found = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO"):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        found.append(buffer.getvalue())
    return found


def _same_picture(data: bytes, found: Any) -> None:
    size, image = found
    assert image.mode == "RGB" and image.size == size and min(size) >= 1 and not image.info
    assert len(image.tobytes()) == 3 * size[0] * size[1]


def _picture(path: Path) -> Any:
    return PictureFolder(path.parent).size(path.name), open_rgb(path, path.name)


def _pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    return buffer.getvalue()


ADAPTER_CONFIG = json.dumps(
    LoraConfig(r=2, lora_alpha=4, target_modules=["x"]).to_dict() | {"base_model_name_or_path": "m"}, default=list
).encode()
INDEX = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(STATE, "model-1.safetensors")}).encode()
MANIFEST = json.dumps({"components": {"weights": "a"}, "versions": {"torch": "2"}}).encode()
SAVED = "saved_"
"""How the name of a saved dataset's folder begins."""
SAVED_ROWS = [PAIR | {"chosen": text} for text in ("x", "zé", "a cat")]
SAVED_DATASET = _saved_dataset()
ARROW = next(name for name in SAVED_DATASET if name.endswith(".arrow"))
SUMMARY = json.dumps(
    {"metrics": {"val/loss": 0.5}, "eval": {}, "objective": {"name": "val/loss", "value": 0.5}, "steps": 3}
).encode()
JOB = Job(num=0, overrides=["seed=1"], swept=["seed=1"], folder="/sweep/0")
AT_HAND = Launch(folder=Path("/sweep/launch/1"), module="m", python="python", cwd="/", path="", jobs=[JOB])
LAUNCH = json.dumps(asdict(AT_HAND) | {"folder": str(AT_HAND.folder)}).encode()
STATUS = json.dumps(asdict(Status(state="failed", starts=2, exit_code=1, error="x", where="node1", pid=7))).encode()
READERS = [
    Reader("safetensors", "model.safetensors", [save(STATE)], _weights, _same_weights),
    Reader("pickled", "pytorch_model.bin", [_pickled()], _weights, _same_pickled, weight=0.3),
    Reader("index", "model.safetensors.index.json", [INDEX], _index, _same_index, weight=0.5),
    Reader("adapter_config", "adapter_config.json", [ADAPTER_CONFIG], _adapter, _same_config, weight=0.5),
    Reader("adapter", "adapter_model.safetensors", [save(LORA)], _adapter, _nothing, named="adapter", weight=0.5),
    Reader("tokenizer", "tokenizer.json", [(ASSETS / "tiny_llava/tokenizer.json").read_bytes()], _tokens, _nothing,
           weight=0.1),
    Reader("shard", "it.logps", [_shard_bytes(), _shard_bytes(bytes(16))], _shard, _same_shard),
    Reader("manifest", "manifest.json", [MANIFEST], _manifest, _same_manifest, named="reference.folder"),
    Reader("launch", "jobs.json", [LAUNCH], lambda path: Launch.load(path.parent), _same_launch, weight=0.3),
    Reader("status", "0.json", [STATUS], lambda path: replace(AT_HAND, folder=path.parent).status(0), _same_status,
           weight=0.3),
    Reader("summary", "summary.json", [SUMMARY], _summary,
           lambda data, found: None if plain.json_value(data) == found else _differs()),
    Reader("parquet", "it.parquet", [_parquet()], lambda path: load_preferences(path).records, _same_table, weight=0.3),
    *(Reader(f"{name}_config", "config.json", [(ASSETS / name / "config.json").read_bytes()],
             partial(_backbone, name, made), _same_backbone, named="backbone.path", weight=0.01)
      for name, made in (("tiny_llava", LlavaBackbone), ("tiny_ixc25", Ixc25Backbone))),
    *(Reader(f"dataset_{kind}", name, [SAVED_DATASET[name]], _dataset, check, named=SAVED, weight=0.1)
      for kind, name, check in (("arrow", ARROW, _same_arrow), ("info", "dataset_info.json", _same_dataset),
                                ("state", "state.json", _same_dataset))),
    Reader("pictures", "it.png", _pictures(), _picture, _same_picture),
]  # fmt: skip


def _differs() -> None:
    raise AssertionError("another object")
