"""A chat-completions server on a real socket that answers by a script."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answered:
    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0


def said(text: str, **facts: Any) -> Answered:
    return Answered(body=json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}), **facts)


class JudgeServer:
    """`script` gives what is answered to a request, from its json and how often the same was asked before."""

    def __init__(self, script: Callable[[dict[str, Any], int], Answered]) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self.busiest = self._busy = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                with outer._lock:
                    outer._busy += 1
                    outer.busiest = max(outer.busiest, outer._busy)
                    outer.requests.append(json.loads(body) | {"path": self.path})
                    outer.headers.append(dict(self.headers))
                    seen = outer._counts.get(body, 0)
                    outer._counts[body] = seen + 1
                answer = outer.script(json.loads(body), seen)
                threading.Event().wait(answer.wait)
                try:
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(answer.body.encode())))
                    self.end_headers()
                    self.wfile.write(answer.body.encode())
                except (BrokenPipeError, ConnectionResetError):
                    pass
                with outer._lock:
                    outer._busy -= 1

            def log_message(self, *args: Any) -> None:
                del args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "JudgeServer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
