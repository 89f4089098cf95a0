"""A live server with a small random model, base and tuned, in this process."""

import base64
import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from lookright.answering.decoder import Decoder
from lookright.backbones.base import Backbone
from lookright.backbones.llava import LlavaBackbone
from lookright.serve.app import Server, application
from lookright.serve.engine import Engine
from lookright.serve.models import Models
from lookright.serve.serving import web_server
from lookright.serve.settings import Limits
from lookright.tuning.lora import LoraTuning

TOKENS = 12
"""Of an answer of the random model, which seldom ends by itself."""


@dataclass(slots=True, kw_only=True)
class Live:
    """A server that listens."""

    address: str
    engine: Engine
    client: httpx.Client
    gate: threading.Event | None = None

    def ask(self, content: Any, **fields: Any) -> httpx.Response:
        """One user message."""
        return self.chat({"messages": [{"role": "user", "content": content}], **fields})

    def chat(self, body: dict[str, Any], **options: Any) -> httpx.Response:
        """A chat request as it stands."""
        return self.client.post("/v1/chat/completions", json=body, **options)

    def told(self, content: Any, **fields: Any) -> dict[str, Any]:
        """The body of an answer."""
        response = self.ask(content, **fields)
        assert response.status_code == 200, response.text
        return response.json()

    def text(self, content: Any, **fields: Any) -> str:
        """An answer's text."""
        return self.told(content, **fields)["choices"][0]["message"]["content"]


def address_of(picture: Image.Image, kind: str = "PNG") -> str:
    """A picture as a data URL."""
    file = io.BytesIO()
    picture.save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def shown(picture: Image.Image) -> dict[str, Any]:
    """A picture as a part of a message."""
    return {"type": "image_url", "image_url": {"url": address_of(picture)}}


def said(text: str) -> dict[str, Any]:
    """A text as a part of a message."""
    return {"type": "text", "text": text}


def new_adapter(backbone: Backbone, folder: Path, seed: int = 1) -> Path:
    """An adapter that changes answers."""
    torch.manual_seed(seed)
    policy: Any = LoraTuning(r=4, alpha=64, dropout=0.0).apply(backbone, backbone.build())
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    policy.save_pretrained(folder)
    return folder


@contextmanager
def served(models: Models, limits: Limits | None = None, **options: Any) -> Iterator[Live]:
    """Listen at a free port."""
    limits = limits or Limits(seconds=60)
    decoder = options.pop("decoder", Decoder(max_new_tokens=TOKENS))
    api_key, hosts, style = options.pop("api_key", None), options.pop("allowed_hosts", []), options.pop("style", "auto")
    engine = Engine(
        models=models,
        decoder=decoder,
        ratio_layer=models.backbone.num_layers // 2,
        max_waiting=limits.waiting,
        seconds=limits.seconds,
        **options,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    app = application(Server(engine=engine, limits=limits, style=style), api_key, hosts)
    web = web_server(app, engine)
    engine.start()
    thread = threading.Thread(target=lambda: web.run(sockets=[listener]))
    thread.start()
    try:
        with httpx.Client(base_url=address, timeout=60) as client:
            yield Live(address=address, engine=engine, client=client)
    finally:
        web.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def weights(llava_weights: Path) -> LlavaBackbone:
    """The small random model."""
    return LlavaBackbone(path=str(llava_weights))


@pytest.fixture(scope="session")
def adapters(weights: LlavaBackbone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two adapters by name."""
    folder = tmp_path_factory.mktemp("adapters")
    return {name: str(new_adapter(weights, folder / name, seed)) for seed, name in enumerate(("tuned", "other"), 1)}


@pytest.fixture(scope="session")
def models(weights: LlavaBackbone, adapters: dict[str, str]) -> Models:
    """Base and two adapters, the base weights once."""
    return Models(weights, adapters, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def live(models: Models) -> Iterator[Live]:
    """One server for the tests that need no other."""
    with served(models) as server:
        yield server


@pytest.fixture()
def pictures(picture: Callable[..., Image.Image]) -> list[Image.Image]:
    """Three."""
    return [picture((20 + 4 * number, 16), number) for number in range(3)]
