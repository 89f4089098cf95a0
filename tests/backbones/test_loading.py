"""Where a model answers and in which type."""

import pytest
import torch

from lookright.backbones.loading import DTYPES, dtype_key, placing
from lookright.errors import ConfigError


def card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    """A GPU as torch tells of it."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Tesla T4")


def test_a_cpu_answers_in_float32_unless_told_otherwise() -> None:
    cpu = torch.device("cpu")
    assert placing("cpu", "auto") == (cpu, torch.float32)
    assert placing("cpu", "bfloat16") == (cpu, torch.bfloat16)
    assert placing("cpu", "float64") == (cpu, torch.float64)


def test_a_gpu_answers_in_bfloat16_where_it_has_that(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, (9, 0))
    assert placing("auto", "auto") == (torch.device("cuda"), torch.bfloat16)
    assert placing("cuda:0", "float32") == (torch.device("cuda:0"), torch.float32)
    card(monkeypatch, (7, 5))
    assert placing("auto", "auto") == (torch.device("cuda"), torch.float32)
    assert placing("cuda", "float16") == (torch.device("cuda"), torch.float16)


def test_bfloat16_on_a_gpu_without_it_is_refused_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, (7, 5))
    with pytest.raises(ConfigError, match="dtype=bfloat16, but Tesla T4 has no units for it; set dtype=float16 or"):
        placing("cuda", "bfloat16")


def test_both_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        placing("gpu", "half")
    assert str(error.value).splitlines() == [
        "device='gpu'; valid: auto, cpu, cuda, cuda:0 ...",
        "dtype='half'; valid: float32, bfloat16, float16, float64, auto",
    ]


def test_a_type_is_saved_under_the_name_that_a_config_takes() -> None:
    assert {dtype_key(value) for value in DTYPES.values()} == set(DTYPES)
