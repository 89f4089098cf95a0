"""From chat messages to the question that a model of ours is asked, with the turns before it and all pictures."""

import base64
import binascii
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lookright.common.pictures import FORMATS, PICTURE_ERRORS
from lookright.composing.asked import asked_prompt, following
from lookright.composing.formats.sequence import placed_pictures
from lookright.errors import RecordError
from lookright.records.held_pictures import HeldPictures
from lookright.serve.refusals import Refusal
from lookright.serve.settings import Limits
from lookright.types import IMAGE_PLACEHOLDER, Prompt, Turn

_DATA_ADDRESS = re.compile(r"data:[\w.+/-]*(?:;[\w.+=-]+)*;base64,", re.ASCII | re.IGNORECASE)


@dataclass(slots=True, frozen=True, kw_only=True)
class Asked:
    """A question with the pictures of its conversation, decoded."""

    prompt: Prompt
    pictures: HeldPictures


Part = str | bytes
"""Text, or a picture's file."""


def read_messages(messages: Sequence[dict[str, Any]], style: str, target: int | None, limits: Limits) -> Asked:
    """The last question of a conversation after its earlier turns, the first with what the system says before it.

    `style` is one of `settings.STYLES`; `target` the 0-based picture of the conversation that is asked about, None for
    what the last question names. Raises Refusal.
    """
    system, asked, answers = _turns(messages, limits)
    questions: list[str] = []
    files: list[bytes] = []
    for parts in asked:
        questions.append(question_text(parts, style, len(files)))
        files += [part for part in parts if isinstance(part, bytes)]
    if len(files) > limits.pictures:
        raise Refusal(f"messages hold {len(files)} pictures, at most {limits.pictures} are taken", param="messages")
    if system:
        questions[0] = f"{system}\n{questions[0]}"
    history = [Turn(*turn) for turn in zip(questions, answers, strict=False)]
    try:
        for number, file in enumerate(files):
            _check_file(file, number, limits)
        pictures = HeldPictures(files)
        return Asked(prompt=_prompt(pictures, questions[-1], history, target), pictures=pictures)
    except RecordError as error:
        raise Refusal(str(error), param="messages", code=error.reason) from error


def question_text(parts: Sequence[Part], style: str, before: int = 0) -> str:
    """One text with `<image>` for each picture, in a style of `settings.STYLES`.

    `before`: pictures of earlier turns, from which labels go on.
    """
    count = sum(isinstance(part, bytes) for part in parts)
    texts = [part for part in parts if isinstance(part, str)]
    if style == "interleaved" or (style == "auto" and _is_mixed(parts)):
        return _interleaved(parts)
    text = "\n".join(texts)
    if not count or text.count(IMAGE_PLACEHOLDER) == count:
        return text
    return placed_pictures(count, before) + text


def _is_mixed(parts: Sequence[Part]) -> bool:
    """Whether text stands between pictures."""
    kinds = [isinstance(part, bytes) for part in parts]
    changes = sum(before != after for before, after in zip(kinds, kinds[1:], strict=False))
    return changes > 1 and sum(kinds) > 1


def _interleaved(parts: Sequence[Part]) -> str:
    """Pictures in their places, on a new line where neither white nor a label's colon is before or after them."""
    text = ""
    for part in parts:
        piece = IMAGE_PLACEHOLDER if isinstance(part, bytes) else part
        after_picture = text.endswith(IMAGE_PLACEHOLDER)
        if text and not text[-1].isspace() and not piece[:1].isspace() and (after_picture or text[-1] != ":"):
            text += "\n"
        text += piece
    return text


def _turns(messages: Sequence[dict[str, Any]], limits: Limits) -> tuple[str, list[list[Part]], list[str]]:
    """What the system says, the parts of each user message, and the answers to all of them but the last."""
    system: list[str] = []
    asked: list[list[Part]] = []
    answers: list[str] = []
    for number, message in enumerate(messages):
        place, role = f"messages[{number}]", message.get("role")
        if role in ("system", "developer"):
            said = _parts(message, place, limits)
            if asked or any(isinstance(part, bytes) for part in said):
                raise Refusal(f"{place}: a {role} message is text, before the user's", param=place)
            system += [part for part in said if isinstance(part, str)]
        elif role == "user":
            if len(asked) > len(answers):
                raise _disorder(f"{place}: the user speaks twice in a row; make one message of both", place)
            asked.append(_question(message, place, limits))
        elif role == "assistant":
            if len(asked) == len(answers):
                raise _disorder(f"{place}: the assistant speaks, and no user message is before it", place)
            answers.append(_answer(message, place, limits))
        else:
            raise Refusal(
                f"{place}.role is {str(role)[:40]!r}; valid: system, developer, user, assistant", param=f"{place}.role"
            )
    if not asked:
        raise Refusal("messages hold no user message; send one", param="messages")
    if len(asked) == len(answers):
        raise _disorder("the last message is the assistant's; end with what the user asks", "messages")
    return "\n".join(system), asked, answers


def _disorder(text: str, place: str) -> Refusal:
    return Refusal(text, param=place, code="turns")


def _question(message: dict[str, Any], place: str, limits: Limits) -> list[Part]:
    parts = _parts(message, place, limits)
    if not any(isinstance(part, str) and part.replace(IMAGE_PLACEHOLDER, "").strip() for part in parts):
        raise Refusal(f"{place}: the user message holds no text; ask a question", param=place)
    return parts


def _answer(message: dict[str, Any], place: str, limits: Limits) -> str:
    """Text of an earlier answer."""
    parts = _parts(message, place, limits) if message.get("content") not in (None, []) else []
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        raise Refusal(f"{place}: an assistant message is text, without pictures", param=place)
    if not any(text.strip() for text in texts):
        raise Refusal(f"{place}: the assistant message is empty; send what was answered", param=place)
    return "\n".join(texts)


def _parts(message: dict[str, Any], place: str, limits: Limits) -> list[Part]:
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list) or not content:
        raise Refusal(f"{place}.content is a text or a list of parts", param=f"{place}.content")
    return [_part(part, f"{place}.content[{number}]", limits) for number, part in enumerate(content)]


def _part(part: Any, place: str, limits: Limits) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "image_url":
        held = part.get("image_url")
        address = held.get("url") if isinstance(held, dict) else held
        if isinstance(address, str):
            return _file(address, place, limits)
        raise Refusal(f"{place}.image_url.url is a text that begins with data:image/", param=place)
    if kind == "text":
        raise Refusal(f"{place}.text is not a text", param=place)
    raise Refusal(f"{place}.type is {str(kind)[:40]!r}; valid: text, image_url", param=place)


def _file(address: str, place: str, limits: Limits) -> bytes:
    """The file in a `data:` address; nothing is ever fetched."""
    found = _DATA_ADDRESS.match(address)
    if found is None:
        raise Refusal(
            f"{place}: {address[:40]!r} is an address or a path, and no picture is fetched from one; send the picture "
            "itself as data:image/png;base64,...",
            param=place,
            code="no_fetching",
        )
    encoded = address[found.end() :]
    if len(encoded) * 3 // 4 > limits.bytes + 3:
        raise Refusal(f"{place}: the picture has more than {limits.bytes} bytes; make it smaller", param=place)
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(f"{place}: the picture is no base64 ({error})", param=place) from error


def _check_file(file: bytes, number: int, limits: Limits) -> None:
    """Kind and size of a picture, by its header alone. Raises RecordError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(file), formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise RecordError(
            "picture_size", f"pictures[{number}] has more than {limits.pixels} pixels, the most that are taken"
        ) from error
    except PICTURE_ERRORS as error:
        raise RecordError(
            "picture", f"pictures[{number}] cannot be read; send one of {', '.join(FORMATS)}, whole"
        ) from error
    if width * height > limits.pixels:
        raise RecordError(
            "picture_size", f"pictures[{number}] has {width} x {height} pixels, at most {limits.pixels} are taken"
        )


def _prompt(pictures: HeldPictures, text: str, history: Sequence[Turn], target: int | None) -> Prompt:
    """The record of the question; an image that the text names and that is not there is no target."""
    plain = Prompt(
        id="question", images=pictures.names, prompt=text, ground_truth="", format="", target=None, regions=None
    )
    if history:
        plain = following(plain, history)
    if not pictures.names:
        if target is not None or any(IMAGE_PLACEHOLDER in one for one in (text, *(turn.question for turn in history))):
            raise RecordError("no_image", "the question speaks of a picture, and none came with it")
        return plain
    try:
        return asked_prompt(pictures, text, target, history=history)
    except RecordError as error:
        if error.reason == "target" and target is None:
            return plain
        raise
