"""Turns of LLaVA's conversations."""

from typing import Any

from lookright.common.strict_json import short
from lookright.errors import RecordError


def num_turns(record: dict[str, Any]) -> int:
    """Turns of a row, a question without an answer among them."""
    return (len(record["conversations"]) + 1) // 2


def turn_texts(record: dict[str, Any], turn: int = 0) -> tuple[str, str]:
    """Question and answer of a turn as they stand, stripped. Raises RecordError (reason `malformed`)."""
    try:
        human, gpt = record["conversations"][2 * turn : 2 * turn + 2]
        if (human["from"], gpt["from"]) != ("human", "gpt"):
            raise ValueError(f"turns from {short(human['from'])} and {short(gpt['from'])}")
        return human["value"].strip(), gpt["value"].strip()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        place = "start with" if turn == 0 else f"have at turn {turn + 1}"
        raise RecordError("malformed", f"conversations do not {place} a human and a gpt turn ({error!r})") from error
