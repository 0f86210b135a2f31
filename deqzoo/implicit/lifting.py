"""Closure conversion: which tensors does a function read besides its arguments, and how to hand it others instead.

A condition may read module parameters and tensors of the scopes around it. First-order gradients on the tape need no
list of them. Higher orders and `torch.func` transforms do: each level of a transform has its own version of a tensor,
which the closure cannot know. So one evaluation of the condition is watched, and later ones get the replacements.

Tensors are bound at the forward: where a closure holds other tensors by the time of the backward (an attribute set
anew, a parameter exchanged, the end of `torch.func.functional_call`), those are recognised by their place among all
that the condition reads, and the tensors of the forward are handed in for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from .modes import (
    at_level,
    carries_derivative,
    compiled_runs_eagerly,
    current_level,
    in_transform,
    versions,
)
from .operator import is_unknown, reaches_leaf
from .private_api import (
    AccumulateGrad,
    function_modes,
    is_wrapped,
    next_node_number,
    node_number,
    saved_tensors_are_hooked,
    torch_pytree,
)
from .pytree import Tensors, tensor_leaves

_LEAVES = (Tensor, int, float, str, type(None), torch.dtype)  # most arguments: asking what trees they are takes long


class _Watch(TorchFunctionMode):
    """Collects the tensors that enter torch functions and were made by none of them, and those that were made."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[int, Tensor] = {}
        self.held: dict[int, Tensor] = {}  # likewise, before the levels of transforms inside are taken off
        self.made: dict[int, Tensor] = {}  # kept alive, so that no id is used twice

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, wrapped = kwargs or {}, in_transform()
        for leaf in _tensors(args, kwargs):
            if id(leaf) not in self.made:
                outer = at_level(leaf, self._level) if wrapped and not self._replaced(leaf) else leaf
                if id(outer) not in self.made:
                    self.read.setdefault(id(outer), outer)
                    self.held.setdefault(id(leaf), leaf)
        result = func(*args, **kwargs)
        for leaf in (result,) if isinstance(result, Tensor) else _tensors((result,)):
            if id(leaf) not in self.read:
                for version in versions(leaf) if wrapped else (leaf,):
                    self.made[id(version)] = version
        return result

    def __enter__(self) -> _Watch:
        self._level, self._since = current_level(), next_node_number()
        self._around = _replacements()
        super().__enter__()
        return self

    def recorded(self, tensor: Tensor) -> bool:
        """Whether the tape has the tensor from within, where a function that hides from the watch made it."""
        return tensor.grad_fn is not None and node_number(tensor.grad_fn) >= self._since

    def _replaced(self, leaf: Tensor) -> bool:
        """Whether an implicit function around hands in another tensor: then it is known as the closure holds it."""
        return any(id(leaf) in mode.replacement for mode in self._around)


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
        self.replacement = replacement
        self._level = current_level()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = torch_pytree.tree_map(self.swap, args), torch_pytree.tree_map(self.swap, kwargs or {})
        if not saved_tensors_are_hooked():
            return func(*args, **kwargs)
        # Checkpointing would evaluate again what is recorded here after this mode has ended: keep what it would drop.
        with torch.autograd.graph.saved_tensors_hooks(_itself, _itself):
            return func(*args, **kwargs)

    def swap(self, leaf: Any) -> Any:
        """What is handed on in place of an argument."""
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in self.replacement:
            return self.replacement[id(leaf)]
        outer = at_level(leaf, self._level)  # a transform inside the condition has wrapped it
        if id(outer) in self.replacement:
            raise RuntimeError(
                "the condition hands a tensor that it captures to a torch.func transform; pass that tensor as one of "
                "the arguments"
            )
        return leaf


def apply_visibly(function: type[torch.autograd.Function], *args: Any) -> Any:
    """`function.apply(*args)`, seen by the modes of this file as torch functions are.

    Else the tensors that enter an implicit function inside a condition would be hidden from the implicit function
    around it: neither found nor replaced.
    """
    if has_torch_function(tensors := [x for x in args if isinstance(x, Tensor)]):
        return handle_torch_function(apply_visibly, tensors, function, *args)
    return function.apply(*args)  # type: ignore[no-untyped-call]


def _replaced(tensor: Tensor) -> Tensor:
    """What a torch function called now would get in place of a tensor that a closure holds."""
    for mode in _replacements():
        tensor = mode.replacement.get(id(tensor), tensor)
    return tensor


def _replacements() -> list[_Replace]:
    """Those active now, the innermost first."""
    return [mode for mode in reversed(function_modes()) if isinstance(mode, _Replace)]


@contextlib.contextmanager
def _no_cached_casts() -> Iterator[None]:
    """Autocast casts each weight anew: a cast that was made before does not lead back to what replaces the weight."""
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


Body = Callable[[Tensors, Tensors], Tensors]  # (leaves of y, tensors of the arguments) -> leaves of the residual


class Lifted:
    """A condition with its captured tensors made explicit: `lifted(y, inputs)`; `lifted(y, ())` reads its own.

    Attributes:
        inputs: the tensors of the arguments, then the captured ones, in the order in which `inputs` replaces them.
    """

    def __init__(self, body: Body, args: Tensors, captured: Sequence[Tensor], reads: Sequence[Tensor] | None) -> None:
        self._body, self._args = body, args
        self.inputs = (*args, *captured)
        self.found = len(captured)  # those after them may be read elsewhere, see `add`
        self._held = tuple(captured)  # what the closures hold in place of the captured tensors
        self._reads = reads  # all that the closures gave in the forward, in order; None: where its tape ended, likewise

    def __call__(self, y: Tensors, inputs: Tensors) -> Tensors:
        """F(y, inputs)."""
        if not inputs:
            return self._body(y, self._args)
        with _no_cached_casts(), compiled_runs_eagerly(), self._replace(inputs):
            return self._body(y, inputs[: len(self._args)])

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Take in further tensors, which the condition may read at another point."""
        known = {id(t) for t in self.inputs}
        new = tuple(t for t in tensors if id(t) not in known)
        self.inputs, self._held = (*self.inputs, *new), (*self._held, *new)

    def holds(self, captured: Tensors) -> bool:
        """Whether the closures hold just these, so that there is nothing to replace."""
        return all(now is own for now, own in zip(captured, self._held, strict=True))

    def _replace(self, inputs: Tensors) -> _Replace:
        held = (*self._args, *self._held)
        return _Replace({id(old): new for old, new in zip(held, inputs, strict=True)})

    def bind(self, y: Tensors, inputs: Tensors) -> bool:
        """Find out what the closures hold now; whether it differs from what they held before.

        Raises a RuntimeError if it cannot be told which tensor has taken the place of which.
        """
        watch, value = self._watch(y, inputs)
        held, others = self._held[: self.found], self._held[self.found :]
        if all(id(t) in watch.held for t in held):
            return False
        if self._reads is None:
            given = {id(t) for t in inputs[: len(self._args)]}
            before: Sequence[Tensor] = held
            now = [t for key, t in ends_of_tape(value, 0)[0].items() if key not in given]
        else:
            before, now = self._reads, self._foreign(watch, y, inputs)
        same = len(before) == len(now)
        if not same or any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(before, now, strict=True)):
            raise RuntimeError(
                f"f reads other tensors in the backward than it did in the forward ({len(now)} for {len(before)}), and "
                "which stands for which cannot be told; pass what changes between the two as an argument"
            )
        taken = {id(old): new for old, new in zip(before, now, strict=True)}
        self._held = (*[taken.get(id(t), t) for t in held], *others)
        if self._reads is not None:
            self._reads = now
        return True

    def _watch(self, y: Tensors, inputs: Tensors) -> tuple[_Watch, Tensors]:
        """One evaluation with its tape, watched above the replacement: the watch sees what the closures hold.

        Where the tape alone tells (`_reads` is None), nothing is replaced.
        """
        watch, replace = _Watch(), contextlib.nullcontext() if self._reads is None else self._replace(inputs)
        with torch.enable_grad(), _no_cached_casts(), compiled_runs_eagerly(), replace, watch:
            return watch, self._body(y, inputs[: len(self._args)])

    @staticmethod
    def _foreign(watch: _Watch, y: Tensors, args: Tensors) -> list[Tensor]:
        given = {id(t) for t in (*y, *args)}
        return [t for key, t in watch.held.items() if key not in given and not watch.recorded(t)]


def lift(body: Body, y: Tensors, args: Tensors) -> tuple[Lifted, Tensors]:
    """The condition as a `Lifted` of its arguments and of all else it reads that matters, and its value at y."""
    with _no_cached_casts():
        if not in_transform() and torch.is_grad_enabled():
            return _lift_from_tape(body, y, args)
        first, read, value = _read(body, y, args)  # `first` keeps what it saw alive, so that no id is used twice
        reads = Lifted._foreign(first, y, args)
        if any(t.grad_fn is not None or is_wrapped(t) for t in read.values()):
            # A transform inside the condition makes tensors unseen (the result of a vmap): they differ every time.
            _, found, _ = _read(body, y, args)
            read = {key: t for key, t in read.items() if key in found}
        return Lifted(body, args, list(read.values()), reads), value


def lift_closed(body: Body, y: Tensors, args: Tensors) -> tuple[Lifted, Tensors]:
    """As `lift`, of a condition that is known to read its arguments alone."""
    return Lifted(body, args, (), ()), body(y, args)


def _lift_from_tape(body: Body, y: Tensors, args: Tensors) -> tuple[Lifted, Tensors]:
    """As `lift`, by where the tape of the value ends: in parameters, usually, which need no watch.

    Of a leaf that is no parameter the tape does not tell whether it was there before, and of what had a tape of its own
    before it does not give the tensor, nor what a closure holds that a mode replaces: only then is the condition
    evaluated once more, and watched.
    """
    since = next_node_number()
    with compiled_runs_eagerly():
        value = body(y, args)
    leaves, edges = ends_of_tape(value, since)
    given = {id(t): (t.grad_fn, t.output_nr) for t in map(_replaced, (*y, *args))}
    leaves = {key: leaf for key, leaf in leaves.items() if key not in given}
    edges -= set(given.values())
    if not edges and not _replacements() and all(isinstance(leaf, Parameter) for leaf in leaves.values()):
        return Lifted(body, args, list(leaves.values()), None), value
    watch, read, _ = _read(body, y, args)
    captured = [
        t for t in read.values() if (r := _replaced(t)) is not t or id(r) in leaves or (r.grad_fn, r.output_nr) in edges
    ]
    return Lifted(body, args, captured, Lifted._foreign(watch, y, args)), value


def ends_of_tape(values: Tensors, since: int) -> tuple[dict[int, Tensor], set[tuple[Any, int]]]:
    """Of the part of a tape that was recorded from number `since` on: the leaves, and the edges to what was before.

    Left out: the unknowns of implicit functions inside, which are leaves of their own (`ends_here`).
    """
    leaves: dict[int, Tensor] = {id(v): v for v in values if v.requires_grad and v.grad_fn is None}
    edges, seen = set[tuple[Any, int]](), set[Any]()
    ahead: list[tuple[Any, int]] = [(value.grad_fn, value.output_nr) for value in values]
    while ahead:
        edge = ahead.pop()
        node, _ = edge
        if node is None or node in seen:
            continue
        if isinstance(node, AccumulateGrad):
            leaves[id(node.variable)] = node.variable
        elif node_number(node) < since:
            edges.add(edge)
            continue  # not seen: other edges may lead to it
        elif not is_unknown(node):
            ahead += node.next_functions
        seen.add(node)
    return leaves, edges


def _read(body: Body, y: Tensors, args: Tensors) -> tuple[_Watch, dict[int, Tensor], Tensors]:
    """The watch, the tensors that the condition captures and that carry derivatives or are batched, and its value."""
    watch = _Watch()
    with compiled_runs_eagerly(), watch:
        value = body(y, args)
    given, transformed = {id(t) for t in (*y, *args)}, in_transform()
    read = {key: t for key, t in watch.read.items() if key not in given and _matters(t, transformed)}
    return watch, read, value


def _matters(held: Tensor, transformed: bool) -> bool:
    """Whether a tensor has derivatives, or stands for one that an implicit function around has handed in."""
    tensor = _replaced(held)
    if tensor is not held:
        return True
    return tensor.requires_grad or (transformed and (is_wrapped(tensor) or carries_derivative(tensor)))


def value_again(condition: Callable[[Tensors, Tensors], Tensors], y: Tensors, inputs: Tensors) -> Tensors:
    """The condition's value in the backward, once a `Lifted` has found out what its closures hold now."""
    if isinstance(condition, Lifted):
        condition.bind(y, inputs)
    with compiled_runs_eagerly():
        return condition(y, inputs)


def check_complete(
    condition: Callable[[Tensors, Tensors], Tensors], y: Tensors, inputs: Tensors, bind: bool = True
) -> Tensors:
    """Raise if the condition reads, besides y and `inputs`, a tensor with derivatives. Returns its value.

    `bind`: a `Lifted` first finds out what its closures hold now; (y, inputs) must be those that it was made at.
    """
    y, inputs = tuple(t.detach() for t in y), tuple(t.detach() for t in inputs)
    if bind and isinstance(condition, Lifted):
        condition.bind(y, inputs)
    watch = _Watch()
    with torch.enable_grad(), compiled_runs_eagerly(), watch:
        value = condition(y, inputs)
    if in_transform():
        hidden = any(carries_derivative(t) for t in value)
    else:
        hidden = reaches_leaf([t for t in value if t.requires_grad], watch.made)
    if hidden:
        raise RuntimeError(
            "the condition reads a tensor that needs a derivative in a way that hides it from torch functions "
            "(as an argument of a custom autograd.Function, say) or only at times after the first one, so its "
            "derivatives would be missed; pass that tensor as one of the arguments"
        )
    return tuple(t.detach() for t in value)
