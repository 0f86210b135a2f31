"""Changes of the network of deq_cifar that its study tries, each done to a network as `contractive_net` makes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.models import ImageClassifier
from deqzoo.models.equilibrium.contractive_network import Injection
from deqzoo.nn import DEQ
from deqzoo.nn.contractive import ContractiveConvCell

GELU_SLOPE = 1.1290  # the largest of GELU


class ScaledGELUCell(ContractiveConvCell):
    """f(z, x) = gelu(W z + x) / 1.129, of slope at most one in W z."""

    def forward(self, z: Tensor, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """f(z, x)."""
        return F.gelu(self.multiply(self.weight() if weight is None else weight, z) + x) / GELU_SLOPE


class GroupedCell(ContractiveConvCell):
    """V of four groups of channels that do not mix; its norm is the largest of theirs."""

    groups = 4

    def __init__(self, channels: int, grid: tuple[int, int], **options: float) -> None:
        super(ContractiveConvCell, self).__init__(
            (channels, channels // self.groups, 3, 3), (channels, *grid), **options
        )

    def multiply(self, kernel: Tensor, z: Tensor) -> Tensor:
        """V z."""
        return F.conv2d(z, kernel, padding=1, groups=self.groups)

    def transposed(self, kernel: Tensor, u: Tensor) -> Tensor:
        """V^T u."""
        return F.conv_transpose2d(u, kernel, padding=1, groups=self.groups)

    def norm_gradient(self, kernel: Tensor) -> Tensor:
        """Of the group whose norm is largest."""
        parts = kernel.double().chunk(self.groups)
        directions = [self._of_circulant(part) for part in parts]
        bounds = [(d * part).sum() for d, part in zip(directions, parts, strict=True)]
        largest = int(torch.stack(bounds).argmax())
        return torch.cat([d if i == largest else torch.zeros_like(d) for i, d in enumerate(directions)])


class TwoKernelCell(nn.Module):
    """f(z, x) = relu(W2 relu(W1 z + b) + x), the product of the norms bounded."""

    def __init__(self, channels: int, grid: tuple[int, int], rho_max: float = 0.9, rho: float = 0.7) -> None:
        super().__init__()
        bounds = {"rho_max": rho_max**0.5, "rho": rho**0.5}
        self.inner, self.outer = (ContractiveConvCell(channels, grid, **bounds) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def prepare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """W1 and W2."""
        return self.inner.prepare(x), self.outer.prepare(x)

    def forward(self, z: Tensor, x: Tensor, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """f(z, x)."""
        weights = weights or (self.inner.weight(), self.outer.weight())
        return self.outer(self.inner(z, self.bias.expand_as(x), weights[0]), x, weights[1])

    def initial_state(self, x: Tensor) -> Tensor:
        """relu(x)."""
        return self.outer.initial_state(x)

    def lipschitz(self) -> float:
        """The product of the bounds."""
        return self.inner.lipschitz() * self.outer.lipschitz()


class AveragedCell(nn.Module):
    """f_a(z, x) = (1 - a) z + a f(z, x): the same fixed point, on a shorter step."""

    def __init__(self, cell: ContractiveConvCell, step: float = 0.7) -> None:
        super().__init__()
        self.cell, self.step = cell, step
        self.prepare, self.initial_state, self.lipschitz = cell.prepare, cell.initial_state, cell.lipschitz

    def forward(self, z: Tensor, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """f_a(z, x)."""
        return (1 - self.step) * z + self.step * self.cell(z, x, weight)


class Shortcut(nn.Module):
    """An injection, and beside it the former stage itself on the first channels."""

    def __init__(self, injection: Injection) -> None:
        super().__init__()
        self.injection = injection

    def forward(self, x: Tensor) -> Tensor:
        """b(x) + maxpool(x), of b's shape."""
        b = self.injection(x)
        past = F.max_pool2d(x, self.injection.pool)
        return b + F.pad(past, (0, 0, 0, 0, 0, b.shape[1] - past.shape[1]))


def with_cells(kind: Any) -> Any:
    """A change that makes every cell one of `kind(channels, grid, rho_max=...)`."""

    def change(network: ImageClassifier) -> None:
        for layer in network.equilibria:
            channels, *grid = layer.cell.state
            layer.cell = kind(channels, tuple(grid), rho_max=layer.cell.rho_max)

    return change


def averaged(network: ImageClassifier) -> None:
    """Averaged maps."""
    for layer in network.equilibria:
        layer.cell = AveragedCell(layer.cell)


def shortcuts(network: ImageClassifier) -> None:
    """Each stage but the first sees the former one past its injection, too."""
    for stage in list(network.body)[1:]:  # type: ignore[arg-type]
        stage[0] = Shortcut(stage[0])


def two_equilibria(network: ImageClassifier) -> None:
    """A second equilibrium in each stage, behind the first."""
    for stage in network.body:  # type: ignore[union-attr]
        first: DEQ = stage[1]
        channels, *grid = first.cell.state
        cell = ContractiveConvCell(channels, (grid[0], grid[1]), rho_max=first.cell.rho_max)
        stage.extend([Injection(channels, channels, 1), DEQ(cell, solver=first.solver, adjoint=first.adjoint)])
