"""Solvers of nonlinear least squares: a quadratic model by the Jacobian of the residual, in a trust region."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..fixed_point_solvers import FixedPointSolver
from ..fixed_point_solvers.base import Function
from ..linear_solvers.base import dot, row_norm, safe_divide
from ..linear_solvers.lsmr import lsmr
from ..minimizers import Minimizer
from ..minimizers.base import Descent
from ..minimizers.trust_region import TrustRegionSearch
from ..modes import host_flags
from ..operator import LinearOperator, from_pullback, pullback, rows_of
from ..pytree import Ravel
from ..root_solvers.trust_region import ACCEPTABLE, dogleg, next_radius
from ..solution import Solution
from .columns import Columns
from .losses import Loss, Square

_DENSE = 300  # unknowns up to which `Dogleg` writes the Jacobian out
_INNER_STEPS = 200  # of LSMR within a step
_LEAST = 1e-3  # of the slope over the residual, for the curvature of a loss that bends the other way


@dataclasses.dataclass(frozen=True)
class LeastSquaresSolver(Minimizer):
    """Base of the solvers of min sum_i loss(r_i(y)), called as `solver(residual, y0, *args, loss=Square())`.

    The model of the objective around y is that of Gauss and Newton, g . s + s . J'WJ s / 2, with the Jacobian J of the
    residual and the curvatures W of the loss: no second derivatives of the residual. When a system has converged, and
    the other options: see `Minimizer`.
    """

    def __call__(  # type: ignore[override]
        self,
        f: Callable[..., Any],
        z0: Any,
        *args: Any,
        loss: Loss | None = None,
        batch_dims: int = 0,
        root: bool = True,
        columns: Columns | None = None,
    ) -> Solution:
        """Minimise the loss of f(z, *args) over z, from z0; no derivatives (see `least_squares`)."""
        loss, ravel = Square() if loss is None else loss, Ravel(z0, batch_dims)
        model = Model(lambda z: residuals(f, ravel.unflatten(z), args, batch_dims), loss, columns)
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(FixedPointSolver)}
        solver = _Modelled(**options, model=model, solver=self)
        return solver(objective_of(f, loss, batch_dims), z0, *args, batch_dims=batch_dims)

    def descent(self, g: Function, values: list[Tensor]) -> Descent:
        """A solver of least squares is called on a residual, not on an objective."""
        raise TypeError(f"{type(self).__name__} solves least squares: pass it to least_squares")

    def search_by(self, model: Model, g: Function, values: list[Tensor]) -> Descent:
        """The memory of one solve."""
        raise TypeError(f"{type(self).__name__} does not define search_by()")


@dataclasses.dataclass(frozen=True)
class LevenbergMarquardt(LeastSquaresSolver):
    """Each step minimises the model within ||D s|| <= radius exactly: (J'WJ + lambda D^2) s = -g.

    D^2 is the diagonal of J'WJ. The Jacobian is written out and J'WJ's eigenvalues are taken: for up to some hundred
    unknowns. The most robust: a singular J is no trouble.

    Source: Moré, "The Levenberg-Marquardt Algorithm: Implementation and Theory", 1978.

    >>> LevenbergMarquardt()(lambda y: y**2 - 2, torch.tensor([1.0], dtype=torch.float64)).value
    tensor([1.4142], dtype=torch.float64)
    """

    def search_by(self, model: Model, g: Function, values: list[Tensor]) -> Descent:
        """As `LeastSquaresSolver.search_by`."""
        return _LevenbergMarquardt(values, g, model)


@dataclasses.dataclass(frozen=True)
class Dogleg(LeastSquaresSolver):
    """Each step lies on the path from the steepest descent to the step of Gauss and Newton, at the radius.

    Up to 300 unknowns the Jacobian is written out; above, the step is found by LSMR from products with J and J', so
    that memory grows with residuals and unknowns alone.

    Source: Powell, "A Hybrid Method for Nonlinear Equations", 1970.

    >>> Dogleg()(lambda y: y**2 - 2, torch.tensor([1.0], dtype=torch.float64)).value
    tensor([1.4142], dtype=torch.float64)
    """

    def search_by(self, model: Model, g: Function, values: list[Tensor]) -> Descent:
        """As `LeastSquaresSolver.search_by`."""
        return _Dogleg(values, model)


@dataclasses.dataclass(frozen=True)
class GaussNewton(LeastSquaresSolver):
    """The step of Gauss and Newton, cut to the radius; for residuals that are small or nearly linear the least cost.

    >>> GaussNewton()(lambda y: y**2 - 2, torch.tensor([1.0], dtype=torch.float64)).value
    tensor([1.4142], dtype=torch.float64)
    """

    def search_by(self, model: Model, g: Function, values: list[Tensor]) -> Descent:
        """As `LeastSquaresSolver.search_by`."""
        return _Dogleg(values, model, bent=False)


LEAST_SQUARES_SOLVERS: dict[str, type[LeastSquaresSolver]] = {
    "levenberg_marquardt": LevenbergMarquardt,
    "dogleg": Dogleg,
    "gauss_newton": GaussNewton,
}


def residuals(f: Callable[..., Any], y: Any, args: tuple[Any, ...], batch_dims: int) -> Tensor:
    """All residuals of each system, (systems, m)."""
    value = f(y, *args)
    rows = Ravel(value, batch_dims)
    return rows.flatten(value)


def objective_of(f: Callable[..., Any], loss: Loss, batch_dims: int) -> Callable[..., Tensor]:
    """The objective `(y, *args)`: one value per system."""

    def objective(y: Any, *args: Any) -> Tensor:
        value = loss(residuals(f, y, args, batch_dims)).sum(dim=1)
        return value.reshape(Ravel(y, batch_dims).batch_shape)

    return objective


class Model:
    """The model of Gauss and Newton: J is that of the residual, its rows times the root of W."""

    def __init__(self, residual: Callable[[Tensor], Tensor], loss: Loss, columns: Columns | None = None) -> None:
        self.residual, self.loss = residual, loss
        self.columns = Columns() if columns is None else columns

    def at(self, point: Tensor) -> tuple[LinearOperator, Tensor]:
        """J at (systems, n) as products, and the b, (systems, m), for which J'b is minus the gradient."""
        (r,), vjp = pullback(lambda z: (self.residual(z[0]),), (point,))
        z = (r / self.loss.scale).square()
        weight = self.loss.weight(z)
        root = torch.maximum(self.loss.curvature(z), _LEAST * weight).sqrt()
        return from_pullback(lambda u: vjp((u * root,))[0], r), -weight * r / root

    def jacobian(self, point: Tensor) -> Tensor:
        """J, (systems, m, n): by groups of columns, by rows or by columns, whichever are fewest."""
        J, r = self.at(point)
        matrix = self.columns.jacobian(J, point)
        if matrix is None:
            assert J.rmv is not None
            matrix = rows_of(J.rmv, r) if r.shape[1] <= point.shape[1] else rows_of(J.mv, point).mT
            self.columns.learn(matrix)
        return matrix


@dataclasses.dataclass(frozen=True)
class _Modelled(Minimizer):
    model: Model = None  # type: ignore[assignment]  # dataclass order wants a default
    solver: LeastSquaresSolver = None  # type: ignore[assignment]

    def descent(self, g: Function, values: list[Tensor]) -> Descent:
        return self.solver.search_by(self.model, g, values)


class _LevenbergMarquardt(TrustRegionSearch):
    def __init__(self, values: list[Tensor], function: Function, model: Model) -> None:
        super().__init__(values, function)
        self.model = model

    def hessian(self) -> Tensor:
        J = self.model.jacobian(self.point)
        self.products += min(J.shape[1:])
        return J.mT @ J


class _Dogleg(Descent):
    """As `TrustRegionSearch`, by two directions alone; not `bent`: by one."""

    radius: Tensor | None = None

    def __init__(self, values: list[Tensor], model: Model, bent: bool = True) -> None:
        super().__init__(values)
        self.model, self.bent = model, bent

    def next_trial(self) -> Tensor:
        if host_flags(self.accepted)[0][0]:
            self._linearise()
        assert self.radius is not None
        if self.bent:
            step = dogleg(self.newton, self.steepest, self.radius)
        else:
            cut = safe_divide(self.radius, row_norm(self.newton)).clamp(max=1.0)
            step = cut.unsqueeze(1) * self.newton
        self.length = row_norm(step)
        image = self.forward(step)
        self.predicted = (dot(self.g, step) - dot(image, image) / 2).squeeze(1)
        return self.point + step

    def _linearise(self) -> None:
        """Both directions at the accepted points."""
        n = self.point.shape[1]
        if n <= _DENSE:
            J = self.model.jacobian(self.point)
            self.products += min(J.shape[1:])
            self.forward = lambda v: (J @ v.unsqueeze(2)).squeeze(2)
            newton = torch.linalg.pinv(J.nan_to_num()) @ self.model.at(self.point)[1].unsqueeze(2)
            self.newton = newton.squeeze(2)
        else:
            operator, b = self.model.at(self.point)
            self.forward = operator.mv
            found = lsmr(operator.mv, operator.T.mv, b, None, _INNER_STEPS)
            self.newton = found.x
            self.products += 2 * found.products
        image = self.forward(self.g)
        self.steepest = safe_divide(dot(self.g, self.g), dot(image, image)) * self.g
        if self.radius is None:
            extent = row_norm(self.newton)
            self.radius = torch.where(extent > 0, torch.maximum(extent, row_norm(self.point)), torch.ones_like(extent))

    def judge(self, z: Tensor, value: Tensor, g: Tensor) -> Tensor:
        fall = self.value - value
        better = self.better_by_gradient(self.predicted, fall, g)
        ratio = torch.where(better, torch.ones_like(fall), fall / self.predicted)
        assert self.radius is not None
        self.radius = next_radius(self.radius, ratio, self.length)
        return ratio >= ACCEPTABLE
