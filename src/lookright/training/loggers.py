"""Loggers: every run writes metrics.csv; the `logger` group adds another."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from lookright.common.jsonl import cut_torn_line, write_atomically
from lookright.common.metrics_csv import STEP, read_metrics

METRICS_FILE = ExperimentWriter.NAME_METRICS_FILE


class AppendingWriter(ExperimentWriter):
    """Goes on below the rows that `metrics.csv` has; Lightning's own would delete them."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.metrics_keys = read_metrics(Path(self.metrics_file_path))[0]

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """A kill leaves the old file or the new one."""
        path = Path(self.metrics_file_path)
        _write_rows(path, fieldnames, read_metrics(path)[1])

    def _check_log_dir_exists(self) -> None:
        """Nothing is deleted, so there is nothing to warn of."""


class RunCSVLogger(CSVLogger):
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

    def forget_from(self, step: int) -> None:
        """Drop rows of `step` (0-based) and later, which a run that goes on there writes again.

        Raises LookRightError naming the line of a damaged file.
        """
        path = Path(self.log_dir) / METRICS_FILE
        if path.is_file():
            cut_torn_line(path)
        header, rows = read_metrics(path)
        if header:
            _write_rows(path, header, [row for row in rows if int(row[STEP]) < step])


def with_metrics_file(logger: Logger | None, folder: Path) -> list[Logger]:
    """The csv logger first, then the chosen one where that is another."""
    if isinstance(logger, RunCSVLogger):
        return [logger]
    return [RunCSVLogger(folder), *([] if logger is None else [logger])]


def close(loggers: Sequence[Logger]) -> None:
    """End what Lightning leaves open: the next job of a sweep would write into this one's W&B run."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _write_rows(path: Path, header: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=header)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, [text.getvalue()])
