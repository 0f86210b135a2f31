"""Unrolling against implicit differentiation, over the number of inner steps: error, time and bytes kept.

`python benchmarks/unrolling.py [--plot FILE] [--json FILE] [--quick]`

The inner problem of iMAML on a sinusoid, argmin L(phi) + strength/2 |phi - theta|^2 for a small network, is solved by k
steps of gradient descent. The meta-gradient in theta then comes by backpropagation through the steps, or by the
implicit function theorem as if the last iterate were the minimiser. Both are compared with the exact one, in float64.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from measure import SavedBytes, interleaved
from problems import seeded
from report import Check, finished, open_console, print_checks, print_table, started
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from deqzoo.data.sinusoids import draw_sinusoids
from deqzoo.implicit import GMRES, Gradient, Implicit, NewtonCG, Picard, Unrolled, argmin, fixed_point
from deqzoo.implicit.minimizers import gradient as gradient_of
from deqzoo.nn.latent_ode import mlp
from deqzoo.plots.figure import COLORS, panels, save

STRENGTH, LR = 1.0, 0.05
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
WAYS: dict[str, Gradient] = {
    "unrolled": Unrolled(),
    "implicit": Implicit(GMRES(tol=1e-10, restart=80)),
}
Parameters = dict[str, Tensor]


@dataclasses.dataclass
class Row:
    """One way to the meta-gradient after so many inner steps."""

    method: str
    steps: int
    error: float  # relative, against the exact meta-gradient
    seconds: float  # forward and backward
    saved_bytes: int  # kept by autograd for the backward pass


class Problem:
    """A network, a task's support set, and its query loss."""

    def __init__(self, width: int = 16) -> None:
        with seeded():
            self.network = mlp(1, width, width, 1, activation=nn.SiLU).double()
            task = draw_sinusoids(1, 10, 20, torch.Generator().manual_seed(0))
        x, self.y, queries, self.targets = (t[0].double() for t in task)
        self.x, self.queries = x / 5, queries / 5  # in [-1, 1]: no curvature is so large that the steps diverge
        self.theta = dict(self.network.named_parameters())
        self.start = tree_map(Tensor.detach, self.theta)

    def objective(self, phi: Parameters, theta: Parameters) -> Tensor:
        """The inner objective."""
        loss = nn.functional.mse_loss(functional_call(self.network, phi, (self.x,)), self.y)
        return loss + STRENGTH / 2 * sum((phi[name] - theta[name]).square().sum() for name in phi)

    def step(self, phi: Parameters, theta: Parameters) -> Parameters:
        """One of gradient descent."""
        slope, _ = gradient_of(self.objective, phi, theta)
        return {name: phi[name] - LR * slope[name] for name in phi}

    def meta_gradient(self, phi: Parameters) -> Tensor:
        """The gradient of the query loss in theta, as one vector."""
        loss = nn.functional.mse_loss(functional_call(self.network, phi, (self.queries,)), self.targets)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(self.theta.values()))])

    def adapted(self, steps: int, way: Gradient) -> Parameters:
        """phi after so many steps, differentiable in theta."""
        solver = Picard(tol=0.0, max_steps=steps, patience=steps + 1)
        return fixed_point(self.step, self.start, self.theta, solver=solver, gradient=way, on_failure="ignore")

    def exact(self) -> Tensor:
        """The meta-gradient at the minimum to which the descent leads."""
        with torch.no_grad():
            near = self.adapted(300, Implicit())
        solver, linear = NewtonCG(tol=1e-12, stop="abs"), GMRES(tol=1e-13, restart=200)
        return self.meta_gradient(argmin(self.objective, near, self.theta, solver=solver, linear_solver=linear))


def measure(counts: tuple[int, ...], rounds: int, problem: Problem) -> list[Row]:
    """A row for each way and number of steps."""
    exact, rows = problem.exact(), []
    for steps in counts:
        calls: dict[str, Callable[[], Tensor]] = {
            name: lambda way=way, steps=steps: problem.meta_gradient(problem.adapted(steps, way))
            for name, way in WAYS.items()
        }
        times = interleaved(calls, rounds)
        for name, way in WAYS.items():
            with SavedBytes() as saved:
                phi = problem.adapted(steps, way)
            kept, found = saved.total, problem.meta_gradient(phi)
            del phi
            error = ((found - exact).norm() / exact.norm()).item()
            rows.append(Row(name, steps, error, statistics.median(times[name]), kept))
    return rows


def checks(rows: list[Row]) -> list[Check]:
    """What is true of the implicit gradient."""
    implicit = [row for row in rows if row.method == "implicit"]
    unrolled = [row for row in rows if row.method == "unrolled"]
    kept = {row.saved_bytes for row in implicit}
    last = implicit[-1].error, unrolled[-1].error
    return [
        Check("the implicit gradient keeps the same bytes after any number of steps", f"{kept}", len(kept) == 1),
        Check("both end at the exact gradient", f"{last[0]:.1e} and {last[1]:.1e}", max(last) < 1e-3),
    ]


def plot(rows: list[Row], path: Path) -> None:
    """Error, time and bytes over the inner steps."""
    figure, axes = panels(3, "Meta-gradients over inner steps")
    values = {
        "relative error": lambda row: row.error,
        "CPU time (ms)": lambda row: row.seconds * 1e3,
        "KiB kept for the backward pass": lambda row: row.saved_bytes / 1024,
    }
    for axis, (label, value) in zip(axes, values.items(), strict=True):
        for color, name in zip(COLORS, WAYS, strict=False):
            chosen = [row for row in rows if row.method == name]
            axis.plot(
                [row.steps for row in chosen], [value(row) for row in chosen], marker="o", color=color, label=name
            )
        axis.set(xlabel="inner steps", ylabel=label, xscale="log", yscale="log")
    axes[0].legend(frameon=False)
    save(figure, path)


def main() -> int:
    """Run, print, draw, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the table to FILE (PNG)")
    options = started(__doc__, parser)
    rows = measure((1, 5), 1, Problem(4)) if options.quick else measure(STEPS, 3, Problem())
    console = open_console()
    print_table(
        console,
        "Meta-gradient after k steps of gradient descent",
        ["method"],
        ["steps", "relative error", "ms", "KiB kept"],
        [
            (r.method, f"{r.steps}", f"{r.error:.1e}", f"{r.seconds * 1e3:.1f}", f"{r.saved_bytes / 1024:,.0f}")
            for r in sorted(rows, key=lambda row: list(WAYS).index(row.method))
        ],
    )
    promises = checks(rows)
    print_checks(console, promises)
    if options.plot:
        plot(rows, options.plot)
    return finished(options, ["deqzoo"], promises, rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
