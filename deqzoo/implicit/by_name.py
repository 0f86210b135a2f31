"""Solvers, gradients and adjoints by name, as recipes have them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any


def make(kind: str, registry: Mapping[str, Any], name: str, options: dict[str, Any]) -> Any:
    """An object of a registry of dataclasses; an unknown name or option is a ValueError that lists the valid ones."""
    if name not in registry:
        close = difflib.get_close_matches(name, registry, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown {kind} {name!r}{hint} Valid: {', '.join(sorted(registry))}")
    valid = [field.name for field in dataclasses.fields(registry[name])]
    unknown = sorted(set(options) - set(valid))
    if unknown:
        raise ValueError(f"{kind} {name!r} has no option {', '.join(unknown)}. Valid: {', '.join(valid) or 'none'}")
    return registry[name](**options)
