"""The exact derivative of a fixed point inside a graph of `torch.compile`, forward and backward, without a host read.

It is the bridge's `attach` without what a graph cannot hold: reports, checks of the condition, higher orders. The
number of products of the adjoint solve is fixed, as that of the forward steps is by `stop="never"`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .linear_solvers import LinearSolver
from .modes import full_precision, keep_autocast
from .operator import LinearOperator
from .pytree import Ravel, Tensors, tensor_leaves, with_tensors


def attach_traced(
    conditions: Callable[..., Any], value: Any, args: tuple[Any, ...], linear_solver: LinearSolver, batch_dims: int
) -> Any:
    """The solution `value` of conditions(y, *args) = 0 as a function of all that the conditions read.

        dL/dresidual = -A^-T dL/dy =: u,    A = d conditions / dy

    and the tape of the residual carries u on, to `args` and to what the conditions capture.
    """
    ravel = Ravel(value, batch_dims)
    conditions = keep_autocast(conditions, ravel.device.type)
    leaves = tuple(leaf.detach() for leaf in tensor_leaves(value))
    residual = tuple(ravel.leaves(conditions(ravel.restore(leaves), *args)))

    def adjoint(y: Tensors, inputs: Tensors, g: Tensors) -> Tensors:
        def condition(*leaves: Tensor) -> Tensors:
            return tuple(ravel.leaves(conditions(ravel.restore(leaves), *with_tensors(args, inputs))))

        pull = torch.func.vjp(condition, *y)[1]

        def product(u: Tensor) -> Tensor:
            return ravel.flatten_leaves(pull(ravel.unflatten_leaves(u)))

        with full_precision(ravel.device.type):
            solution = linear_solver(LinearOperator(product), -ravel.flatten_leaves(g))
        return ravel.unflatten_leaves(solution.value)

    inputs = tuple(leaf.detach() for leaf in tensor_leaves(args))
    return ravel.restore(_AttachTraced.apply(adjoint, len(leaves), *leaves, *residual, *inputs))


class _AttachTraced(torch.autograd.Function):
    """(y, residual, inputs) -> y; its gradient with respect to the residual is the adjoint."""

    @staticmethod
    def forward(ctx: Any, adjoint: Callable[..., Tensors], n: int, *tensors: Tensor) -> Tensors:
        ctx.adjoint, ctx.n, ctx.count = adjoint, n, len(tensors)
        ctx.save_for_backward(*tensors[:n], *tensors[2 * n :])
        return tuple(t.clone() for t in tensors[:n])

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Any, ...]:
        n, saved = ctx.n, ctx.saved_tensors
        u = ctx.adjoint(saved[:n], saved[n:], g)
        return (None, None, *[None] * n, *u, *[None] * (ctx.count - 2 * n))
