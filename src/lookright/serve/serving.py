"""From a composed config to a server that listens."""

import asyncio
import ipaddress
import socket
import sys
from contextlib import suppress

import uvicorn
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from starlette.applications import Starlette

from lookright.answering.answerer import check_answering
from lookright.backbones.base import Backbone
from lookright.backbones.loading import placing, use_threads
from lookright.common.stopping import stoppable
from lookright.config.check import Problems
from lookright.config.runs import with_run
from lookright.errors import ConfigError
from lookright.serve.app import Server, application
from lookright.serve.engine import Engine
from lookright.serve.models import Models, adapter_folders
from lookright.serve.settings import Limits, check_style

LAST_SECONDS = 10
"""How long answers that are there may take to be sent once the server stops."""


def serve(config: DictConfig) -> None:
    """Check everything, take the port, load the weights, then listen. Raises ConfigError, and Stopped at the end."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ConfigError("-m starts several servers one after the other; start one")
    config = with_run(config)
    parts = _Parts(config)
    use_threads(config.num_threads)
    with stoppable(lambda: "start it again with the same command"), _taken(config.host, config.port) as listener:
        models = Models(parts.backbone, parts.folders, parts.device, parts.dtype, parts.whole)
        engine = Engine(
            models=models,
            decoder=parts.decoder,
            ratio_layer=parts.ratio_layer,
            ratio_rows=config.ratio_rows,
            batch_size=config.batch_size,
            max_waiting=parts.limits.waiting,
            seconds=parts.limits.seconds,
        )
        engine.warm()
        server = Server(engine=engine, limits=parts.limits, style=config.prompt_style, ratio=config.ratio)
        app = application(server, config.api_key, list(config.allowed_hosts))
        _listen(listener)
        _tell(config, models.names, listener)
        run(app, engine, listener)


def run(app: Starlette, engine: Engine, listener: socket.socket) -> None:
    """Answer until a signal comes; then what is being answered is, and what waits is refused."""
    engine.start()
    try:
        web_server(app, engine).run(sockets=[listener])
    finally:
        engine.stop()


def web_server(app: Starlette, engine: Engine) -> uvicorn.Server:
    """What speaks HTTP; quiet but for errors of ours."""
    settings = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    return _Uvicorn(settings, engine)


class _Uvicorn(uvicorn.Server):
    """Lets go of what waits as soon as it is told to stop; open connections then end by themselves."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await asyncio.get_running_loop().run_in_executor(None, self._engine.stop)
        await super().shutdown(sockets)


class _Parts:
    """What the config names, without weights. Raises ConfigError with all problems at once."""

    def __init__(self, config: DictConfig) -> None:
        problems = Problems(config)
        with problems:
            self.device, self.dtype = placing(config.device, config.dtype)
        with problems:
            self.folders = adapter_folders(config.adapter, config.adapters)
        with problems:
            if config.batch_size < 1 or not 0 <= config.port < 2**16:
                raise ConfigError(
                    f"batch_size={config.batch_size}, port={config.port}; set 1 or more, and a port below 65536"
                )
        with problems:
            self.limits = Limits(**config.limits)
        with problems:
            check_style(config.prompt_style)
        with problems:
            if config.api_key == "":
                raise ConfigError("api_key is empty; set a key, or null for none")
        self.whole = config.run is not None and config.adapter is None
        self.decoder = problems.build("decode")
        if self.decoder is not None and self.decoder.num_beams > 1:
            with problems:
                raise ConfigError(
                    f"decode.num_beams={self.decoder.num_beams}: answers are told token by token; set it to 1"
                )
        self.backbone: Backbone = problems.build("backbone")
        self.ratio_layer = check_answering(problems, self.backbone, self.decoder)
        problems.finish()


def _taken(host: str, port: int) -> socket.socket:
    """A socket that holds the address and does not listen yet. Raises ConfigError where another program has it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"host={host} is no address of this machine ({error.strerror}); set 127.0.0.1") from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _not_ours(host, port, error) from error
    return listener


def _listen(listener: socket.socket) -> None:
    try:
        listener.listen(1024)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise _not_ours(host, port, error) from error


def _not_ours(host: str, port: int, error: OSError) -> ConfigError:
    return ConfigError(f"cannot listen at {host}, port {port} ({error.strerror}); set another port, or 0 for any")


def _tell(config: DictConfig, names: list[str], listener: socket.socket) -> None:
    """Where it listens, and a warning where others reach it without a key."""
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    local = False
    with suppress(ValueError):
        local = ipaddress.ip_address(host).is_loopback
    if not local and config.api_key is None:
        print(
            f"warning: whoever reaches {host} may ask; set api_key, or LOOKRIGHT_API_KEY, to let in those who know it",
            file=sys.stderr,
        )
    print(f"models {', '.join(names)} at {address}/v1, a page at {address}/", flush=True)
