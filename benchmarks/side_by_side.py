"""One problem solved by several libraries, forward and backward: time and accuracy of each in a row of one table."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.console import Console
from torch import Tensor

from benchmarks.measure import in_a_row, interleaved, median_ratio
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started

SolutionAndGradient = tuple[Tensor, Tensor]
Way = Callable[[], SolutionAndGradient] | str  # of a library; or why it is not there
ACCURATE = 1e-5  # error of a peer that ours is compared with


@dataclasses.dataclass
class Row:
    """One library's solution of a problem, and the gradient of a function of it.

    Attributes:
        over_peer: our time over that of the fastest of the others that is accurate.
        error, gradient_error: in the maximum norm, and relative.
        note: why a library is left out.
    """

    problem: str
    library: str
    seconds: float = math.nan
    over_peer: float | None = None
    error: float = math.nan
    gradient_error: float = math.nan
    note: str = ""


def side_by_side(
    problem: str, ways: Mapping[str, Way], exact: SolutionAndGradient, rounds: int, repeats: int = 1
) -> list[Row]:
    """Measure each way in interleaved rounds, each time over `repeats` calls in a row.

    The way called "deqzoo" is compared with those that are accurate to 1e-5 and are not ours.
    """
    calls = {name: way for name, way in ways.items() if not isinstance(way, str)}
    found = {name: way() for name, way in calls.items()}
    times = interleaved({name: in_a_row(way, repeats) for name, way in calls.items()}, rounds)
    rows = [Row(problem, name, note=way) for name, way in ways.items() if isinstance(way, str)]
    errors = {name: (solution - exact[0]).abs().max().item() for name, (solution, _) in found.items()}
    accurate = {name: times[name] for name in calls if errors[name] <= ACCURATE or name == "deqzoo"}
    for name, (_, gradient) in found.items():
        row = Row(
            problem,
            name,
            statistics.median(times[name]) / repeats,
            over_fastest_peer(accurate) if name == "deqzoo" else None,
            errors[name],
            ((gradient - exact[1]).norm() / exact[1].norm()).item(),
        )
        rows.append(row)
    return rows


def over_fastest_peer(times: Mapping[str, list[float]]) -> float | None:
    """Our time over that of the fastest of the others."""
    ratios = [median_ratio(times["deqzoo"], times[name]) for name in times if not name.startswith("deqzoo")]
    return max(ratios) if ratios else None


def at_most(rows: Iterable[Row], limit: float) -> list[Check]:
    """The promise that ours takes at most this much of the fastest peer's time, for each problem with a peer."""
    return [
        Check(
            f"{row.problem}: at most {limit} of the fastest peer's time", f"{row.over_peer:.2f}", row.over_peer <= limit
        )
        for row in rows
        if row.over_peer is not None
    ]


def print_side_by_side(console: Console, title: str, rows: Iterable[Row]) -> None:
    """A table; a library that is left out has its reason in place of a time."""
    cells = []
    for row in rows:
        numbers = [f"{row.seconds * 1e3:.2f}", f"{row.error:.0e}", f"{row.gradient_error:.0e}"]
        over = "" if row.over_peer is None else f"{row.over_peer:.2f}"
        cells.append(
            (row.problem, row.library, *([row.note, "", "", ""] if row.note else [numbers[0], over, *numbers[1:]]))
        )
    print_table(
        console, title, ["problem", "library"], ["ms", "over the fastest peer", "error", "gradient error"], cells
    )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table of such rows, alone or as a part of `optimisation.py`.

    Attributes:
        name: of the table in the JSON.
        rows: makes it, of small problems if its argument is true.
        packages: whose versions are noted.
        limit: the promise, see `at_most`; None: there is none.
    """

    name: str
    title: str
    rows: Callable[[bool], list[Row]]
    packages: Sequence[str]
    limit: float | None = None

    def printed(self, console: Console, quick: bool) -> tuple[list[Row], list[Check]]:
        """Measure and print; the rows, and what was promised."""
        rows = self.rows(quick)
        print_side_by_side(console, self.title, rows)
        return rows, [] if self.limit is None else at_most(rows, self.limit)

    def main(self, doc: str) -> int:
        """Run, print, and write."""
        options = started(doc)
        console = open_console()
        rows, checks = self.printed(console, options.quick)
        print_checks(console, checks)
        return finished(options, self.packages, checks, **{self.name: rows})
