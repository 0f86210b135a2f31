"""Entropic optimal transport beside POT and geomloss: a part of `optimisation.py` that runs alone, too."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.problems import seeded
from benchmarks.report import finished, open_console, started
from benchmarks.side_by_side import Row, SolutionAndGradient, Way, print_side_by_side, side_by_side
from deqzoo.implicit import TrustRegion, sinkhorn

_MISSING: dict[str, str] = {}
try:
    import ot
except ImportError as error:
    _MISSING["POT"] = str(error)
try:
    from geomloss import SamplesLoss
except ImportError as error:
    _MISSING["geomloss"] = str(error)

SIZES = [(64, 0.1), (64, 0.01), (500, 0.1), (500, 0.01)]  # points of each side, epsilon over the mean cost
QUICK = [(5, 0.1)]
STOP = 1e-11  # of POT: the error of the marginals
SCALING = 0.9  # of geomloss: the ratio of the blurs, each of which takes a step; it has no tolerance
Solve = Callable[[Tensor, Tensor, Tensor, float], Tensor]  # of x, y, the weights of the points, epsilon


def transport_rows(quick: bool) -> list[Row]:
    """Matching two clouds in the plane: the least cost, or the plan, and a gradient in one of them, in float64."""
    rows = []
    for n, share in QUICK if quick else SIZES:
        with seeded():
            x, y = torch.rand(2, n, 2, dtype=torch.float64)
            of_plan = torch.randn(n, n, dtype=torch.float64)
        masses = torch.full((n,), 1 / n, dtype=torch.float64)
        epsilon = share * _costs(x, y).mean().item()

        def way(solve: Solve, weights: Tensor | float, given=(x, y, masses, epsilon)) -> SolutionAndGradient:
            leaf = given[0].clone().requires_grad_()
            solution = solve(leaf, *given[1:])
            return solution.detach(), torch.autograd.grad((solution * weights).sum(), leaf)[0]

        for what, weights, solves in (("cost", 1.0, COSTS), ("plan", of_plan, PLANS)):
            exact = way(functools.partial(solves["deqzoo"], tol=1e-14), weights)
            ways: dict[str, Way] = {
                name: _MISSING.get(name) or functools.partial(way, solve, weights) for name, solve in solves.items()
            }
            problem = f"{what}, {n} x {n}, epsilon {share} of the mean"
            rows += side_by_side(problem, ways, exact, 1 if quick else 5)
    return rows


def _costs(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(1) - y).square().sum(dim=2) / 2


def _ours(x: Tensor, y: Tensor, masses: Tensor, epsilon: float, tol: float | None = None):
    solver = None if tol is None else TrustRegion(tol=tol)
    on_failure = "warn" if tol is None else "ignore"  # the reference goes as far as round-off lets it
    return sinkhorn(_costs(x, y), masses, masses, epsilon=epsilon, solver=solver, on_failure=on_failure)


def _by_pot(x: Tensor, y: Tensor, masses: Tensor, epsilon: float, grad: str):
    options = {"max_iter": 100_000, "tol": STOP, "method": "sinkhorn_log", "grad": grad}
    return ot.solve(_costs(x, y), masses, masses, reg=epsilon, reg_type="KL", **options)


def _by_geomloss(x: Tensor, y: Tensor, masses: Tensor, epsilon: float) -> Tensor:
    loss = SamplesLoss("sinkhorn", p=2, blur=epsilon**0.5, scaling=SCALING, debias=False, backend="tensorized")
    return loss(masses, x, masses, y)


COSTS: dict[str, Callable[..., Tensor]] = {
    "deqzoo": lambda *given, **options: _ours(*given, **options).value,
    "POT": lambda *given: _by_pot(*given, grad="envelope").value,
    "geomloss": _by_geomloss,
}
PLANS: dict[str, Callable[..., Tensor]] = {
    "deqzoo": lambda *given, **options: _ours(*given, **options).plan,
    "POT": lambda *given: _by_pot(*given, grad="autodiff").plan,
}


def main() -> int:
    """Run, print, and write."""
    options = started(__doc__)
    rows = transport_rows(options.quick)
    print_side_by_side(open_console(), "Entropic transport: the least cost or the plan, and a gradient", rows)
    return finished(options, ["deqzoo", "POT", "geomloss"], transport=rows)


if __name__ == "__main__":
    raise SystemExit(main())
