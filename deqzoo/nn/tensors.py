"""What every network asks of its input: that it is a tensor."""

from typing import Any

from torch import Tensor


def check_tensor(name: str, value: Any) -> None:
    """A `TypeError` names the mend where ``value`` is no tensor.

    >>> check_tensor("images", [[0.5]])
    Traceback (most recent call last):
        ...
    TypeError: images must be a torch tensor, got list: torch.as_tensor(images) makes one
    """
    if not isinstance(value, Tensor):
        made = f"torch.as_tensor({name}) makes one"
        raise TypeError(f"{name} must be a torch tensor, got {type(value).__name__}: {made}")
