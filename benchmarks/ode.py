"""Neural ODEs: our solvers and adjoints against torchdiffeq, torchode and zuko.

Same field, start, tolerance and threads. Counts (NFE, bytes held between forward and backward), the error of the
gradient against a tight float64 solve, and CPU times in interleaved rounds, as ratios to torchdiffeq's. Stiff problems
against SciPy: `ode_stiff.py`.
Our solves start with first_step="span", as the recipes of networks do.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torchdiffeq
from rich.console import Console
from torch import Tensor, nn

from benchmarks.measure import PeakBytes, interleaved, median_ratio
from benchmarks.ode_problems import ODEProblem, conv_problem, mlp_problem, stiff_mix
from benchmarks.ode_stiff import print_stiff, stiff_checks, stiff_rows
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started
from deqzoo.implicit import Backsolve, Bosh3, Direct, Discrete, Dopri5, Tsit5, odeint, odeint_event

try:
    import torchode
except ImportError:
    torchode = None
try:
    from zuko.utils import odeint as zuko_odeint
except ImportError:
    zuko_odeint = None

OURS = "deqzoo"
BACKPROP, ADJOINT, SEMINORM = "backprop", "adjoint", "adjoint, seminorm"
Run = Callable[[nn.Module, Tensor, Tensor], Tensor]  # field, start, times -> y at the times


class Counted(nn.Module):
    """A field whose calls are counted."""

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.f, self.calls = f, 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        self.calls += 1
        return self.f(t, y)


@dataclasses.dataclass
class Row:
    """One way to a gradient, on one problem."""

    problem: str
    library: str
    way: str
    nfe: int  # of the forward pass
    nfe_backward: int
    seconds: float  # forward and backward
    over_backprop: float  # time over torchdiffeq's backpropagation
    over_adjoint: float  # time over torchdiffeq's adjoint
    held_bytes: int  # alive between forward and backward, the result left out
    error: float  # of the gradient in the start and all parameters, relative


def contenders(problem: ODEProblem) -> dict[tuple[str, str], Run]:
    """(library, way) -> solver, all at the problem's tolerance."""
    tol = {"rtol": problem.rtol, "atol": problem.atol}

    def ours(solver: Any, adjoint: Any) -> Run:
        return lambda f, y0, t: odeint(f, y0, t, solver=solver(**tol, first_step="span"), adjoint=adjoint)

    def theirs(solve: Any, method: str = "dopri5", **options: Any) -> Run:
        return lambda f, y0, t: solve(f, y0, t, method=method, **tol, **options)

    runs: dict[tuple[str, str], Run] = {
        (OURS, "Tsit5, discrete"): ours(Tsit5, Discrete()),
        (OURS, "Dopri5, discrete"): ours(Dopri5, Discrete()),
        (OURS, "Dopri5, direct"): ours(Dopri5, Direct()),
        (OURS, "Dopri5, backsolve"): ours(Dopri5, Backsolve()),
        ("torchdiffeq", BACKPROP): theirs(torchdiffeq.odeint),
        ("torchdiffeq", ADJOINT): theirs(torchdiffeq.odeint_adjoint),
        ("torchdiffeq", SEMINORM): theirs(torchdiffeq.odeint_adjoint, adjoint_options={"norm": "seminorm"}),
    }
    if problem.rtol >= 1e-3:  # where a low order serves better
        runs[OURS, "Bosh3, discrete"] = ours(Bosh3, Discrete())
        runs[OURS, "Bosh3, direct"] = ours(Bosh3, Direct())
        runs["torchdiffeq", "bosh3, backprop"] = theirs(torchdiffeq.odeint, "bosh3")
        runs["torchdiffeq", "bosh3, adjoint"] = theirs(torchdiffeq.odeint_adjoint, "bosh3")
    if zuko_odeint is not None and len(problem.times) == 2:
        runs["zuko", "dopri5, checkpoint adjoint"] = lambda f, y0, t: torch.stack(
            [y0, zuko_odeint(f, y0, t[0], t[1], phi=tuple(f.parameters()), **tol)]
        )
    if torchode is not None and problem.y0.dim() == 2:
        runs["torchode", "dopri5, autodiff"] = lambda f, y0, t: by_torchode(f, y0, t, problem)
    return runs


def by_torchode(f: nn.Module, y0: Tensor, t: Tensor, problem: ODEProblem) -> Tensor:
    """Per-sample steps, as torchode has them."""
    term = torchode.ODETerm(f)
    controller = torchode.IntegralController(problem.atol, problem.rtol, term=term)
    adjoint = torchode.AutoDiffAdjoint(torchode.Dopri5(term), controller)
    times = t.unsqueeze(0).expand(len(y0), -1).contiguous()
    return adjoint.solve(torchode.InitialValueProblem(y0, t_eval=times)).ys.transpose(0, 1)


def gradient(run: Run, f: nn.Module, y0: Tensor, times: Tensor) -> list[Tensor]:
    """Of the mean square of y at the later times, in the start and in the parameters."""
    loss = run(f, y0, times)[1:].square().mean()
    return list(torch.autograd.grad(loss, [y0, *f.parameters()]))


def measure(problem: ODEProblem, rounds: int, ways: set[str] | None = None) -> list[Row]:
    """One row per contender: counts, error, times."""
    f, y0 = Counted(problem.f), problem.y0.clone().requires_grad_()
    exact = reference(problem)
    runs = {key: run for key, run in contenders(problem).items() if ways is None or key[1] in ways}
    rows = {}
    for key, run in runs.items():
        f.calls = 0
        with PeakBytes() as memory:
            y = run(f, y0, problem.times)
            held = memory.alive - y.nbytes
        forward = f.calls
        loss = y[1:].square().mean()
        grads = torch.autograd.grad(loss, [y0, *f.parameters()])
        error = relative(grads, exact)
        rows[key] = Row(problem.name, *key, forward, f.calls - forward, 0.0, 0.0, 0.0, held, error)
        del y, loss, grads
    times = interleaved({key: lambda run=run: gradient(run, f, y0, problem.times) for key, run in runs.items()}, rounds)
    for key, row in rows.items():
        row.seconds = statistics.median(times[key])
        row.over_backprop = median_ratio(times[key], times["torchdiffeq", BACKPROP])
        row.over_adjoint = median_ratio(times[key], times["torchdiffeq", ADJOINT])
    return list(rows.values())


def reference(problem: ODEProblem) -> list[Tensor]:
    """The gradient in float64, by torchdiffeq: order 8 at tolerance 1e-9 for the MLPs.

    The convolutional field has kinks (ReLU), where a high order is lost: order 5 at tolerance 1e-6, and by the adjoint,
    because its tape would be many gigabytes.
    """
    f, y0 = copy.deepcopy(problem.f).double(), problem.y0.double().requires_grad_()
    smooth = problem.y0.dim() == 2
    solve = torchdiffeq.odeint if smooth else torchdiffeq.odeint_adjoint
    method, tol = ("dopri8", 1e-9) if smooth else ("dopri5", 1e-6)
    return gradient(lambda f, y0, t: solve(f, y0, t, method=method, rtol=tol, atol=tol), f, y0, problem.times.double())


def relative(found: Any, exact: Any) -> float:
    """Relative error over all tensors."""
    a, b = (torch.cat([x.double().flatten() for x in tensors]) for tensors in (found, exact))
    return ((a - b).norm() / b.norm()).item()


def get(rows: list[Row], problem: str, way: str) -> Row:
    """The row of a problem and a way."""
    return next(row for row in rows if row.problem == problem and row.way == way)


def best(rows: list[Row], problem: str, peer: Row) -> Row:
    """Our fastest whose gradient is no worse than the peer's (5 % of grace)."""
    ours = [r for r in rows if r.problem == problem and r.library == OURS and r.error <= 1.05 * peer.error]
    return min(ours or [get(rows, problem, "Dopri5, discrete")], key=lambda r: r.seconds)


def speed_checks(rows: list[Row], problem: str, of_backprop: float, of_adjoint: float) -> list[Check]:
    """Times against torchdiffeq's, at an equal or better gradient."""
    peer, adjoint = get(rows, problem, BACKPROP), get(rows, problem, ADJOINT)
    first, second = best(rows, problem, peer), best(rows, problem, adjoint)
    return [
        Check(
            f"{problem}: at most {of_backprop} of torchdiffeq's backpropagation (gradient error {peer.error:.1e})",
            f"{first.way} {first.over_backprop:.2f} (error {first.error:.1e})",
            first.over_backprop <= of_backprop and first.error <= 1.05 * peer.error,
        ),
        Check(
            f"{problem}: at most {of_adjoint} of torchdiffeq's adjoint (gradient error {adjoint.error:.1e})",
            f"{second.way} {second.over_adjoint:.2f} (error {second.error:.1e})",
            second.over_adjoint <= of_adjoint and second.error <= 1.05 * adjoint.error,
        ),
    ]


def bytes_check(rows: list[Row], problem: ODEProblem) -> Check:
    """Held bytes: those of the adjoint, and 16 states."""
    ours, adjoint = get(rows, problem.name, "Dopri5, discrete"), get(rows, problem.name, ADJOINT)
    limit = adjoint.held_bytes + 16 * problem.y0.nbytes
    return Check(
        f"{problem.name}: bytes held at most those of the adjoint and 16 states ({limit / 2**20:.2f} MiB)",
        f"{ours.held_bytes / 2**20:.2f} MiB",
        ours.held_bytes <= limit,
    )


def growth_check(rows: list[Row], small: str, large: str) -> Check:
    """How the time of the discrete adjoint grows, beside that of backpropagation."""
    ours, theirs = (
        get(rows, large, way).seconds / get(rows, small, way).seconds for way in ("Dopri5, discrete", BACKPROP)
    )
    adjoint = get(rows, large, ADJOINT).seconds / get(rows, small, ADJOINT).seconds
    return Check(
        f"{small} to {large}: time grows like backpropagation's, {theirs:.2f} times (the adjoint's {adjoint:.2f})",
        f"{ours:.2f}",
        ours <= 1.3 * theirs,
    )


def stiff_check(quick: bool) -> Check:
    """Rows of f evaluated with steps of each sample's own, over the sum of what each sample needs alone."""
    f, y0, mu = stiff_mix(quick)
    counted = {"rows": 0}

    def field(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        counted["rows"] += len(y)
        return f(t, y, mu)

    solver = Tsit5(rtol=1e-4, atol=1e-6, max_steps=100_000)
    options: dict[str, Any] = {"solver": solver, "batch_dims": 1, "compact": True, "return_solution": True}
    odeint(field, y0, [0.0, 5.0], mu, **options)
    batch, counted["rows"] = counted["rows"], 0
    for i in range(len(mu)):
        odeint(field, y0[i : i + 1], [0.0, 5.0], mu[i : i + 1], **options)
    alone, counted["rows"] = counted["rows"], 0
    odeint(lambda t, y: field(t, y, mu), y0, [0.0, 5.0], solver=solver)
    return Check(
        "stiff mix: evaluations within 1.1 of the sum of each sample's own steps",
        f"{batch / alone:.3f} ({batch:,}; one step size for all: {counted['rows']:,})",
        batch <= 1.1 * alone,
    )


def event_check() -> Check:
    """Evaluations of f until an event, and at which time it is found, beside torchdiffeq's search."""
    turn = lambda t, y: torch.stack([y[1], -y[0]])  # noqa: E731
    problems: list[tuple[Any, list[float], Any]] = [
        (lambda t, y: torch.stack([y[1], 0 * y[1] - 9.81]), [2.0, 0.0], lambda t, y: y[0]),  # a falling ball
        (turn, [1.0, 0.0], lambda t, y: y[0]),
        (turn, [1.0, 0.1], lambda t, y: t + y[0] - 15.0),  # late
        (lambda t, y: torch.stack([y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0]]), [2.0, 0.0], lambda t, y: y[0]),
    ]
    tol, counts, worst = {"rtol": 1e-6, "atol": 1e-6}, [0, 0], 0.0
    for f, start, event in problems:
        field, y0 = Counted(f), torch.tensor(start, dtype=torch.float64)
        time, _ = odeint_event(field, y0, [0.0, 20.0], event, solver=Dopri5(**tol))
        ours, field.calls = field.calls, 0
        other, _ = torchdiffeq.odeint_event(field, y0, torch.tensor(0.0).double(), event_fn=event, **tol)
        counts, worst = [counts[0] + ours, counts[1] + field.calls], max(worst, abs(time / other - 1).item())
    return Check(
        "four events: evaluations at most 1.2 of torchdiffeq's, times alike to 1e-5",
        f"{counts[0] / counts[1]:.2f} ({counts[0]} to {counts[1]}), {worst:.1e}",
        counts[0] <= 1.2 * counts[1] and worst < 1e-5,
    )


def print_report(console: Console, rows: list[Row], found: list[Check]) -> None:
    """The table and the promises."""
    print_table(
        console,
        "Gradients through ODE solves, forward and backward",
        ["problem", "library", "way"],
        ["NFE", "NFE back", "ms", "over backprop", "over adjoint", "held MiB", "gradient error"],
        [
            (
                row.problem, row.library, row.way, f"{row.nfe}", f"{row.nfe_backward}",
                f"{row.seconds * 1e3:.1f}", f"{row.over_backprop:.2f}", f"{row.over_adjoint:.2f}",
                f"{row.held_bytes / 2**20:.2f}", f"{row.error:.1e}",
            )
            for row in rows
        ],
    )  # fmt: skip
    console.print("Times: median CPU time of interleaved rounds, one thread; ratios within a round.")
    print_checks(console, found)


def main() -> int:
    """Run, print, and write."""
    options = started(__doc__)
    quick, few = options.quick, {"Dopri5, discrete", BACKPROP, ADJOINT}
    batch, rounds = (8, 1) if quick else (256, 7)
    rows: list[Row] = []
    main_problems = [
        mlp_problem("MLP, easy", batch=batch), mlp_problem("MLP, hard", scale=3.0, batch=batch), conv_problem(quick)
    ]  # fmt: skip
    for problem in main_problems:
        rows += measure(problem, 3 if problem.y0.dim() > 2 and not quick else rounds)
    for outputs in (2, 6) if quick else (2, 11, 101):
        rows += measure(mlp_problem(f"{outputs} output times", outputs=outputs, scale=2.0, batch=batch), rounds, few)
    for hidden in (64, 128) if quick else (64, 512, 2048):
        problem = mlp_problem("", hidden=hidden, batch=8 if quick else 32)
        count = sum(p.numel() for p in problem.f.parameters())
        rows += measure(dataclasses.replace(problem, name=f"{count:,} parameters"), 1 if quick else 5, few)
    names = list(dict.fromkeys(row.problem for row in rows))
    times, counts = ([name for name in names if name.endswith(what)] for what in ("times", "parameters"))
    found = [
        *speed_checks(rows, "MLP, easy", 0.6, 0.25), *speed_checks(rows, "MLP, hard", 0.6, 0.25),
        *speed_checks(rows, "conv block", 1.0, 0.4),
        *(bytes_check(rows, problem) for problem in main_problems),
        growth_check(rows, times[0], times[-1]),
        growth_check(rows, counts[0], counts[-1]),
        stiff_check(quick),
        event_check(),
    ]  # fmt: skip
    stiff = stiff_rows(quick)
    found += stiff_checks(stiff)
    console = open_console()
    print_stiff(console, stiff)
    print_report(console, rows, found)
    return finished(options, ["deqzoo", "torchdiffeq", "torchode", "zuko", "scipy"], found, rows=rows, stiff=stiff)


if __name__ == "__main__":
    raise SystemExit(main())
