"""The reversible iteration beside the other gradients: `python -m benchmarks.reversible [--json FILE] [--quick]`.

One layer of the kind of `revdeq_cifar`, its cell as it is when a training begins: memory, time and residual of a
forward and its backward by the number of evaluations of f. Backpropagation keeps each of them on the tape, the
reversible iteration runs its steps back, and the implicit gradient takes the same evaluations forward, and 8 products.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import PeakBytes, interleaved, median_ratio
from benchmarks.problems import seeded
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started
from deqzoo.implicit import EquationAdjoint, Implicit, Neumann, Picard, ReversibleIteration, Unrolled
from deqzoo.nn import DEQ
from deqzoo.nn.cells import PlainConvCell

REVERSIBLE, TAPE = "reversible", "backpropagation"
WAYS: dict[str, EquationAdjoint] = {
    REVERSIBLE: ReversibleIteration(),
    TAPE: Unrolled(),
    "backpropagation, checkpointed": Unrolled(checkpoint=True),
    "implicit, 8 products": Implicit(Neumann(k=8)),
}
EVALUATIONS = 16, 64  # 8 and 32 steps of the pair
LIMIT = 0.05


@dataclasses.dataclass
class Row:
    """One way at one number of evaluations.

    Attributes:
        evaluations: of f, forward.
        peak_bytes: alive at once in forward and backward, beyond parameters and inputs.
        over_tape: time over that of backpropagation.
        residual: of what is returned, relative, the largest of the batch.
    """

    way: str
    evaluations: int
    seconds: float
    over_tape: float
    peak_bytes: int
    residual: float


def layer_of(way: str, evaluations: int, channels: int) -> DEQ:
    """The layer; a step of the reversible iteration takes two evaluations."""
    steps = evaluations // 2 if way == REVERSIBLE else evaluations
    solver = Picard(damping=0.8, max_steps=steps, stop="never")
    with seeded():
        return DEQ(PlainConvCell(channels), solver=solver, adjoint=WAYS[way], on_failure="ignore")


def run(layer: DEQ, x: Tensor) -> None:
    """Forward and backward."""
    layer.zero_grad()
    layer(x).square().mean().backward()


def rows_at(evaluations: int, quick: bool) -> list[Row]:
    """All ways at as many evaluations."""
    channels, size, batch = (8, 4, 2) if quick else (64, 16, 16)
    with seeded():
        x = torch.randn(batch, channels, size, size)
    layers = {way: layer_of(way, evaluations, channels) for way in WAYS}
    calls: dict[str, Callable[[], Any]] = {way: partial(run, layer, x) for way, layer in layers.items()}
    times = interleaved(calls, 1 if quick else 5)
    rows = []
    for way, layer in layers.items():
        with PeakBytes() as memory:
            run(layer, x)
        with torch.no_grad():
            z = layer(x)
            image = layer.cell(z, x)
        residual = ((image - z).flatten(1).norm(dim=1) / image.flatten(1).norm(dim=1)).max().item()
        seconds = sorted(times[way])[len(times[way]) // 2]
        rows.append(Row(way, evaluations, seconds, median_ratio(times[way], times[TAPE]), memory.peak, residual))
    return rows


def checks_of(rows: list[Row]) -> list[Check]:
    """The reversible iteration's memory does not grow."""
    few, many = (row for row in rows if row.way == REVERSIBLE)
    growth = many.peak_bytes / few.peak_bytes - 1
    promise = (
        f"memory at {few.evaluations // 2} and {many.evaluations // 2} reversible steps differs by under {LIMIT:.0%}"
    )
    return [Check(promise, f"{growth:.1%}", abs(growth) < LIMIT)]


def main() -> int:
    """Run the benchmark; the exit status is 1 if a promise is not kept."""
    options, console = started(__doc__ or ""), open_console()
    rows = [row for evaluations in EVALUATIONS for row in rows_at(evaluations, options.quick)]
    print_table(
        console,
        "Reversible iteration",
        ["way"],
        ["evaluations", "time (ms)", "over backpropagation", "memory (MiB)", "residual"],
        (
            (
                row.way,
                str(row.evaluations),
                f"{1e3 * row.seconds:.1f}",
                f"{row.over_tape:.2f}",
                f"{row.peak_bytes / 2**20:.1f}",
                f"{row.residual:.1e}",
            )
            for row in rows
        ),
    )
    checks = checks_of(rows)
    print_checks(console, checks)
    return finished(options, ["deqzoo"], checks, rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
