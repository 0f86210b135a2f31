"""Problems of CVXPY as layers, beside cvxpylayers, and cone programs beside diffcp: a part of `optimisation.py`.

Each problem is CVXPY's own, solved by `from_cvxpy` and by cvxpylayers: the three of cvxpylayers' README, robust least
squares, and 20 random programs over second-order cones, one by one and as one batch. cvxpylayers calls SCS unless told
otherwise, and once Clarabel at the tolerance that ours aims at; ours is compared with those of the two that are
accurate to 1e-5. The gradients of the 20 in c, A and b are compared with those of diffcp (mode "dense") at the same
solution.
"""

from __future__ import annotations

import dataclasses
import statistics
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.measure import interleaved
from benchmarks.report import Check
from benchmarks.side_by_side import ACCURATE, over_fastest_peer
from deqzoo.implicit import Cones, cone_program, from_cvxpy

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cvxpy
        import diffcp
        from cvxpylayers.torch import CvxpyLayer
except ImportError:
    cvxpy = CvxpyLayer = diffcp = None

TOL = 1e-10  # of Clarabel: what `cone_program` aims at
CLARABEL = {"solve_method": "CLARABEL", "tol_gap_abs": TOL, "tol_gap_rel": TOL, "tol_feas": TOL}
RANDOM = 20
UNKNOWNS, CONES = 6, Cones(zero=1, nonnegative=4, second_order=(7, 3, 4))
Tensors = tuple[Tensor, ...]


@dataclasses.dataclass
class ConeRow:
    """One library's solution and gradients of a problem.

    Attributes:
        error: the largest |x - x*|, x* being ours: that meets the conditions of optimality to round-off.
        gradient_error: likewise, relative, of the gradients of sum(x^2) in all parameters.
    """

    problem: str
    library: str
    seconds: float
    over_peer: float | None
    error: float
    gradient_error: float


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A problem of CVXPY with values of its parameters, of which there may be several sets."""

    name: str
    problem: Any
    parameters: list[Any]
    variables: list[Any]
    values: list[Tensors]
    gp: bool = False


def readme_problems() -> list[_Layer]:
    """Those of cvxpylayers' README: the least absolute residual, a linear program, a geometric program."""
    x, A, b = cvxpy.Variable(2), cvxpy.Parameter((3, 2)), cvxpy.Parameter(3)
    least = cvxpy.Problem(cvxpy.Minimize(0.5 * cvxpy.pnorm(A @ x - b, p=1)), [x >= 0])
    source = torch.Generator().manual_seed(0)
    values = (
        torch.randn(3, 2, dtype=torch.float64, generator=source),
        torch.randn(3, dtype=torch.float64, generator=source),
    )
    first = _Layer("README: least absolute residual", least, [A, b], [x], [values])
    y, c, total = cvxpy.Variable(2), cvxpy.Parameter(2), cvxpy.Parameter()
    linear = cvxpy.Problem(cvxpy.Minimize(c @ y), [cvxpy.sum(y) == total, y >= 0])
    second = _Layer("README: linear program", linear, [c, total], [y], [(_tensor([1.0, 2.0]), _tensor(1.0))])
    sides = [cvxpy.Variable(pos=True) for _ in range(3)]
    area, most, power = cvxpy.Parameter(pos=True), cvxpy.Parameter(pos=True), cvxpy.Parameter()
    u, v, w = sides
    box = cvxpy.Problem(cvxpy.Minimize(1 / (u * v * w)), [area * (u * v + u * w + v * w) <= most, u >= v**power])
    values = (_tensor(2.0), _tensor(1.0), _tensor(0.5))
    third = _Layer("README: geometric program", box, [area, most, power], sides, [values], gp=True)
    return [first, second, third]


def robust_problem(n: int, batch: int) -> _Layer:
    """min ||F x - g|| + ||x|| / 10 with x >= 0, sum(x) <= 1."""
    x, F, g = cvxpy.Variable(n), cvxpy.Parameter((2 * n, n)), cvxpy.Parameter(2 * n)
    cost = cvxpy.norm(F @ x - g) + 0.1 * cvxpy.norm(x)
    problem = cvxpy.Problem(cvxpy.Minimize(cost), [x >= 0, cvxpy.sum(x) <= 1])
    source = torch.Generator().manual_seed(n)
    values = tuple(torch.randn(batch, *s, dtype=torch.float64, generator=source) for s in ((2 * n, n), (2 * n,)))
    return _Layer(f"robust least squares, n = {n}, batch {batch}", problem, [F, g], [x], [values])


def random_program(seed: int) -> Tensors:
    """(c, A, b) over the unit ball, with 0 inside of the other cones; the ball is the first second-order cone."""
    source = torch.Generator().manual_seed(seed)
    c = torch.randn(UNKNOWNS, dtype=torch.float64, generator=source)
    A = torch.randn(CONES.rows, UNKNOWNS, dtype=torch.float64, generator=source)
    ball = CONES.zero + CONES.nonnegative
    A[ball] = 0.0
    A[ball + 1 : ball + 1 + UNKNOWNS] = -torch.eye(UNKNOWNS, dtype=torch.float64)
    heads = [torch.eye(size, dtype=torch.float64)[0] for size in CONES.second_order]
    return c, A, torch.cat([_tensor([0.0] * CONES.zero + [0.3] * CONES.nonnegative), *heads])


def random_problems() -> list[_Layer]:
    """The random programs, one by one and as a batch."""
    x, c = cvxpy.Variable(UNKNOWNS), cvxpy.Parameter(UNKNOWNS)
    A, b = cvxpy.Parameter((CONES.rows, UNKNOWNS)), cvxpy.Parameter(CONES.rows)
    s, start = b - A @ x, CONES.zero + CONES.nonnegative
    constraints = [s[: CONES.zero] == 0, s[CONES.zero : start] >= 0]
    for size in CONES.second_order:
        constraints.append(cvxpy.SOC(s[start], s[start + 1 : start + size]))
        start += size
    problem, programs = cvxpy.Problem(cvxpy.Minimize(c @ x), constraints), [random_program(i) for i in range(RANDOM)]
    batch = tuple(torch.stack(parts) for parts in zip(*programs, strict=True))
    return [
        _Layer(f"{RANDOM} random second-order cone programs, one by one", problem, [c, A, b], [x], programs),
        _Layer(f"{RANDOM} random second-order cone programs, one batch", problem, [c, A, b], [x], [batch]),
    ]


def cone_table(quick: bool) -> list[ConeRow]:
    """Each problem, both libraries."""
    if CvxpyLayer is None:
        return []
    if quick:
        problems = [readme_problems()[0], robust_problem(3, 2)]
    else:
        robust = [robust_problem(n, batch) for n in (5, 20) for batch in (1, 32)]
        problems = [*readme_problems(), *robust, *random_problems()]
    rows = []
    for layer in problems:
        found, calls = {}, {}
        for name, way in _ways(layer).items():
            found[name] = _solved(way, layer.values)
            calls[name] = lambda way=way, values=layer.values: _solved(way, values)
        times = interleaved(calls, 1 if quick else 11)
        x, slope = found["deqzoo"]
        accurate = {name: times[name] for name in times if (found[name][0] - x).abs().max() <= ACCURATE}
        for name, (its_x, its_slope) in found.items():
            row = ConeRow(
                layer.name,
                name,
                statistics.median(times[name]),
                over_fastest_peer(accurate) if name == "deqzoo" else None,
                (its_x - x).abs().max().item(),
                ((its_slope - slope).norm() / slope.norm().clamp(min=1)).item(),
            )
            rows.append(row)
    return rows


def _ways(layer: _Layer) -> dict[str, Callable[..., Tensors]]:
    given = layer.problem, layer.parameters, layer.variables
    ours, theirs = from_cvxpy(*given, gp=layer.gp), CvxpyLayer(*given, gp=layer.gp)
    return {
        "deqzoo": ours,
        "cvxpylayers": theirs,
        "cvxpylayers, Clarabel": lambda *values: theirs(*values, solver_args=CLARABEL),
    }


def _solved(way: Callable[..., Tensors], sets: list[Tensors]) -> tuple[Tensor, Tensor]:
    """The variables at all sets of values, and the gradients of their sum of squares, in one vector each."""
    variables, slopes = [], []
    for values in sets:
        leaves = [t.detach().requires_grad_() for t in values]
        found = way(*leaves)
        loss = torch.stack([x.square().sum() for x in found]).sum()
        variables += [x.detach().flatten() for x in found]
        slopes += [g.flatten() for g in torch.autograd.grad(loss, leaves)]
    return torch.cat(variables), torch.cat(slopes)


def difference_from_diffcp(programs: int) -> float | None:
    """The largest relative difference of a gradient from diffcp's at the same solution; None: no diffcp."""
    if diffcp is None:
        return None
    from scipy.sparse import csc_matrix

    worst, cones = 0.0, {"z": CONES.zero, "l": CONES.nonnegative, "q": list(CONES.second_order)}
    for seed in range(programs):
        leaves = [t.requires_grad_() for t in random_program(seed)]
        point = cone_program(*leaves, CONES)
        weights = torch.randn(UNKNOWNS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        of_c, of_A, of_b = torch.autograd.grad((weights * point.x).sum(), leaves)
        c, A, b = (t.detach().numpy() for t in leaves)
        solution = {name: t.detach().numpy() for name, t in zip("xys", point, strict=True)}
        with mock.patch("diffcp.cone_program.solve_internal", return_value=solution):
            *_, adjoint = diffcp.solve_and_derivative(csc_matrix(A), b, c, cones, mode="dense")
        zeros = torch.zeros(CONES.rows, dtype=torch.float64).numpy()
        its_A, its_b, its_c = adjoint(weights.numpy(), zeros, zeros)
        of_A = of_A * (leaves[1] != 0)  # it has no gradient of the entries that are not stored
        for ours, theirs in ((of_c, its_c), (of_A, its_A.toarray()), (of_b, its_b)):
            theirs = torch.as_tensor(theirs)
            worst = max(worst, ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item())
    return worst


def checks(rows: list[ConeRow], difference: float | None) -> list[Check]:
    """What is promised: cvxpylayers' time at most, and diffcp's gradients."""
    found = [
        Check(f"{row.problem}: at most cvxpylayers' time", f"{row.over_peer:.2f}", row.over_peer <= 1)
        for row in rows
        if row.over_peer is not None
    ]
    if difference is not None:
        promise = "gradients of random second-order cone programs are diffcp's to 1e-6"
        found.append(Check(promise, f"{difference:.1e}", difference <= 1e-6))
    return found


def _tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
