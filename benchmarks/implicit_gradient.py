"""Implicit gradients beside the peers': `python -m benchmarks.implicit_gradient [--json FILE] [--quick]`.

A DEQ's forward and backward pass against torchdeq (same map, tolerance and budget both ways), bytes kept for the
backward pass after 10, 100 and 1,000 forward iterations, the hypergradients of ``hypergradients.py`` against TorchOpt,
and the gradient of one small fixed point, eager and compiled, of ``small_problems.py`` against jaxopt.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.hypergradients import (
    HyperRow,
    RidgeRow,
    hyper_checks,
    hyper_table,
    print_hyper_tables,
    relative_error,
    ridge_table,
    torchopt,
)
from benchmarks.jaxopt_peer import jaxopt
from benchmarks.measure import CountCalls, SavedBytes, interleaved, median_ratio
from benchmarks.problems import Affine, Classifier, classifier_problem, seeded, symmetric_matrix
from benchmarks.report import finished, open_console, print_checks, print_table, started, tell_missing
from benchmarks.small_problems import SmallRow, print_small_table, small_checks, small_table
from deqzoo.implicit import (
    GMRES,
    Anderson,
    Implicit,
    OneStep,
    Phantom,
    Picard,
    Unrolled,
    fixed_point,
)

try:
    import torchdeq
    from torchdeq.solver import get_solver, register_solver
except ImportError:
    torchdeq = None

TOL, STEPS = 1e-4, 50  # of the DEQ's forward and backward solve, relative; of both libraries


@dataclasses.dataclass
class DeqRow:
    """One way to differentiate the DEQ classifier."""

    library: str
    method: str
    nfe: int  # calls of f, those for the tape included
    vjps: int  # products with the transposed Jacobian in the backward solve
    seconds: float  # forward, loss and backward
    over_peer: float | None  # over torchdeq's fastest implicit gradient
    saved_bytes: int  # kept by autograd for the backward pass
    error: float  # relative, all parameter gradients as one vector, against float64


@dataclasses.dataclass
class SavedRow:
    """Bytes that autograd keeps between the forward and the backward pass, by forward iterations."""

    library: str
    method: str
    bytes_after: dict[int, int]


# --- the DEQ classifier ---


def gradient_of(model: Classifier, loss: Tensor) -> Tensor:
    """Gradients of all parameters as one vector."""
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])


def exact_gradient(model: Classifier, x: Tensor, labels: Tensor) -> Tensor:
    """The gradient in float64 by plain iterations to round-off, forward and adjoint; no library takes part."""
    model, x = copy.deepcopy(model).double(), x.double()

    def iterate(step: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        for _ in range(1000):
            last, z = z, step(z)
            if (z - last).norm() <= 1e-13 * z.norm():
                return z
        raise RuntimeError("the reference did not converge: the map contracts too slowly")

    with torch.no_grad():
        z = iterate(lambda z: model.block(z, x), torch.zeros_like(x))
    z.requires_grad_()
    image = model.block(z, x)
    cotangent = torch.autograd.grad(model.loss(z, labels), z)[0]
    adjoint = iterate(lambda u: cotangent + torch.autograd.grad(image, z, u, retain_graph=True)[0], cotangent)
    # d loss = head part + adjoint . df, each parameter being in one of the two
    return gradient_of(model, model.loss(z.detach(), labels) + (image * adjoint).sum())


Forward = Callable[[Any], tuple[Tensor, Callable[[], int]]]  # map -> loss, and what counts the vjps after the backward


def our_forwards(model: Classifier, x: Tensor, labels: Tensor) -> dict[str, Forward]:
    """Our ways, by name."""

    def run(f: Any, gradient: Any) -> tuple[Tensor, Callable[[], int]]:
        z, solution = fixed_point(
            f, torch.zeros_like(x), x, solver=Anderson(tol=TOL, max_steps=STEPS), adjoint=gradient,
            batch_dims=1, on_failure="ignore", return_solution=True,
        )  # fmt: skip
        return model.loss(z, labels), lambda: solution.backward.nfe if solution.backward else 0

    choices = {
        "Anderson, Implicit(GMRES)": Implicit(GMRES(tol=TOL, max_steps=STEPS)),
        "Anderson, Phantom(5)": Phantom(5),
        "Anderson, OneStep": OneStep(),
    }
    return {name: lambda f, gradient=gradient: run(f, gradient) for name, gradient in choices.items()}


def their_forwards(model: Classifier, x: Tensor, labels: Tensor) -> dict[str, Forward]:
    """torchdeq's ways, by name: the same solver forward and backward, and its phantom gradient."""
    calls: list[int] = []  # of the backward solves so far

    def counted(key: str) -> str:
        def solve(function: Any, x0: Tensor, **options: Any) -> Any:
            product = CountCalls(function)
            result = get_solver(key)(product, x0, **options)
            calls.append(product.calls)
            return result

        register_solver(f"counted {key}", solve)
        return f"counted {key}"

    def run(f: Any, deq: Any) -> tuple[Tensor, Callable[[], int]]:
        calls.clear()
        z = deq(lambda z: f(z, x), torch.zeros_like(x))[0][-1]
        return model.loss(z, labels), lambda: sum(calls)

    common = {"f_max_iter": STEPS, "f_tol": TOL, "f_stop_mode": "rel"}
    ways: dict[str, Forward] = {}
    for key in ("fixed_point_iter", "anderson", "broyden"):
        backward = {"b_solver": counted(key), "b_max_iter": STEPS, "b_tol": TOL, "b_stop_mode": "rel"}
        deq = torchdeq.get_deq(ift=True, f_solver=key, **common, **backward)
        ways[f"{key} both ways"] = lambda f, deq=deq: run(f, deq)
    phantom = torchdeq.get_deq(ift=False, grad=5, tau=1.0, f_solver="anderson", **common)
    ways["anderson, phantom 5"] = lambda f: run(f, phantom)
    return ways


def deq_table(quick: bool) -> list[DeqRow]:
    """Forward and backward pass of the classifier, each way."""
    model, x, labels = classifier_problem(quick)
    exact = exact_gradient(model, x, labels)
    forwards = {("deqzoo", name): run for name, run in our_forwards(model, x, labels).items()}
    if torchdeq is not None:
        forwards |= {("torchdeq", name): run for name, run in their_forwards(model, x, labels).items()}
    rows = {}
    for (library, name), forward in forwards.items():
        f = CountCalls(model.block)
        with SavedBytes() as saved:
            loss, vjps = forward(f)
        kept = saved.total
        error = relative_error(gradient_of(model, loss), exact)
        rows[library, name] = DeqRow(library, name, f.calls, vjps(), math.nan, None, kept, error)
    calls: dict[Any, Callable[[], Any]] = {
        key: lambda forward=forward: gradient_of(model, forward(model.block)[0]) for key, forward in forwards.items()
    }
    times = interleaved(calls, 1 if quick else 5)
    for key, row in rows.items():
        row.seconds = statistics.median(times[key])
    implicit = [key for key, row in rows.items() if row.library == "torchdeq" and row.vjps]
    if implicit:
        fastest = min(implicit, key=lambda key: rows[key].seconds)
        for key, row in rows.items():
            row.over_peer = median_ratio(times[key], times[fastest])
    return list(rows.values())


# --- bytes kept for the backward pass ---


def saved_table(quick: bool) -> list[SavedRow]:
    """Bytes kept after 10, 100 and 1,000 iterations on a map so slow that each iteration is taken."""
    counts = (3, 10, 30) if quick else (10, 100, 1000)
    with seeded():
        f = Affine(symmetric_matrix(64, 0.9999))
        x = torch.randn(32, 64, dtype=torch.float64)

    def ours(solver: Any, gradient: Any) -> Callable[[int], Tensor]:
        return lambda steps: fixed_point(
            f, torch.zeros_like(x), x, solver=solver(tol=0.0, max_steps=steps, patience=steps + 1),
            adjoint=gradient, batch_dims=1, on_failure="ignore",
        )  # fmt: skip

    ways = {
        ("deqzoo", "Picard, Implicit"): ours(Picard, Implicit()),
        ("deqzoo", "Anderson, Implicit"): ours(Anderson, Implicit()),
        ("deqzoo", "Picard, Unrolled"): ours(Picard, Unrolled()),
    }
    if torchdeq is not None:

        def theirs(steps: int) -> Tensor:
            deq = torchdeq.get_deq(ift=True, f_solver="fixed_point_iter", f_max_iter=steps, f_tol=0.0)
            return deq(lambda z: f(z, x), torch.zeros_like(x))[0][-1]

        ways["torchdeq", "fixed_point_iter, ift"] = theirs
    rows = []
    for (library, name), run in ways.items():
        found = {}
        for steps in counts:
            with SavedBytes() as saved:
                loss = run(steps).square().sum()
            found[steps] = saved.total
            del loss  # the tape, until here
        rows.append(SavedRow(library, name, found))
    return rows


# --- report ---


def print_tables(
    console: Console,
    deq: list[DeqRow],
    saved: list[SavedRow],
    ridge: list[RidgeRow],
    hyper: list[HyperRow],
    small: list[SmallRow],
) -> None:
    """All tables."""

    print_table(
        console,
        f"DEQ classifier, forward and backward, relative {TOL:g} both ways",
        ["library", "method"],
        ["NFE", "vjps", "ms", "over torchdeq's best", "MiB kept", "gradient error"],
        [
            (
                r.library,
                r.method,
                f"{r.nfe}",
                f"{r.vjps}",
                f"{r.seconds * 1e3:.0f}",
                "" if r.over_peer is None else f"{r.over_peer:.2f}",
                f"{r.saved_bytes / 2**20:.1f}",
                f"{r.error:.1e}",
            )
            for r in deq
        ],
    )
    print_table(
        console,
        "KiB kept for the backward pass, by forward iterations",
        ["library", "method"],
        [f"{steps:,}" for steps in saved[0].bytes_after],
        [(r.library, r.method, *(f"{size / 1024:,.0f}" for size in r.bytes_after.values())) for r in saved],
    )
    print_hyper_tables(console, ridge, hyper)
    print_small_table(console, small)


def main() -> int:
    """Run, print, and write."""
    options = started(__doc__)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torchopt")
    console = open_console()
    tell_missing(console, torchdeq=torchdeq, torchopt=torchopt, jaxopt=jaxopt)
    deq, saved = deq_table(options.quick), saved_table(options.quick)
    ridge, hyper = ridge_table(options.quick), hyper_table(options.quick)
    small = small_table(options.quick)
    print_tables(console, deq, saved, ridge, hyper, small)
    checks = hyper_checks(hyper) + small_checks(small)
    print_checks(console, checks)
    tables = {"deq": deq, "saved": saved, "ridge": ridge, "hyper": hyper, "small": small}
    return finished(options, ["deqzoo", "torchdeq", "torchopt", "jaxopt"], checks, **tables)


if __name__ == "__main__":
    raise SystemExit(main())
