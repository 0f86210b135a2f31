"""What every network of irregular series asks of them."""

import torch
from torch import Tensor

from deqzoo.nn.tensors import check_tensor


def check_series(times: Tensor, values: Tensor, observed: Tensor, channels: int, *, may_be_empty: bool = False) -> None:
    """An error names the mend where times (T,), values or observed (B, T, channels) are not as they must be.

    Args:
        times, values, observed: of the series.
        channels: that they must have.
        may_be_empty: whether a series may be one without any observation.

    Raises:
        TypeError: where one is no tensor.
        ValueError: else.

    >>> check_series(torch.tensor([1.0, 0.0]), torch.zeros(1, 2, 3), torch.ones(1, 2, 3, dtype=torch.bool), 3)
    Traceback (most recent call last):
        ...
    ValueError: times must be (2,), finite, increasing, common to all series, got (2,): sort them, and take the union \
of the times of all series
    """
    for name, value in (("times", times), ("values", values), ("observed", observed)):
        check_tensor(name, value)
    if observed.dtype != torch.bool:
        raise ValueError(f"observed tells where a value was observed, as torch.bool; got {observed.dtype}: mask > 0")
    if values.dim() != 3 or values.shape[2] != channels or observed.shape != values.shape:
        raise ValueError(
            f"values and observed must be (B, T, {channels}), got {tuple(values.shape)} and {tuple(observed.shape)}"
        )
    in_order = (times.diff() > 0).all() & times.isfinite().all()
    empty = ~observed.flatten(1).any(1)
    lost = observed & ~values.isfinite()
    sorted_, some_empty, some_lost = torch.stack([in_order, empty.any(), lost.any()]).tolist()  # the one wait
    if times.shape != values.shape[1:2] or not sorted_:
        raise ValueError(
            f"times must be ({values.shape[1]},), finite, increasing, common to all series, got {tuple(times.shape)}: "
            "sort them, and take the union of the times of all series"
        )
    if some_lost:
        which, when, channel = lost.nonzero()[0].tolist()
        raise ValueError(
            f"series {which} has {values[which, when, channel]} as an observed value (time {when}, channel {channel}): "
            "say False in observed where there is none"
        )
    if some_empty and not may_be_empty:
        raise ValueError(f"series {int(empty.nonzero()[0])} has no observation: leave it out")
