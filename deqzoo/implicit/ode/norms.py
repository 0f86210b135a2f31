"""Norms of errors: of each system, or of all systems that share their steps and have not failed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..linear_solvers.base import row_norm
from ..modes import in_transform, unwrap
from ..sending import send


class Norm:
    """Root mean square of each row, (rows,), or over all rows that take part, (1,).

    Args:
        controlled: entries of a row that count, the first ones; None: all.
        together: over all rows.
    """

    def __init__(self, controlled: int | None = None, together: bool = False) -> None:
        self._controlled, self.together = controlled, together
        self._alive: Tensor | None = None  # rows that take part; None: all

    def cut(self, x: Tensor) -> Tensor:
        """The entries that count."""
        return x if self._controlled is None else x[:, : self._controlled]

    def rows(self, x: Tensor) -> Tensor:
        """Of each row of what `cut` gave."""
        return row_norm(x) / max(x.shape[1], 1) ** 0.5

    def __call__(self, x: Tensor) -> Tensor:
        """Of what `cut` gave."""
        rows = self.rows(x)
        if not self.together:
            return rows
        if self._alive is None:
            return (rows.square().sum(0, keepdim=True) / max(len(rows), 1)).sqrt()
        return (torch.where(self._alive, rows, 0.0).square().sum(0, keepdim=True) / self._alive.sum()).sqrt()

    def leave_out(self, failed: Tensor, like: Tensor) -> None:
        """These rows, on the host, take part no more."""
        self._alive = torch.ones(len(like), dtype=torch.bool, device=like.device)
        self._alive[send(failed, like.device)] = False


def on_host(values: Tensor, rows: int, largest: bool) -> list[float]:
    """The values of the rows, in one device-to-host copy; under `vmap`, the largest (or least) of all for each row."""
    values = unwrap(values) if in_transform() else values
    if values.dim() == 1:
        result: list[float] = values.tolist()
        return result
    return [float(values.max() if largest else values.min())] * rows if values.numel() else []
