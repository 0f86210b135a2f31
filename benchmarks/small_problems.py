"""The gradient of one small fixed point, z = tanh(W z + x) with ||W|| = .5: what a call costs beside its arithmetic.

Float32, one system of 50 and of 1,000 unknowns; forward and backward solve to the same tolerance. Compiled: a step and
a product more than the eager solve takes, in one graph forward and one backward; jaxopt under `jax.jit`. The first
call, which compiles, is not timed.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from benchmarks.hypergradients import relative_error
from benchmarks.jaxopt_peer import jaxopt
from benchmarks.measure import in_a_row, interleaved, median_ratio
from benchmarks.problems import seeded
from benchmarks.report import Check, print_table
from deqzoo.implicit import GMRES, Anderson, EquationAdjoint, FixedPointSolver, Implicit, Neumann, Picard, fixed_point

if jaxopt is not None:
    import jax
    from jax import numpy as jnp

TOL = 1e-5  # relative, of both solves
SIZES = 50, 1000
AT_MOST = {50: 6.0, 1000: 1.5}  # of jaxopt's time, compiled
COMPILED = "Picard, Neumann, compiled"


@dataclasses.dataclass
class SmallRow:
    """One way to the gradient in W and x."""

    unknowns: int
    library: str
    method: str
    seconds: float
    over_peer: float | None  # over the fastest of jaxopt's ways
    error: float  # of the gradient in W, relative, against float64


def problem(unknowns: int) -> tuple[Tensor, Tensor]:
    """W and x."""
    with seeded():
        W, x = torch.randn(unknowns, unknowns), torch.randn(unknowns)
    return (0.5 * W / torch.linalg.matrix_norm(W, 2)).requires_grad_(), x.requires_grad_()


def exact_gradient(W: Tensor, x: Tensor) -> Tensor:
    """d ||z||^2 / dW in float64, by a dense solve with I - D W."""
    W, x = W.detach().double(), x.detach().double()
    z = torch.zeros_like(x)
    for _ in range(200):
        z = torch.tanh(W @ z + x)
    slope = 1 - z**2
    u = torch.linalg.solve((torch.eye(len(x)) - slope.unsqueeze(1) * W).mT, 2 * z)
    return torch.outer(slope * u, z)


def _f(z: Tensor, W: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(W @ z + x)


def our_ways(W: Tensor, x: Tensor) -> dict[tuple[str, str], Callable[[], Tensor]]:
    """Eager, and compiled with the steps that the tolerance takes."""

    def loss(W: Tensor, x: Tensor, solver: FixedPointSolver, adjoint: EquationAdjoint) -> Tensor:
        z: Tensor = fixed_point(_f, torch.zeros_like(x), W, x, solver=solver, adjoint=adjoint)
        return z.square().sum()

    def gradient(loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return torch.autograd.grad(loss(W, x), [W, x])[0]

    _, solution = fixed_point(_f, torch.zeros_like(x), W, x, solver=Picard(tol=TOL), return_solution=True)
    steps = int(solution.steps) + 1  # for an error like jaxopt's
    accelerated = functools.partial(loss, solver=Anderson(tol=TOL), adjoint=Implicit(GMRES(tol=TOL)))
    plain = functools.partial(loss, solver=Picard(tol=TOL), adjoint=Implicit(Neumann(k=100, tol=TOL)))
    fixed = functools.partial(loss, solver=Picard(stop="never", max_steps=steps), adjoint=Implicit(Neumann(k=steps)))
    return {
        ("deqzoo", "Anderson, GMRES"): functools.partial(gradient, accelerated),
        ("deqzoo", "Picard, Neumann"): functools.partial(gradient, plain),
        ("deqzoo", COMPILED): functools.partial(gradient, torch.compile(fixed, fullgraph=True)),
    }


def their_ways(W: Tensor, x: Tensor) -> dict[tuple[str, str], Callable[[], Tensor]]:
    """jaxopt's plain iteration and Anderson acceleration, with its implicit differentiation by GMRES."""

    def f(z: Any, W: Any, x: Any) -> Any:
        return jnp.tanh(W @ z + x)

    jax.config.update("jax_enable_x64", False)  # else its Anderson acceleration mixes precisions, and raises
    given = [jnp.asarray(t.detach().numpy()) for t in (W, x)]
    tol = TOL * float(x.detach().norm())  # theirs is absolute
    options = {"maxiter": 100, "tol": tol, "implicit_diff": True, "jit": True}
    options["implicit_diff_solve"] = functools.partial(jaxopt.linear_solve.solve_gmres, tol=TOL)
    solvers = {
        "fixed-point iteration, compiled": jaxopt.FixedPointIteration(f, **options),
        "Anderson, compiled": jaxopt.AndersonAcceleration(f, **options),
    }

    def way(solver: Any) -> Callable[[], Tensor]:
        def loss(W: Any, x: Any) -> Any:
            return jnp.sum(solver.run(jnp.zeros_like(x), W, x).params ** 2)

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
        return lambda: torch.from_numpy(np.array(gradient(*given)[0]))

    return {("jaxopt", name): way(solver) for name, solver in solvers.items()}


def small_table(quick: bool) -> list[SmallRow]:
    """Each size, each way."""
    rows = []
    for unknowns in SIZES:
        W, x = problem(unknowns)
        exact = exact_gradient(W, x)
        ways = our_ways(W, x) | (their_ways(W, x) if jaxopt is not None else {})
        errors = {key: relative_error(way(), exact) for key, way in ways.items()}
        calls = 1 if quick else 2000 // unknowns
        times = interleaved({key: in_a_row(way, calls) for key, way in ways.items()}, 1 if quick else 21)
        theirs = [key for key in times if key[0] == "jaxopt"]
        fastest = min(theirs, key=lambda key: statistics.median(times[key]), default=None)
        for key, measured in times.items():
            over = None if fastest is None else median_ratio(measured, times[fastest])
            rows.append(SmallRow(unknowns, *key, statistics.median(measured) / calls, over, errors[key]))
    return rows


def small_checks(rows: list[SmallRow]) -> list[Check]:
    """What deqzoo promises beside jaxopt."""
    found = []
    for row in rows:
        if row.method == COMPILED and row.over_peer is not None:
            at_most = AT_MOST[row.unknowns]
            promise = f"{row.unknowns:,} unknowns: compiled, at most {at_most:g} times jaxopt's time"
            found.append(Check(promise, f"{row.over_peer:.2f}, error {row.error:.1e}", row.over_peer <= at_most))
    return found


def print_small_table(console: Console, rows: list[SmallRow]) -> None:
    """The table."""
    print_table(
        console,
        f"Gradient of z = tanh(W z + x), float32, relative {TOL:g}",
        ["unknowns", "library", "method"],
        ["ms", "over jaxopt's best", "gradient error"],
        [
            (
                f"{r.unknowns:,}",
                r.library,
                r.method,
                f"{r.seconds * 1e3:.3f}",
                "" if r.over_peer is None else f"{r.over_peer:.2f}",
                f"{r.error:.1e}",
            )
            for r in rows
        ],
    )
