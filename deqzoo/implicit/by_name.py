"""Solvers, gradients, adjoints and cells by name, as recipes have them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any


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
