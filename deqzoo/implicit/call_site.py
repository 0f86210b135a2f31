"""Warnings that point at the line that the user wrote, once per line."""

from __future__ import annotations

import sys
import types
import warnings
from typing import Any

_OURS = frozenset(
    {"deqzoo", "torch", "lightning", "lightning_fabric", "pytorch_lightning"}
)  # frames that call for users

_registries: dict[tuple[Any, ...], dict[Any, Any]] = {}  # by call site; what Python keeps in `__warningregistry__`


def warn_once(message: str, category: type[Warning], what: str) -> None:
    """Warn of `what` at the first frame outside of this package, torch and Lightning, once per such line.

    Python tells warnings of a line apart by their text, and ours holds numbers that change from call to call. So where
    a line was told of before, the new text is entered as told too. It is Python that decides: with the filters "always"
    and "error" each call warns or raises, and where filters have changed (`warnings.catch_warnings`) it starts anew.
    """
    frame = caller()
    line = frame.f_lineno
    registry = _registries.setdefault((frame.f_code.co_filename, line, category, what), {})
    if len(registry) > 1:  # beside "version", that of the filters at the time, a text that was told
        version = registry["version"]
        registry.clear()
        registry.update({"version": version, (message, category, line): True})
    module = frame.f_globals.get("__name__", "<unknown>")
    warnings.warn_explicit(message, category, frame.f_code.co_filename, line, module, registry)


def caller() -> types.FrameType:
    """The first frame that does not run code of this package, torch or Lightning; else the outermost one."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _package(frame) in _OURS:
        frame = frame.f_back
    return frame


def _package(frame: types.FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
