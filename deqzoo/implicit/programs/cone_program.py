"""Convex programs in standard form, solved by Clarabel, differentiated by their optimality conditions."""

from __future__ import annotations

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..black_box import call_black_box
from ..implicit_function import ImplicitFunction
from ..linear_solvers import GMRES, Dense, LinearSolver
from ..linear_solvers.base import row_norm
from ..modes import eager, host_flags, needs_derivative, no_derivatives
from ..problem import report_to, returned
from ..pytree import map_tensors
from ..solution import OnFailure, Solution, Status
from .cones import Cones
from .layout import Sparse, Whole

_ADVICE = "Check the constraints, raise max_steps, or loosen tol"
_DENSE = 400  # unknowns and rows, up to which a Jacobian is written out
_AIM = 1e-2
_POLISHING = 2  # Newton steps after the solve, at most
_EXACT = 1e3  # eps, relative: a residual that needs none
_STATUSES = {
    "Solved": Status.CONVERGED,
    "AlmostSolved": Status.CONVERGED,
    "PrimalInfeasible": Status.INFEASIBLE,
    "DualInfeasible": Status.UNBOUNDED,
    "MaxIterations": Status.MAX_STEPS,
}


class ConeSolution(NamedTuple):
    """The solution of min c'x subject to Ax + s = b, s in K.

    Attributes:
        x: the unknowns, (..., n).
        duals: y in the dual cone of K, (..., m), with A'y + c = 0.
        slacks: s in K, (..., m), with s'y = 0.
    """

    x: Tensor
    duals: Tensor
    slacks: Tensor


@dataclasses.dataclass(frozen=True)
class Clarabel:
    """The interior-point method of Clarabel (the extra `deqzoo[convex]`), one program after the other or in threads.

    Args:
        tol: at which a program has converged, of Clarabel's gap and residuals or, where that gets stuck, of the
            optimality conditions; None: 1e-8, for float32 1e-5. It aims at a hundredth of that, as round-off allows.
        max_steps: steps at most.
        threads: programs of a batch that are solved at a time.

    Source: Goulart, Chen, "Clarabel: An interior-point solver for conic programs with quadratic objectives", 2024.
    """

    tol: float | None = None
    max_steps: int = 200
    threads: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1 or self.max_steps < 0:
            raise ValueError("threads must be at least 1 and max_steps at least 0")

    def __call__(self, c: Tensor, A: Any, b: Tensor, cones: Cones, tol: float) -> tuple[Any, ...]:
        """Solve one program, A in SciPy's compressed columns: (x, y, s, status, steps)."""
        clarabel = _clarabel()
        settings = clarabel.DefaultSettings()
        settings.verbose, settings.max_iter, settings.max_threads = False, self.max_steps, 1
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = _AIM * tol
        settings.reduced_tol_gap_abs = settings.reduced_tol_gap_rel = settings.reduced_tol_feas = tol
        terms = _linear(len(c)), c.numpy(), A, b.numpy(), _terms(cones)
        found = clarabel.DefaultSolver(*terms, settings).solve()
        status = _STATUSES.get(str(found.status).rpartition(".")[2], Status.STALLED)
        return found.x, found.z, found.s, status, found.iterations


@eager
def cone_program(
    c: Tensor,
    A: Tensor,
    b: Tensor,
    cones: Cones,
    *,
    solver: Clarabel | None = None,
    linear_solver: LinearSolver | None = None,
    on_failure: OnFailure = "warn",
    return_solution: bool = False,
) -> Any:
    """The solution of a convex program in standard form, differentiable in c, A and b.

        min_x c'x    subject to    Ax + s = b,  s in K

    Each argument may have leading batch axes, the same ones, or none. With v = y - s the optimality conditions are one
    equation in (x, v), by the projection onto K,

        A'y + c = 0,    b - Ax - s = 0,    s = P_K(-v),    y = v + P_K(-v)

    whose products with the Jacobian need no matrix. The solution has a derivative where that Jacobian is regular: it
    and its multipliers are unique, and neither s nor y is at a kink of the cone's boundary.

    Args:
        c, A, b: (..., n), (..., m, n) and (..., m), float32 or float64; the solve itself is in float64, on the CPU.
        cones: K.
        solver: `Clarabel()` by default.
        linear_solver: of the systems for derivatives; `Dense()` by default up to 400 unknowns and rows, else `GMRES()`.
        on_failure: "ignore", "warn" or "raise" where a program has no solution or was not solved, or the linear system
            of a derivative was not.
        return_solution: also return the `Solution`.

    Returns:
        `ConeSolution(x, duals, slacks)`, or that and the solution. A program that is INFEASIBLE or UNBOUNDED, or holds
        a NaN or Inf, is NaN there.

    Source: Agrawal et al., "Differentiating Through a Cone Program", 2019.

    The point of the unit disc that is farthest along -c:

    >>> c = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    >>> A = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    >>> b = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    >>> cone_program(c, A, b, Cones(second_order=(3,))).x.detach()  # doctest: +SKIP
    tensor([-0.6000, -0.8000], dtype=torch.float64)
    """
    return solve_cone_program(c, A, b, cones, Whole(), solver, linear_solver, on_failure, return_solution)


def solve_cone_program(
    c: Tensor,
    A: Tensor,
    b: Tensor,
    cones: Cones,
    layout: Whole | Sparse,
    solver: Clarabel | None,
    linear_solver: LinearSolver | None,
    on_failure: OnFailure,
    return_solution: bool,
) -> Any:
    """As `cone_program`, with A in any layout: (..., *entries)."""
    batch_shape = _check(c, A, b, cones, layout)
    n, m = c.shape[-1], b.shape[-1]
    solver = Clarabel() if solver is None else solver
    entries = A.shape[-2:] if isinstance(layout, Whole) else A.shape[-1:]
    with no_derivatives():
        given = map_tensors(torch.Tensor.detach, (c, A, b))
        x, v, slacks, status, residual, steps = call_black_box(
            lambda *given: _solve(solver, cones, layout, given, batch_shape, entries), given
        )
    solution = Solution(ConeSolution(x, v + slacks, slacks), status, residual, steps, nfe=1)
    solution.check(on_failure, "cone program", advice=_ADVICE)
    if needs_derivative():
        if linear_solver is None:
            linear_solver = Dense() if n + m <= _DENSE else GMRES()

        implicit = ImplicitFunction(
            _already_solved,
            functools.partial(_conditions, cones, layout),
            linear_solver=linear_solver,
            batch_dims=len(batch_shape),
            on_failure=on_failure,
        )
        systems = batch_shape.numel()
        rows = v.reshape(systems, m), given[1].expand(*batch_shape, *entries).reshape(systems, *entries)
        x, v = implicit.differentiable(
            (x, v), c, A, b, report=report_to(solution), jacobian=lambda: _jacobian(cones, layout, *rows), closed=True
        )
        slacks = cones.project(-v)
    value, solution = returned(ConeSolution(x, v + slacks, slacks), solution)
    return (value, solution) if return_solution else value


def _conditions(
    cones: Cones, layout: Whole | Sparse, point: tuple[Tensor, Tensor], c: Tensor, A: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """The optimality conditions, zero at the solution (x, v)."""
    x, v = point
    s = cones.project(-v)
    return c + layout.times_transposed(A, v + s), b - layout.times(A, x) - s


def _jacobian(cones: Cones, layout: Whole | Sparse, v: Tensor, A: Tensor) -> Tensor:
    """The Jacobian of `_conditions` in (x, v), (programs, n + m, n + m): with D that of the projection at -v,

    [0   A'(I - D)]
    [-A   D       ]
    """
    A, D = layout.dense(A), cones.derivative(-v)
    upper = torch.cat([A.new_zeros(*A.shape[:-2], A.shape[-1], A.shape[-1]), A.mT - A.mT @ D], dim=-1)
    return torch.cat([upper, torch.cat([-A, D], dim=-1)], dim=-2)


def _polished(
    cones: Cones, layout: Whole | Sparse, x: Tensor, v: Tensor, given: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """x and v after a Newton step on the conditions, where that is small enough to be written out, and nearer to 0.

    An interior-point method stops at a small gap, of which x on a curved boundary may still be off by the root. Also
    what is left of the conditions, (programs, n + m).
    """
    (c, A, b), n = given, x.shape[1]
    point = torch.cat([x, v], dim=1)

    def residual(point: Tensor) -> Tensor:
        return torch.cat(_conditions(cones, layout, (point[:, :n], point[:, n:]), *given), dim=1)

    now = residual(point)
    if not 0 < point.numel() <= _DENSE * len(point):
        return x, v, now
    size = 1 + torch.cat([c, b], dim=1).abs().amax(dim=1)
    for _ in range(_POLISHING):
        if host_flags(row_norm(now) <= _EXACT * torch.finfo(now.dtype).eps * size)[0][1]:
            break
        step, info = torch.linalg.solve_ex(_jacobian(cones, layout, point[:, n:], A), now.unsqueeze(-1))
        nearer = point - step.squeeze(-1)
        then = residual(nearer)
        better = ((info == 0) & (row_norm(then) < row_norm(now))).unsqueeze(1)
        point, now = torch.where(better, nearer, point), torch.where(better, then, now)
    return point[:, :n], point[:, n:], now


def _solve(
    solver: Clarabel,
    cones: Cones,
    layout: Whole | Sparse,
    given: tuple[Tensor, ...],
    batch_shape: torch.Size,
    entries: torch.Size,
) -> tuple[Tensor, ...]:
    """Each program of the batch by Clarabel: x, v = y - s, s, status, residual, steps."""
    like, systems = given[0], batch_shape.numel()
    shapes = (given[0].shape[-1:], entries, given[2].shape[-1:])
    tol = solver.tol if solver.tol is not None else 1e-8 if like.dtype == torch.float64 else 1e-5
    c, A, b = (
        t.expand(*batch_shape, *shape).reshape(systems, *shape).cpu().double()
        for t, shape in zip(given, shapes, strict=True)
    )
    n, m = c.shape[1], b.shape[1]
    x, v = c.new_zeros(systems, n), c.new_zeros(systems, m)
    status = torch.full((systems,), Status.DIVERGED)
    steps = torch.zeros(systems, dtype=torch.long)
    finite = torch.cat([c, A.flatten(1), b], dim=1).isfinite().all(dim=1).tolist()

    def solve(i: int) -> None:
        found = solver(c[i], layout.compressed(A[i]), b[i], cones, tol)
        primal, dual, slack = (torch.as_tensor(part, dtype=c.dtype) for part in found[:3])
        x[i], v[i] = primal, dual - slack
        status[i], steps[i] = found[3:]

    sound = [i for i in range(systems) if finite[i]]
    if solver.threads == 1 or len(sound) == 1:
        for i in sound:
            solve(i)
    else:
        with ThreadPoolExecutor(solver.threads) as pool:
            list(pool.map(solve, sound))
    x, v, off = _polished(cones, layout, x.nan_to_num(0.0, 0.0, 0.0), v.nan_to_num(0.0, 0.0, 0.0), (c, A, b))
    errors = zip(off.split((n, m), dim=1), (c, b), strict=True)
    residual = torch.stack([_largest(error) / (1 + _largest(data)) for error, data in errors]).amax(dim=0)
    status = torch.where((status == Status.STALLED) & (residual <= tol), Status.CONVERGED, status)
    slacks = cones.project(-v)
    parts = (*(t.to(like) for t in (x, v, slacks)), status.to(like.device), residual.to(like), steps.to(like.device))
    return tuple(part.reshape(batch_shape + part.shape[1:]) for part in parts)


def _largest(rows: Tensor) -> Tensor:
    return rows.abs().amax(dim=1) if rows.shape[1] else rows.sum(dim=1)


def _check(c: Tensor, A: Tensor, b: Tensor, cones: Cones, layout: Whole | Sparse) -> torch.Size:
    """The shape of the batch; an error where something does not fit."""
    for name, t in (("c", c), ("A", A), ("b", b)):
        if not isinstance(t, Tensor) or t.dtype not in (torch.float32, torch.float64) or t.dtype != c.dtype:
            raise TypeError(f"c, A and b must be tensors of one dtype, float32 or float64; {name} is {_kind(t)}")
    if not isinstance(cones, Cones):
        raise TypeError(f"cones must be a Cones, got {cones!r}")
    if c.dim() < 1 or b.dim() < 1 or b.shape[-1] != cones.rows:
        raise ValueError(f"b must have shape (..., {cones.rows}), the rows of {cones}, got {tuple(b.shape)}")
    tail = (b.shape[-1], c.shape[-1]) if isinstance(layout, Whole) else (len(layout.rows),)
    if A.shape[A.dim() - len(tail) :] != tail:
        raise ValueError(f"A must have shape (..., {', '.join(map(str, tail))}) beside c and b, got {tuple(A.shape)}")
    leading = [c.shape[:-1], A.shape[: A.dim() - len(tail)], b.shape[:-1]]
    try:
        return torch.broadcast_shapes(*leading)
    except RuntimeError:
        raise ValueError(
            f"the leading axes of c, A, b must be equal or missing, got {', '.join(str(tuple(s)) for s in leading)}"
        ) from None


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _clarabel() -> Any:
    try:
        import clarabel
    except ImportError as error:
        raise ImportError("cone programs need Clarabel: pip install 'deqzoo[convex]'") from error
    return clarabel


@functools.lru_cache(maxsize=64)
def _terms(cones: Cones) -> list[Any]:
    """The cones in the terms of Clarabel."""
    return cones.of_clarabel(_clarabel())


@functools.lru_cache(maxsize=64)
def _linear(n: int) -> Any:
    """The quadratic part of a linear objective, as Clarabel takes it."""
    from scipy.sparse import csc_matrix

    return csc_matrix((n, n))


def _already_solved(*args: Any) -> Any:
    raise AssertionError("the solution is handed to differentiable()")
