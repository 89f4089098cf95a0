"""Who may speak to the server: checked before anything of a request is read."""

import hmac
import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lookright.serve.refusals import Refusal

OPEN_PATHS = frozenset({"/", "/page.js", "/page.css", "/style.css", "/health"})
"""What needs no key: the page without what it asks for, and whether the server is up."""


class Guard:
    """Refuses names that a foreign page could give this machine, calls of foreign pages, and wrong keys.

    `Host` must be an address, localhost, this machine's own name, or one of `allowed_hosts`: a foreign page that gets
    its own name to lead here (DNS rebinding) is none of them. An `Origin` must be the server's own.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, allowed_hosts: Collection[str] = ()) -> None:
        self.app = app
        self._key = None if api_key is None else api_key.encode()
        own = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
        self._hosts = own | {name.lower() for name in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refusal, or hand the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope["path"], Headers(scope=scope))
        if refusal is None:
            await self.app(scope, receive, send)
            return
        headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
        await JSONResponse(refusal.body(), refusal.status, headers)(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> Refusal | None:
        host = headers.get("host", "")
        if not self._is_own(host):
            text = f"the host {host[:80]!r} is not one of this server's; set allowed_hosts to names that lead to it"
            return Refusal(text, status=403, code="foreign_host")
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            text = f"calls from pages of {origin[:80]!r} are refused; only the server's own page may ask it"
            return Refusal(text, status=403, code="foreign_origin")
        if path in OPEN_PATHS or self._key is None:
            return None
        given = headers.get("authorization", "")
        kind, _, key = given.partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(key.strip().encode("latin-1"), self._key):
            return None
        text = "the key is missing or wrong; send it as Authorization: Bearer KEY"
        return Refusal(text, status=401, code="invalid_api_key")

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        if name is None:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
