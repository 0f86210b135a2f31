"""Optimality conditions F(y, *args) = 0 for `ImplicitFunction`: what makes the result of any solver differentiable.

    stationarity          grad f(y) = 0
    projected_gradient    y = P(y - grad f(y))                  f on a convex set
    proximal_gradient     y = prox(y - grad f(y))               f + a penalty
    mirror_descent        y = y exp(-grad f(y)), normalised     f on the simplex
    kkt                   f with equations and inequalities, and their multipliers

At a solution where the active set is stable, each has a regular Jacobian and gives the derivative of the solution;
where it changes, that of one side. Each function here takes an objective `f(y, *args)`, a scalar (with `batch_dims=1`
one value per system), and returns `conditions(y, *args)`.

Source: Blondel et al., "Efficient and Modular Implicit Differentiation", 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .constraints.parameters import Parameter
from .constraints.sets import Simplex
from .constraints.trees import Regulariser, map_leaves, prox_of_tree
from .minimizers import gradient
from .minimizers.mirror_descent import exponentiated_step
from .pytree import Ravel, tensor_leaves, with_tensors

Conditions = Callable[..., Any]
_UNIT = Simplex()


def stationarity(objective: Callable[..., Any], *, batch_dims: int = 0) -> Conditions:
    """grad f(y) = 0: an unconstrained minimum, or any other stationary point.

    >>> stationarity(lambda y, c: ((y - c) ** 2).sum())(torch.tensor([3.0]), torch.tensor([1.0]))
    tensor([4.])
    """
    return lambda y, *args: gradient(objective, y, *args, batch_dims=batch_dims)[0]


def projected_gradient(
    objective: Callable[..., Any], constraint: Any, *, step: Parameter = 1.0, batch_dims: int = 0
) -> Conditions:
    """y - P(y - step grad f(y)) = 0: a minimum on a convex set, a `Constraint` or a pytree of them like y.

    Where y lies on a face of the set, the derivative is that along the face.

    >>> from deqzoo.implicit import ImplicitFunction, Simplex
    >>> conditions = projected_gradient(lambda y, c: ((y - c) ** 2).sum(), Simplex())
    >>> projection = ImplicitFunction(lambda c: Simplex().project(c), conditions)
    >>> torch.func.jacrev(projection)(torch.tensor([1.5, 1.0, 0.0], dtype=torch.float64))
    tensor([[ 0.5000, -0.5000,  0.0000],
            [-0.5000,  0.5000,  0.0000],
            [ 0.0000,  0.0000,  0.0000]], dtype=torch.float64)
    """
    return _of_step(objective, constraint, step, batch_dims)


def proximal_gradient(
    objective: Callable[..., Any], penalty: Any, *, step: Parameter = 1.0, batch_dims: int = 0
) -> Conditions:
    """y - prox(y - step grad f(y), step) = 0: a minimum of f + h, h a `Penalty` or a pytree of them like y.

    >>> from deqzoo.implicit import L1
    >>> conditions = proximal_gradient(lambda y, c: ((y - c) ** 2).sum() / 2, L1(1.0))
    >>> conditions(torch.tensor([2.0, 0.0]), torch.tensor([3.0, 0.5]))
    tensor([0., 0.])
    """
    return _of_step(objective, penalty, step, batch_dims)


def _of_step(objective: Callable[..., Any], part: Any, step: Parameter, batch_dims: int) -> Conditions:
    def conditions(y: Any, *args: Any) -> Any:
        slope = gradient(objective, y, *args, batch_dims=batch_dims)[0]
        moved = map_leaves(lambda leaf, g: leaf - step * g, y, slope)
        return map_leaves(torch.sub, y, prox_of_tree(part, moved, step, batch_dims))

    return conditions


def mirror_descent(objective: Callable[..., Any], constraint: Any = _UNIT, *, batch_dims: int = 0) -> Conditions:
    """y_i - total y_i exp(-grad_i) / sum_j y_j exp(-grad_j) = 0: a minimum on a `Simplex`, or a pytree of them like y.

    For an objective with an entropy in it, whose second derivatives 1 / y_i may be huge: here they are multiplied by
    y_i. Entries of y that are 0 stay so.

    >>> conditions = mirror_descent(lambda y, c: (c * y + y * y.log()).sum())
    >>> c = torch.tensor([2.0, 1.0, 0.0])
    >>> conditions(torch.softmax(-c, 0), c).abs().max() < 1e-6
    tensor(True)
    """

    def conditions(y: Any, *args: Any) -> Any:
        slope = gradient(objective, y, *args, batch_dims=batch_dims)[0]
        moved = exponentiated_step(Regulariser(constraint, Ravel(y, batch_dims)).parts, *map(tensor_leaves, (y, slope)))
        return map_leaves(torch.sub, y, with_tensors(y, moved))

    return conditions


def kkt(
    objective: Callable[..., Any],
    equality: Callable[..., Any] | None = None,
    inequality: Callable[..., Any] | None = None,
    *,
    batch_dims: int = 0,
) -> Conditions:
    """The conditions of Karush, Kuhn and Tucker of: minimise f(x) where equality(x) = 0 and inequality(x) <= 0.

        grad f(x) + u . grad equality(x) + v . grad inequality(x) = 0
        equality(x) = 0,    v = max(v + inequality(x), 0)

    The unknown is the tuple (x, u, v), without the multipliers of what is not given; all functions take `(x, *args)`.
    The last line says v >= 0, inequality(x) <= 0 and v . inequality(x) = 0.

    >>> conditions = kkt(lambda x: (x**2).sum(), inequality=lambda x: 1 - x)  # minimise x^2 where x >= 1
    >>> conditions((torch.tensor([1.0]), torch.tensor([2.0])))
    (tensor([0.]), tensor([0.]))
    """
    functions = [f for f in (equality, inequality) if f is not None]

    def conditions(y: Any, *args: Any) -> Any:
        if not isinstance(y, tuple) or len(y) != 1 + len(functions):
            raise ValueError(f"the unknown must be a tuple of x and {len(functions)} multipliers, got {y!r}")
        x, multipliers = y[0], list(y[1:])

        def lagrangian(x: Any, *args: Any) -> Any:
            value = objective(x, *args)
            for f, multiplier in zip(functions, multipliers, strict=True):
                for one, u in zip(tensor_leaves(f(x, *args)), tensor_leaves(multiplier), strict=True):
                    terms = one * u
                    rest = tuple(range(batch_dims, terms.dim()))
                    value = value + (terms.sum(dim=rest) if rest else terms)
            return value

        residuals = [gradient(lagrangian, x, *args, batch_dims=batch_dims)[0]]
        if equality is not None:
            residuals.append(equality(x, *args))
        if inequality is not None:
            residuals.append(map_leaves(lambda v, c: v - (v + c).clamp(min=0), multipliers[-1], inequality(x, *args)))
        return tuple(residuals)

    return conditions
