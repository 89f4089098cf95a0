"""The body of a chat request, held against what this server does. Nothing here knows the model."""

import json
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lookright.serve.refusals import Refusal

T = TypeVar("T", bound=BaseModel)
Style = Literal["auto", "labelled", "interleaved"]

IGNORED = {
    "user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "verbosity", "reasoning_effort",
}  # fmt: skip
"""Fields that change no answer of ours."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "logprobs": (False,),
    "top_logprobs": (0,), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
    "function_call": ("none", "auto"), "response_format": ({"type": "text"},), "modalities": (["text"],),
}  # fmt: skip
"""Fields of OpenAI's that we do not have, and the values with which they ask for nothing."""


MOST_VALUES = 50_000
"""Keys and values of one body: an answer by its tokens, and many times what messages are made of."""


class StreamOptions(BaseModel):
    """What a stream holds besides."""

    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool | None = None


class ChatOptions(BaseModel):
    """The field `lookright` of a chat request, see docs/serve.md."""

    model_config = ConfigDict(strict=True, extra="forbid")
    decode: Literal["greedy", "adaptive"] | None = None
    style: Style | None = None
    target: int | None = Field(default=None, ge=0)
    ratio: bool | None = None
    heat: bool | None = None


class LookOptions(BaseModel):
    """The field `lookright` of a request for a look."""

    model_config = ConfigDict(strict=True, extra="forbid")
    style: Style | None = None


class Chat(BaseModel):
    """A chat request; None is the server's own choice."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: str | None = None
    messages: list[dict[str, Any]] = Field(min_length=1)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = Field(default=None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    lookright: ChatOptions = ChatOptions()

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts at which an answer ends."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def most_tokens(self) -> int | None:
        """Tokens of an answer that were asked for."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class LookAsked(BaseModel):
    """The body of `POST /lookright/look`: a question, its answer, and the token whose heads are wanted.

    The answer is a text, or the tokens that were generated, which a text need not give again.
    """

    model_config = ConfigDict(strict=True, extra="forbid")
    model: str | None = None
    messages: list[dict[str, Any]] = Field(min_length=1)
    answer: str | None = Field(default=None, max_length=20000)
    token_ids: list[int] | None = Field(default=None, min_length=1, max_length=20000)
    token: int | None = Field(default=None, ge=0)
    lookright: LookOptions = LookOptions()

    @property
    def said(self) -> str | list[int]:
        """The answer as it came."""
        said = self.answer if self.token_ids is None else self.token_ids
        assert said is not None, "`parse_look` refuses neither"
        return said


def parse_json(body: bytes) -> dict[str, Any]:
    """The object in a body. Raises Refusal."""
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"the body is no JSON that can be read ({str(error)[:120]}); send one object") from error
    if not isinstance(data, dict):
        raise Refusal(f"the body is a JSON {type(data).__name__}; send one object")
    _check_values(data)
    return data


def parse_chat(body: bytes) -> Chat:
    """A chat request. Raises Refusal with one sentence."""
    data = {key: value for key, value in parse_json(body).items() if key not in IGNORED}
    for key, neutral in NEUTRAL.items():
        if key in data and data.pop(key) not in (None, *neutral):
            raise Refusal(f"{key} is not supported by this server; leave it out", param=key, code="unsupported")
    chat = _validated(Chat, data)
    if len(chat.stops) > 4 or not all(chat.stops):
        raise Refusal("stop holds up to 4 texts, none of them empty", param="stop")
    if chat.stream_options is not None and not chat.stream:
        raise Refusal("stream_options is for stream=true alone", param="stream_options")
    if chat.stream and chat.lookright.heat:
        raise Refusal("lookright.heat comes with whole answers alone; leave out stream", param="lookright.heat")
    return chat


def parse_look(body: bytes) -> LookAsked:
    """A request for a look. Raises Refusal with one sentence."""
    asked = _validated(LookAsked, parse_json(body))
    if (asked.answer is None) == (asked.token_ids is None):
        raise Refusal("send either answer or token_ids", param="answer")
    return asked


def _validated(kind: type[T], data: dict[str, Any]) -> T:
    # null is what a field is that was not given
    given = {key: value for key, value in data.items() if value is not None}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _told(error.errors(include_url=False, include_input=False)[0], kind) from error


def _told(fault: Any, kind: type[BaseModel]) -> Refusal:
    """The first fault as a sentence with the field's name."""
    places = [str(part) for part in fault["loc"]]
    field = places[0][:80] if places else "body"
    if fault["type"] == "extra_forbidden":
        name = ".".join(places)[:80]
        holder: Any = kind if len(places) == 1 else kind.model_fields[places[0]].annotation
        valid = holder.model_fields
        return Refusal(
            f"{name!r} is not a field that is known here; valid: {', '.join(valid)}", param=name, code="unknown_field"
        )
    # of a union pydantic names the branches too
    shown = [part for part in places if part not in ("str", "list[str]")]
    return Refusal(f"{'.'.join(shown)[:80]}: {fault['msg'][:200]}", param=".".join(shown)[:80] or field)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _check_values(data: Any) -> None:
    """Raise Refusal for more than `MOST_VALUES`, and for half a surrogate pair, which is no text.

    Iterative: JSON may be deep. Counted before fields are validated, where each wrong value takes long to be told.
    """
    held: list[Any] = [data]
    count = 0
    while held:
        value = held.pop()
        count += 1
        if count + len(held) > MOST_VALUES:
            raise Refusal(f"the body holds more than {MOST_VALUES} values; send fewer", status=413)
        if isinstance(value, dict):
            held += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            held += value
        elif isinstance(value, str) and not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise Refusal("a text holds half a surrogate pair; send Unicode") from error
