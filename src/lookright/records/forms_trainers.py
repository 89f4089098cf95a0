"""Forms of preference rows that other trainers take: TRL, ms-swift and LLaMA-Factory. One class for each form."""

from dataclasses import replace
from typing import Any

from lookright.common.strict_json import short
from lookright.errors import RecordError
from lookright.records.forms import Form, Row, row_geometry
from lookright.records.geometry import INFERRED
from lookright.records.messages import (
    Message,
    answer_text,
    is_messages,
    plain_prompt,
    prompt_text,
    read_messages,
    shared_prompt,
)
from lookright.records.records import preference_from_dict
from lookright.types import IMAGE_PLACEHOLDER, Preference

GEOMETRY = ("format", "target", "regions")


class TrlPreference(Form[Preference]):
    """Prompt and answers as text or as messages; without a prompt, two conversations that share all but their end.

    The columns `format`, `target` and `regions` are taken where they are.
    """

    title = "pairs of TRL"
    keys = "images or image, prompt, chosen, rejected, texts or messages; or whole conversations without prompt"

    def matches(self, data: dict[str, Any]) -> bool:
        """See `Form.matches`."""
        others = {"conversations", "messages", "instruction"} & data.keys()
        return {"chosen", "rejected"} <= data.keys() and not others

    def read(self, row: Row) -> Preference:
        """See `Form.read`."""
        chosen, rejected, given = row.data["chosen"], row.data["rejected"], row.data.get("prompt")
        images = row.images()
        if is_messages(chosen) and len(chosen) > 1:
            if not is_messages(rejected):
                raise RecordError("messages", "chosen is a whole conversation, rejected is none")
            shared, best, worst = shared_prompt(chosen, rejected)
            prompt = prompt_text(shared, len(images))
            if given is not None and not _same_question(given, prompt[0], len(images)):
                raise RecordError("messages", "the prompt is not what chosen and rejected begin with")
            return _preference(row, images, prompt, best, [worst])
        if given is None:
            raise RecordError("malformed", "there is no prompt, and chosen and rejected are no whole conversations")
        several = isinstance(rejected, list) and not is_messages(rejected)
        answers = [answer_text(item) for item in rejected] if several else answer_text(rejected)
        return _preference(row, images, _prompt(given, len(images)), answer_text(chosen), answers)


class SwiftPreference(Form[Preference]):
    """`messages` that end with the chosen answer; beside them rejected answers, or a conversation with one."""

    title = "pairs of ms-swift"
    keys = "messages, images, rejected_response or rejected_messages"

    def matches(self, data: dict[str, Any]) -> bool:
        """See `Form.matches`."""
        return "messages" in data and bool({"rejected_response", "rejected_messages"} & data.keys())

    def read(self, row: Row) -> Preference:
        """See `Form.read`."""
        data = row.data
        _refuse_media(data)
        images = row.images()
        messages = _messages(data, "messages")
        if data.get("rejected_images") not in (None, [], data.get("images")):
            raise RecordError("rejected_images", "the rejected answer was given to other pictures: not one prompt")
        if data.get("rejected_messages") is not None:
            shared, chosen, worst = shared_prompt(messages, _messages(data, "rejected_messages"))
            return _preference(row, images, prompt_text(shared, len(images)), chosen, [worst])
        rejected = data.get("rejected_response")
        answers = rejected if isinstance(rejected, list) else [rejected]
        shared, chosen, _ = shared_prompt(messages, messages)
        return _preference(row, images, prompt_text(shared, len(images)), chosen, answers)


class ShareGptPreference(Form[Preference]):
    """`conversations` up to the question, and one message each for chosen and rejected."""

    title = "ShareGPT pairs of LLaMA-Factory"
    keys = "conversations [{from, value}], chosen {from, value}, rejected {from, value}, images"

    def matches(self, data: dict[str, Any]) -> bool:
        """See `Form.matches`."""
        return {"conversations", "chosen", "rejected"} <= data.keys()

    def read(self, row: Row) -> Preference:
        """See `Form.read`."""
        _refuse_media(row.data)
        images = row.images()
        messages = [*_system(row.data), *read_messages(_messages(row.data, "conversations"))]
        prompt = prompt_text(messages, len(images))
        return _preference(row, images, prompt, answer_text(row.data["chosen"]), answer_text(row.data["rejected"]))


class AlpacaPreference(Form[Preference]):
    """`instruction` and `input` are the question; earlier turns would be in `history`."""

    title = "Alpaca pairs of LLaMA-Factory"
    keys = "instruction, input, chosen, rejected, images"

    def matches(self, data: dict[str, Any]) -> bool:
        """See `Form.matches`."""
        return {"instruction", "chosen", "rejected"} <= data.keys() and "conversations" not in data

    def read(self, row: Row) -> Preference:
        """See `Form.read`."""
        data = row.data
        _refuse_media(data)
        if data.get("history"):
            raise RecordError("turns", f"history={short(data['history'])}: earlier turns have no place in a pair")
        parts = [data["instruction"], data.get("input") or ""]
        if not all(isinstance(part, str) for part in parts):
            raise RecordError("malformed", "instruction and input are texts")
        images = row.images()
        question = Message(role="user", text="\n".join(part for part in parts if part), plain=True)
        prompt = prompt_text([*_system(data), question], len(images))
        return _preference(row, images, prompt, data["chosen"], data["rejected"])


def _preference(row: Row, images: list[str], prompt: tuple[str, bool], chosen: Any, rejected: Any) -> Preference:
    """The record; geometry is inferred where the row has none and where that gives a target."""
    text, placed = prompt
    provenance: dict[str, Any] = {"placeholders": "placed"} if placed else {}
    known = {key: row.data[key] for key in GEOMETRY if row.data.get(key) is not None}
    record = preference_from_dict(
        {"id": row.id, "images": images, "prompt": text, "chosen": chosen, "rejected": rejected}
        | {"provenance": provenance}
        | known
    )
    geometry = None if known else row_geometry(text, images, row.pictures)
    if geometry is None or geometry.target is None:
        return record
    return replace(
        record,
        format=geometry.format,
        target=geometry.target,
        regions=geometry.regions,
        provenance=provenance | INFERRED,
    )


def _prompt(given: Any, num_pictures: int) -> tuple[str, bool]:
    if is_messages(given):
        return prompt_text(read_messages(given), num_pictures)
    return plain_prompt(given, num_pictures)


def _same_question(given: Any, found: str, num_pictures: int) -> bool:
    """Whether a prompt that stands beside whole conversations says what they begin with, placeholders aside."""
    texts = (_prompt(given, num_pictures)[0], found)
    first, second = (str(text).replace(IMAGE_PLACEHOLDER, " ").split() for text in texts)
    return first == second


def _messages(data: dict[str, Any], key: str) -> list[Any]:
    if not is_messages(data[key]):
        raise RecordError("messages", f"{key}={short(data[key])} is no list of messages")
    found: list[Any] = data[key]
    return found


def _system(data: dict[str, Any]) -> list[Message]:
    """The system prompt of a column of its own as a message."""
    system = data.get("system")
    if system and not isinstance(system, str):
        raise RecordError("malformed", f"system={short(system)} is no text")
    return [Message(role="system", text=system, plain=True)] if system else []


def _refuse_media(data: dict[str, Any]) -> None:
    found = [key for key in ("videos", "audios", "rejected_videos", "rejected_audios", "tools") if data.get(key)]
    if found:
        raise RecordError("media", f"{found[0]} is set: pairs here have pictures and text alone")
