"""Neural controlled differential equations beside torchcde: equal paths, equal solutions, time of a gradient.

Same series, field, start and tolerance. torchcde's way by default is the continuous adjoint; its other one keeps all
steps on the tape.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.measure import CountCalls, interleaved, median_ratio
from benchmarks.problems import seeded
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started, tell_missing
from deqzoo.implicit import RK4, Direct, Discrete, Tsit5
from deqzoo.nn import MLPVectorField, NeuralCDE, hermite_cubic, natural_cubic, piecewise_linear

try:
    import torchcde
except ImportError:
    torchcde = None

F64, EQUAL, LIMIT = torch.float64, 1e-6, 0.7
OURS = {"natural cubic": natural_cubic, "Hermite cubic": hermite_cubic, "linear": piecewise_linear}


@dataclasses.dataclass
class Row:
    """One task by one library.

    Attributes:
        nfe: calls of the field, forward; nan: there are none.
        over_peer: our time over the peer's in the same way; None: it is the peer's row.
        error: of the result, in the maximum norm; of a gradient, relative.
    """

    task: str
    library: str
    seconds: float
    nfe: float
    over_peer: float | None
    error: float


def sizes(quick: bool) -> tuple[int, int, int]:
    """Batch, length and channels of the series."""
    return (4, 6, 3) if quick else (16, 20, 8)


def series(batch: int, length: int, channels: int, missing: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random walks with time as the first channel, (batch, length, channels), some values NaN; and their times."""
    with seeded():
        t = (torch.rand(length, dtype=F64) + 0.3).cumsum(0)
        walks = 0.3 * torch.randn(batch, length, channels - 1, dtype=F64).cumsum(1)
        walks[torch.rand(walks.shape) < missing] = torch.nan
        walks[:, length // 2] = 0.0  # no channel is without an observation
    return torch.cat([t[:, None].expand(batch, -1, 1), walks], 2).to(dtype), t.to(dtype)


def their_path(kind: str, x: Tensor, t: Tensor) -> Any:
    """torchcde's of the same kind."""
    if kind == "linear":
        return torchcde.LinearInterpolation(torchcde.linear_interpolation_coeffs(x, t), t)
    coefficients = {
        "natural cubic": torchcde.natural_cubic_coeffs,
        "Hermite cubic": torchcde.hermite_cubic_coefficients_with_backward_differences,
    }
    return torchcde.CubicSpline(coefficients[kind](x, t), t)


def path_rows(quick: bool) -> list[Row]:
    """Interpolation: its time, and the largest difference of values and derivatives at 200 times."""
    rows = []
    for missing in (0.0, 0.5):
        x, t = series(*sizes(quick), missing, F64)
        at = torch.linspace(t[0], t[-1], 200, dtype=F64)
        for kind, ours in OURS.items():
            path, theirs = ours(x, t), their_path(kind, x, t)
            differences = (
                path(at).transpose(0, 1) - theirs.evaluate(at),
                path.derivative(at).transpose(0, 1) - theirs.derivative(at),
            )
            calls: dict[str, Callable[[], Any]] = {
                "deqzoo": lambda ours=ours, x=x, t=t: ours(x, t),
                "torchcde": lambda kind=kind, x=x, t=t: their_path(kind, x, t),
            }
            times = interleaved(calls, 1 if quick else 3)
            error = max(difference.abs().max().item() for difference in differences)
            rows += pair(f"{kind}, {100 * missing:.0f} % missing", times, (math.nan,) * 2, (error, error))
    return rows


def pair(task: str, times: dict[str, list[float]], nfe: Any, errors: Any) -> list[Row]:
    """Our row and the peer's."""
    ratio = median_ratio(times["deqzoo"], times["torchcde"])
    ours, theirs = (statistics.median(times[name]) for name in ("deqzoo", "torchcde"))
    return [
        Row(task, "deqzoo", ours, nfe[0], ratio, errors[0]),
        Row(task, "torchcde", theirs, nfe[1], None, errors[1]),
    ]


class Problem:
    """A path of each library, a field, a start; the loss is the mean square of z at the end."""

    def __init__(self, kind: str, dtype: torch.dtype, quick: bool) -> None:
        x, t = series(*sizes(quick), 0.5, dtype)
        hidden = 4 if quick else 16
        self.ours, self.theirs = OURS[kind](x, t), their_path(kind, x, t)
        with seeded():
            self.field: nn.Module = MLPVectorField(hidden, x.shape[2], 8 if quick else 32).to(dtype)
            self.z0 = 0.1 * torch.randn(len(x), hidden, dtype=F64).to(dtype)

    def by_ours(self, solver: Any, adjoint: Any, f: Any = None) -> Tensor:
        """The end, by deqzoo."""
        return NeuralCDE(self.field if f is None else f, solver=solver, adjoint=adjoint)(self.ours, self.z0)

    def by_theirs(self, f: Any = None, every: bool = False, **options: Any) -> Tensor:
        """The end, by torchcde; ``every``: solved from knot to knot."""
        times = self.theirs.grid_points if every else self.theirs.interval
        f = self.field if f is None else f
        if f is not self.field and options.get("adjoint", True):
            options["adjoint_params"] = tuple(self.field.parameters())
        end: Tensor = torchcde.cdeint(self.theirs, f, self.z0, times, **options)[:, -1]
        return end

    def gradient(self, end: Callable[..., Tensor]) -> tuple[Tensor, int]:
        """Of the loss in the field's parameters, as one vector; calls of the field, forward."""
        f = CountCalls(self.field)
        value = end(f=f)
        nfe = f.calls
        parts = torch.autograd.grad(value.square().mean(), list(self.field.parameters()))
        return torch.cat([part.flatten() for part in parts]), nfe


def solution_rows(quick: bool) -> list[Row]:
    """In float64 at a tolerance of 1e-9: the largest difference of the ends."""
    rows = []
    for kind in OURS:
        problem = Problem(kind, F64, quick=True)
        knots = {"jump_t": problem.theirs.grid_points[1:-1]}
        calls: dict[str, Callable[[], Tensor]] = {
            "deqzoo": lambda problem=problem: problem.by_ours(Tsit5(rtol=1e-9, atol=1e-9), Direct()),
            "torchcde": lambda problem=problem, knots=knots: problem.by_theirs(
                rtol=1e-9, atol=1e-9, method="dopri5", adjoint=False, options=knots
            ),
        }
        with torch.no_grad():
            error = (calls["deqzoo"]() - calls["torchcde"]()).abs().max().item()
            rows += pair(f"end, {kind}", interleaved(calls, 1), (math.nan,) * 2, (error, error))
    return rows


def gradient_rows(quick: bool) -> list[Row]:
    """float32, torchcde's tolerances by default (rtol 1e-4, atol 1e-6): each way that both have."""
    rows = []
    adaptive = Tsit5(rtol=1e-4, atol=1e-6)
    for kind in OURS:
        problem, exact = Problem(kind, torch.float32, quick), Problem(kind, F64, quick)
        reference, _ = exact.gradient(lambda f, exact=exact: exact.by_ours(Tsit5(rtol=1e-7, atol=1e-7), Direct(), f))
        ways: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
            "by default": (
                lambda f=None, problem=problem: problem.by_ours(adaptive, Discrete(), f),
                lambda f=None, problem=problem: problem.by_theirs(f),
            ),
            "on the tape": (
                lambda f=None, problem=problem: problem.by_ours(adaptive, Direct(), f),
                lambda f=None, problem=problem: problem.by_theirs(f, adjoint=False),
            ),
            "rk4 from knot to knot, on the tape": (
                lambda f=None, problem=problem: problem.by_ours(RK4(), Direct(), f),
                lambda f=None, problem=problem: problem.by_theirs(f, every=True, adjoint=False, method="rk4"),
            ),
        }
        for way, ends in ways.items():
            found = [problem.gradient(end) for end in ends]
            errors = [((part.double() - reference).norm() / reference.norm()).item() for part, _ in found]
            calls = {
                name: lambda end=end, problem=problem: problem.gradient(end)
                for name, end in zip(("deqzoo", "torchcde"), ends, strict=True)
            }
            times = interleaved(calls, 1 if quick else 3)
            rows += pair(f"gradient, {kind}, {way}", times, [nfe for _, nfe in found], errors)
    return rows


def checks(rows: list[Row]) -> list[Check]:
    """Equal results to 1e-6; at most .7 of torchcde's time, in its way by default and where values are missing."""
    found = []
    for row in rows:
        if row.library != "deqzoo" or row.over_peer is None:
            continue
        if not row.task.startswith("gradient"):
            found.append(Check(f"{row.task}: within {EQUAL:g} of torchcde", f"{row.error:.0e}", row.error <= EQUAL))
        if row.task.endswith("by default") or row.task.endswith("50 % missing"):
            kept = row.over_peer <= LIMIT
            found.append(Check(f"{row.task}: at most {LIMIT} of torchcde's time", f"{row.over_peer:.2f}", kept))
    return found


def print_rows(console: Console, rows: list[Row]) -> None:
    """One table of all."""
    cells = []
    for row in rows:
        over = "" if row.over_peer is None else f"{row.over_peer:.2f}"
        nfe = "" if math.isnan(row.nfe) else f"{row.nfe:.0f}"
        cells.append((row.task, row.library, f"{row.seconds * 1e3:.1f}", over, nfe, f"{row.error:.0e}"))
    print_table(console, "Neural CDEs", ["task", "library"], ["ms", "over torchcde", "NFE", "error, difference"], cells)


def main() -> int:
    """Run, print, and write."""
    options = started(__doc__)
    console = open_console()
    if torchcde is None:
        tell_missing(console, torchcde=torchcde)
        return 0
    rows = path_rows(options.quick) + solution_rows(options.quick) + gradient_rows(options.quick)
    print_rows(console, rows)
    found = checks(rows)
    print_checks(console, found)
    return finished(options, ["deqzoo", "torchcde", "torchdiffeq"], found, rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
