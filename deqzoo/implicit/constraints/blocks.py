"""Sums and means over blocks of neighbours."""

from __future__ import annotations

import torch
from torch import Tensor


def block_sums(values: Tensor, labels: Tensor) -> Tensor:
    """For each index the sum over its block, (..., n); `labels` (..., n) number the blocks from 0 on.

    >>> block_sums(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 1]))
    tensor([3., 3., 3.])
    """
    return torch.zeros_like(values).scatter_add(-1, labels, values).gather(-1, labels)


def block_means(values: Tensor, labels: Tensor) -> Tensor:
    """For each index the mean over its block, (..., n)."""
    return block_sums(values, labels) / block_sums(torch.ones_like(values), labels)
