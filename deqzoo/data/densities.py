"""Densities in the plane that are known exactly, for flows to learn: each has `log_prob` and `sample`.

The coordinates are those of FFJORD's code, in which these shapes are known.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor


class Density(ABC):
    """A probability density of the plane.

    Attributes:
        title: its name in prose.
        limit: |x_1|, |x_2| <= limit holds all but a fraction of about 1e-6 of the mass.
        smooth: whether it has no jumps.
    """

    title: ClassVar[str]
    limit: ClassVar[float] = 4.5
    smooth: ClassVar[bool] = True

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), in nats, of x (..., 2)."""

    @abstractmethod
    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n independent draws, (n, 2) float32."""


def log_normal(x: Tensor, std: float) -> Tensor:
    """log density of N(0, std^2) at x, elementwise."""
    return -0.5 * (x / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))


class EightGaussians(Density):
    """Eight normal densities of standard deviation .5 / sqrt 2 on a circle of radius 4 / sqrt 2.

    >>> EightGaussians().log_prob(torch.tensor([4 / 2**0.5, 0.0]))  # log(4 / (8 pi)): a mode
    tensor(-1.8379)
    """

    title = "Eight Gaussians"
    std, radius = 0.5 / math.sqrt(2), 4 / math.sqrt(2)

    def log_prob(self, x: Tensor) -> Tensor:
        """See `Density`."""
        away = x.unsqueeze(-2) - self._centers().to(x)
        return log_normal(away, self.std).sum(-1).logsumexp(-1) - math.log(8)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """See `Density`."""
        which = torch.randint(8, (n,), generator=generator)
        return self._centers()[which] + self.std * torch.randn(n, 2, generator=generator)

    def _centers(self) -> Tensor:
        angle = torch.arange(8) * (math.pi / 4)
        return self.radius * torch.stack([angle.cos(), angle.sin()], -1)


class Pinwheel(Density):
    r"""Five arms: f ~ N((1, 0), diag(.3^2, .1^2)), turned by the angle 2 pi k / 5 + .25 exp(f_1), k = 0..4, times 2.

    The turn keeps |f| and has the Jacobian determinant |1 - .25 exp(f_1) f_2|, so that log p(x) is the sum over all f
    that x may come from: over the roots of one equation in f's angle, which are found by bisection. A grid of 512
    angles parts them (up to |x| = 5; beyond, where p < e^-11, some of many roots may be missed).
    """

    title = "Pinwheel of five arms"
    limit = 5.0
    arms, rate, std = 5, 0.25, (0.3, 0.1)
    _cells = 512

    def log_prob(self, x: Tensor) -> Tensor:
        """See `Density`."""
        points = x.reshape(-1, 2).double() / 2
        radius, angle = points.norm(dim=1), torch.atan2(points[:, 1], points[:, 0])
        edges = torch.linspace(-math.pi, math.pi, self._cells + 1, dtype=torch.float64, device=x.device)
        arms = self._arm(edges, radius[:, None], angle[:, None]).floor()
        point, cell = (arms[:, 1:] != arms[:, :-1]).nonzero(as_tuple=True)
        radius, angle = radius[point], angle[point]
        low, high, upwards = edges[cell], edges[cell + 1], arms[point, cell + 1] > arms[point, cell]
        whole = torch.maximum(arms[point, cell + 1], arms[point, cell])
        for _ in range(52):
            middle = (low + high) / 2
            beyond = (self._arm(middle, radius, angle) >= whole) == upwards
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
        f1, f2 = radius * low.cos(), radius * low.sin()
        stretch = (1 - self.rate * f1.exp() * f2).abs() * self.arms * 4
        density = (log_normal(f1 - 1, self.std[0]) + log_normal(f2, self.std[1])).exp() / stretch
        total = torch.zeros(len(points), dtype=torch.float64, device=x.device).index_add_(0, point, density)
        return total.log().to(x.dtype).view(x.shape[:-1])

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """See `Density`."""
        f = torch.randn(n, 2, generator=generator) * torch.tensor(self.std) + torch.tensor([1.0, 0.0])
        arm = torch.randint(self.arms, (n,), generator=generator)
        turn = arm * (2 * math.pi / self.arms) + self.rate * f[:, 0].exp()
        cos, sin = turn.cos(), turn.sin()
        return 2 * torch.stack([cos * f[:, 0] - sin * f[:, 1], sin * f[:, 0] + cos * f[:, 1]], 1)

    def _arm(self, phi: Tensor, radius: Tensor, angle: Tensor) -> Tensor:
        """The number of the arm, a whole one where f = radius (cos phi, sin phi) is turned to this angle."""
        return (phi + self.rate * (radius * phi.cos()).exp() - angle) * (self.arms / (2 * math.pi))


class Checkerboard(Density):
    """Uniform on the black squares, of side 2, of a board [-4, 4]^2: its entropy is log 32.

    >>> Checkerboard().log_prob(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]))
    tensor([-3.4657,    -inf])
    """

    title = "Checkerboard"
    smooth = False

    def log_prob(self, x: Tensor) -> Tensor:
        """See `Density`."""
        column, row = (x / 2).floor().unbind(-1)
        black = (x.abs() < 4).all(-1) & ((column + row) % 2 == 0)
        return torch.where(black, -math.log(32), -torch.inf).to(x.dtype)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """See `Density`."""
        column, half = (torch.randint(high, (n,), generator=generator) for high in (4, 2))
        row = 2 * half + column % 2
        corner = torch.stack([column, row], 1) * 2.0 - 4
        return corner + 2 * torch.rand(n, 2, generator=generator)


class Moons(Density):
    """Two half circles of radius 1 with normal noise of standard deviation .1, times 2, moved by (-1, -.2).

    As scikit-learn's make_moons, but for angles that are random; the density is the integral over them, by Gauss and
    Legendre's quadrature with 256 nodes.
    """

    title = "Two moons"
    std = 0.1

    def log_prob(self, x: Tensor) -> Tensor:
        """See `Density`."""
        nodes, weights = np.polynomial.legendre.leggauss(256)
        angle = torch.tensor((nodes + 1) * (math.pi / 2), device=x.device)
        log_weight = torch.tensor(weights / 2, device=x.device).log().repeat(2) - math.log(2)
        centers = torch.cat([self._arc(angle, which) for which in (0, 1)])
        points = (x.reshape(-1, 2).double() - torch.tensor([-1.0, -0.2]).to(x.device)) / 2
        parts = [  # few at a time, as each takes 512 nodes
            (log_normal(part[:, None] - centers, self.std).sum(-1) + log_weight).logsumexp(-1)
            for part in points.split(2000)
        ]
        return (torch.cat(parts) - math.log(4)).to(x.dtype).view(x.shape[:-1])

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """See `Density`."""
        angle, which = math.pi * torch.rand(n, generator=generator), torch.randint(2, (n,), generator=generator)
        centers = torch.where(which[:, None] == 0, self._arc(angle, 0), self._arc(angle, 1))
        points = centers + self.std * torch.randn(n, 2, generator=generator)
        return 2 * points + torch.tensor([-1.0, -0.2])

    @staticmethod
    def _arc(angle: Tensor, which: int) -> Tensor:
        """Points of the upper (0) or lower (1) half circle."""
        if which == 0:
            return torch.stack([angle.cos(), angle.sin()], -1)
        return torch.stack([1 - angle.cos(), 0.5 - angle.sin()], -1)


DENSITIES: dict[str, Density] = {
    "8gaussians": EightGaussians(),
    "checkerboard": Checkerboard(),
    "moons": Moons(),
    "pinwheel": Pinwheel(),
}
