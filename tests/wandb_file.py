"""Reads what W&B wrote offline: records of a log in LevelDB's format behind seven bytes of its own."""

import json
import struct
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

HEAD, BLOCK, CHUNK = 7, 32768, 7
WHOLE, LAST = 1, 4


def records(path: Path) -> list[Record]:
    data, place, found, parts = path.read_bytes(), HEAD, [], b""
    while place + CHUNK <= len(data):
        left = BLOCK - place % BLOCK
        if left < CHUNK:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + CHUNK])
        if kind == 0:
            break
        parts += data[place + CHUNK : place + CHUNK + length]
        place += CHUNK + length
        if kind in (WHOLE, LAST):
            found.append(Record.FromString(parts))
            parts = b""
    return found


def history(read: list[Record]) -> list[dict[str, Any]]:
    """Rows as they were logged."""
    rows = [one.history.item for one in read if one.WhichOneof("record_type") == "history"]
    return [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row} for row in rows]


def config(read: list[Record]) -> dict[str, Any]:
    """The hyperparameters by their first keys."""
    parts = [one.config.update for one in read if one.WhichOneof("record_type") == "config"]
    return {item.key: json.loads(item.value_json) for part in parts for item in part}
