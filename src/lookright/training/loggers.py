"""Loggers: every run writes metrics.csv; the `logger` group adds another."""

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

METRICS_FILE = ExperimentWriter.NAME_METRICS_FILE


class RunCSVLogger(CSVLogger):
    """`metrics.csv` in the run's own folder; a resumed run appends to what is there."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(save_dir=str(folder), name="", version="", flush_logs_every_n_steps=20)

    @property
    def experiment(self) -> ExperimentWriter:
        """The writer, which by itself would delete the rows of an earlier session."""
        if self._experiment is None:
            path = Path(self.log_dir) / METRICS_FILE
            earlier = path.read_text() if path.is_file() else ""
            writer = super().experiment
            if earlier:
                path.write_text(earlier)
                writer.metrics_keys = earlier.splitlines()[0].split(",")
        return super().experiment


def with_metrics_file(logger: Logger, folder: Path) -> list[Logger]:
    """The chosen logger, and the csv logger where that is another one."""
    return [logger] if isinstance(logger, RunCSVLogger) else [RunCSVLogger(folder), logger]
