"""Solvers, adjoints and cells by name, as recipes have them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from .call_site import warn_once


def make(kind: str, registry: Mapping[str, Any], name: str, options: Mapping[str, Any], *arguments: Any) -> Any:
    """``registry[name](*arguments, **options)``; an unknown name or option is a ValueError that lists the valid ones.

    The options are the parameters of the constructor after the ``arguments``; one that takes ``**others`` takes all.
    """
    if name not in registry:
        close = difflib.get_close_matches(name, registry, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown {kind} {name!r}{hint} Valid: {', '.join(sorted(registry))}")
    parameters = inspect.signature(registry[name]).parameters
    valid = list(parameters)[len(arguments) :]
    unknown = sorted(set(options) - set(valid))
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise ValueError(f"{kind} {name!r} has no option {', '.join(unknown)}. Valid: {', '.join(valid) or 'none'}")
    return registry[name](*arguments, **options)


def instance(kind: str, registry: Mapping[str, Any], given: Any) -> Any:
    """What was given, or, where that is a name, the object of a registry by that name, with its default options."""
    return make(kind, registry, given, {}) if isinstance(given, str) else given


def shown(options: Any) -> str:
    """A dataclass of options in short: those alone that are not at their defaults.

    >>> from deqzoo.implicit import GMRES, Anderson, Implicit
    >>> shown(Anderson(tol=1e-3, max_steps=30)), shown(Implicit(GMRES(max_steps=9)))
    ('Anderson(tol=0.001, max_steps=30)', 'Implicit(linear_solver=GMRES(max_steps=9))')
    """
    if isinstance(options, torch.Tensor):
        return f"tensor of shape {tuple(options.shape)}"
    if not dataclasses.is_dataclass(options) or isinstance(options, type):
        return repr(options)
    parts = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if field.init and (type(value) is not type(default) or value != default):
            parts.append(f"{field.name}={shown(value)}")
    return f"{type(options).__name__}({', '.join(parts)})"


def renamed(kwargs: dict[str, Any], old: str, new: str, kind: type, given: Any) -> Any:
    """The argument `new`, which was called `old`: taken out of `kwargs`, with a warning, where it is of its `kind`.

    Else an `old` among the keyword arguments is one of the user's function.
    """
    if not isinstance(kwargs.get(old), kind):
        return given
    if given is not None:
        raise TypeError(f"{old} is called {new} now: pass the latter alone")
    message = f"the argument {old} is called {new} now; the old name goes with the next minor release"
    if not torch.compiler.is_compiling():
        warn_once(message, DeprecationWarning, old)
    return kwargs.pop(old)
