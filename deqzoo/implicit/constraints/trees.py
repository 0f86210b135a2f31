"""A set or penalty for each tensor of a pytree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..private_api import torch_pytree
from ..pytree import Ravel, Tensors
from .parameters import Parameter
from .penalties import Penalty
from .sets import Constraint


class Regulariser:
    """h of `f(y) + h(y)`: the indicator of sets or a sum of penalties, on matrices (systems, unknowns) and on trees.

    Args:
        part: a `Constraint` or `Penalty`, which each tensor of y gets; or a pytree of them like y, None where a tensor
            is free.
        ravel: of y.
    """

    def __init__(self, part: Any, ravel: Ravel) -> None:
        self.ravel = ravel
        if part is None or isinstance(part, Constraint | Penalty):
            self.parts = [part] * len(ravel.shapes)
        else:
            try:
                self.parts = ravel.structure.flatten_up_to(part)
            except ValueError as error:
                raise ValueError(f"expected one set or penalty, or a pytree of them like y, got {part!r}") from error
        for each, shape in zip(self.parts, ravel.shapes, strict=True):
            if each is not None and not isinstance(each, Constraint | Penalty):
                raise TypeError(f"expected a set such as Simplex() or a penalty such as L1(), got {each!r}")
            if each is not None and len(shape) - ravel.batch_dims < each.axes:
                raise ValueError(
                    f"{type(each).__name__} needs {each.axes} axes of its own after the {ravel.batch_dims} of the "
                    f"batch, on a tensor of shape {tuple(shape)}"
                )

    @property
    def single(self) -> Constraint | Penalty | None:
        """The set or penalty of an unknown that is one tensor; else None."""
        return self.parts[0] if len(self.parts) == 1 else None

    def prox(self, z: Tensor, step: Tensor) -> Tensor:
        """argmin ||x - z||^2 / (2 step) + h(x), of z (systems, unknowns) and a step (systems, 1)."""
        batch = self.ravel.batch_shape
        steps = [step.reshape((*batch, *[1] * (len(shape) - len(batch)))) for shape in self.ravel.shapes]
        return self.ravel.flatten_leaves(self.prox_of_leaves(self.ravel.unflatten_leaves(z), steps))

    def prox_of_leaves(self, leaves: Sequence[Tensor], steps: Sequence[Parameter]) -> Tensors:
        """As `prox`, of the tensors of a tree, with a step for each."""
        return tuple(_prox(part, y, step) for part, y, step in zip(self.parts, leaves, steps, strict=True))

    def value(self, z: Tensor) -> Tensor:
        """The penalties at z (systems, unknowns), (systems,): sets count nothing."""
        total = torch.zeros_like(z[:, :0].sum(dim=1))
        for part, leaf in zip(self.parts, self.ravel.unflatten_leaves(z), strict=True):
            if isinstance(part, Penalty):
                total = total + part.value(leaf, self.ravel.batch_dims).reshape(-1)
        return total


def prox_of_tree(part: Any, tree: Any, step: Parameter, batch_dims: int = 0) -> Any:
    """argmin ||x - y||^2 / (2 step) + h(x), for a tree y; the projection where h is a set's."""
    ravel = Ravel(tree, batch_dims)
    leaves = ravel.leaves(tree)
    return ravel.restore(Regulariser(part, ravel).prox_of_leaves(leaves, [step] * len(leaves)))


def map_leaves(function: Any, *trees: Any) -> Any:
    """`function` of the tensors of trees of one structure."""
    return torch_pytree.tree_map(function, *trees)


def _prox(part: Constraint | Penalty | None, y: Tensor, step: Parameter) -> Tensor:
    if isinstance(part, Penalty):
        return part.prox(y, step.to(y.dtype) if isinstance(step, Tensor) else step)
    return y if part is None else part.project(y)
