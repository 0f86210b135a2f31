"""Ctrl-C and SIGTERM: a run ends within seconds, with the exit code that shells expect. Imports no torch."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from deqzoo.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 2.5  # seconds for a training step, and the checkpoint after it
_AT_MOST = 4.0  # seconds for all that is to be done; files are written whole or not at all


def end_at_once(signum: int, frame: FrameType | None) -> None:
    """A handler that raises `Stopped`."""
    _end_process_later(signum)
    raise Stopped(signum)


def install() -> None:
    """From now on both signals raise `Stopped`."""
    for signum in SIGNALS:
        signal.signal(signum, end_at_once)


class BetweenSteps:
    """Within it, a signal waits for the step that goes on; a second one, or `PATIENCE`, raises `Stopped` at once.

    Attributes:
        asked: the signal that has come; None: none.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> BetweenSteps:
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        if self.asked is not None and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            raise Stopped(signum)
        self.asked = signum
        _end_process_later(signum)
        if hasattr(signal, "setitimer"):  # not on Windows
            signal.signal(signal.SIGALRM, self._lose_patience)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def _lose_patience(self, signum: int, frame: FrameType | None) -> None:
        assert self.asked is not None
        raise Stopped(self.asked)


def _end_process_later(signum: int) -> None:
    """An operation that does not come back to Python in time is cut off."""
    timer = threading.Timer(_AT_MOST, os._exit, [128 + signum])
    timer.daemon = True
    timer.start()
