"""Conversations of other trainers' rows, as lists of messages or as text, turned into prompt and answers."""

from dataclasses import dataclass
from typing import Any

from lookright.common.strict_json import short
from lookright.errors import RecordError
from lookright.records.validate import FOREIGN_PLACEHOLDERS
from lookright.types import IMAGE_PLACEHOLDER

ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


@dataclass(slots=True, frozen=True, kw_only=True)
class Message:
    """One message; `text` has a placeholder where a typed part shows a picture. `plain`: it came as one text."""

    role: str
    text: str
    plain: bool


def is_messages(value: Any) -> bool:
    """Whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def read_messages(value: list[Any]) -> list[Message]:
    """Messages as `{role, content}` or `{from, value}`. Raises RecordError (reason `messages`)."""
    return [_message(item) for item in value]


def prompt_text(messages: list[Message], num_pictures: int) -> tuple[str, bool]:
    """Text of the one question and whether placeholders were put before it.

    They are where the message is plain text without any: there the pictures belong before the text by convention.
    Raises RecordError with the reason `system` (a backbone has its own system prompt), `turns` or `messages`.
    """
    asked = [message for message in messages if message.role != "system" or message.text.strip()]
    roles = [message.role for message in asked]
    if roles != ["user"]:
        several = roles.count("user") > 1 or "assistant" in roles
        reason = "system" if "system" in roles else "turns" if several else "messages"
        why = {
            "system": "the backbone has a system prompt of its own",
            "turns": "earlier turns have no place in a pair",
            "messages": "nothing is asked",
        }[reason]
        raise RecordError(reason, f"a prompt is one message of the user, found: {', '.join(roles) or 'nothing'}; {why}")
    if asked[0].plain and num_pictures and not _has_placeholder(asked[0].text):
        return f"{IMAGE_PLACEHOLDER}\n" * num_pictures + asked[0].text, True
    return asked[0].text, False


def plain_prompt(text: Any, num_pictures: int) -> tuple[str, bool]:
    """A prompt given as text and whether a placeholder was put before it: where there is one picture and none."""
    if isinstance(text, str) and num_pictures == 1 and not _has_placeholder(text):
        return f"{IMAGE_PLACEHOLDER}\n{text}", True
    return text, False


def answer_text(value: Any) -> Any:
    """Text of an answer: a string, one message of the assistant, or a list of one. Raises RecordError."""
    if isinstance(value, dict):
        value = [value]
    if not is_messages(value):
        return value
    messages = read_messages(value)
    if [message.role for message in messages] != ["assistant"]:
        roles = ", ".join(message.role for message in messages)
        raise RecordError("messages", f"an answer is one message of the assistant, found: {roles}")
    return messages[0].text


def shared_prompt(chosen: list[Any], rejected: list[Any]) -> tuple[list[Message], str, str]:
    """What two whole conversations share, and the answer that ends each of them.

    Raises RecordError (reason `messages`) where they differ before it.
    """
    first, second = read_messages(chosen), read_messages(rejected)
    if [message.role for message in (*first[-1:], *second[-1:])] != ["assistant", "assistant"]:
        raise RecordError("messages", "chosen and rejected each end with a message of the assistant")
    before = [[(message.role, message.text) for message in messages[:-1]] for messages in (first, second)]
    if before[0] != before[1]:
        raise RecordError("messages", "chosen and rejected differ before their last message: not one prompt")
    return first[:-1], first[-1].text, second[-1].text


def _has_placeholder(text: str) -> bool:
    """Whether a text has our placeholder, or another model's, which is told as such."""
    return IMAGE_PLACEHOLDER in text or FOREIGN_PLACEHOLDERS.search(text) is not None


def _message(item: Any) -> Message:
    if not isinstance(item, dict):
        raise RecordError("messages", f"a message is a dictionary, found {type(item).__name__}")
    role = item.get("role") if item.get("role") is not None else item.get("from")
    content = item.get("content") if item.get("content") is not None else item.get("value")
    if not isinstance(role, str) or role not in ROLES:
        raise RecordError("messages", f"a message has the role {short(role)}; valid are {', '.join(ROLES)}")
    return Message(role=ROLES[role], text=_content_text(content), plain=isinstance(content, str))


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RecordError("messages", f"the content of a message is {type(content).__name__}, not text or parts")
    return "".join(_part_text(part) for part in content).strip()


def _part_text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        return f"{IMAGE_PLACEHOLDER}\n"
    if kind != "text":
        raise RecordError("messages", f"a part of a message has the type {short(kind)}; valid are text and image")
    text = part.get("text")
    if text is not None and not isinstance(text, str):
        raise RecordError("messages", f"a part of a message has the text {short(text)}, which is none")
    return text or ""
