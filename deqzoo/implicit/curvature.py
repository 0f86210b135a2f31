"""Second derivatives as products: Hessians, Gauss-Newton matrices, and the extreme eigenvalues of either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .linear_solvers.arnoldi import Arnoldi
from .minimizers import gradient
from .modes import eager, full_precision, keep_autocast, no_derivatives
from .operator import LinearOperator, from_pullback, jacobian, pullback
from .pytree import Ravel, map_tensors


class Extremes(NamedTuple):
    """The least and the largest eigenvalue of each system, both of the batch's shape."""

    low: Tensor
    high: Tensor


def hessian(objective: Callable[..., Any], y: Any, *args: Any, batch_dims: int = 0) -> LinearOperator:
    """The Hessian of `objective(y, *args)` in y, as products on matrices (systems, unknowns); no derivatives of it.

    With `batch_dims=1` the objective returns one value per system, shape (systems,). A product costs about two
    gradients.

    >>> H = hessian(lambda y: (y**3).sum(), torch.tensor([1.0, 2.0]))
    >>> H.mv(torch.ones(1, 2))
    tensor([[ 6., 12.]])
    """
    ravel, call, point, fixed = _frozen(objective, y, args, batch_dims)

    def slope(m: Tensor) -> Tensor:
        return ravel.flatten(gradient(call, ravel.unflatten(m), *fixed, batch_dims=batch_dims)[0])

    with no_derivatives():
        operator = jacobian(slope, point, tags=("symmetric",))

    def product(v: Tensor) -> Tensor:
        with no_derivatives():
            return operator.mv(v)

    return LinearOperator(product, product, operator.tags)


def gauss_newton(
    model: Callable[..., Any], loss: Callable[[Any], Any], y: Any, *args: Any, batch_dims: int = 0
) -> LinearOperator:
    """The Gauss-Newton matrix J^T L J of `loss(model(y, *args))`: J of the model in y, L the loss's Hessian.

    Positive semidefinite for a loss that is convex in the model's output, however the model bends: it leaves out the
    part of the Hessian that the model's second derivatives bring. With `batch_dims=1` output and loss have one leading
    index per system. A product costs about three gradients.

    Source: Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent", 2002.

    >>> G = gauss_newton(lambda y: y**2, lambda out: ((out - 1) ** 2).sum() / 2, torch.tensor([1.0, 2.0]))
    >>> G.mv(torch.ones(1, 2))  # (2 y)^2
    tensor([[ 4., 16.]])
    """
    ravel, call, point, fixed = _frozen(model, y, args, batch_dims)
    with no_derivatives():
        output = call(ravel.unflatten(point), *fixed)
        outputs = Ravel(output, batch_dims)
        _, vjp = pullback(lambda m: (outputs.flatten(call(ravel.unflatten(m[0]), *fixed)),), (point,))
        of_model = from_pullback(lambda u: vjp((u,))[0], outputs.flatten(output))
        of_loss = hessian(loss, output, batch_dims=batch_dims)

    def product(v: Tensor) -> Tensor:
        assert of_model.rmv is not None
        with no_derivatives():
            return of_model.rmv(of_loss.mv(of_model.mv(v)))

    return LinearOperator(product, product, ("symmetric",))


@eager
def extreme_eigenvalues(operator: LinearOperator, like: Tensor, steps: int = 10, seed: int = 0) -> Extremes:
    """Ritz values of a symmetric operator after a few steps of Lanczos' method from a random start.

    They lie inside the spectrum and come near its ends first: the least is an upper bound of the least eigenvalue.

    Args:
        like: any tensor (systems, unknowns).
        steps: products with the operator; with as many as unknowns the values are exact.

    Source: Lanczos, "An Iteration Method for the Solution of the Eigenvalue Problem of Linear Differential and Integral
    Operators", 1950; kept orthogonal as in `spectral_radius`.

    >>> A = LinearOperator.from_matrix(torch.diag(torch.tensor([-1.0, 2.0, 5.0])))
    >>> [round(value.item(), 4) for value in extreme_eigenvalues(A, torch.ones(1, 3))]
    [-1.0, 5.0]
    """
    steps = min(steps, like.shape[1])
    generator = torch.Generator(like.device).manual_seed(seed)
    with no_derivatives(), full_precision(like.device.type):
        start = torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
        arnoldi = Arnoldi(start, steps)
        grown = [arnoldi.start_norm > 0]
        for _ in range(steps):
            norm = arnoldi.extend(operator.mv(arnoldi.newest))
            grown.append(grown[-1] & (norm > 0))
        if not steps:
            return Extremes(like.new_zeros(len(like)), like.new_zeros(len(like)))
        h = arnoldi.h[:, :-1]
        # Where the Krylov space has ended, the rows beyond are zero: they get a value from inside the spectrum.
        beyond = torch.where(torch.stack(grown[:-1], dim=1), 0 * h[:, 0], h[:, :1, 0])
        values = torch.linalg.eigvalsh((h + h.mT) / 2 + torch.diag_embed(beyond))
    return Extremes(values[:, 0], values[:, -1])


def curvature(
    objective: Callable[..., Any], y: Any, *args: Any, batch_dims: int = 0, steps: int = 10, seed: int = 0
) -> Extremes:
    """The extreme curvatures of `objective(y, *args)` at y, for each system: `extreme_eigenvalues` of its Hessian.

    A negative `low` tells that y is not a minimum: there is no regular minimiser whose derivative could be taken.

    >>> low, high = curvature(lambda y: y[0] ** 2 - y[1] ** 2, torch.zeros(2))
    >>> round(low.item(), 4), round(high.item(), 4)
    (-2.0, 2.0)
    """
    ravel = Ravel(y, batch_dims)
    operator = hessian(objective, y, *args, batch_dims=batch_dims)
    found = extreme_eigenvalues(operator, ravel.flatten(map_tensors(Tensor.detach, y)), steps, seed)
    return Extremes(ravel.per_system(found.low), ravel.per_system(found.high))


def _frozen(
    f: Callable[..., Any], y: Any, args: tuple[Any, ...], batch_dims: int
) -> tuple[Ravel, Callable[..., Any], Tensor, tuple[Any, ...]]:
    """What a product needs of a function at a point: the map to rows, f under its autocast, and both detached."""
    ravel = Ravel(y, batch_dims)
    fixed = map_tensors(Tensor.detach, args)
    return ravel, keep_autocast(f, ravel.device.type), ravel.flatten(map_tensors(Tensor.detach, y)), fixed
