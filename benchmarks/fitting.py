"""Nonlinear least squares beside theseus: a part of `optimisation.py` that runs alone, too."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.problems import seeded
from benchmarks.side_by_side import Comparison, Row, SolutionAndGradient, Way, side_by_side
from deqzoo.implicit import GaussNewtonStep, LevenbergMarquardt, least_squares

_MISSING = ""
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import theseus
except ImportError as error:
    _MISSING = str(error)

BATCHES, SAMPLES = (1, 64), 50
CAMERAS, POINTS = 10, 200
LIMIT = 0.5  # of theseus's time
NOISE = 1e-3
PRIOR = 0.1  # of the cameras: else the scene may be moved, turned and scaled
OPTIONS = {"abs_err_tolerance": 1e-14, "rel_err_tolerance": 1e-14, "max_iterations": 30}  # theseus's
Solve = Callable[[Tensor], Tensor]  # of the measurements


def fitting_rows(quick: bool) -> list[Row]:
    """The parameters of curves, and of cameras and points; the gradient of a combination of them in what was measured.

    theseus differentiates its last step of Gauss and Newton, which leaves out second derivatives of the residual; so
    does our `GaussNewtonStep`, which stands beside our exact derivative.
    """
    rows = []
    for batch in BATCHES[:1] if quick else BATCHES:
        rows += _compared(f"decaying curve, batch {batch}", *_curves(batch), rounds=1 if quick else 5)
    cameras, points = (2, 12) if quick else (CAMERAS, POINTS)
    problem = f"bundle adjustment, {cameras} cameras, {points} points"
    rows += _compared(problem, *_bundle(cameras, points), rounds=1 if quick else 3)
    return rows


def _compared(
    problem: str,
    measured: Tensor,
    ours: Callable[..., Tensor],
    by_theseus: Callable[[], Solve],
    rounds: int,
) -> list[Row]:
    weights = None

    def with_gradient(solve: Solve) -> SolutionAndGradient:
        nonlocal weights
        leaf = measured.clone().requires_grad_()
        y = solve(leaf)
        if weights is None:
            with seeded():
                weights = torch.randn_like(y)
        return y.detach(), torch.autograd.grad((y * weights).sum(), leaf)[0]

    exact = with_gradient(functools.partial(ours, tol=1e-13))
    ways: dict[str, Way] = {
        "deqzoo": functools.partial(with_gradient, ours),
        "deqzoo, Gauss-Newton step": functools.partial(
            with_gradient, functools.partial(ours, adjoint=GaussNewtonStep())
        ),
        "theseus": _MISSING or functools.partial(with_gradient, by_theseus()),
    }
    return side_by_side(problem, ways, exact, rounds)


def _curves(batch: int) -> tuple[Tensor, Callable[..., Tensor], Callable[[], Solve]]:
    """a exp(-b x) + c through points with noise: (measured, ours, theseus's)."""
    x, start = torch.linspace(0, 3, SAMPLES, dtype=torch.float64), torch.ones(batch, 3, dtype=torch.float64)

    def curve(y: Tensor) -> Tensor:
        return y[:, :1] * (-y[:, 1:2] * x).exp() + y[:, 2:]

    with seeded():
        true = start + torch.rand(batch, 3, dtype=torch.float64)
        measured = curve(true) + NOISE * torch.randn(batch, SAMPLES, dtype=torch.float64)

    def ours(measured: Tensor, tol: float | None = None, **options: Any) -> Tensor:
        options |= {"solver": LevenbergMarquardt(tol=tol), "on_failure": "warn" if tol is None else "ignore"}
        return least_squares(lambda y, measured: curve(y) - measured, start, measured, batch_dims=1, **options)

    def by_theseus() -> Solve:
        y, data = theseus.Vector(3, name="y", dtype=torch.float64), theseus.Variable(measured, name="measured")
        cost = theseus.AutoDiffCostFunction(
            [y],
            lambda optim_vars, aux_vars: curve(optim_vars[0].tensor) - aux_vars[0].tensor,
            SAMPLES,
            _weight(1.0),
            aux_vars=[data],
        )
        return _layer([cost], lambda measured: {"y": start, "measured": measured}, lambda found: found["y"])

    return measured, ours, by_theseus


def _bundle(cameras: int, points: int) -> tuple[Tensor, Callable[..., Tensor], Callable[[], Solve]]:
    """Poses (rotation vector, translation) and points, each point seen by each camera: as `_curves`."""
    with seeded():
        poses = torch.cat([0.2 * torch.randn(cameras, 3), 0.5 * torch.randn(cameras, 3)], dim=1).double()
        scene = torch.randn(points, 3).double() + torch.tensor([0.0, 0.0, 6.0])
        seen = _seen(poses.unsqueeze(1), scene)
        measured = seen + NOISE * torch.randn_like(seen)
        start = poses + 0.02 * torch.randn_like(poses), scene + 0.05 * torch.randn_like(scene)

    def residual(y: tuple[Tensor, Tensor], measured: Tensor) -> tuple[Tensor, Tensor]:
        return _seen(y[0].unsqueeze(1), y[1]) - measured, PRIOR * (y[0] - poses)

    def ours(measured: Tensor, tol: float | None = None, **options: Any) -> Tensor:
        options |= {"solver": LevenbergMarquardt(tol=tol), "on_failure": "warn" if tol is None else "ignore"}
        return torch.cat([part.flatten() for part in least_squares(residual, start, measured, **options)])

    def by_theseus() -> Solve:
        pose = [theseus.Vector(6, name=f"pose{i}", dtype=torch.float64) for i in range(cameras)]
        point = [theseus.Vector(3, name=f"point{j}", dtype=torch.float64) for j in range(points)]
        costs, one, prior = [], _weight(1.0), _weight(PRIOR)
        for i in range(cameras):
            known = theseus.Vector(tensor=poses[i : i + 1], name=f"known{i}")
            costs.append(theseus.Difference(pose[i], known, prior))
            for j in range(points):
                data = theseus.Variable(measured[i : i + 1, j], name=f"seen{i}_{j}")
                costs.append(theseus.AutoDiffCostFunction([pose[i], point[j]], _misses, 2, one, aux_vars=[data]))
        names = [part.name for part in (*pose, *point)]
        first = dict(zip(names, [*start[0].split(1), *start[1].split(1)], strict=True))

        def inputs(measured: Tensor) -> dict[str, Tensor]:
            return first | {f"seen{i}_{j}": measured[i : i + 1, j] for i in range(cameras) for j in range(points)}

        return _layer(costs, inputs, lambda found: torch.cat([found[name][0] for name in names]))

    return measured, ours, by_theseus


def _seen(pose: Tensor, point: Tensor) -> Tensor:
    """Where a camera sees a point: R(w) X + t, divided by its depth, with the rotation by the formula of Rodrigues."""
    w, t = pose[..., :3], pose[..., 3:]
    w, point = torch.broadcast_tensors(w, point)
    squared = w.square().sum(dim=-1, keepdim=True) + 1e-20  # so that no rotation has a derivative too
    angle = squared.sqrt()
    once = torch.linalg.cross(w, point, dim=-1)
    twice = torch.linalg.cross(w, once, dim=-1)
    turned = point + angle.sin() / angle * once + (1 - angle.cos()) / squared * twice + t
    return turned[..., :2] / turned[..., 2:]


def _misses(optim_vars: Any, aux_vars: Any) -> Tensor:
    pose, point = (part.tensor for part in optim_vars)
    return _seen(pose, point) - aux_vars[0].tensor


def _weight(value: float) -> Any:
    return theseus.ScaleCostWeight(theseus.Variable(torch.full((1, 1), value, dtype=torch.float64)))


def _layer(costs: list[Any], inputs: Callable[[Tensor], dict[str, Tensor]], read: Callable[[Any], Tensor]) -> Solve:
    """theseus's Levenberg-Marquardt with dense Cholesky; residuals of one shape are evaluated together."""
    objective = theseus.Objective(dtype=torch.float64)
    for cost in costs:
        objective.add(cost)
    solver = theseus.LevenbergMarquardt(objective, theseus.CholeskyDenseSolver, vectorize=True, **OPTIONS)
    layer, options = (
        theseus.TheseusLayer(solver),
        {"backward_mode": "implicit", "damping": 1e-3, "adaptive_damping": True},
    )
    return lambda measured: read(layer.forward(inputs(measured), optimizer_kwargs=options)[0])


COMPARISON = Comparison(
    "fitting", "Least squares: solution and a gradient", fitting_rows, ("deqzoo", "theseus-ai"), LIMIT
)

if __name__ == "__main__":
    raise SystemExit(COMPARISON.main(__doc__))
