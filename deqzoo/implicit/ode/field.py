"""The right-hand side that a user wrote, as a function of matrices, with the tensors that it reads made explicit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..lifting import Lifted, check_complete, lift
from ..modes import call_unchanged, keep_autocast, not_inference
from ..private_api import torch_pytree
from ..pytree import Ravel, Tensors, map_tensors, take_rows, with_tensors
from .complex_states import ravel_of
from .counted_field import Field


class UserField:
    """dy/dt = f(t, y, *args) on matrices (systems, unknowns).

    Args:
        f: the user's function.
        y0: state, a pytree.
        args: further arguments.
        systems: each leading index of y is a system of its own, with a time of its own.
        each_time: f gets a time for each leading index, (batch,), not one for all.
        compact: f is called with some of the systems; arguments with the batch as leading axis are cut likewise.

    Attributes:
        time_dtype: of the times that f gets.
        each_time: as given.
    """

    def __init__(
        self, f: Callable[..., Any], y0: Any, args: tuple[Any, ...], *, systems: bool, each_time: bool, compact: bool
    ) -> None:
        self.ravel = ravel_of(y0, 1 if systems else 0)
        self.time_dtype = self.ravel.dtype
        device = self.ravel.device.type
        self._user, self._f = f, keep_autocast(f, device)
        lowest = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.ravel.dtype
        self.eps = torch.finfo(lowest).eps  # of its values
        self._systems, self._compact = systems, compact
        self._given, leaves = args, torch_pytree.tree_leaves(args)
        self.each_time = each_time
        self._each_time = self.ravel.shapes[0][:1] if each_time else None
        self._ravels = {self.ravel.systems: self.ravel}
        self._rows: Tensor | None = None  # those of the call that goes on
        self.args: Tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        self.inputs: Tensors = self.args
        self.found = len(self.args)  # of `inputs`, how many f has read where it was lifted
        self._lifted: Lifted | None = None

    def __call__(self, t: Tensor, y: Tensor, rows: Tensor | None) -> Tensor:
        """The field, reading its own tensors."""
        return self._evaluate(t, y, rows, self._given)

    def lift(self, t: Tensor, y: Tensor) -> Tensor:
        """Find the tensors that f reads: the arguments, then the captured ones, in `inputs`. Returns f(t, y)."""
        leaves = self.ravel.unflatten_leaves(y.detach())
        self._lifted, value = lift(self._body, leaves, (t.detach(), *self.args))
        self.found = len(self._lifted.inputs) - 1
        self._lifted.add(_parameters(self._user))
        self.inputs = self._lifted.inputs[1:]
        return self.ravel.flatten_leaves(value).detach()

    def bind(self, t: Tensor, y: Tensor, inputs: Tensors) -> bool:
        """Find out what tensors f holds now, see `Lifted.bind`; (t, y) as they were given to `lift`."""
        assert self._lifted is not None
        self._rows = None
        return self._lifted.bind(self.ravel.unflatten_leaves(y.detach()), (t.detach(), *inputs))

    def check_complete(self, t: Tensor, y: Tensor, rows: Tensor | None, bind: bool) -> None:
        """Raise if f reads a tensor with derivatives that is not among `inputs`; `bind` first, if (t, y) was lifted."""
        assert self._lifted is not None
        self._rows = rows
        check_complete(self._lifted, self._ravel_of(y).unflatten_leaves(y), (t, *self.inputs), bind)

    def of(self, inputs: Tensors) -> Field:
        """The field, reading other tensors in place of `inputs`."""
        count, lifted = len(self.args), self._lifted
        assert lifted is not None
        if lifted.holds(inputs[count:]):
            args = with_tensors(self._given, inputs[:count])
            return lambda t, y, rows: self._evaluate(t, y, rows, args)

        def field(t: Tensor, y: Tensor, rows: Tensor | None) -> Tensor:
            ravel, self._rows = self._ravel_of(y), rows
            return ravel.flatten_leaves(lifted(ravel.unflatten_leaves(y), (t, *inputs)))

        return field

    def _evaluate(self, t: Tensor, y: Tensor, rows: Tensor | None, args: Any) -> Tensor:
        ravel, y = self._ravel_of(y), not_inference(y)
        return ravel.flatten(self._call(t, ravel.unflatten(y), rows, args, y))

    def _body(self, leaves: Tensors, tensors: Tensors) -> Tensors:
        """The same on leaves and all tensors of the arguments, as `lift` takes it."""
        t, *given = tensors
        ravel = self._ravel_of(leaves[0]) if self._systems else self.ravel
        value = self._call(t, ravel.restore(leaves), self._rows, with_tensors(self._given, given), *leaves)
        return tuple(ravel.leaves(value))

    def _call(self, t: Tensor, y: Any, rows: Tensor | None, args: Any, *state: Tensor) -> Any:
        if self._each_time is not None and t.dim() == 0:
            t = t.expand(self._each_time)
        if rows is None:
            return call_unchanged(self._f, state, t, y, *args)
        if self._compact:
            return call_unchanged(self._f, state, t, y, *take_rows(args, rows, self.ravel.systems))
        # A step of some systems, taken again, of an f that wants all: the others are copies of the first of these.
        others = torch.zeros(self.ravel.systems, dtype=torch.long, device=rows.device)
        others[rows] = torch.arange(len(rows), device=rows.device)
        y = map_tensors(lambda leaf: leaf[others], y)
        value = call_unchanged(self._f, state, t[others] if t.dim() else t, y, *args)
        return map_tensors(lambda leaf: leaf[rows], value)

    def _ravel_of(self, rows: Tensor) -> Ravel:
        systems = len(rows) if self._systems else self.ravel.systems
        if systems not in self._ravels:
            self._ravels[systems] = self.ravel.of(systems)
        return self._ravels[systems]


def _parameters(f: Any) -> list[Tensor]:
    """Parameters of the modules that f is, is a method of, or holds: at other times it may read others of them."""
    held = [f, getattr(f, "__self__", None)]
    if (code := getattr(f, "__code__", None)) is not None:
        held += [f.__globals__.get(name) for name in code.co_names]
        held += [value for cell in f.__closure__ or () if (value := _content(cell)) is not None]
    modules = [module for module in held if isinstance(module, nn.Module)]
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
