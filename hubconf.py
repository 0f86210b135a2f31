"""Entries of the zoo for ``torch.hub.load("OWNER/deqzoo", "deq_digits")``."""

from collections.abc import Callable
from typing import Any

dependencies = [
    "torch",
    "torchvision",
    "lightning",
    "hydra",
    "omegaconf",
    "safetensors",
    "sklearn",
    "matplotlib",
    "rich",
]


def __getattr__(name: str) -> Callable[..., Any]:
    """A function that loads the entry of this name, with the arguments of `deqzoo.load`."""
    import functools

    import deqzoo

    if name not in deqzoo.list_models(pretrained=True):
        raise AttributeError(name)
    return functools.partial(deqzoo.load, name)


def __dir__() -> list[str]:
    import deqzoo

    return sorted([*globals(), *deqzoo.list_models(pretrained=True)])
