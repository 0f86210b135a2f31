"""What surrounds a call: `torch.func` transforms, forward-mode levels, autocast, and the host's view of a mask.

A solver is a loop with a data-dependent end. It stays correct under `torch.func.vmap` because each system is frozen
with `where` once it is done, and the loop ends when *no* system of any batch is active: the one question that the
host asks, answered by `host_flags` on the tensor below all wrappers.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .private_api import (
    batch_axis,
    below_innermost_transform,
    compiler_is_loaded,
    forward_level,
    forward_mode,
    function_modes,
    is_batched,
    is_traced,
    is_wrapped,
    is_wrapped_by_ended_level,
    level_of,
    not_compiled,
    something_is_compiled,
    transform_level,
    unwrap_once,
    version_of,
    with_batch_axis,
)


def eager(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, left alone by `torch.compile` of code around it; a compiled f inside still runs compiled.

    As `torch.compiler.disable`, which on import would pull in the whole compiler, seconds for those who do not compile.
    """
    disabled = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        _refuse_tracing()
        if disabled is None and compiler_is_loaded():
            disabled = torch.compiler.disable(function)
        return (disabled or function)(*args, **kwargs)

    return not_compiled(call)


def _refuse_tracing() -> None:
    if is_traced():
        raise RuntimeError(
            "an implicit function takes as many steps as its data need, so torch.func.linearize, make_fx and "
            "torch.export cannot trace it: use torch.func.jvp in place of linearize; to export, take a fixed-point "
            'solver with stop="never", without gradients'
        )


def compiled_runs_eagerly() -> contextlib.AbstractContextManager[Any]:
    """Inside, functions made by `torch.compile` run as written: they are watched, not traced."""
    return torch.compiler.set_stance("force_eager") if something_is_compiled() else contextlib.nullcontext()


def in_transform() -> bool:
    """True under a `torch.func` transform or inside a forward-mode level."""
    return transform_level() is not None or forward_level() >= 0


def is_single(rows: Tensor) -> bool:
    """Whether there is one row, on the CPU, outside of transforms and graphs: its scalars may be Python's then."""
    if len(rows) != 1 or rows.device.type != "cpu":
        return False
    return not (in_transform() or torch.compiler.is_compiling())


def needs_derivative() -> bool:
    """True where a result could still be differentiated: the tape records, or a transform is active."""
    return torch.is_grad_enabled() or in_transform()


def current_level() -> int:
    """Number of `torch.func` transforms that are active."""
    return transform_level() or 0


def at_level(tensor: Tensor, level: int) -> Tensor:
    """The version of the tensor below all transforms that began after `level`."""
    while is_wrapped(tensor) and level_of(tensor) > level:
        tensor = unwrap_once(tensor)
    return tensor


def versions(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor, and what each `torch.func` level has of it."""
    yield tensor
    while is_wrapped(tensor):
        tensor = unwrap_once(tensor)
        yield tensor


def is_vmapped(tensor: Tensor) -> bool:
    """True if the tensor is batched by `torch.func.vmap` at any level."""
    return any(is_batched(version) for version in versions(tensor))


def unwrap(tensor: Tensor) -> Tensor:
    """The plain tensor below all `torch.func` wrappers, with the axes of every `vmap` visible."""
    while is_wrapped(tensor):
        tensor = unwrap_once(tensor)
    return tensor


def unpack_tangent(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    """Primal and tangent at the innermost forward-mode level; without a tangent there, the tensor itself and None."""
    if forward_level() < 0:
        return tensor, None
    if not is_batched(tensor):
        primal, tangent = forward_ad.unpack_dual(tensor)
        return primal, tangent
    level = level_of(tensor)
    if level != transform_level():
        return tensor, None
    axis = batch_axis(tensor)
    with below_innermost_transform():
        primal, tangent = unpack_tangent(unwrap_once(tensor))
    if tangent is None:
        return tensor, None
    return with_batch_axis(primal, axis, level), with_batch_axis(tangent, axis, level)


def carries_derivative(tensor: Tensor) -> bool:
    """True if the tensor is on the tape, or has a tangent, at any level."""
    if tensor.requires_grad or unpack_tangent(tensor)[1] is not None:
        return True
    level = transform_level()
    if level is None:
        return False
    inner = unwrap_once(tensor) if level_of(tensor) == level else tensor
    with below_innermost_transform():
        return carries_derivative(inner)


def unwrap_ended(tensor: Tensor) -> Tensor:
    """The tensor without the wrappers of `torch.func` levels that have ended (a `vjp` is called after its level)."""
    while is_wrapped_by_ended_level(tensor):
        tensor = unwrap_once(tensor)
    return tensor


def host_flags(*masks: Tensor) -> list[tuple[bool, bool]]:
    """(any, all) of each boolean mask, over every `vmap` level too, in one device-to-host copy."""
    plain = [unwrap(mask) for mask in masks]
    if len(plain) == 1 and plain[0].numel() == 1:
        flag = bool(plain[0].item())
        return [(flag, flag)]
    if all(mask.numel() == 1 for mask in plain):
        return [(flag, flag) for flag in torch.cat([mask.reshape(1) for mask in plain]).tolist()]
    flags = torch.stack([flag for mask in plain for flag in (mask.any(), mask.all())]).tolist()
    return list(zip(flags[::2], flags[1::2], strict=True))


class Looks:
    """When the host looks whether a loop may end: after every `every` steps.

    Args:
        every: None: after each step on the CPU, elsewhere after every sixth: there a look waits until the device has
            done all that it was given.
        device: that of the loop.
    """

    def __init__(self, every: int | None, device: torch.device) -> None:
        self.every = (1 if device.type == "cpu" else 6) if every is None else every

    def after(self, step: int) -> bool:
        """Whether it looks after step number `step`, of which the first is 0."""
        return (step + 1) % self.every == 0

    def go_on(self, step: int, active: Tensor) -> bool:
        """Whether any entry of the mask is true; where it does not look, it takes them to be."""
        return not self.after(step) or host_flags(active)[0][0]


def host_counts(*masks: Tensor) -> list[int]:
    """The number of true entries of each boolean mask of one size, in one device-to-host copy; not for transforms."""
    counts: list[int] = torch.stack(masks).sum(dim=1).tolist()
    return counts


def host_max(counts: Tensor) -> int:
    """The largest entry, over every `vmap` level too; 0 for none."""
    plain = unwrap(counts)
    return int(plain.max().item()) if plain.numel() else 0


def no_derivatives() -> contextlib.AbstractContextManager[Any]:
    """Record neither a tape nor tangents: solvers run inside, their derivatives come from the conditions."""
    return _no_derivatives_in_transform() if in_transform() else torch.no_grad()


@contextlib.contextmanager
def _no_derivatives_in_transform() -> Iterator[None]:
    with torch.no_grad(), forward_mode(False):
        yield


def keep_autocast(f: Callable[..., Any], device: str) -> Callable[..., Any]:
    """`f`, always run under the autocast state of this moment, which a backward pass need not find again."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def as_before(*args: Any) -> Any:
        if not enabled and not torch.is_autocast_enabled(device):
            return f(*args)
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            return f(*args)

    return as_before


def announce(tensors: Sequence[Tensor]) -> None:
    """Tell the watches of `lifting` that are active of tensors that no torch function has made."""
    for mode in function_modes():
        if (made := getattr(mode, "made", None)) is not None:
            made.update({id(t): t for t in tensors})


def call_unchanged(f: Callable[..., Any], state: Sequence[Tensor], *args: Any) -> Any:
    """`f(*args)`; a RuntimeError if it changes one of the tensors of `state`, which the arguments share, in place."""
    if torch.compiler.is_compiling():
        return f(*args)
    before = [version_of(t) for t in state if not t.is_inference()]
    value = f(*args)
    if before != [version_of(t) for t in state if not t.is_inference()]:
        raise RuntimeError(
            "f changes its argument by an in-place operation (relu_, inplace=True, z[...] = ...), and so what the "
            "solver holds; use the form that is not in-place, or clone the argument first"
        )
    return value


def not_inference(tensor: Tensor) -> Tensor:
    """A copy of a tensor made under `inference_mode`, of which nothing would tell that it is changed in place."""
    return tensor if torch.compiler.is_compiling() or not tensor.is_inference() else tensor.clone()


def full_precision(device: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast off: a solver's own algebra runs in the precision of its state, also around a bfloat16 `f`."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else contextlib.nullcontext()
