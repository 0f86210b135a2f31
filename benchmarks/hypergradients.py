"""Gradients in hyperparameters beside the peers': `python -m benchmarks.hypergradients [--json FILE] [--quick]`.

One penalty per feature, whose gradient is known in closed form: ridge regression in both precisions, also of a loss
that is scaled by 1e-30; then three sizes of ridge and logistic regression in float64. The minimiser is handed to all
libraries, so that the derivative alone is timed. jaxopt's is compiled as a whole before it is timed; the others run as
written. Of the three sizes, each round times ten calls in a row of each library.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.jaxopt_peer import jaxopt, jaxopt_hypergradient
from benchmarks.measure import in_a_row, interleaved, median_ratio
from benchmarks.problems import Penalised, Ridge, penalised_problems, ridge_problem
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started, tell_missing
from deqzoo.implicit import CG, GMRES, ImplicitFunction

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchopt
        from torchopt.diff.implicit import custom_root
except ImportError:
    torchopt = None

LINEAR_TOL = 1e-6  # of the linear solves, relative; of all libraries
CALLS = 10  # that are timed in a row, as an outer loop makes them
FASTER = {"ridge 100x5": 2.0}  # than TorchOpt, at least; of the others:
FASTER_ELSE = 1.5


@dataclasses.dataclass
class RidgeRow:
    """One way to differentiate the ridge regression."""

    library: str
    method: str
    dtype: str
    seconds: float
    error: float  # relative, against the closed form
    error_tiny: float  # the same with the outer loss scaled by 1e-30


@dataclasses.dataclass
class HyperRow:
    """One way to differentiate a penalised regression."""

    problem: str
    library: str
    method: str
    seconds: float
    over_peer: float | None  # over TorchOpt's custom_root with CG
    error: float  # relative, against a dense solve


def relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|."""
    return ((found.double() - exact).norm() / exact.norm()).item()


# --- ridge regression, in both precisions ---


def ridge_ways(ridge: Ridge) -> dict[tuple[str, str], Callable[[Tensor], Tensor]]:
    """t -> w(t), differentiable, by library and linear solver; the forward solve is the closed form for all."""
    ways: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {
        ("deqzoo", "CG"): ImplicitFunction(
            ridge.solve, ridge.stationarity, linear_solver=CG(tol=LINEAR_TOL), tags=("symmetric", "positive_definite")
        ),
        ("deqzoo", "GMRES"): ImplicitFunction(
            ridge.solve, ridge.stationarity, linear_solver=GMRES(tol=LINEAR_TOL, restart=100)
        ),
    }
    if torchopt is not None:
        start = torch.zeros_like(ridge.x[0])
        for name, linear in (
            ("CG", torchopt.linear_solve.solve_cg(rtol=LINEAR_TOL)),
            ("CG on the normal equations (default)", torchopt.linear_solve.solve_normal_cg(rtol=LINEAR_TOL)),
        ):
            solver = custom_root(ridge.stationarity, argnums=1, solve=linear)(lambda w, t: ridge.solve(t))
            ways["torchopt", name] = lambda t, solver=solver: solver(start, t)
    return ways


def ridge_table(quick: bool) -> list[RidgeRow]:
    """The hypergradient in both precisions, each way."""
    rows = []
    for dtype in (torch.float32, torch.float64):
        ridge = ridge_problem(quick).to(dtype)
        t = torch.zeros(ridge.x.shape[1], dtype=dtype, requires_grad=True)
        exact = ridge.hypergradient(t)
        ways = ridge_ways(ridge)

        def hypergradient(way: Any, scale: float, ridge: Ridge = ridge, t: Tensor = t) -> Tensor:
            return torch.autograd.grad(scale * ridge.outer(way(t)), t)[0]

        found = []
        for (library, name), way in ways.items():
            error = relative_error(hypergradient(way, 1.0), exact)
            tiny = relative_error(hypergradient(way, 1e-30).double() * 1e30, exact)
            found.append(RidgeRow(library, name, str(dtype)[6:], math.nan, error, tiny))
        calls = {key: lambda way=way: hypergradient(way, 1.0) for key, way in ways.items()}
        for row, times in zip(found, interleaved(calls, 1 if quick else 15).values(), strict=True):
            row.seconds = statistics.median(times)
        rows += found
    return rows


# --- three sizes, in float64 ---


def hyper_ways(problem: Penalised, minimiser: Tensor) -> dict[tuple[str, str], Callable[[], Tensor]]:
    """What computes the hypergradient at t = 0, by library; the minimiser is at hand for all."""
    t = torch.zeros(problem.x.shape[1], dtype=torch.float64, requires_grad=True)

    def through(way: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(problem.outer(way(t)), t)[0]

    ours = ImplicitFunction(
        lambda t: minimiser,
        problem.stationarity,
        linear_solver=CG(tol=LINEAR_TOL),
        tags=("symmetric", "positive_definite"),
    )
    ways = {("deqzoo", "CG"): through(ours)}
    if torchopt is not None:
        linear = torchopt.linear_solve.solve_cg(rtol=LINEAR_TOL)
        solver = custom_root(problem.stationarity, argnums=1, solve=linear)(lambda w, t: minimiser)
        ways["torchopt", "CG"] = through(lambda t: solver(minimiser, t))
    if jaxopt is not None:
        ways["jaxopt", "CG, compiled"] = jaxopt_hypergradient(problem, minimiser, LINEAR_TOL)
    return ways


def hyper_table(quick: bool) -> list[HyperRow]:
    """Each problem, each way."""
    rows = []
    for name, problem in penalised_problems(quick).items():
        t = torch.zeros(problem.x.shape[1], dtype=torch.float64)
        minimiser = problem.solve(t)
        exact = problem.hypergradient(t, minimiser)
        ways = hyper_ways(problem, minimiser)
        errors = {key: relative_error(hypergradient(), exact) for key, hypergradient in ways.items()}
        calls = {key: in_a_row(way, CALLS) for key, way in ways.items()}
        times = interleaved(calls, 1 if quick else 41)
        peer = times.get(("torchopt", "CG"))
        for (library, method), measured in times.items():
            over = None if peer is None else median_ratio(measured, peer)
            seconds = statistics.median(measured) / CALLS
            rows.append(HyperRow(name, library, method, seconds, over, errors[library, method]))
    return rows


def hyper_checks(rows: list[HyperRow]) -> list[Check]:
    """What deqzoo promises beside TorchOpt."""
    checks = []
    by_library = [[row for row in rows if row.library == library] for library in ("deqzoo", "torchopt")]
    for ours, theirs in zip(*by_library, strict=True) if torchopt is not None else ():
        factor, least = 1 / (ours.over_peer or math.inf), FASTER.get(ours.problem, FASTER_ELSE)
        promise = f"{ours.problem}: at least {least:g} times as fast as TorchOpt at equal or smaller error"
        found = f"{factor:.2f} times, error {ours.error:.1e} against {theirs.error:.1e}"
        checks.append(Check(promise, found, factor >= least and ours.error <= max(1.01 * theirs.error, 1e-12)))
    return checks


# --- report ---


def print_hyper_tables(console: Console, ridge: list[RidgeRow], hyper: list[HyperRow]) -> None:
    """Both tables."""
    print_table(
        console,
        "Ridge hypergradient, 100 penalties",
        ["library", "linear solver", "precision"],
        ["ms", "error", "error, loss times 1e-30"],
        [
            (r.library, r.method, r.dtype, f"{r.seconds * 1e3:.1f}", f"{r.error:.1e}", f"{r.error_tiny:.1e}")
            for r in ridge
        ],
    )
    print_table(
        console,
        "Hypergradient at a given minimiser, float64",
        ["problem", "library", "linear solver"],
        ["ms", "over TorchOpt", "error"],
        [
            (
                r.problem,
                r.library,
                r.method,
                f"{r.seconds * 1e3:.2f}",
                "" if r.over_peer is None else f"{r.over_peer:.2f}",
                f"{r.error:.1e}",
            )
            for r in hyper
        ],
    )


def main() -> int:
    """Run, print, and write."""
    options = started(__doc__)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torchopt")
    console = open_console()
    tell_missing(console, torchopt=torchopt, jaxopt=jaxopt)
    ridge, hyper = ridge_table(options.quick), hyper_table(options.quick)
    checks = hyper_checks(hyper)
    print_hyper_tables(console, ridge, hyper)
    print_checks(console, checks)
    return finished(options, ["deqzoo", "torchopt", "jaxopt"], checks, ridge=ridge, hyper=hyper)


if __name__ == "__main__":
    raise SystemExit(main())
