"""What the server says, in the shape that OpenAI's clients read."""

import base64
import time
import uuid
from collections.abc import Sequence
from typing import Any

from lookright.answering.look import Look
from lookright.backbones.base import Backbone
from lookright.serve.jobs import Job, Spoken
from lookright.types import Footprint, Size


def completion(job: Job, spoken: Sequence[Spoken], backbone: Backbone) -> dict[str, Any]:
    """A whole answer, `chat.completion`."""
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": one.text, "refusal": None},
            "logprobs": None,
            "finish_reason": one.finish,
            "lookright": details(job, one, backbone),
        }
        for number, one in enumerate(spoken)
    ]
    return head("chat.completion", job.model) | {"choices": choices, "usage": usage(job, spoken)}


def head(kind: str, model: str) -> dict[str, Any]:
    """What every answer and every part of one begins with."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def chunk(first: dict[str, Any], number: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """A part of a streamed answer; `first` is its head."""
    return first | {"choices": [{"index": number, "delta": delta, "logprobs": None, "finish_reason": finish}]}


def usage(job: Job, spoken: Sequence[Spoken]) -> dict[str, int]:
    """Tokens of the prompt, those of pictures among them, and of all answers, end tokens among them."""
    prompt, answers = job.question.num_tokens, sum(len(one.token_ids) for one in spoken)
    return {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}


def details(job: Job, spoken: Spoken, backbone: Backbone) -> dict[str, Any]:
    """The field `lookright` of an answer, see docs/serve.md."""
    prompt, scored = job.question.prompt, spoken.scored
    told: dict[str, Any] = {"prompt": prompt.prompt, "target": prompt.target, "confidence": spoken.confidence}
    if job.decoding.decode == "adaptive":
        told["factor"] = spoken.factor
    if scored is not None:
        told |= {
            "attention": scored.attention,
            "attention_ratio": scored.attention_ratio,
            "even_ratio": scored.even_ratio,
            "perplexity": scored.perplexity,
        }
    if spoken.look is not None:
        told["heat"] = heat(spoken.look, spoken.token_ids, job.question.sizes, backbone)
    return told


def heat(look: Look, token_ids: Sequence[int], sizes: Sequence[Size], backbone: Backbone) -> dict[str, Any]:
    """A look as JSON: `maps` is base64 of uint8[bands, rows, K], each row in units of its own peak / 255.

    `boxes` of a picture: for each of its tokens left, top, right and bottom in shares of the picture, and the share of
    the token's own area that this is. `tokens`: what each of the `token_ids` added to the answer's text.
    """
    peaks = look.values.amax(-1, keepdim=True).clamp(min=1e-12)
    levels = (look.values / peaks * 255).round().byte()
    return {
        "token_ids": list(token_ids),
        "tokens": _pieces(token_ids, backbone),
        "num_heads": look.num_heads,
        "bands": [{"name": band.name, "layers": [band.first, band.last]} for band in look.bands],
        "pictures": [
            {"width": size[0], "height": size[1], "boxes": [_shares(seen, size) for seen in footprints]}
            for size, footprints in zip(sizes, look.footprints, strict=True)
        ],
        "shape": list(look.values.shape),
        "peaks": [[float(f"{peak:.4g}") for peak in row] for row in peaks[..., 0].tolist()],
        "maps": base64.b64encode(levels.contiguous().numpy().tobytes()).decode("ascii"),
    }


def _shares(seen: Footprint, size: Size) -> list[float]:
    left, top, right, bottom = seen.box
    places = (left / size[0], top / size[1], right / size[0], bottom / size[1], seen.share)
    return [round(place, 5) for place in places]


def _pieces(token_ids: Sequence[int], backbone: Backbone) -> list[str]:
    """What each token adds to the text; nothing for one that ends it, or begins a character."""
    pieces, before = [], ""
    for stop in range(1, len(token_ids) + 1):
        text = backbone.decode(token_ids[:stop])
        text = text.rstrip("\N{REPLACEMENT CHARACTER}") if stop < len(token_ids) else text
        pieces.append(text[len(before) :] if text.startswith(before) else "")
        before = text if text.startswith(before) else before
    return pieces
