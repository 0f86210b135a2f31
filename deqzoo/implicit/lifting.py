"""Closure conversion: which tensors does a function read besides its arguments, and how to hand it others instead.

A condition may read module parameters and tensors of the scopes around it. First-order gradients on the tape need no
list of them. Higher orders and `torch.func` transforms do: each level of a transform has its own version of a tensor,
which the closure cannot know. So one evaluation of the condition is watched, and later ones get the replacements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import _get_sequence_nr  # a private door (others: modes.py, operator.py)
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from .modes import (
    at_level,
    carries_derivative,
    compiled_runs_eagerly,
    current_level,
    in_transform,
    is_wrapped,
    versions,
)
from .operator import reaches_leaf
from .pytree import Tensors, tensor_leaves

_LEAVES = (Tensor, int, float, str, type(None), torch.dtype)  # most arguments: asking what trees they are takes long


class _Watch(TorchFunctionMode):
    """Collects the tensors that enter torch functions and were made by none of them, and those that were made."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[int, Tensor] = {}
        self.made: dict[int, Tensor] = {}  # kept alive, so that no id is used twice

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, wrapped = kwargs or {}, in_transform()
        for leaf in _tensors(args, kwargs):
            if id(leaf) not in self.made:
                outer = at_level(leaf, self._level) if wrapped else leaf
                if id(outer) not in self.made:
                    self.read.setdefault(id(outer), outer)
        result = func(*args, **kwargs)
        for leaf in (result,) if isinstance(result, Tensor) else _tensors((result,)):
            if id(leaf) not in self.read:
                for version in versions(leaf) if wrapped else (leaf,):
                    self.made[id(version)] = version
        return result

    def __enter__(self) -> _Watch:
        self._level = current_level()
        super().__enter__()
        return self


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> list[Tensor]:
    """The tensors among the arguments of a torch function, those in lists and the like included."""
    values = (*args, *kwargs.values()) if kwargs else args
    found = [value for value in values if isinstance(value, Tensor)]
    if len(found) < len(values):
        for value in values:
            if not isinstance(value, _LEAVES):
                found += tensor_leaves(value)
    return found


class _Replace(TorchFunctionMode):
    """Hands other tensors to torch functions in place of those that a closure holds."""

    def __init__(self, replacement: dict[int, Tensor]) -> None:
        super().__init__()
        self._replacement = replacement
        self._level = current_level()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*_pytree.tree_map(self._swap, args), **_pytree.tree_map(self._swap, kwargs or {}))

    def _swap(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in self._replacement:
            return self._replacement[id(leaf)]
        outer = at_level(leaf, self._level)  # a transform inside the condition has wrapped it
        if id(outer) in self._replacement:
            raise RuntimeError(
                "the condition hands a tensor that it captures to a torch.func transform; pass that tensor as one of "
                "the arguments"
            )
        return leaf


Body = Callable[[Tensors, Tensors], Tensors]  # (leaves of y, tensors of the arguments) -> leaves of the residual


class Lifted:
    """A condition with its captured tensors made explicit: `lifted(y, inputs)`; `lifted(y, ())` reads its own.

    Attributes:
        inputs: the tensors of the arguments, then the captured ones, in the order in which `inputs` replaces them.
    """

    def __init__(self, body: Body, args: Tensors, captured: Sequence[Tensor]) -> None:
        self._body, self._args = body, args
        self.inputs = (*args, *captured)

    def __call__(self, y: Tensors, inputs: Tensors) -> Tensors:
        """F(y, inputs)."""
        if not inputs:
            return self._body(y, self._args)
        with (
            compiled_runs_eagerly(),
            _Replace({id(old): new for old, new in zip(self.inputs, inputs, strict=True)}),
        ):
            return self._body(y, inputs[: len(self._args)])


def lift(body: Body, y: Tensors, args: Tensors) -> tuple[Lifted, Tensors]:
    """The condition as a `Lifted` of its arguments and of all else it reads that matters, and its value at y."""
    if not in_transform() and torch.is_grad_enabled():
        return _lift_from_tape(body, y, args)
    first, read, value = _read(body, y, args)  # `first` keeps what it saw alive, so that no id is used twice
    if any(t.grad_fn is not None or is_wrapped(t) for t in read.values()):
        # A transform inside the condition makes tensors unseen (the result of a vmap): they differ from run to run.
        _, again, _ = _read(body, y, args)
        read = {key: t for key, t in read.items() if key in again}
    del first
    return Lifted(body, args, list(read.values())), value


def _lift_from_tape(body: Body, y: Tensors, args: Tensors) -> tuple[Lifted, Tensors]:
    """As `lift`, by where the tape of the value ends: in parameters, usually, which need no watch.

    Of a leaf that is no parameter the tape does not tell whether it was there before, and of what had a tape of its own
    before it does not give the tensor: only then is the condition evaluated once more, and watched.
    """
    begun = _get_sequence_nr()
    with compiled_runs_eagerly():
        value = body(y, args)
    leaves, edges = _ends_of_tape(value, begun)
    given = {id(t): (t.grad_fn, t.output_nr) for t in (*y, *args)}
    leaves = {key: leaf for key, leaf in leaves.items() if key not in given}
    edges -= set(given.values())
    if not edges and all(isinstance(leaf, Parameter) for leaf in leaves.values()):
        return Lifted(body, args, list(leaves.values())), value
    _, read, _ = _read(body, y, args)
    captured = [t for key, t in read.items() if key in leaves or (t.grad_fn, t.output_nr) in edges]
    return Lifted(body, args, captured), value


def _ends_of_tape(values: Tensors, begun: int) -> tuple[dict[int, Tensor], set[tuple[Any, int]]]:
    """Of the part of a tape that was recorded from number `begun` on: the leaves, and the edges to what was before."""
    ahead: list[Any] = [(value.grad_fn, value.output_nr) for value in values]
    leaves: dict[int, Tensor] = {id(v): v for v in values if v.requires_grad and v.grad_fn is None}
    edges, seen = set[tuple[Any, int]](), set[Any]()
    while ahead:
        edge = ahead.pop()
        node = edge[0]
        if node is None or node in seen:
            continue
        if (variable := getattr(node, "variable", None)) is not None:
            leaves[id(variable)] = variable
        elif node._sequence_nr() < begun:
            edges.add(edge)  # and its node may have other edges
            continue
        else:
            ahead += node.next_functions
        seen.add(node)
    return leaves, edges


def _read(body: Body, y: Tensors, args: Tensors) -> tuple[_Watch, dict[int, Tensor], Tensors]:
    """The watch, the tensors that the condition captures and that carry derivatives or are batched, and its value."""
    watch = _Watch()
    with compiled_runs_eagerly(), watch:
        value = body(y, args)
    given, transformed = {id(t) for t in (*y, *args)}, in_transform()
    read = {
        key: t
        for key, t in watch.read.items()
        if key not in given and (t.requires_grad or (transformed and (is_wrapped(t) or carries_derivative(t))))
    }
    return watch, read, value


def check_complete(condition: Callable[[Tensors, Tensors], Tensors], y: Tensors, inputs: Tensors) -> None:
    """Raise if the condition reads a tensor with derivatives that is neither y nor among `inputs`."""
    watch = _Watch()
    with torch.enable_grad(), compiled_runs_eagerly(), watch:
        value = condition(tuple(t.detach() for t in y), tuple(t.detach() for t in inputs))
    if in_transform():
        hidden = any(carries_derivative(t) for t in value)
    else:
        hidden = reaches_leaf([t for t in value if t.requires_grad], watch.made)
    if hidden:
        raise RuntimeError(
            "the condition reads a tensor that needs a derivative in a way that hides it from torch functions "
            "(as an argument of a custom autograd.Function, say), so derivatives of higher order or inside "
            "torch.func would miss it; pass that tensor as one of the arguments"
        )
