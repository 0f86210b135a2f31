"""Unrolling against implicit differentiation, and MAML against first-order MAML against iMAML, over the inner steps.

`python -m studies.unrolling [--plot FILE] [--json FILE] [--quick]`

The inner problem of iMAML on a sinusoid, argmin L(phi) + strength/2 |phi - theta|^2 for a small network, is solved by k
steps of gradient descent. The meta-gradient in theta then comes by backpropagation through the steps, or by the
implicit function theorem as if the last iterate were the minimiser. Both are compared with the exact one, in float64:
error, time, bytes kept. Then the three methods of meta-learning, each with k inner steps from the same start.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from benchmarks.measure import SavedBytes, interleaved
from benchmarks.problems import seeded
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started
from deqzoo.data.sinusoids import draw_sinusoids
from deqzoo.implicit import (
    GMRES,
    LBFGS,
    MINRES,
    EquationAdjoint,
    Implicit,
    NewtonCG,
    Picard,
    Unrolled,
    argmin,
    fixed_point,
)
from deqzoo.implicit.minimizers import gradient as gradient_of
from deqzoo.models import MetaLearner
from deqzoo.nn import IMAML, MAML, Adaptation, FirstOrderMAML
from deqzoo.nn.dynamics import mlp
from deqzoo.plots.figure import COLORS, panels, save

STRENGTH, LR = 1.0, 0.05
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
WAYS: dict[str, EquationAdjoint] = {
    "unrolled": Unrolled(),
    "implicit": Implicit(GMRES(tol=1e-10, restart=80)),
}
Parameters = dict[str, Tensor]


@dataclasses.dataclass
class Row:
    """One way to the meta-gradient after a number of inner steps."""

    method: str
    steps: int
    error: float  # relative, against the exact meta-gradient
    seconds: float  # forward and backward
    saved_bytes: int  # kept by autograd for the backward pass


@dataclasses.dataclass
class MethodRow(Row):
    """A method of meta-learning; ``error`` is that of its meta-gradient against the one that it stands for: of MAML and
    first-order MAML, that through the same steps; of iMAML, that of the minimiser."""

    query_loss: float = 0.0  # after adaptation


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

    def query_loss(self, method: Adaptation) -> Tensor:
        """The loss on the queries after adaptation by a method."""
        learner = MetaLearner(self.network, method, nn.functional.mse_loss)
        return learner.loss(learner(self.x[None], self.y[None], self.queries[None])[0], self.targets)

    def meta_learned(self, method: Adaptation) -> tuple[Tensor, Tensor]:
        """That loss, and its gradient in theta as one vector."""
        loss = self.query_loss(method)
        gradients = torch.autograd.grad(loss, list(self.theta.values()))
        return loss.detach(), torch.cat([g.reshape(-1) for g in gradients])

    def adapted(self, steps: int, way: EquationAdjoint) -> Parameters:
        """phi after `steps` steps, differentiable in theta."""
        solver = Picard(tol=0.0, max_steps=steps, patience=steps + 1)
        return fixed_point(self.step, self.start, self.theta, solver=solver, adjoint=way, on_failure="ignore")

    def exact(self) -> Tensor:
        """The meta-gradient at the minimum to which the descent leads."""
        with torch.no_grad():
            near = self.adapted(300, Implicit())
        solver, linear = NewtonCG(tol=1e-12, stop="abs"), GMRES(tol=1e-13, restart=200)
        return self.meta_gradient(argmin(self.objective, near, self.theta, solver=solver, adjoint=Implicit(linear)))


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


def measure_methods(counts: tuple[int, ...], rounds: int, problem: Problem) -> list[MethodRow]:
    """A row for each method and number of steps."""
    rows = []
    for steps in counts:
        methods: dict[str, Adaptation] = {
            "MAML": MAML(steps, LR),
            "first-order MAML": FirstOrderMAML(steps, LR),
            "iMAML": IMAML(STRENGTH, LBFGS(tol=1e-12, max_steps=steps), MINRES(tol=1e-10), on_failure="ignore"),
        }
        calls: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
            name: lambda method=method: problem.meta_learned(method) for name, method in methods.items()
        }
        times = interleaved(calls, rounds)
        found = {name: call() for name, call in calls.items()}
        through_steps = found["MAML"][1]
        for name, (loss, gradient) in found.items():
            stands_for = problem.exact() if name == "iMAML" else through_steps
            error = ((gradient - stands_for).norm() / stands_for.norm()).item()
            with SavedBytes() as saved:
                adapted = problem.query_loss(methods[name])
            kept = saved.total
            del adapted
            rows.append(MethodRow(name, steps, error, statistics.median(times[name]), kept, loss.item()))
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


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Error, time and bytes over the inner steps, and the query loss where the rows have it."""
    values: dict[str, Callable[[Any], float]] = {
        "relative error": lambda row: row.error,
        "CPU time (ms)": lambda row: row.seconds * 1e3,
        "KiB kept for the backward pass": lambda row: row.saved_bytes / 1024,
    }
    if isinstance(rows[0], MethodRow):
        values["query loss after adaptation"] = lambda row: row.query_loss
    figure, axes = panels(len(values), title)
    for axis, (label, value) in zip(axes, values.items(), strict=True):
        for color, name in zip(COLORS, dict.fromkeys(row.method for row in rows), strict=False):
            chosen = [row for row in rows if row.method == name and value(row) > 0]
            steps = [row.steps for row in chosen]
            axis.plot(steps, [value(row) for row in chosen], marker="o", color=color, label=name)
        axis.set(xlabel="inner steps", ylabel=label, xscale="log", yscale="log")
    axes[-1].legend(frameon=False)
    save(figure, path)


def main() -> int:
    """Run, print, draw, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the tables (PNG), one of them to FILE_methods")
    options = started(__doc__, parser)
    counts, rounds, problem = ((1, 5), 1, Problem(4)) if options.quick else (STEPS, 3, Problem())
    rows, methods = measure(counts, rounds, problem), measure_methods(counts, rounds, problem)
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
    print_table(
        console,
        "MAML, first-order MAML and iMAML with k inner steps",
        ["method"],
        ["steps", "query loss", "error of the meta-gradient", "ms", "KiB kept"],
        [
            (
                r.method,
                f"{r.steps}",
                f"{r.query_loss:.3f}",
                f"{r.error:.1e}",
                f"{r.seconds * 1e3:.1f}",
                f"{r.saved_bytes / 1024:,.0f}",
            )
            for r in sorted(methods, key=lambda row: ("MAML", "first-order MAML", "iMAML").index(row.method))
        ],
    )
    promises = checks(rows)
    print_checks(console, promises)
    if options.plot:
        plot(rows, "Meta-gradients over inner steps", options.plot)
        beside = options.plot.with_stem(f"{options.plot.stem}_methods")
        plot(methods, "MAML, first-order MAML and iMAML over inner steps", beside)
    return finished(options, ["deqzoo"], promises, rows=rows, methods=methods)


if __name__ == "__main__":
    raise SystemExit(main())
