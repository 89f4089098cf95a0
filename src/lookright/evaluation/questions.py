"""The `data` group of `infer.py`: prompts with ground truth from one file or several."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lookright.backbones.base import Backbone
from lookright.common.path_map import PathMap
from lookright.errors import ConfigError, LookRightError, RecordError
from lookright.packing.encode import row_length
from lookright.records.forms import Forms, given_forms
from lookright.records.known_ids import KnownIds
from lookright.records.pictures import Pictures
from lookright.records.readers import load_prompts
from lookright.records.validate import BadRecords, OnBadRecord
from lookright.types import Prompt

log = logging.getLogger(__name__)


class Questions:
    """Questions of `path`, one file or several; `limit` keeps the first so many of each file.

    Image paths are moved by `path_map` and start from `image_root`, else from each file's folder. `on_bad_record`:
    `error`, or `skip` and count. `forms` are asked before those of the package whether they can read a row.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        image_root: str | None = None,
        limit: int | None = None,
        on_bad_record: OnBadRecord = "error",
        path_map: dict[str, str] | None = None,
        forms: Forms | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise ConfigError(f"data.limit={limit}; set 1 or more, or null")
        self.paths = [path] if isinstance(path, str) else list(path)
        self.image_root, self.limit, self.on_bad_record = image_root, limit, on_bad_record
        self.path_map = PathMap(path_map)
        self.forms = given_forms(forms)
        self.dropped: Counter[str] = Counter()
        self._left_out: set[str] = set()
        self._groups: list[tuple[Pictures, list[Prompt]]] = []

    def prepare(self, backbone: Backbone) -> None:
        """Read and check every question. Raises LookRightError before any weights load."""
        ids = KnownIds()
        for path in self.paths:
            loaded = load_prompts(path, self.image_root, self.on_bad_record, self.path_map, ids, self.forms)
            self.dropped += loaded.dropped
            bad = BadRecords(self.on_bad_record)
            prompts = []
            for prompt in loaded.records[: self.limit]:
                try:
                    row_length(backbone, prompt, loaded.pictures)
                    # rules of matching go by it
                    prompts.append(replace(prompt, provenance=prompt.provenance | {"data_file": Path(path).name}))
                except RecordError as error:
                    bad.add(f"{path}: record {prompt.id}", error)
            bad.finish(len(loaded.records))
            self.dropped += bad.counts
            self._groups.append((loaded.pictures, prompts))
        self.path_map.check_used()

    @property
    def prompts(self) -> list[Prompt]:
        """All questions in order."""
        return [prompt for _, prompts in self.groups() for prompt in prompts]

    def groups(self) -> Iterator[tuple[Pictures, list[Prompt]]]:
        """For each file what opens its pictures, and its questions."""
        for pictures, prompts in self._groups:
            yield pictures, [prompt for prompt in prompts if prompt.id not in self._left_out]

    def places(self) -> Iterator[tuple[Prompt, Pictures]]:
        """Every question with what opens its pictures."""
        return ((prompt, pictures) for pictures, prompts in self.groups() for prompt in prompts)

    def leave_out(self, prompt: Prompt, error: RecordError) -> None:
        """Count a question whose picture broke after the check as one that is not asked, or see `tell`."""
        self.tell(prompt, error)
        self._left_out.add(prompt.id)
        self.dropped[error.reason] += 1

    def tell(self, prompt: Prompt, error: RecordError) -> None:
        """Log that a picture broke after the check; raises LookRightError where `on_bad_record` is `error`."""
        if self.on_bad_record == "error":
            raise LookRightError(
                f"question {prompt.id}: {error} [{error.reason}]; it was whole when it was checked. Repair it and run "
                "again with the same output to go on, or take another one with data.on_bad_record=skip"
            ) from error
        log.warning("question %s: %s [%s]", prompt.id, error, error.reason)
