"""Loggers: every run writes metrics.csv; the `logger` group adds others (`training.trackers`)."""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from PIL import Image

from lookright.common.files import naming
from lookright.common.jsonl import cut_torn_line, write_atomically
from lookright.common.metrics_csv import STEP, read_metrics
from lookright.errors import Stopped

METRICS_FILE = ExperimentWriter.NAME_METRICS_FILE


@dataclass(slots=True, frozen=True, kw_only=True)
class LoggedExample:
    """A held-out pair as it is logged at a validation: `answer` is what the policy says to its prompt.

    `image` has the pictures in a row, and below them the same under heat maps; `numbers` are the pair's own metrics,
    None for what is not known of it.
    """

    id: str
    format: str
    question: str
    chosen: str
    rejected: list[str]
    answer: str
    image: Image.Image
    numbers: dict[str, float | None] = field(default_factory=dict)


class RunLogger(Logger):
    """What a run asks of its loggers beyond Lightning's own methods; here none of it does anything."""

    examples = 0
    """Held-out pairs that are to be logged at each validation."""

    def check(self) -> None:
        """Raise ConfigError, before any work, for what would keep the run from being logged."""

    def name_run(self, name: str, group: str | None) -> None:
        """Take the run's name, and that of its sweep, for what the config leaves open."""

    def go_on_from(self, step: int) -> None:
        """Go on where another process left off: what it logged of `step` (0-based) and later comes again."""

    def log_examples(self, examples: Sequence[LoggedExample], step: int) -> None:
        """Log held-out pairs at an optimiser step."""

    def close(self, exit_code: int) -> None:
        """End what Lightning leaves open; 0 is a run that has finished."""


class AppendingWriter(ExperimentWriter):
    """Goes on below the rows that `metrics.csv` has; Lightning's own would delete them."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.metrics_keys = read_metrics(Path(self.metrics_file_path))[0]

    def save(self) -> None:
        """Append what was logged. Raises OSError naming the file."""
        with naming(Path(self.metrics_file_path)):
            super().save()

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """A kill leaves the old file or the new one."""
        path = Path(self.metrics_file_path)
        _write_rows(path, fieldnames, read_metrics(path)[1])

    def _check_log_dir_exists(self) -> None:
        """Nothing is deleted, so there is nothing to warn of."""


class RunCSVLogger(RunLogger, CSVLogger):
    """`metrics.csv` in the run's own folder, each row on disk at once; a resumed run appends to what is there."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(save_dir=str(folder), name="", version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> AppendingWriter:
        """The writer, made when it is first asked for."""
        if self._experiment is None:
            self._experiment = AppendingWriter(self.log_dir)
        return self._experiment

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: they are in config.yaml beside it."""

    def go_on_from(self, step: int) -> None:
        """Drop rows of `step` (0-based) and later, which a run that goes on there writes again.

        Raises LookRightError naming the line of a damaged file.
        """
        path = Path(self.log_dir) / METRICS_FILE
        if path.is_file():
            cut_torn_line(path)
        header, rows = read_metrics(path)
        if header:
            _write_rows(path, header, [row for row in rows if int(row[STEP]) < step])


def with_metrics_file(loggers: Sequence[Logger], folder: Path) -> list[Logger]:
    """The csv logger first, then the chosen ones that are others."""
    return [RunCSVLogger(folder), *(one for one in loggers if not isinstance(one, RunCSVLogger))]


@contextmanager
def closing(loggers: Sequence[Logger]) -> Iterator[None]:
    """Close the loggers behind what runs inside, however it ends: the next job of a sweep has runs of its own."""
    exit_code = 1
    try:
        yield
        exit_code = 0
    except Stopped as error:
        exit_code = error.exit_code
        raise
    finally:
        for logger in loggers:
            if isinstance(logger, RunLogger):
                logger.close(exit_code)


def _write_rows(path: Path, header: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=header)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, [text.getvalue()])
