"""The curves of a run: ``metrics.csv``, one row per logged step."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from deqzoo.atomic import whole_file

Row = dict[str, float]


class History(Logger):
    """A Lightning logger that keeps ``metrics.csv`` whole at any time, and goes on with it in a resumed run.

    (Lightning's own CSVLogger deletes the file of an earlier life of the run.)
    """

    def __init__(self, path: Path, save_every: int = 50) -> None:
        super().__init__()
        self.path, self.save_every = path, save_every
        self.rows = read_history(path)
        self._earlier: Row | None = self.rows[-1] if self.rows else None

    @property
    def name(self) -> str:
        """Lightning asks for it."""
        return "history"

    @property
    def version(self) -> int:
        """Lightning asks for it."""
        return 0

    @property
    @rank_zero_experiment
    def experiment(self) -> "History":
        """This object: there is nothing behind it."""
        return self

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's ``config.yaml`` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add numbers to the row of ``step``."""
        step = step or 0
        if self._earlier is not None:  # rows that an earlier life wrote after its last checkpoint come again
            self.rows = [row for row in self.rows if row["step"] < step]
            self._earlier = None
        if not self.rows or self.rows[-1]["step"] != step:
            if self.rows and len(self.rows) % self.save_every == 0:
                self.save()
            self.rows.append({"step": step})
        self.rows[-1].update({name: float(value) for name, value in metrics.items()})

    @rank_zero_only
    def save(self) -> None:
        """Write the file anew."""
        columns = ["step", *sorted({name for row in self.rows for name in row} - {"step"})]
        with whole_file(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left when training ends or fails."""
        if self.rows:
            self.save()


def read_history(path: Path) -> list[Row]:
    """Rows of a ``metrics.csv``, without the empty cells; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if value not in ("", None)}
            for row in csv.DictReader(file)
        ]
