"""docs/serve.md: its Python example runs against a live server, and it names what there is."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lookright.serve.chat import Chat, ChatOptions
from tests.serve.conftest import Live

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")


def test_the_example_runs(
    live: Live,
    picture: Callable[..., Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("openai")
    for number, name in enumerate("ab"):
        picture((20, 16), number).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    exec(compile(code.replace("http://127.0.0.1:8000", live.address), "serve.md", "exec"), {})
    text, looks = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert text and re.fullmatch(r"\[0\.\d+, 0\.\d+\] 0\.\d+", looks)


def test_every_field_is_told() -> None:
    for name in {*Chat.model_fields, *ChatOptions.model_fields}:
        assert f"`{name}`" in PAGE, name
