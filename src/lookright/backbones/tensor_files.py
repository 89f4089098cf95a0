"""Files of weights opened: what is no whole file of tensors, and what holds no numbers, is told by name."""

import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lookright.errors import ConfigError

LFS_POINTER = b"version https://git-lfs"
SAFETENSORS = ".safetensors"


def check_file(file: Path) -> None:
    """Raise ConfigError for what is no regular file, empty, or the pointer that Git leaves in a large file's place."""
    if not file.is_file():
        raise ConfigError(f"{file} is no file" if file.exists() else f"{file} is not there; fetch it again")
    try:
        with file.open("rb") as opened:
            start = opened.read(len(LFS_POINTER))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror or error})") from error
    if start == LFS_POINTER:
        raise ConfigError(
            f"{file} is a Git-LFS pointer, not the weights; run `git lfs pull` in its folder, or fetch it"
        )
    if not start:
        raise ConfigError(f"{file} is empty; fetch it again")


def read_tensors(file: Path, skip: Callable[[str], bool]) -> Iterator[tuple[str, Tensor | None]]:
    """Names and tensors of one shard, one at a time; what is skipped comes as None, unread where possible.

    Raises ConfigError for a file that is torn, or none of tensors.
    """
    check_file(file)
    return _safetensors(file, skip) if file.suffix == SAFETENSORS else _pickled(file, skip)


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file, from its header. Raises ConfigError as `read_tensors` does."""
    check_file(file)
    try:
        with safe_open(file, framework="pt") as shard:
            return {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _torn(file, error) from error


def check_numbers(tensor: Tensor, name: str, where: object) -> None:
    """Raise ConfigError for a tensor of floats in which a value is NaN or infinite: every answer would be, too.

    One pass, about a third of the time of the copy that loading makes: the smallest and the largest value are finite
    only where all are.
    """
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return
    if all(map(torch.isfinite, tensor.aminmax())):
        return
    wrong = int((~torch.isfinite(tensor)).sum())
    raise ConfigError(
        f"{where}: {name} holds {wrong} of {tensor.numel()} values that are NaN or infinite; the training that "
        "wrote it diverged, or the file is damaged: take an earlier one, or fetch it again"
    )


def _safetensors(file: Path, skip: Callable[[str], bool]) -> Iterator[tuple[str, Tensor | None]]:
    try:
        shard: Any = safe_open(file, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise _torn(file, error) from error
    with shard:
        for name in shard.keys():  # noqa: SIM118 - not a dict
            yield name, None if skip(name) else shard.get_tensor(name)


def _pickled(file: Path, skip: Callable[[str], bool]) -> Iterator[tuple[str, Tensor | None]]:
    try:
        shard = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        if isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error):
            error = pickle.UnpicklingError("it asks for code, which weights need none of, or its bytes are damaged")
        raise _torn(file, error) from error
    if not isinstance(shard, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in shard.items()
    ):
        raise ConfigError(f"{file} holds no dictionary of tensors by name; set a file of weights alone")
    for name in list(shard):
        tensor = shard.pop(name)
        yield name, None if skip(name) else tensor


def _torn(file: Path, error: Exception) -> ConfigError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ConfigError(f"{file} is no whole file of tensors ({lines[0][:200]}); it is torn or damaged: fetch it again")
