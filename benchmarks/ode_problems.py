"""The differential equations of `ode.py`: fields, starts, output times, tolerances; seed 0 throughout."""

from __future__ import annotations

import dataclasses

import torch
from problems import ConvBlock, seeded
from torch import Tensor, nn


class MLP(nn.Module):
    """dy/dt = W3 tanh(W2 tanh(W1 y)), with biases; `scale` multiplies the weights: 1 is easy, 3 is hard."""

    def __init__(self, size: int = 64, hidden: int = 64, scale: float = 1.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, size)
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(scale)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        return self.layers(y)


class ConvField(nn.Module):
    """dy/dt = block(y, x) - y, with the convolutional block of the solver table."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.block = ConvBlock()
        self.register_buffer("x", x)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        return self.block(y, self.x) - y


class VanDerPol(nn.Module):
    """x'' = mu (1 - x^2) x' - x, one mu a sample."""

    def forward(self, t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        """dy/dt, (batch, 2)."""
        x, v = y[:, 0], y[:, 1]
        return torch.stack([v, mu * (1 - x**2) * v - x], dim=1)


@dataclasses.dataclass(frozen=True, eq=False)
class OdeProblem:
    """dy/dt = f(t, y), y(times[0]) = y0; the loss is the mean square of y at all later times."""

    name: str
    f: nn.Module
    y0: Tensor
    times: Tensor
    rtol: float
    atol: float


def mlp_problem(
    name: str, *, hidden: int = 64, scale: float = 1.0, outputs: int = 2, batch: int = 256, tol: float = 1e-5
) -> OdeProblem:
    """An MLP field on (batch, 64), t from 0 to 1."""
    with seeded():
        times = torch.linspace(0, 1, outputs)
        return OdeProblem(name, MLP(hidden=hidden, scale=scale), torch.randn(batch, 64), times, tol, tol)


def conv_problem(quick: bool = False) -> OdeProblem:
    """A convolutional field on (batch, 48, 16, 16), t from 0 to 1."""
    batch, size = (2, 4) if quick else (16, 16)
    with seeded():
        x = torch.randn(batch, 48, size, size)
        return OdeProblem("conv block", ConvField(x), torch.zeros_like(x), torch.linspace(0, 1, 2), 1e-3, 1e-3)


def stiff_mix(quick: bool = False) -> tuple[VanDerPol, Tensor, Tensor]:
    """(f, y0, mu): van der Pol oscillators from mild (mu = 1) to stiff (mu = 100)."""
    count = 4 if quick else 32
    return VanDerPol(), torch.tensor([[2.0, 0.0]]).repeat(count, 1).double(), torch.logspace(0, 2, count).double()
