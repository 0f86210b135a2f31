"""Networks that end in a linear layer: what it is given, as features, and another layer in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Self

from torch import Tensor, nn


class HeadedNetwork(nn.Module):
    """A network whose `head` is a linear layer, or ends in one.

    >>> import deqzoo, torch
    >>> deqzoo.load("deq_digits").features(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 32])
    """

    head: nn.Module

    def features(self, *inputs: Any) -> Tensor:
        """What the last linear layer is given for `inputs`, which are those of a call: (..., features)."""
        found: list[Tensor] = []
        with last_linear(self)[1].register_forward_pre_hook(lambda layer, given: found.append(given[0])):
            self(*inputs)
        return found[0]


class ClassifierNetwork(HeadedNetwork):
    """A network of which the last linear layer gives the logits of the `classes`.

    >>> import deqzoo, torch
    >>> model = deqzoo.load("deq_digits").reset_head(["even", "odd"])
    >>> model(torch.rand(3, 1, 8, 8)).shape, model.classes
    (torch.Size([3, 2]), ('even', 'odd'))
    """

    classes: tuple[str, ...]

    def reset_head(self, classes: int | Sequence[str]) -> Self:
        """Exchange the last linear layer, in place, for a new one, of other classes, which is trained; returns self.

        Args:
            classes: their names, or how many there are: then they are called 0, 1, ...

        `deqzoo.export` of the network takes the new classes over.
        """
        counted = isinstance(classes, int) and not isinstance(classes, bool)
        listed = isinstance(classes, Iterable) and not isinstance(classes, str)
        names = tuple(map(str, range(classes) if counted else classes if listed else ()))  # type: ignore[arg-type]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"classes must be a number of at least 1, or a list of names, each once, got {classes!r}")
        name, old = last_linear(self)
        like: Any = {"device": old.weight.device, "dtype": old.weight.dtype}
        new = nn.Linear(old.in_features, len(names), bias=old.bias is not None, **like)
        self.set_submodule(name, new.train(self.training))
        self.classes = names
        if (recipe := getattr(self, "recipe", None)) is not None:
            settings, data = recipe
            self.recipe: Any = (settings, dataclasses.replace(data, classes=names))
        return self


def last_linear(network: HeadedNetwork) -> tuple[str, nn.Linear]:
    """The name and the layer."""
    named = network.head.named_modules(prefix="head")
    return [(name, layer) for name, layer in named if isinstance(layer, nn.Linear)][-1]
