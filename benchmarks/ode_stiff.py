"""Stiff problems: our methods against SciPy's Radau and BDF, in calls of f at equal error, with gradients.

All is counted as calls of f: a Jacobian in n unknowns as n, SciPy's `njev` likewise, which its `nfev` leaves out. The
error is that of the end state, the root mean square over all components of |error| / (floor + |value|). A part of
`ode.py` that runs alone, too.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy.integrate import solve_ivp

from benchmarks.ode_problems import StiffProblem, stiff_problems
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started
from deqzoo.implicit import Discrete, Kvaerno5, Rodas5P, odeint

RTOL = (1e-3, 1e-4, 1e-5, 1e-6)
OF_RADAU = (1e-3, 1e-4)  # tolerances of Radau at whose errors the promise is judged
OURS = {"Rodas5P": Rodas5P, "Kvaerno5": Kvaerno5}


@dataclasses.dataclass
class StiffRow:
    """One solve of one problem; the backward pass and its gradient, in all of k, where they were asked for."""

    problem: str
    solver: str
    rtol: float
    calls: int
    steps: int
    error: float
    calls_backward: int | None = None
    gradient_error: float | None = None


def by_scipy(problem: StiffProblem, method: str, rtol: float, atol: float | None = None, k: Any = None) -> Any:
    """SciPy's solution."""
    k = problem.k if k is None else k
    atol = rtol * problem.floor if atol is None else atol
    return solve_ivp(
        lambda t, y: np.array(problem.rates(y, k)), (0.0, problem.end), problem.y0, method, rtol=rtol, atol=atol
    )


def tight(problem: StiffProblem, k: Any = None) -> np.ndarray:
    """The end state, by Radau."""
    end: np.ndarray = by_scipy(problem, "Radau", 1e-8, 1e-8 * min(problem.floor, 1e-2), k).y[:, -1]
    return end


def scale(problem: StiffProblem, exact: np.ndarray) -> np.ndarray:
    """What an error in each component is measured by."""
    size: np.ndarray = problem.floor + np.abs(exact)
    return size


def gradient(problem: StiffProblem, exact: np.ndarray) -> np.ndarray:
    """d(sum of the end state over `scale`)/d(log k), by central differences of tight solves."""
    found = []
    for i in range(len(problem.k)):
        ends = []
        for sign in (1, -1):
            k = list(problem.k)
            k[i] *= 1 + sign * 1e-4
            ends.append(float((tight(problem, k) / scale(problem, exact)).sum()))
        found.append((ends[0] - ends[1]) / 2e-4)
    return np.array(found)


def by_ours(problem: StiffProblem, name: str, rtol: float, exact: np.ndarray, slope: np.ndarray | None) -> StiffRow:
    """A row of ours."""
    k = torch.tensor(problem.k, dtype=torch.float64, requires_grad=slope is not None)
    solver = OURS[name](rtol=rtol, atol=rtol * problem.floor)
    y, solution = odeint(
        problem.torch, torch.tensor(problem.y0, dtype=torch.float64), [0.0, problem.end], k, solver=solver,
        adjoint=Discrete(64), return_solution=True,
    )  # fmt: skip
    row = StiffRow(
        problem.name, name, rtol, solution.nfe, int(solution.steps), error(problem, y[-1].detach().numpy(), exact)
    )
    if slope is not None:
        loss = (y[-1] / torch.from_numpy(scale(problem, exact))).sum()
        found = (torch.autograd.grad(loss, k)[0] * k.detach()).numpy()
        row.calls_backward = solution.backward.nfe
        row.gradient_error = float(np.linalg.norm(found - slope) / np.linalg.norm(slope))
    return row


def error(problem: StiffProblem, found: np.ndarray, exact: np.ndarray) -> float:
    """Of an end state."""
    return float(np.sqrt(np.mean(((found - exact) / scale(problem, exact)) ** 2)))


def measure_stiff(problem: StiffProblem) -> list[StiffRow]:
    """SciPy's methods and ours at all tolerances."""
    exact = np.array(problem.published) if problem.published else tight(problem)
    slope, rows = gradient(problem, exact), []
    for rtol in sorted({*RTOL, problem.gradient_rtol}, reverse=True):
        for method in ("Radau", "BDF"):
            found = by_scipy(problem, method, rtol)
            calls = found.nfev + len(exact) * found.njev
            rows.append(
                StiffRow(problem.name, method, rtol, calls, len(found.t) - 1, error(problem, found.y[:, -1], exact))
            )
        rows += [by_ours(problem, name, rtol, exact, slope if rtol == problem.gradient_rtol else None) for name in OURS]
    return rows


def calls_at(rows: list[StiffRow], error: float) -> float:
    """Calls that a solver needs for an error, interpolated between its tolerances; the cheapest row if all do."""
    good = [row.calls for row in rows if row.error <= error]
    found = float(min(good)) if good else math.inf
    for loose in rows:
        for fine in rows:
            if loose.error > error >= fine.error and fine.calls > loose.calls:
                share = math.log(loose.error / error) / math.log(loose.error / fine.error)
                found = min(found, loose.calls * (fine.calls / loose.calls) ** share)
    return found


def stiff_checks(rows: list[StiffRow]) -> list[Check]:
    """At most twice Radau's calls at equal error, by the better of our methods; and the gradients."""
    checks = []
    for problem in dict.fromkeys(row.problem for row in rows):
        own = [row for row in rows if row.problem == problem]
        for radau in (row for row in own if row.solver == "Radau" and row.rtol in OF_RADAU):
            costs = {name: calls_at([row for row in own if row.solver == name], radau.error) for name in OURS}
            best = min(costs, key=lambda name: costs[name])
            checks.append(
                Check(
                    f"{problem}: at most twice Radau's {radau.calls} calls of f for an error of {radau.error:.1e}",
                    f"{best} {costs[best] / radau.calls:.2f}",
                    costs[best] <= 2 * radau.calls,
                )
            )
        for row in own:
            if row.gradient_error is not None:
                checks.append(
                    Check(
                        f"{problem}, {row.solver}: gradient within 1 % of differences of tight solves",
                        f"{row.gradient_error:.1e}",
                        row.gradient_error <= 1e-2,
                    )
                )
    return checks


def print_stiff(console: Console, rows: list[StiffRow]) -> None:
    """The table."""
    print_table(
        console,
        "Stiff problems: calls of f, Jacobians included",
        ["problem", "solver"],
        ["rtol", "calls", "steps", "error", "calls back", "gradient error"],
        [
            (
                row.problem, row.solver, f"{row.rtol:.0e}", f"{row.calls:,}", f"{row.steps:,}", f"{row.error:.1e}",
                "" if row.calls_backward is None else f"{row.calls_backward:,}",
                "" if row.gradient_error is None else f"{row.gradient_error:.1e}",
            )
            for row in sorted(rows, key=lambda row: (row.problem, row.solver, -row.rtol))
        ],
    )  # fmt: skip


def stiff_rows(quick: bool) -> list[StiffRow]:
    """Of all problems."""
    return [row for problem in stiff_problems(quick) for row in measure_stiff(problem)]


def main() -> int:
    """Run, print, and write."""
    options = started(__doc__)
    rows = stiff_rows(options.quick)
    found, console = stiff_checks(rows), open_console()
    print_stiff(console, rows)
    print_checks(console, found)
    return finished(options, ["deqzoo", "scipy"], found, stiff=rows)


if __name__ == "__main__":
    raise SystemExit(main())
