"""Jacobians whose columns mostly have no rows in common, by a few products."""

from __future__ import annotations

import torch
from torch import Tensor

from ..modes import in_transform
from ..operator import LinearOperator, products

_FEWEST = 64  # unknowns, from which on it pays to look
_GAIN = 4  # times fewer products than columns, at least
_CHECKED = 1e4  # eps, relative: by how much J v may differ from the product with v


class Columns:
    """The columns of a Jacobian J in groups, of which no two in a group have a row in common.

    Then one product with the sum of a group's unit vectors gives all of its columns: in a bundle adjustment of any
    size nine products do, as each residual depends on one camera and one point. The groups are those of the zeros of
    the first J, which is written out. A product with a random vector tells whether another J has these zeros; if not,
    it is written out, too, and the groups are made anew.

    Source: Curtis, Powell, Reid, "On the Estimation of Sparse Jacobian Matrices", 1974.
    """

    def __init__(self) -> None:
        self.group: Tensor | None = None  # of each column, (n,)
        self.filled: Tensor | None = None  # where some system's J is not zero, (m, n)
        self.hopeless = False

    def jacobian(self, J: LinearOperator, like: Tensor) -> Tensor | None:
        """J by groups, (systems, m, n), `like` being (systems, n); None where it must be written out."""
        if self.group is None or self.filled is None or in_transform():
            return None
        groups = int(self.group.max()) + 1
        units = torch.zeros(groups, like.shape[1], dtype=like.dtype, device=like.device)
        units[self.group, torch.arange(like.shape[1], device=like.device)] = 1.0
        probe = torch.randn(like.shape[1], dtype=like.dtype, generator=torch.Generator().manual_seed(0)).to(like.device)
        vectors = torch.cat([units, probe.unsqueeze(0)]).unsqueeze(1).expand(groups + 1, *like.shape)
        images = products(J.mv, vectors)
        matrix = images[self.group].permute(1, 2, 0) * self.filled
        off, size = (matrix @ probe - images[-1]).abs(), matrix.abs() @ probe.abs()
        allowed = _CHECKED * torch.finfo(like.dtype).eps * size.amax(dim=1, keepdim=True)
        return matrix if bool((off <= allowed).all()) else None

    def learn(self, matrix: Tensor) -> None:
        """Group the columns of a J that was written out, (systems, m, n)."""
        n = matrix.shape[2]
        if self.hopeless or n < _FEWEST or in_transform():
            return
        filled = (matrix != 0).any(dim=0)
        self.filled = filled if self.filled is None else self.filled | filled
        self.group = _groups(self.filled, n // _GAIN)
        self.hopeless = self.group is None


def _groups(filled: Tensor, most: int) -> Tensor | None:
    """Columns (m, n) in groups, the first one that is free each time; None: it takes more than `most`."""
    if int(filled.sum(dim=1).max()) > most:  # the columns of one row are in as many groups
        return None
    part = filled.float()
    meets = (part.mT @ part > 0).cpu()
    group = torch.full((filled.shape[1],), -1)
    for number in range(most):
        free = group < 0
        if not bool(free.any()):
            return group.to(filled.device)
        while bool(free.any()):
            column = int(free.nonzero()[0])
            group[column] = number
            free &= ~meets[column]
    return None if bool((group < 0).any()) else group.to(filled.device)
