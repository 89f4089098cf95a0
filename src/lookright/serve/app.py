"""The web application: routes, bodies within limits, answers whole or streamed, and what a disconnect frees."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import resources
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lookright.errors import LookRightError, RecordError
from lookright.reports.heat import ANCHORS, LOWEST_PEAK
from lookright.serve.chat import Chat, LookAsked, parse_chat, parse_look
from lookright.serve.engine import Engine
from lookright.serve.guard import Guard
from lookright.serve.jobs import Decoding, Job, LookJob, Question, Spoken
from lookright.serve.messages import read_messages
from lookright.serve.refusals import Refusal, broken, too_late
from lookright.serve.replies import chunk, completion, details, head, heat, usage
from lookright.serve.settings import Limits

PREPARING = 2
"""Requests whose pictures are decoded at once."""
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
FILES = {
    "/": ("serve/page/index.html", "text/html"),
    "/page.js": ("serve/page/page.js", "text/javascript"),
    "/page.css": ("serve/page/page.css", "text/css"),
    "/style.css": ("reports/style.css", "text/css"),
}

Parts = asyncio.Queue[tuple[int, str] | None]
"""Parts of a streamed text with the number of their answer; None is its end."""


@dataclass(slots=True, kw_only=True)
class Server:
    """The routes of one engine; `style` and `ratio` are what a request without a choice of its own gets."""

    engine: Engine
    limits: Limits
    style: str = "auto"
    ratio: bool = True
    _preparing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(PREPARING))

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        del request
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "lookright"} for name in self._names]
        return JSONResponse({"object": "list", "data": models})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        name = self._model(request.path_params["name"])
        return JSONResponse({"id": name, "object": "model", "created": 0, "owned_by": "lookright"})

    async def health(self, request: Request) -> Response:
        """GET /health."""
        del request
        return JSONResponse({"status": "ok", "requests": self.engine.num_inside})

    async def info(self, request: Request) -> Response:
        """GET /lookright/info: what the page needs to know."""
        del request
        return JSONResponse(
            {
                "models": self._names,
                "pictures": self.limits.pictures,
                "bytes": self.limits.bytes,
                "colours": ANCHORS.tolist(),
                "lowest_peak": LOWEST_PEAK,
            }
        )

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        deadline = time.monotonic() + self.limits.seconds
        place = _Place(self.engine)
        try:
            chat = await self._in_thread(partial(parse_chat, await self._body(request)))
            job = await self._in_thread(partial(self._job, chat, deadline))
            if not chat.stream:
                spoken = await self._answered(request, job, place)
                told = await self._in_thread(partial(completion, job, spoken, self.engine.backbone))
                return JSONResponse(told, headers=NO_STORE)
            include_usage = chat.stream_options is not None and bool(chat.stream_options.include_usage)
            parts = _listen(job)
            place.hand_on(job)
            events = self._events(job, include_usage, self._streamed(job, parts))
            return StreamingResponse(events, media_type="text/event-stream", headers=NO_STORE)
        finally:
            place.leave_unless_handed_on()

    async def look(self, request: Request) -> Response:
        """POST /lookright/look: heat for a given answer, or by head for one of its tokens."""
        deadline = time.monotonic() + self.limits.seconds
        place = _Place(self.engine)
        try:
            asked = await self._in_thread(partial(parse_look, await self._body(request)))
            job = await self._in_thread(partial(self._look_job, asked, deadline))
            token_ids, found = await self._answered(request, job, place)
            told = await self._in_thread(partial(heat, found, token_ids, job.question.sizes, self.engine.backbone))
            return JSONResponse(told, headers=NO_STORE)
        finally:
            place.leave_unless_handed_on()

    # ---- a request until it is a job ----

    @property
    def _names(self) -> list[str]:
        return self.engine.models.names

    def _model(self, name: str | None) -> str:
        if name is None:
            return self._names[0]
        if name not in self._names:
            raise Refusal(
                f"the model {name[:80]!r} is not here; valid: {', '.join(self._names)}",
                status=404,
                param="model",
                code="model_not_found",
            )
        return name

    async def _body(self, request: Request) -> bytes:
        """The whole body, within its limits of size and time. Raises Refusal."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal("the Content-Type is not application/json; send JSON", status=415)
        size, parts = 0, []
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > self.limits.body:
                        raise Refusal(f"the body has more than {self.limits.body} bytes; send less", status=413)
                    parts.append(part)
        except TimeoutError as error:
            raise Refusal(f"the body did not come within {self.limits.seconds:g} s", status=408) from error
        return b"".join(parts)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await to_thread.run_sync(work, limiter=self._preparing)

    def _question(self, asked: Chat | LookAsked, target: int | None = None) -> Question:
        read = read_messages(asked.messages, asked.lookright.style or self.style, target, self.limits)
        try:
            return self.engine.question(read.prompt, read.pictures)
        except RecordError as error:
            code = "context_length_exceeded" if error.reason == "too_long" else error.reason
            raise Refusal(str(error), param="messages", code=code) from error

    def _job(self, chat: Chat, deadline: float) -> Job:
        model = self._model(chat.model)
        num_answers = chat.n or 1
        if num_answers > self.limits.answers:
            raise Refusal(f"n={num_answers}, at most {self.limits.answers} answers are given", param="n")
        decoding = self._decoding(chat)
        question = self._question(chat, chat.lookright.target)
        room = self.engine.backbone.max_length - question.num_tokens
        if room < 1:
            raise Refusal(
                f"the prompt has {question.num_tokens} tokens, which leaves none for an answer",
                param="messages",
                code="context_length_exceeded",
            )
        self.engine.check([question.prompt], decoding)
        wanted = chat.most_tokens or self.engine.decoder.max_new_tokens
        return Job(
            model=model,
            question=question,
            decoding=decoding,
            tokens=min(wanted, self.limits.tokens, room),
            deadline=deadline,
            stops=chat.stops,
            num_answers=num_answers,
            ratio=self.ratio if chat.lookright.ratio is None else chat.lookright.ratio,
            heat=bool(chat.lookright.heat and question.sizes),
        )

    def _decoding(self, chat: Chat) -> Decoding:
        decoder = self.engine.decoder
        temperature, top_p = chat.temperature, chat.top_p
        if temperature is None and decoder.sampling is not None:
            temperature = decoder.sampling.temperature
            top_p = decoder.sampling.top_p if top_p is None else top_p
        drawn = bool(temperature)
        return Decoding(
            decode=chat.lookright.decode or self.engine.own_decode,
            temperature=temperature if drawn else None,
            top_p=(1.0 if top_p is None else top_p) if drawn else 1.0,
            seed=chat.seed if drawn else None,
        )

    def _look_job(self, asked: LookAsked, deadline: float) -> LookJob:
        model = self._model(asked.model)
        question = self._question(asked)
        if not question.sizes:
            raise Refusal("there is no picture to look at; send one", param="messages")
        answer, backbone = asked.said, self.engine.backbone
        length = question.num_tokens + len(
            backbone.text_tokenizer.encode(answer) if isinstance(answer, str) else answer
        )
        most = backbone.max_length
        if length >= most:
            raise Refusal(f"prompt and answer have {length} tokens, fewer than {most} fit; shorten it", param="answer")
        return LookJob(model=model, question=question, answer=answer, token=asked.token, deadline=deadline)

    # ---- a job until it is answered ----

    async def _answered(self, request: Request, job: Job | LookJob, place: "_Place") -> Any:
        """The job's result; the job is given up where the client goes, or time is over. Raises Refusal."""
        place.hand_on(job)
        gone = asyncio.create_task(_gone(request))
        future: Future[Any] = job.future
        result = asyncio.wrap_future(future)
        try:
            await asyncio.wait({gone, result}, timeout=job.deadline - time.monotonic(), return_when="FIRST_COMPLETED")
            if result.done():
                return result.result()
            if gone.done():
                raise ClientDisconnect
            raise too_late(self.limits.seconds)
        finally:
            gone.cancel()
            if not result.done():
                self.engine.cancel(job)
                result.add_done_callback(_looked_at)

    async def _streamed(self, job: Job, parts: Parts) -> AsyncIterator[tuple[int, str] | list[Spoken]]:
        """Parts of the text with the number of their answer, and last all answers. Raises Refusal."""
        try:
            while True:
                # not around the yield: the timer would go off in whoever sends
                async with asyncio.timeout(job.deadline - time.monotonic()):
                    part = await parts.get()
                if part is None:
                    break
                yield part
            yield job.future.result()
        except TimeoutError as error:
            raise too_late(self.limits.seconds) from error
        finally:
            if not job.future.done():
                self.engine.cancel(job)

    async def _events(
        self, job: Job, include_usage: bool, items: AsyncIterator[tuple[int, str] | list[Spoken]]
    ) -> AsyncIterator[str]:
        """The lines of a stream; what fails once it has begun is told in it."""
        first = head("chat.completion.chunk", job.model) | ({"usage": None} if include_usage else {})
        try:
            for number in range(job.num_answers):
                yield _event(chunk(first, number, {"role": "assistant", "content": ""}))
            async for item in items:
                if isinstance(item, tuple):
                    yield _event(chunk(first, item[0], {"content": item[1]}))
                    continue
                for number, one in enumerate(item):
                    last = chunk(first, number, {}, one.finish)
                    last["choices"][0]["lookright"] = details(job, one, self.engine.backbone)
                    yield _event(last)
                if include_usage:
                    yield _event(first | {"choices": [], "usage": usage(job, item)})
        except Refusal as refusal:
            yield _event(refusal.body())
        yield "data: [DONE]\n\n"


class _Place:
    """A request's place in the house, given back once: by its job when that ends, else by the request."""

    def __init__(self, engine: Engine) -> None:
        engine.enter()
        self._engine = engine
        self._handed_on = False

    def hand_on(self, job: Job | LookJob) -> None:
        """Let the job have it, and the job into the queue. Raises Refusal where the server stops."""
        self._engine.submit(job)
        self._handed_on = True
        job.future.add_done_callback(lambda _: self._engine.leave())

    def leave_unless_handed_on(self) -> None:
        """Give it back where no job has it."""
        if not self._handed_on:
            self._engine.leave()


def application(server: Server, api_key: str | None, allowed_hosts: list[str]) -> Starlette:
    """All routes behind the guard; whatever fails is an error object."""
    routes = [
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
        Route("/v1/models", server.models),
        Route("/v1/models/{name:path}", server.model),
        Route("/health", server.health),
        Route("/lookright/info", server.info),
        Route("/lookright/look", server.look, methods=["POST"]),
        *(Route(path, partial(_page, path)) for path in FILES),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, api_key=api_key, allowed_hosts=allowed_hosts)],
        exception_handlers={
            LookRightError: _refused,
            HTTPException: _no_route,
            ClientDisconnect: _left,
            Exception: _failed,
        },
    )


@cache
def _file(name: str) -> str:
    return resources.files("lookright").joinpath(name).read_text("utf-8")


async def _page(path: str, request: Request) -> Response:
    del request
    name, kind = FILES[path]
    return Response(_file(name), media_type=kind, headers=PAGE_HEADERS)


def _listen(job: Job) -> Parts:
    """A queue that is given the job's text as it comes, and None when it ends."""
    loop, parts = asyncio.get_running_loop(), Parts()

    def put(part: tuple[int, str] | None) -> None:
        # the loop may be closed where the server stops
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(parts.put_nowait, part)

    job.sink = lambda number, text: put((number, text))
    job.future.add_done_callback(lambda _: put(None))
    return parts


async def _gone(request: Request) -> None:
    """Return when the client has gone; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, error: Exception) -> Response:
    del request
    refusal = error if isinstance(error, Refusal) else Refusal(str(error))
    headers = {"Retry-After": "1"} if refusal.status in (429, 503) else None
    return JSONResponse(refusal.body(), refusal.status, headers)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path[:80]}: {error.detail}; see docs/serve.md for what there is"
    return JSONResponse(Refusal(text).body(), error.status_code, error.headers)


async def _left(request: Request, error: Exception) -> Response:
    """Nobody reads it."""
    del request, error
    return Response(status_code=499)


async def _failed(request: Request, error: Exception) -> Response:
    del request, error
    return JSONResponse(broken().body(), 500)


def _looked_at(future: "asyncio.Future[Any]") -> None:
    """Take the error of a result that nobody waits for, so that it is not reported as lost."""
    with suppress(CancelledError, asyncio.CancelledError):
        future.exception()


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
