"""Entropic optimal transport beside POT and geomloss: a part of `optimisation.py` that runs alone, too."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.problems import seeded
from benchmarks.side_by_side import Comparison, Row, SolutionAndGradient, Way, side_by_side
from deqzoo.implicit import sinkhorn

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
ROUNDING, MOST_ROUNDS = 1e-14, 100_000  # of the reference: the last change of a potential over epsilon
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
            exact = _exact(x, y, masses, epsilon, weights)
            ways: dict[str, Way] = {
                name: _MISSING.get(name) or functools.partial(way, solve, weights) for name, solve in solves.items()
            }
            problem = f"{what}, {n} x {n}, epsilon {share} of the mean"
            rows += side_by_side(problem, ways, exact, 1 if quick else 5)
    return rows


def _costs(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(1) - y).square().sum(dim=2) / 2


def _exact(x: Tensor, y: Tensor, masses: Tensor, epsilon: float, weights: Tensor | float) -> SolutionAndGradient:
    """By plain iteration to rounding. The cost's gradient in C is P; that of sum W P is, with G = W P / epsilon,

    P (u 1' + 1 v') - G,    [diag P1   P      ] [u]   [G 1 ]
                            [P'        diag P'1] [v] = [G' 1]
    """
    leaf = x.clone().requires_grad_()
    costs = _costs(leaf, y)
    scaled, log_masses = costs.detach() / epsilon, masses.log()
    f = torch.zeros_like(masses)
    for _ in range(MOST_ROUNDS):
        g = -torch.logsumexp(log_masses.unsqueeze(1) + f.unsqueeze(1) - scaled, dim=0)
        before, f = f, -torch.logsumexp(log_masses + g - scaled, dim=1)
        if (f - before).abs().max() < ROUNDING:
            break
    plan = (log_masses.unsqueeze(1) + log_masses + f.unsqueeze(1) + g - scaled).exp()
    if not isinstance(weights, Tensor):
        (gradient,) = torch.autograd.grad(costs, leaf, plan)
        return epsilon * (masses @ (f + g)), gradient
    inner = weights * plan / epsilon
    matrix = torch.cat([torch.cat([plan.sum(1).diag(), plan], 1), torch.cat([plan.T, plan.sum(0).diag()], 1)])
    u, v = (torch.linalg.pinv(matrix, hermitian=True) @ torch.cat([inner.sum(1), inner.sum(0)])).chunk(2)
    (gradient,) = torch.autograd.grad(costs, leaf, plan * (u.unsqueeze(1) + v) - inner)
    return plan, gradient


def _ours(x: Tensor, y: Tensor, masses: Tensor, epsilon: float):
    return sinkhorn(_costs(x, y), masses, masses, epsilon=epsilon)


def _by_pot(x: Tensor, y: Tensor, masses: Tensor, epsilon: float, grad: str):
    options = {"max_iter": 100_000, "tol": STOP, "method": "sinkhorn_log", "grad": grad}
    return ot.solve(_costs(x, y), masses, masses, reg=epsilon, reg_type="KL", **options)


def _by_geomloss(x: Tensor, y: Tensor, masses: Tensor, epsilon: float) -> Tensor:
    loss = SamplesLoss("sinkhorn", p=2, blur=epsilon**0.5, scaling=SCALING, debias=False, backend="tensorized")
    return loss(masses, x, masses, y)


COSTS: dict[str, Callable[..., Tensor]] = {
    "deqzoo": lambda *given: _ours(*given).value,
    "POT": lambda *given: _by_pot(*given, grad="envelope").value,
    "geomloss": _by_geomloss,
}
PLANS: dict[str, Callable[..., Tensor]] = {
    "deqzoo": lambda *given: _ours(*given).plan,
    "POT": lambda *given: _by_pot(*given, grad="autodiff").plan,
}


COMPARISON = Comparison(
    "transport",
    "Entropic transport: the least cost or the plan, and a gradient",
    transport_rows,
    ("deqzoo", "POT", "geomloss"),
)

if __name__ == "__main__":
    raise SystemExit(COMPARISON.main(__doc__))
