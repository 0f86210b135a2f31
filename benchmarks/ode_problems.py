"""The differential equations of `ode.py`: fields, starts, output times, tolerances; seed 0 throughout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.problems import ConvBlock, seeded


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
    """x'' = mu (1 - x^2) x' - x, one mu per sample."""

    def forward(self, t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        """dy/dt, (batch, 2)."""
        x, v = y[:, 0], y[:, 1]
        return torch.stack([v, mu * (1 - x**2) * v - x], dim=1)


@dataclasses.dataclass(frozen=True, eq=False)
class ODEProblem:
    """dy/dt = f(t, y), y(times[0]) = y0; the loss is the mean square of y at all later times."""

    name: str
    f: nn.Module
    y0: Tensor
    times: Tensor
    rtol: float
    atol: float


def mlp_problem(
    name: str, *, hidden: int = 64, scale: float = 1.0, outputs: int = 2, batch: int = 256, tol: float = 1e-5
) -> ODEProblem:
    """An MLP field on (batch, 64), t from 0 to 1."""
    with seeded():
        times = torch.linspace(0, 1, outputs)
        return ODEProblem(name, MLP(hidden=hidden, scale=scale), torch.randn(batch, 64), times, tol, tol)


def conv_problem(quick: bool = False) -> ODEProblem:
    """A convolutional field on (batch, 48, 16, 16), t from 0 to 1."""
    batch, size = (2, 4) if quick else (16, 16)
    with seeded():
        x = torch.randn(batch, 48, size, size)
        return ODEProblem("conv block", ConvField(x), torch.zeros_like(x), torch.linspace(0, 1, 2), 1e-3, 1e-3)


def stiff_mix(quick: bool = False) -> tuple[VanDerPol, Tensor, Tensor]:
    """(f, y0, mu): van der Pol oscillators from mild (mu = 1) to stiff (mu = 100)."""
    count = 4 if quick else 32
    return VanDerPol(), torch.tensor([[2.0, 0.0]]).repeat(count, 1).double(), torch.logspace(0, 2, count).double()


@dataclasses.dataclass(frozen=True, eq=False)
class StiffProblem:
    """dy/dt = f(y; k) from t = 0 to `end`; published or tight solutions are the reference.

    `rates` takes and gives the components of y, numbers or tensors alike. `floor` is the absolute tolerance over the
    relative one, and the size below which an error in a component is not relative any more.
    """

    name: str
    rates: Callable[[Sequence[Any], Sequence[Any]], tuple[Any, ...]]
    y0: tuple[float, ...]
    k: tuple[float, ...]
    end: float
    floor: float
    published: tuple[float, ...] = ()
    gradient_rtol: float = 1e-4  # finer where derivatives grow by orders of magnitude in a jump, and fall again

    def torch(self, t: Tensor, y: Tensor, k: Tensor) -> Tensor:
        """The field, for `odeint`."""
        return torch.stack(self.rates(y.unbind(-1), k.unbind(-1)), dim=-1)


def hires(y: Sequence[Any], k: Sequence[Any]) -> tuple[Any, ...]:
    """Schaefer's high irradiance response: eight reactants."""
    growth = k[1] * y[5] * y[7]
    return (
        -k[0] * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
        k[0] * y[0] - 8.75 * y[1],
        -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
        8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
        -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
        -growth + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
        growth - 1.81 * y[6],
        -growth + 1.81 * y[6],
    )


def robertson(y: Sequence[Any], k: Sequence[Any]) -> tuple[Any, ...]:
    """Three reactants, with rates nine powers of ten apart."""
    first, second, third = k[0] * y[0], k[1] * y[1] ** 2, k[2] * y[1] * y[2]
    return third - first, first - second - third, second


def oregonator(y: Sequence[Any], k: Sequence[Any]) -> tuple[Any, ...]:
    """The Belousov-Zhabotinskii reaction, a cycle with fast and slow parts."""
    return (
        k[0] * (y[1] + y[0] * (1 - k[1] * y[0] - y[1])), (y[2] - (1 + y[0]) * y[1]) / k[0], k[2] * (y[0] - y[2])
    )  # fmt: skip


def van_der_pol(y: Sequence[Any], k: Sequence[Any]) -> tuple[Any, ...]:
    """x'' = mu (1 - x^2) x' - x."""
    return y[1], k[0] * (1 - y[0] ** 2) * y[1] - y[0]


def van_der_pol_scaled(y: Sequence[Any], k: Sequence[Any]) -> tuple[Any, ...]:
    """x'' = mu ((1 - x^2) x' - x): the same in slow time, with mu squared, and a rate at which time goes."""
    return k[1] * y[1], k[1] * k[0] * ((1 - y[0] ** 2) * y[1] - y[0])


def stiff_problems(quick: bool = False) -> list[StiffProblem]:
    """Of Hairer, Wanner, "Solving Ordinary Differential Equations II", IV.10, and the Bari/CWI test set."""
    start, rates = (1.0, 0.0, 0.0), (0.04, 3e7, 1e4)
    problems = [
        StiffProblem(
            "HIRES", hires, (1.0, *[0.0] * 6, 0.0057), (1.71, 280.0), 321.8122, 1e-3,
            (0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2,
             0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2),
        ),
        StiffProblem("Robertson, 40", robertson, start, rates, 40.0, 1e-4),
        StiffProblem("Robertson, 1e5", robertson, start, rates, 1e5, 1e-4),
        StiffProblem(
            "Robertson, 1e11", robertson, start, rates, 1e11, 1e-10,
            (0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050),
        ),
        StiffProblem(
            "Oregonator", oregonator, (1.0, 2.0, 3.0), (77.27, 8.375e-6, 0.161), 360.0, 1e-2,
            (0.1000814870318523e1, 0.1228178521549917e4, 0.1320554942846706e3), gradient_rtol=1e-5,
        ),
        StiffProblem("van der Pol, 1e3", van_der_pol, (2.0, 0.0), (1e3,), 2000.0, 1e-2, gradient_rtol=1e-8),
        StiffProblem(
            "van der Pol, 1e6", van_der_pol_scaled, (2.0, 0.0), (1e6, 1.0), 2.0, 1e-2,
            (0.1706167732170483e1, -0.8928097010247975e0), gradient_rtol=1e-8,
        ),
    ]  # fmt: skip
    return problems[:2] if quick else problems
