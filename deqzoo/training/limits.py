"""The limits of a run (max_time, max_steps, limit_test_batches), which bind what follows the training, too."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Timer

from deqzoo.config import TrainerConfig
from deqzoo.errors import ConfigError
from deqzoo.training.progress import watched


def timer(max_time: Any) -> Timer:
    """Ends a training after ``DAYS:HOURS:MINUTES:SECONDS``; None: never."""
    try:
        return Timer(duration=max_time)
    except (MisconfigurationException, TypeError) as error:
        raise ConfigError(f"trainer.max_time={max_time}: give days, hours, minutes, seconds as 00:01:30:00.") from error


def within_limits(trainer: TrainerConfig) -> Callable[[Any], Iterable[Any]]:
    """Of the batches of the test set those that a check or a plot is to look at, from now on for `max_time` at most."""
    left = timer(trainer.max_time).time_remaining()
    until = math.inf if left is None else time.monotonic() + left

    def chosen(batches: Any) -> Iterator[Any]:
        count = limited(len(batches), trainer.limit_test_batches, trainer.max_steps)
        found = watched("check", batches, count) if trainer.enable_progress_bar else batches
        for number, batch in enumerate(found, 1):
            yield batch
            if number == count or time.monotonic() > until:
                return

    return chosen


def limited(count: int, limit: Any, max_steps: int) -> int:
    """How many of the batches Lightning's limit (a number, or a share of them) and max_steps allow; one at least.

    >>> limited(80, None, -1), limited(80, 5, -1), limited(80, 0.25, -1), limited(80, None, 3)
    (80, 5, 20, 3)
    """
    if limit is not None:
        count = min(count, int(limit) if isinstance(limit, int) else int(count * limit))
    if max_steps > 0:
        count = min(count, max_steps)
    return max(count, 1)
