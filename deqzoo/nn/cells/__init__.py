"""Convolutional cells of equilibrium layers: modules f(z, x) whose fixed point in z is the layer's output.

A cell is one file of this folder and a line in `CELLS`, by which recipes find it (``model.cell=NAME``). Its options are
the parameters of its constructor after the first, which is the number of channels of z and x. Others may be registered
from outside of this package: ``CELLS["mine"] = MyCell`` before a network is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ...implicit.by_name import make
from .plain import PlainConvCell
from .residual import ConvCell

__all__ = ["CELLS", "ConvCell", "PlainConvCell", "make_cell"]

CELLS: dict[str, Callable[..., nn.Module]] = {
    "plain": PlainConvCell,
    "residual": ConvCell,
}


def make_cell(name: str, channels: int, **options: Any) -> nn.Module:
    """The cell called ``name`` in `CELLS`, for z and x of that many channels; its constructor takes the ``options``.

    An unknown name or option is a ValueError that lists the valid ones.

    >>> make_cell("residual", 16, expansion=2.0).conv1.weight.shape
    torch.Size([32, 16, 3, 3])
    >>> make_cell("plain", 16, expansion=2.0)
    Traceback (most recent call last):
    ValueError: cell 'plain' has no option expansion. Valid: groups, dropout, weight_norm
    """
    cell: nn.Module = make("cell", CELLS, name, options, channels)
    return cell
