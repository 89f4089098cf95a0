"""One question to an OpenAI-compatible server at a time: retries, and errors as sentences."""

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import httpx

from lookright.errors import ConfigError, LookRightError, ParameterError

AGAIN = frozenset({408, 409, 425, 429})
"""Statuses below 500 that another try may change."""
DENIED = frozenset({401, 403, 404, 405})
"""Statuses that every question would get."""
LONGEST_WAIT = 120.0


@dataclass(slots=True, frozen=True, kw_only=True)
class Reply:
    """What came back: the body as it is, and the text of the answer; `error` says why there is none."""

    body: str
    text: str | None = None
    error: str | None = None


@dataclass(kw_only=True)
class JudgeClient:
    """`url` up to `/v1`; the key is read from the environment variable `api_key_env` when it is sent, and kept nowhere.

    A status of 429 or 5xx, a timeout, a broken connection and a body that is no completion are tried again, `retries`
    times, after `backoff` seconds, twice as many, and so on, or what `Retry-After` says. Raises ParameterError.
    """

    url: str
    model: str
    api_key_env: str | None
    timeout: float
    retries: int
    max_tokens: int
    temperature: float
    backoff: float
    stopping: threading.Event = field(default_factory=threading.Event)
    """Once set, nothing is tried again."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ParameterError("url", f"={self.url!r}; set an address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ParameterError("url", " holds a name, a password or a query; set api_key_env to where the key is")
        for name, low in (("timeout", 0.0), ("backoff", 0.0)):
            if not getattr(self, name) > low:
                raise ParameterError(name, f"={getattr(self, name)}; set more than 0 seconds")
        if self.retries < 0:
            raise ParameterError("retries", f"={self.retries}; set 0 or more")

    def ask(self, content: str | Sequence[dict[str, Any]], retries: int | None = None) -> Reply:
        """Return the reply to one message of the user.

        A question that the server refuses (status 400, 413, 422) is a reply with an `error`, and so is a body that
        stays no completion. Raises LookRightError where the server is not there, denies, or keeps failing.
        """
        tries = 1 + (self.retries if retries is None else retries)
        for number in range(tries):
            reply, problem, wait = self._once(content)
            if reply is not None and reply.error is None:
                return reply
            if number + 1 < tries and wait is not None and not self.stopping.is_set():
                self.stopping.wait(min(LONGEST_WAIT, max(wait, self.backoff * 2**number)))
            elif reply is not None:
                return reply
            else:
                break
        raise LookRightError(f"judge {self.model} at {self.url}: {problem}")

    def probe(self) -> None:
        """Raise ConfigError where the judge cannot be reached, or does not know key or model. Costs one short reply."""
        try:
            reply = self.ask("Reply with the word yes.", retries=min(self.retries, 2))
        except LookRightError as error:
            raise ConfigError(f"{error}. Set metrics.judge.url, model and api_key_env, or metrics.judge=null") from None
        if reply.error is not None:
            raise ConfigError(f"metrics.judge.url={self.url}: {reply.error}; is it an OpenAI-compatible server?")

    def _once(self, content: str | Sequence[dict[str, Any]]) -> tuple[Reply | None, str, float | None]:
        """A reply or none, what is wrong, and how long to wait before another try; None: it would be the same."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        try:
            response = self._http.post(f"{self.url.rstrip('/')}/chat/completions", json=body, headers=self._headers())
        except httpx.TimeoutException:
            return None, f"no answer within {self.timeout:g} s", 0.0
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return None, f"cannot be reached ({error})", 0.0
        status, text = response.status_code, response.text
        if status == 200:
            return _completion(text), "", 0.0
        problem = f"answered with status {status}: {' '.join(text.split())[:200]}"
        if status in DENIED:
            key = f"; the key is read from the environment variable {self.api_key_env}" if self.api_key_env else ""
            return None, f"{problem}{key if status in (401, 403) else ''}", None
        if status in AGAIN or status >= 500:
            return None, problem, _seconds(response.headers.get("retry-after"))
        return Reply(body=text, error=problem), problem, None

    @cached_property
    def _http(self) -> httpx.Client:
        """Connections, shared by threads; nothing is opened before the first question."""
        return httpx.Client(timeout=self.timeout)

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.api_key_env) if self.api_key_env else None
        return {"Authorization": f"Bearer {key}"} if key else {}


def _completion(body: str) -> Reply:
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        text = None
    if not isinstance(text, str):
        return Reply(body=body, error="the body is no chat completion")
    return Reply(body=body, text=text)


def _seconds(header: str | None) -> float:
    try:
        return float(header or 0)
    except ValueError:
        # a date
        return 0.0
