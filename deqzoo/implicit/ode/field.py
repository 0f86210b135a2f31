"""The right-hand side that a user wrote, as a function of matrices, with the tensors that it reads made explicit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from ..lifting import Lifted, check_complete, lift
from ..modes import keep_autocast
from ..pytree import Ravel, Tensors, map_tensors, tensor_leaves
from .steps import Field


class UserField:
    """dy/dt = f(t, y, *args) on matrices (systems, unknowns).

    Args:
        f: the user's function.
        y0: state, a pytree.
        args: further arguments.
        systems: each leading index of y is a system of its own, with a time of its own.
        each_time: f gets a time for each leading index, (batch,), not one for all.
        compact: f is called with some of the systems; arguments with the batch as leading axis are cut likewise.
    """

    def __init__(
        self, f: Callable[..., Any], y0: Any, args: tuple[Any, ...], *, systems: bool, each_time: bool, compact: bool
    ) -> None:
        self.ravel = Ravel(y0, 1 if systems else 0)
        self._f = keep_autocast(f, self.ravel.device.type)
        self._y0, self._systems, self._compact = map_tensors(torch.Tensor.detach, y0), systems, compact
        self._leaves, self._structure = _pytree.tree_flatten(args)
        self._slots = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor)]
        self._each_time = self.ravel.shapes[0][:1] if each_time else None
        self._ravels = {self.ravel.systems: self.ravel}
        self._rows: Tensor | None = None
        self.args: Tensors = tuple(self._leaves[i] for i in self._slots)
        self.inputs: Tensors = self.args
        self._lifted: Lifted | None = None

    def __call__(self, t: Tensor, y: Tensor, rows: Tensor | None) -> Tensor:
        """The field, reading its own tensors."""
        return self._on_matrix(t, y, rows, lambda leaves, t: self._body(leaves, (t, *self.args)))

    def lift(self, t: Tensor, y: Tensor) -> Tensor:
        """Find the tensors that f reads: the arguments, then the captured ones, in `inputs`. Returns f(t, y)."""
        leaves = self.ravel.unflatten_leaves(y.detach())
        self._lifted, value = lift(self._body, leaves, (t.detach(), *self.args))
        self.inputs = self._lifted.inputs[1:]
        return self.ravel.flatten_leaves(value).detach()

    @property
    def captured(self) -> Tensors:
        """The tensors that f reads besides its arguments."""
        return self.inputs[len(self.args) :]

    def check_complete(self, t: Tensor, y: Tensor) -> None:
        """Raise if f reads a tensor with derivatives that is not among `inputs`."""
        assert self._lifted is not None
        check_complete(self._lifted, self.ravel.unflatten_leaves(y), (t, *self.inputs))

    def of(self, inputs: Tensors) -> Field:
        """The field, reading other tensors in place of `inputs`."""
        lifted, count = self._lifted, len(self.args)
        assert lifted is not None
        if all(now is own for now, own in zip(inputs[count:], self.captured, strict=True)):
            return lambda t, y, rows: self._on_matrix(
                t, y, rows, lambda leaves, t: self._body(leaves, (t, *inputs[:count]))
            )
        return lambda t, y, rows: self._on_matrix(t, y, rows, lambda leaves, t: lifted(leaves, (t, *inputs)))

    def _on_matrix(
        self, t: Tensor, y: Tensor, rows: Tensor | None, call: Callable[[Tensors, Tensor], Tensors]
    ) -> Tensor:
        ravel = self._ravel_of(len(y))
        self._rows = rows
        return ravel.flatten_leaves(call(ravel.unflatten_leaves(y), t))

    def _body(self, leaves: Tensors, tensors: Tensors) -> Tensors:
        t, *given = tensors
        merged = list(self._leaves)
        for i, tensor in zip(self._slots, given, strict=True):
            whole = self._rows is not None and tensor.dim() > 0 and len(tensor) == self.ravel.systems
            merged[i] = tensor[self._rows] if whole else tensor
        if self._each_time is not None and t.dim() == 0:
            t = t.expand(self._each_time)
        ravel = self._ravel_of(len(leaves[0])) if self._systems else self.ravel
        value = self._f(t, ravel.restore(leaves), *_pytree.tree_unflatten(merged, self._structure))
        ravel.check(value)
        return tuple(tensor_leaves(value))

    def _ravel_of(self, systems: int) -> Ravel:
        if not self._systems:
            return self.ravel
        if systems not in self._ravels:
            self._ravels[systems] = Ravel(map_tensors(lambda leaf: leaf[:systems], self._y0), 1)
        return self._ravels[systems]
