"""Storage of past vectors, contiguous and grown as needed: memory follows the steps taken, not the limit on them."""

from __future__ import annotations

import torch
from torch import Tensor

from .modes import in_transform


class Rows:
    """Up to `limit` vectors per system, as one tensor (systems, capacity, unknowns) that doubles when it is full."""

    def __init__(self, like: Tensor, limit: int) -> None:
        self.limit = limit
        self._data = like.new_empty(like.shape[0], min(8, limit), like.shape[1])

    def put(self, slot: int, row: Tensor) -> None:
        """Write `row` (systems, unknowns) at `slot`."""
        self._grow(slot)
        self._data[:, slot] = row

    def put_difference(self, slot: int, new: Tensor, old: Tensor) -> Tensor:
        """Write new - old at `slot`, without a temporary, and return it as a view."""
        self._grow(slot)
        row = self._data[:, slot]
        if in_transform() or torch.compiler.is_compiling():
            row.copy_(new - old)  # they know no out= of this kind
        else:
            torch.sub(new, old, out=row)
        return row

    def _grow(self, slot: int) -> None:
        capacity = self._data.shape[1]
        if slot >= capacity:
            extra = torch.empty_like(self._data[:, : min(capacity, self.limit - capacity)])
            self._data = torch.cat([self._data, extra], dim=1)

    def first(self, count: int) -> Tensor:
        """The first `count` slots, (systems, count, unknowns), a view."""
        return self._data[:, :count]


def select(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The rows of `new` where the mask (systems,) is true, else those of `old`."""
    mask = mask.unsqueeze(1)
    if new.device.type == "cpu" and not (in_transform() or new.requires_grad or old.requires_grad):
        # There `where` costs per element, whatever its size: move the rows as the widest elements that fit.
        for wide in (torch.complex128, torch.float64):
            if _fits(new, wide) and _fits(old, wide):
                return torch.where(mask, new.view(wide), old.view(wide)).view(new.dtype)
    return torch.where(mask, new, old)


def _fits(rows: Tensor, wide: torch.dtype) -> bool:
    ratio = wide.itemsize // rows.dtype.itemsize
    aligned = rows.shape[1] % ratio == 0 and int(rows.storage_offset()) % ratio == 0
    return ratio > 1 and aligned and rows.numel() > 0 and rows.is_contiguous()


def products(rows: Tensor, vector: Tensor) -> Tensor:
    """Inner product of each stored row with `vector`: (systems, k, n), (systems, n) -> (systems, k)."""
    return torch.bmm(vector.unsqueeze(1), rows.mT).squeeze(1)  # three times as fast as rows @ column


def combine(rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the stored rows: (systems, k, n), (systems, k) -> (systems, n)."""
    return torch.bmm(weights.unsqueeze(1), rows).squeeze(1)


def add_combination(vector: Tensor, rows: Tensor, weights: Tensor, alpha: float = 1.0) -> Tensor:
    """vector + alpha * combine(rows, weights), in one pass."""
    return torch.baddbmm(vector.unsqueeze(1), weights.unsqueeze(1), rows, alpha=alpha).squeeze(1)
