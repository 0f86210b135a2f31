"""Continuous flows beside zuko and the torchdiffeq way of FFJORD: `python -m benchmarks.cnf [--json FILE] [--quick]`.

The same ConcatSquash network, points, noise and tolerance for all; a training step (negative log-likelihood, backward,
Adam) and a likelihood evaluation without gradients. NFE, CPU time in interleaved rounds, and errors against a tight
float64 solve, with the same noise where the divergence is Hutchinson's estimate.
Our solves start with first_step="span", as the recipes of flows do.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torchdiffeq
from rich.console import Console
from torch import Tensor, nn

from benchmarks.measure import interleaved, median_ratio
from benchmarks.problems import seeded
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started
from deqzoo.implicit import Direct, Discrete, Dopri5, Dopri8, Tsit5, odeint
from deqzoo.nn import DensityDynamics, squash_mlp
from deqzoo.nn.divergence import probes, start
from deqzoo.nn.flow import standard_normal

try:
    from zuko.utils import odeint as zuko_odeint
except ImportError:
    zuko_odeint = None

TOL = 1e-5  # rtol and atol
AT_MOST = 0.6  # of the faster peer's time, promised
OURS = "deqzoo"
LogProb = Callable[["Counted", Tensor, Tensor], Tensor]  # field, points (B, D), probes -> log densities (B,)


class Counted(nn.Module):
    """A field whose calls are counted; `forward_mode` shows its own derivative to deqzoo."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """dx/dt."""
        self.calls += 1
        return self.net(t, x)


class CountedForwardMode(Counted):
    """The same, with the derivative that the network brings along."""

    def with_jvp(self, t: Tensor, x: Tensor, v: Tensor | None) -> Any:
        """dx/dt, and its derivatives along v."""
        self.calls += 1
        return self.net.with_jvp(t, x, v)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Points whose density is asked, under a network of the usual size."""

    name: str
    net: nn.Module
    x: Tensor
    divergence: str


@dataclasses.dataclass
class Row:
    """One way to a task, on one problem."""

    problem: str
    task: str
    library: str
    way: str
    nfe: int  # of the forward solve
    seconds: float
    over_peer: float | None  # time over that of the faster peer
    error: float  # largest of log p, in nats; of a training step: of the gradient, relative


def problems(quick: bool) -> list[Problem]:
    """The plane with the exact divergence, and 43 dimensions (those of MiniBooNE) with Hutchinson's estimate."""
    batch = 16 if quick else 256
    with seeded():
        plane, high = squash_mlp(2, (64, 64, 64)), squash_mlp(43, (64, 64, 64))
        with torch.no_grad():
            for parameter in (*plane.parameters(), *high.parameters()):
                parameter.mul_(2.5)  # about as hard as after training
        return [
            Problem("2-D, exact", plane, 2 * torch.randn(batch, 2), "exact"),
            Problem("43-D, Hutchinson", high, torch.randn(batch, 43), "rademacher"),
        ]


def by_deqzoo(solver: Any, adjoint: Any, tol: float = TOL) -> LogProb:
    """Backwards in time with our `odeint`."""

    def log_prob(f: Counted, x: Tensor, v: Tensor) -> Tensor:
        state = start(x, ["log_density"])
        end = odeint(
            DensityDynamics(f),
            state,
            [1.0, 0.0],
            v,
            solver=solver(rtol=tol, atol=tol, first_step="span"),
            adjoint=adjoint,
        )
        return standard_normal(end["y"][-1]) - end["log_density"][-1]

    return log_prob


def with_trace(
    f: nn.Module, t: Tensor, x: Tensor, v: Tensor, batched: bool, create_graph: bool
) -> tuple[Tensor, Tensor]:
    """dx/dt and the divergence by reverse mode: all probes at once (as zuko does), or one after the other (FFJORD)."""
    v = v.expand(len(v), *x.shape)
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        dx = f(t, x)
        if batched and len(v) > 1:
            (products,) = torch.autograd.grad(dx, x, v, create_graph=create_graph, is_grads_batched=True)
        else:
            found = [torch.autograd.grad(dx, x, row, create_graph=create_graph, retain_graph=True)[0] for row in v]
            products = torch.stack(found)
    return dx, (v * products).sum((0, 2))


class FFJORDField(nn.Module):
    """Field of (x, log density change) as FFJORD's code has it, for torchdiffeq."""

    def __init__(self, f: nn.Module, v: Tensor) -> None:
        super().__init__()
        self.f, self.v = f, v

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """d/dt of both."""
        dx, trace = with_trace(self.f, t, state[0], self.v, batched=False, create_graph=torch.is_grad_enabled())
        return dx, -trace


def by_torchdiffeq(solve: Any) -> LogProb:
    """As FFJORD's code does: dopri5, by backpropagation or by the adjoint."""

    def log_prob(f: Counted, x: Tensor, v: Tensor) -> Tensor:
        times = torch.tensor([1.0, 0.0], dtype=x.dtype)
        z, change = solve(FFJORDField(f, v), (x, x.new_zeros(len(x))), times, rtol=TOL, atol=TOL, method="dopri5")
        return standard_normal(z[-1]) - change[-1]

    return log_prob


def by_zuko(f: Counted, x: Tensor, v: Tensor) -> Tensor:
    """As zuko's FreeFormJacobianTransform does: dopri5, its adjoint, the trace at a hundredth of the weight."""
    weight, graph = 1e-2, torch.is_grad_enabled()

    def field(t: Tensor, x: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        dx, trace = with_trace(f, t, x.clone(), v, batched=True, create_graph=graph)
        return dx, trace * weight

    ends = torch.tensor(1.0, dtype=x.dtype), torch.tensor(0.0, dtype=x.dtype)
    phi = tuple(f.parameters()) if graph else ()
    z, change = zuko_odeint(field, (x, x.new_zeros(len(x))), *ends, phi, TOL, TOL)
    return standard_normal(z) + change / weight


def contenders() -> dict[tuple[str, str], LogProb]:
    """(library, way) -> log density."""
    ways: dict[tuple[str, str], LogProb] = {
        (OURS, "Tsit5, direct"): by_deqzoo(Tsit5, Direct()),
        (OURS, "Dopri5, direct"): by_deqzoo(Dopri5, Direct()),
        (OURS, f"Dopri5, direct, tolerance {TOL / 5:g}"): by_deqzoo(Dopri5, Direct(), TOL / 5),
        (OURS, "Dopri5, discrete"): by_deqzoo(Dopri5, Discrete()),
        (OURS, "Dopri5, direct, by reverse mode"): by_deqzoo(Dopri5, Direct()),
        ("torchdiffeq", "FFJORD, backprop"): by_torchdiffeq(torchdiffeq.odeint),
        ("torchdiffeq", "FFJORD, adjoint"): by_torchdiffeq(torchdiffeq.odeint_adjoint),
    }
    if zuko_odeint is not None:
        ways["zuko", "checkpoint adjoint"] = by_zuko
    return ways


def measure(problem: Problem, rounds: int) -> list[Row]:
    """A row for each way and task."""
    with seeded():
        v = probes(problem.x, problem.divergence)
    exact, exact_gradient = reference(problem, v)
    rows: dict[tuple[str, str, str], Row] = {}
    tasks: dict[tuple[str, str, str], Callable[[], Any]] = {}
    for (library, way), log_prob in contenders().items():
        counted = CountedForwardMode if library == OURS and "reverse" not in way else Counted
        f = counted(copy.deepcopy(problem.net))
        optimizer = torch.optim.Adam(f.parameters(), lr=0.0)  # nothing moves: each round has the same solve

        def evaluate(f: Counted = f, log_prob: LogProb = log_prob) -> Tensor:
            with torch.no_grad():
                return log_prob(f, problem.x, v)

        def train(f: Counted = f, log_prob: LogProb = log_prob, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            (-log_prob(f, problem.x, v).mean()).backward()
            optimizer.step()

        f.calls = 0
        found = evaluate()
        error = (found.double() - exact).abs().max().item()
        rows["evaluation", library, way] = Row(problem.name, "evaluation", library, way, f.calls, 0.0, None, error)
        f.calls = 0
        log_prob(f, problem.x, v)
        nfe = f.calls
        train()
        gradient = torch.cat([p.grad.double().flatten() for p in f.parameters()])
        error = ((gradient - exact_gradient).norm() / exact_gradient.norm()).item()
        rows["training step", library, way] = Row(problem.name, "training step", library, way, nfe, 0.0, None, error)
        tasks["evaluation", library, way], tasks["training step", library, way] = evaluate, train
    times = interleaved(tasks, rounds)
    for task in ("evaluation", "training step"):
        peers = [key for key in rows if key[0] == task and key[1] != OURS]
        faster = min(peers, key=lambda key: statistics.median(times[key]))
        for key in (key for key in rows if key[0] == task):
            rows[key].seconds = statistics.median(times[key])
            rows[key].over_peer = median_ratio(times[key], times[faster])
    return sorted(rows.values(), key=lambda row: row.task)


def reference(problem: Problem, v: Tensor) -> tuple[Tensor, Tensor]:
    """log p, and the gradient of its mean with the sign turned, in float64 at tolerance 1e-10."""
    f, x = CountedForwardMode(copy.deepcopy(problem.net)).double(), problem.x.double()
    solver = Dopri8(rtol=1e-10, atol=1e-10)
    end = odeint(DensityDynamics(f), start(x, ["log_density"]), [1.0, 0.0], v.double(), solver=solver)
    log_prob = standard_normal(end["y"][-1]) - end["log_density"][-1]
    gradient = torch.autograd.grad(-log_prob.mean(), list(f.parameters()))
    return log_prob.detach(), torch.cat([g.flatten() for g in gradient])


def checks(rows: list[Row]) -> list[Check]:
    """What is promised of our fastest way whose error is no larger than that of the faster peer (or the tolerance)."""
    found = []
    for problem, task in dict.fromkeys((row.problem, row.task) for row in rows):
        here = [row for row in rows if (row.problem, row.task) == (problem, task)]
        peer = min((row for row in here if row.library != OURS), key=lambda row: row.seconds)
        good = [row for row in here if row.library == OURS and row.error <= max(peer.error, 10 * TOL)]
        best = min(good, key=lambda row: row.seconds, default=None)
        promise = f"{problem}, {task}: at most {AT_MOST} of the time of {peer.library} (error {peer.error:.1e})"
        shown = "none as accurate" if best is None else f"{best.way} {best.over_peer:.2f} (error {best.error:.1e})"
        kept = best is not None and (best.over_peer or math.inf) <= AT_MOST
        found.append(Check(promise, shown, kept))
    return found


def print_report(console: Console, rows: list[Row], found: list[Check]) -> None:
    """The table and the promises."""
    print_table(
        console,
        f"Densities of continuous flows, ConcatSquash 64-64-64, tolerance {TOL:g}",
        ["problem", "task", "library", "way"],
        ["NFE", "ms", "over the faster peer", "error"],
        [
            (row.problem, row.task, row.library, row.way, f"{row.nfe}", f"{row.seconds * 1e3:.1f}",
             "" if row.over_peer is None else f"{row.over_peer:.2f}", f"{row.error:.1e}")
            for row in rows
        ],
    )  # fmt: skip
    console.print("Error: of log p the largest, in nats; of a training step that of the gradient, relative.")
    print_checks(console, found)


def main() -> int:
    """Run, print, and write."""
    options = started(__doc__)
    rows = [row for problem in problems(options.quick) for row in measure(problem, 1 if options.quick else 7)]
    found = checks(rows)
    print_report(open_console(), rows, found)
    return finished(options, ["deqzoo", "torchdiffeq", "zuko"], found, rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
