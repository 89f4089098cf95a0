"""Forms that rows come in: ours, the published ones and LLaVA's. One class for each form."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Generic

from lookright.common.path_map import PathMap
from lookright.common.strict_json import short
from lookright.errors import ConfigError, RecordError
from lookright.records.geometry import INFERRED, Geometry, infer_geometry
from lookright.records.messages import is_messages, plain_prompt
from lookright.records.pictures import CheckedPictures, HeldCells, check_path, embedded, picture_cells, picture_name
from lookright.records.records import (
    Record,
    RecordType,
    preference_from_dict,
    prompt_from_dict,
    to_dict,
    with_one_truth,
)
from lookright.records.turns import num_turns, turn_texts
from lookright.types import IMAGE_PLACEHOLDER, Preference, Prompt

OWN_MARKS = {"target", "regions", "provenance"}
"""Keys that tell our own files from those of others."""
LLAVA_PLACEHOLDER = "<image-placeholder>"
"""What LLaVA's command-line tools write for a picture; some of the published prompts were saved with it."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Row:
    """One raw row: `number` is its 0-based place in the file; `counts` takes what is left out of it, by reason."""

    data: dict[str, Any]
    number: int
    pictures: CheckedPictures
    path_map: PathMap
    held: HeldCells | None = None
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def id(self) -> str:
        """The row's own id as text, else its number. Raises RecordError (reason `malformed`)."""
        own = self.data.get("id")
        if own is not None and (isinstance(own, bool) or not isinstance(own, str | int)):
            raise RecordError("malformed", f"id={short(own)} is {type(own).__name__}, not text or a whole number")
        return str(self.number if own is None else own)

    def images(self) -> list[str]:
        """Names of the row's pictures, paths moved by the map. Raises RecordError."""
        cells = picture_cells(self.data)
        names = [picture_name(cell, self.number, nth) for nth, cell in enumerate(cells)]
        if self.held is not None and any(map(embedded, cells)):
            self.held.keep(self.number, cells)
        return [name if embedded(cell) else self.path_map(name) for name, cell in zip(names, cells, strict=True)]


class Form(ABC, Generic[RecordType]):
    """One way to write a row; forms are told apart by their keys, the first that matches reads.

    `data.forms` names further ones by their `_target_`; they are asked before those of the package.
    """

    title: ClassVar[str]
    keys: ClassVar[str]
    """What an error lists."""
    may_repeat_ids: ClassVar[bool] = True
    """Whether ids are others' own, which come more than once, or ours, which name one record."""

    @abstractmethod
    def matches(self, data: dict[str, Any]) -> bool:
        """Whether a row has this form; for a table its first row tells it."""

    @abstractmethod
    def read(self, row: Row) -> RecordType:
        """The record, its geometry inferred where it has none. Raises RecordError."""


class OwnPreference(Form[Preference]):
    """`preferences.jsonl` of this package; an unknown key is an error."""

    title = "pairs of this package"
    keys = "id, images, prompt, chosen, rejected, with or without format, target, regions, scores, provenance"
    may_repeat_ids = False

    def matches(self, data: dict[str, Any]) -> bool:
        """See `Form.matches`."""
        return _is_own(data, Preference) and not {"answer", "ground_truth"} & data.keys()

    def read(self, row: Row) -> Preference:
        """See `Form.read`."""
        return preference_from_dict(_mapped(row))


class OwnPrompt(Form[Prompt]):
    """`instructions.jsonl` of this package; an unknown key is an error."""

    title = "prompts of this package"
    keys = "id, images, prompt, ground_truth, format, target, regions, with or without options and provenance"
    may_repeat_ids = False

    def matches(self, data: dict[str, Any]) -> bool:
        """See `Form.matches`."""
        return bool(OWN_MARKS & data.keys()) and not {"chosen", "rejected"} & data.keys()

    def read(self, row: Row) -> Prompt:
        """See `Form.read`."""
        return prompt_from_dict(_mapped(row))


class PublishedPreference(Form[Preference]):
    """Pairs of MIA-DPO and AA-DPO; further keys, as `gt`, are not read."""

    title = "pairs of MIA-DPO and AA-DPO"
    keys = "id, image (a path or a list of them), prompt, chosen, rejected"

    def matches(self, data: dict[str, Any]) -> bool:
        """See `Form.matches`."""
        return {"id", "image", "prompt"} <= data.keys() and _are_answers(data, "chosen", "rejected")

    def read(self, row: Row) -> Preference:
        """See `Form.read`."""
        texts = [row.data[key] for key in ("prompt", "chosen", "rejected")]
        if not all(isinstance(text, str) for text in texts):
            raise RecordError("malformed", "prompt, chosen and rejected are texts")
        prompt, images, geometry, provenance = _published(row, texts[0])
        return Preference(
            id=row.id,
            images=images,
            prompt=prompt,
            chosen=texts[1],
            rejected=[texts[2]],
            provenance=provenance,
            **_fields(geometry),
        )


class PublishedPrompt(Form[Prompt]):
    """Test questions of AA-DPO, several ground truths and options too; further keys, as `image_url`, are not read."""

    title = "test questions of AA-DPO"
    keys = "id, image (a path or a list of them), prompt, answer or ground_truth, with or without options"

    def matches(self, data: dict[str, Any]) -> bool:
        """See `Form.matches`."""
        has_truth = bool({"answer", "ground_truth"} & data.keys())
        return "prompt" in data and has_truth and bool({"image", "images"} & data.keys())

    def read(self, row: Row) -> Prompt:
        """See `Form.read`."""
        truth = "ground_truth" if "ground_truth" in row.data else "answer"
        known = with_one_truth({"ground_truth": row.data[truth], "options": row.data.get("options")})
        texts = [row.data["prompt"], known["ground_truth"]]
        if not all(isinstance(text, str) for text in texts):
            raise RecordError("malformed", f"prompt and {truth} are texts")
        prompt = _prompt(row, *texts)
        prompt = replace(prompt, provenance=prompt.provenance | known.get("provenance", {}))
        return _with_own_columns(prompt, row.data)


class LlavaPrompt(Form[Prompt]):
    """Rows of LLaVA json; the first question is asked, further turns are counted as `further_turns`."""

    title = "rows of LLaVA"
    keys = "id, image, conversations [{from, value}] of human and gpt"

    def matches(self, data: dict[str, Any]) -> bool:
        """See `Form.matches`."""
        return "conversations" in data and not {"chosen", "rejected"} & data.keys()

    def read(self, row: Row) -> Prompt:
        """See `Form.read`."""
        question, answer = turn_texts(row.data)
        prompt = _prompt(row, question, answer)
        row.counts["further_turns"] += num_turns(row.data) - 1
        return prompt


Forms = Mapping[str, Form[Any]] | Sequence[Form[Any]]
"""Forms from outside the package, as a config names them: by any name, or as a list."""


def given_forms(forms: Forms | None) -> list[Form[Any]]:
    """Return the forms of a config in order. Raises ConfigError for what is none."""
    named = forms if isinstance(forms, Mapping) else {str(number): form for number, form in enumerate(forms or [])}
    for name, form in named.items():
        if form is not None and not isinstance(form, Form):
            raise ConfigError(f"data.forms: {name} is a {type(form).__name__}, not a lookright.records.forms.Form")
    return [form for form in named.values() if form is not None]


def find_form(data: Any, forms: Sequence[Form[Any]], others: Sequence[Form[Any]]) -> Form[Any]:
    """The first of `forms` that a row has. Raises RecordError that lists them, or names that of `others` it has."""
    if not isinstance(data, dict):
        raise RecordError("malformed", f"a record is a json object, found {type(data).__name__}")
    for form in forms:
        if form.matches(data):
            return form
    for form in others:
        if form.matches(data):
            raise RecordError("form", _wrong_kind(form))
    raise RecordError("form", f"no form has the keys {_names(data)}; {listed(forms)}")


def _names(data: dict[str, Any]) -> str:
    """Keys of a row for a message."""
    shown = [short(key).strip("'") for key in list(data)[:20]]
    return ", ".join([*shown, *(["..."] if len(data) > 20 else [])]) or "(none)"


def listed(forms: Sequence[Form[Any]]) -> str:
    """All forms with their keys, for a message."""
    return "known are: " + "; ".join(f"{form.title} ({form.keys})" for form in forms)


def row_geometry(prompt: Any, images: list[str], pictures: CheckedPictures) -> Geometry | None:
    """What can be inferred of a row that stores none; None where that is nothing."""
    return infer_geometry(prompt, images, pictures) if isinstance(prompt, str) else None


def _wrong_kind(form: Form[Any]) -> str:
    if isinstance(form, LlavaPrompt):
        return "a LLaVA row (`conversations`) is a prompt, not a preference: use source=llava_json"
    if isinstance(form, OwnPrompt | PublishedPrompt):
        return f"{form.title} are prompts, not pairs with chosen and rejected: use them with infer.py"
    return f"{form.title} ({form.keys}) are pairs to train on: a prompt has a ground truth, not chosen and rejected"


def _is_own(data: dict[str, Any], kind: type[Record]) -> bool:
    if "conversations" in data or "messages" in data or not _are_answers(data, "prompt"):
        return False
    names = {item.name for item in fields(kind)}
    return bool(OWN_MARKS & data.keys()) or ({"id", "images"} <= data.keys() <= names and _are_texts(data))


def _are_texts(data: dict[str, Any]) -> bool:
    return not any(is_messages(data.get(key)) for key in ("prompt", "chosen", "rejected"))


def _are_answers(data: dict[str, Any], *keys: str) -> bool:
    return all(key in data for key in keys) and _are_texts(data)


def _mapped(row: Row) -> dict[str, Any]:
    """The row with its paths moved; what is no list of paths is for the reader to refuse."""
    names = row.data.get("images")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return row.data
    return row.data | {"images": [row.path_map(check_path(name)) for name in names]}


def _published(row: Row, text: str) -> tuple[str, list[str], Geometry | None, dict[str, Any]]:
    """Prompt with our placeholders, pictures, geometry and what was done to get them."""
    images = row.images()
    if not images:
        raise RecordError("no_image", "the record has no image")
    renamed = text.replace(LLAVA_PLACEHOLDER, IMAGE_PLACEHOLDER)
    prompt, placed = plain_prompt(renamed, len(images))
    provenance: dict[str, Any] = dict(INFERRED)
    if placed or renamed != text:
        provenance["placeholders"] = "placed" if placed else "renamed"
    return prompt, images, row_geometry(prompt, images, row.pictures), provenance


def _prompt(row: Row, text: str, ground_truth: str) -> Prompt:
    prompt, images, geometry, provenance = _published(row, text)
    known = _fields(geometry)
    return Prompt(
        id=row.id,
        images=images,
        prompt=prompt,
        ground_truth=ground_truth,
        format=known["format"] or "unknown",
        target=known["target"],
        regions=known["regions"],
        provenance=provenance,
    )


def _with_own_columns(prompt: Prompt, data: dict[str, Any]) -> Prompt:
    """A prompt with what a table of our own records has beside the text: geometry, and the images' answers."""
    own = {key: data[key] for key in ("format", "target", "regions") if data.get(key) is not None}
    given = data.get("provenance")
    # a column of a table has None where a row says nothing
    told = {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else {}
    kept = prompt.provenance
    if "regions" in own:
        kept = {key: value for key, value in kept.items() if key not in INFERRED}
    return prompt_from_dict(to_dict(prompt) | own | {"provenance": kept | told}) if own or told else prompt


def _fields(geometry: Geometry | None) -> dict[str, Any]:
    if geometry is None:
        return {"format": None, "target": None, "regions": None}
    return {"format": geometry.format, "target": geometry.target, "regions": geometry.regions}
