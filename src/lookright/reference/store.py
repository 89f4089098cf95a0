"""Log-probabilities on disk: append-only shards of fixed-length records under one manifest.

    manifest.json             what the numbers depend on beside the data, by name
    <host>-<pid>-<random>.logps   one shard for each process that ever wrote

A shard is a header of 28 bytes (magic, fingerprint of the manifest, CRC-32) and records of 28 bytes (key,
nats as float64, CRC-32), little endian. No process writes to the shard of another, so that any number may write at
once. A record that a kill has torn, or whose checksum is wrong, is as good as absent.
"""

import json
import math
import os
import socket
import struct
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from lookright.common.files import naming
from lookright.common.strict_json import read_object, read_regular
from lookright.errors import ConfigError, LookRightError

MAGIC = b"LRLOGPS1"
MANIFEST = "manifest.json"
SUFFIX = ".logps"
_HEADER = struct.Struct("<8s16sI")
_BODY = struct.Struct("<16sd")
_CHECKSUM = struct.Struct("<I")
RECORD_BYTES = _BODY.size + _CHECKSUM.size


class LogpStore:
    """Summed log-probabilities in nats under the keys of `packed.keys.response_keys`.

    `components` are what the numbers depend on beside the data, by the name that a message shows;
    `versions` are told where numbers differ although the components do not. Raises LookRightError where
    the folder holds numbers of other components.
    """

    def __init__(
        self, folder: Path, fingerprint: bytes, components: Mapping[str, str], versions: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.num_damaged = 0
        self._values: dict[bytes, float] = {}
        self._shard: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.versions = _agreed_manifest(folder, dict(components), dict(versions))
        except OSError as error:
            raise ConfigError(f"reference.folder={folder} cannot be used ({error}); set another folder") from error
        self.reload()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._values

    def __getitem__(self, key: str) -> float:
        return self._values[bytes.fromhex(key)]

    def reload(self) -> None:
        """Take in what other processes have written."""
        self.num_damaged = 0
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            found, damaged = read_shard(path, self.fingerprint)
            self.num_damaged += damaged
            for key, value in found:
                self._values.setdefault(key, value)

    def add(self, keys: Sequence[str], logps: Sequence[float]) -> None:
        """Append values that are not there yet; they are with the operating system when this returns."""
        records = bytearray()
        for key, value in zip(keys, logps, strict=True):
            raw = bytes.fromhex(key)
            if raw not in self._values:
                self._values[raw] = value
                body = _BODY.pack(raw, value)
                records += body + _CHECKSUM.pack(zlib.crc32(body))
        if records:
            self._append(bytes(records))

    def close(self) -> None:
        """Bring the shard to the disk itself; a later `add` begins another."""
        if self._shard is not None:
            os.fsync(self._shard)
            os.close(self._shard)
            self._shard = None

    def _append(self, records: bytes) -> None:
        with naming(self.folder):
            self._append_to_shard(records)

    def _append_to_shard(self, records: bytes) -> None:
        if self._shard is None:
            name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{SUFFIX}"
            self._shard = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            records = _header(self.fingerprint) + records
        view = memoryview(records)
        while view:
            view = view[os.write(self._shard, view) :]


def read_shard(path: Path, fingerprint: bytes) -> tuple[list[tuple[bytes, float]], int]:
    """Sound records of one shard, and how many are damaged; a torn end counts as nothing.

    A shard whose header is torn or damaged gives nothing; a value that is not finite, which none of ours is, counts as
    damaged. Raises LookRightError for a shard of another fingerprint.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise LookRightError(
            f"{path} cannot be read ({error.strerror or error}); delete it: it is filled again"
        ) from error
    if len(data) < _HEADER.size:
        return [], 0
    magic, found, checksum = _HEADER.unpack_from(data)
    num_records = (len(data) - _HEADER.size) // RECORD_BYTES
    if magic != MAGIC or checksum != zlib.crc32(data[: _HEADER.size - 4]):
        return [], num_records
    if found != fingerprint:
        raise LookRightError(
            f"{path} holds log-probabilities of another reference than {MANIFEST} beside it says; delete the folder, "
            "or set reference.folder to another one"
        )
    records = []
    for start in range(_HEADER.size, _HEADER.size + num_records * RECORD_BYTES, RECORD_BYTES):
        body = data[start : start + _BODY.size]
        if zlib.crc32(body) == _CHECKSUM.unpack_from(data, start + _BODY.size)[0]:
            key, value = _BODY.unpack(body)
            if math.isfinite(value):
                records.append((key, value))
    return records, num_records - len(records)


def _header(fingerprint: bytes) -> bytes:
    start = MAGIC + fingerprint
    return start + _CHECKSUM.pack(zlib.crc32(start))


def _agreed_manifest(folder: Path, components: dict[str, str], versions: dict[str, str]) -> dict[str, str]:
    """Write the manifest where there is none and hold the components against it; returns its versions.

    Two processes may both write it: the last one stays, and both read what stayed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        text = json.dumps({"components": components, "versions": versions}, indent=2) + "\n"
        draft = folder / f".{MANIFEST}-{uuid.uuid4().hex}"
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    remedy = "delete the folder: it is filled again"
    manifest = read_object(path, remedy)
    for found in (manifest.get("components"), manifest.get("versions")):
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise LookRightError(f"{path} is damaged (components and versions are texts by name); {remedy}")
    stored: dict[str, str] = manifest["components"]
    made_with: dict[str, str] = manifest["versions"]
    if stored != components:
        raise LookRightError(_what_differs(folder, stored, components))
    return made_with


def _what_differs(folder: Path, stored: dict[str, str], components: dict[str, str]) -> str:
    names = [name for name in {**stored, **components} if stored.get(name) != components.get(name)]
    lines = [
        f"  {name[:80]}: was {stored.get(name, 'absent')[:200]}, is {components.get(name, 'absent')}"
        for name in names[:20]
    ]
    return "\n".join(
        [
            f"reference.folder={folder} holds log-probabilities of another reference. What differs:",
            *lines,
            "set reference.folder to another folder, or delete this one: it is filled again",
        ]
    )
