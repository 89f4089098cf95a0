"""Records of others as they are: MIA-DPO / AA-DPO json and LLaVA json."""

from typing import Any

from lookright.data.geometry import INFERRED, Geometry, infer_geometry
from lookright.data.pictures import Pictures
from lookright.errors import RecordError
from lookright.sources.llava_json import turns
from lookright.types import IMAGE_PLACEHOLDER, Preference, Prompt, Region


def published_preference(data: dict[str, Any], pictures: Pictures) -> Preference:
    """`id, image [paths], prompt, chosen, rejected`; further keys are not read. Raises RecordError."""
    missing = [key for key in ("id", "image", "prompt", "chosen", "rejected") if key not in data]
    if missing:
        raise RecordError("malformed", f"the key {missing[0]!r} is missing; found {', '.join(map(str, data))}")
    texts = [data[key] for key in ("prompt", "chosen", "rejected")]
    if not all(isinstance(text, str) for text in texts):
        raise RecordError("malformed", "prompt, chosen and rejected are texts")
    images = image_paths(data["image"])
    geometry = _geometry(texts[0], images, pictures)
    return Preference(
        id=str(data["id"]),
        images=images,
        prompt=texts[0],
        chosen=texts[1],
        rejected=[texts[2]],
        format=geometry.format,
        target=geometry.target,
        regions=geometry.regions,
        provenance=dict(INFERRED),
    )


def llava_prompt(data: dict[str, Any], pictures: Pictures) -> Prompt:
    """First question and answer of a LLaVA row; several pictures as in `published_preference`. Raises RecordError."""
    images = image_paths(data.get("image"))
    question, answer = turns(data)
    record_id = str(data.get("id", ""))
    if len(images) > 1:
        geometry = _geometry(question, images, pictures)
        if geometry.target is None or geometry.regions is None:
            raise RecordError("target", "several pictures and no 'In Image{k}' in the prompt: the target is unknown")
        name, target, regions = geometry.format, geometry.target, geometry.regions
    else:
        name, target = "single_image", 0
        regions = [Region(picture=0, box=(0, 0, *pictures.size(images[0])), source=images[0])]
    return Prompt(
        id=record_id,
        images=images,
        prompt=question,
        answer=answer,
        format=name,
        target=target,
        regions=regions,
        provenance=dict(INFERRED),
    )


def image_paths(value: Any) -> list[str]:
    """One path or a list of paths as a list. Raises RecordError (reason `no_image` or `malformed`)."""
    if not value:
        raise RecordError("no_image", "the record has no image")
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise RecordError("malformed", f"image={str(value)[:80]!r} is neither a path nor a list of paths")
    return list(paths)


def _geometry(prompt: str, images: list[str], pictures: Pictures) -> Geometry:
    """Nothing is inferred from a prompt whose placeholders are wrong: that is told first."""
    if prompt.count(IMAGE_PLACEHOLDER) != len(images):
        return Geometry(format="unknown", target=None, regions=None)
    return infer_geometry(prompt, images, [pictures.size(name) for name in images])
