"""The problems that every benchmark here solves: seeds, spectra, weight scales, starts and tolerances in one place.

Six fixed points z = f(z, x), from a convolutional block that costs milliseconds to a symmetric map whose slowest
error shrinks by 1 % per step; each leading index is a system of its own, and all systems must meet the tolerance. Then
a small DEQ classifier and a ridge regression, whose gradients are known independently of any library here.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """The residual block of the DEQ tutorial: GN(relu(z + GN(x + conv2(GN(relu(conv1(z))))))), 3x3, no bias.

    Source: Kolter, Duvenaud, Johnson, "Deep Implicit Layers" (NeurIPS 2020 tutorial), chapter 4.

    Args:
        channels: channels of z and x, (B, channels, H, W).
        hidden: channels between the two convolutions.
        weight_std: standard deviation of the weights; .01 gives a map that contracts by about .7 per step.
    """

    def __init__(self, channels: int = 48, hidden: int = 64, weight_std: float = 0.01) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(hidden, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(8, n) for n in (hidden, channels, channels))
        for conv in (self.conv1, self.conv2):
            nn.init.normal_(conv.weight, std=weight_std)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """One application of the block."""
        y = self.norm1(F.relu(self.conv1(z)))
        return self.norm3(F.relu(z + self.norm2(x + self.conv2(y))))


class Depthwise(nn.Module):
    """A light map, tanh(x + depthwise 3x3 convolution of z): a solver's own cost is all there is to see.

    Args:
        channels: channels of z and x, (B, channels, H, W).
        gain: sum of the absolute weights of each filter; above 1 the tanh alone makes the map contract.
    """

    def __init__(self, channels: int = 48, gain: float = 1.3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        with torch.no_grad():
            weight = torch.randn_like(self.conv.weight)
            self.conv.weight.copy_(gain * weight / weight.abs().sum(dim=(1, 2, 3), keepdim=True))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """One application of the map."""
        return torch.tanh(x + self.conv(z))


class Affine(nn.Module):
    """z -> A z + x for each row of z, (B, n); `matrix` is A, (n, n)."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """One application of the map."""
        return F.linear(z, self.matrix) + x


def matrix_of_norm(n: int, norm: float) -> Tensor:
    """A Gaussian (n, n) float64 matrix, scaled to this spectral norm; its spectral radius is about half of that."""
    matrix = torch.randn(n, n, dtype=torch.float64)
    return matrix * (norm / torch.linalg.matrix_norm(matrix, 2))


def symmetric_matrix(n: int, radius: float) -> Tensor:
    """A symmetric (n, n) float64 matrix with eigenvalues evenly spaced in [-radius, radius]."""
    basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q
    return (basis * torch.linspace(-radius, radius, n, dtype=torch.float64)) @ basis.T


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A fixed point z = f(z, x) to be solved from `z0` until every system meets the tolerance.

    Attributes:
        name: what the tables call it.
        f: the map, (z, x) -> z.
        x: the input, batched like z.
        z0: the start, zeros; the leading axis is the batch (`batch_dims=1`).
        tol: the tolerance of the stop rule.
        stop: "rel": |f(z) - z| <= tol |f(z)|; "abs": |f(z) - z| <= tol.
        max_steps: the solvers' budget.
    """

    name: str
    f: nn.Module
    x: Tensor
    z0: Tensor
    tol: float
    stop: Literal["rel", "abs"]
    max_steps: int

    def residual(self, z: Tensor) -> float:
        """The worst system's residual at z under the stop rule, evaluated anew in float64."""
        f = copy.deepcopy(self.f).double()
        with torch.no_grad():
            z = z.detach().double()
            image = f(z, self.x.double())
        residual = (image - z).flatten(1).norm(dim=1)
        if self.stop == "rel":
            residual = residual / image.flatten(1).norm(dim=1)
        return residual.max().item()

    def solved(self, z: Tensor) -> bool:
        """Whether z meets the tolerance, with 5 % of grace for the rounding of a float32 solver's own norms."""
        return self.residual(z) <= 1.05 * self.tol


def solver_problems(quick: bool = False) -> list[Problem]:
    """The six problems of the solver table; `quick` shrinks them for a smoke run.

    >>> [problem.name for problem in solver_problems(quick=True)][-1]
    'symmetric, radius .99'
    """
    batch, size, n = (2, 4, 16) if quick else (32, 16, 256)

    def images(name: str, f: Callable[[], nn.Module], tol: float, stop: Literal["rel", "abs"], steps: int) -> Problem:
        with seeded():
            x = torch.randn(batch, 48, size, size)
            return Problem(name, f(), x, torch.zeros_like(x), tol, stop, steps)

    def vectors(name: str, matrix: Callable[[], Tensor], steps: int) -> Problem:
        with seeded():
            x = torch.randn(2 * batch, n, dtype=torch.float64)
            return Problem(name, Affine(matrix()), x, torch.zeros_like(x), 1e-6, "abs", steps)

    return [
        images("conv block, relative 1e-3", ConvBlock, 1e-3, "rel", 50),
        images("conv block, absolute 1e-3", ConvBlock, 1e-3, "abs", 100),
        images("depthwise, relative 1e-3", Depthwise, 1e-3, "rel", 50),
        vectors("linear, norm .9", lambda: matrix_of_norm(n, 0.9), 100),
        vectors("symmetric, radius .9", lambda: symmetric_matrix(n, 0.9), 400),
        vectors("symmetric, radius .99", lambda: symmetric_matrix(n, 0.99), 2000),
    ]


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Seed 0 inside; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Classifier(nn.Module):
    """The convolutional DEQ of the gradient table, without its solver: block, mean over the image, linear head."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.block = ConvBlock()
        self.head = nn.Linear(48, classes)

    def loss(self, z: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of the head at the fixed point z."""
        return F.cross_entropy(self.head(z.mean(dim=(2, 3))), labels)


def classifier_problem(quick: bool = False) -> tuple[Classifier, Tensor, Tensor]:
    """(model, x, labels) with x of shape (32, 48, 16, 16)."""
    batch, size = (2, 4) if quick else (32, 16)
    with seeded():
        return Classifier(), torch.randn(batch, 48, size, size), torch.randint(10, (batch,))


@dataclasses.dataclass(frozen=True, eq=False)
class Ridge:
    """Ridge regression with one log-penalty per feature: which penalties serve the validation set best?

    inner: w(t) = argmin_w |X w - y|^2 / 2 + w . exp(t) w / 2     outer: |X' w(t) - y'|^2 / 2

    Both have closed forms, so that the hypergradient d outer / dt is known to round-off.
    """

    x: Tensor
    y: Tensor
    x_validation: Tensor
    y_validation: Tensor

    def to(self, dtype: torch.dtype) -> Ridge:
        """The same data in another precision."""
        return Ridge(*(getattr(self, field.name).to(dtype) for field in dataclasses.fields(self)))

    def solve(self, t: Tensor) -> Tensor:
        """The minimiser w(t), in closed form."""
        return torch.linalg.solve(self.x.T @ self.x + torch.diag(t.exp()), self.x.T @ self.y)

    def stationarity(self, w: Tensor, t: Tensor) -> Tensor:
        """The gradient of the inner objective, zero at w(t)."""
        return self.x.T @ (self.x @ w - self.y) + t.exp() * w

    def outer(self, w: Tensor) -> Tensor:
        """The validation loss."""
        return (self.x_validation @ w - self.y_validation).square().sum() / 2

    def hypergradient(self, t: Tensor) -> Tensor:
        """d outer / dt through the closed form, in float64: the reference."""
        exact, t = self.to(torch.float64), t.detach().double().requires_grad_()
        return torch.autograd.grad(exact.outer(exact.solve(t)), t)[0]


def ridge_problem(quick: bool = False) -> Ridge:
    """100 features, 200 samples each for training and validation, float64."""
    n, d = (20, 10) if quick else (200, 100)
    with seeded():
        truth, draw = torch.randn(d, dtype=torch.float64), lambda: torch.randn(n, d, dtype=torch.float64)
        x, x_validation = draw(), draw()
        noise = torch.randn(2, n, dtype=torch.float64)
        return Ridge(x, x @ truth + noise[0], x_validation, x_validation @ truth + noise[1])


@dataclasses.dataclass
class Penalised:
    """Ridge or logistic regression, loss averaged over the samples, with one log-penalty per feature.

    inner: w(t) = argmin_w loss(X w, y) + w . exp(t) w / 2     outer: loss(X' w(t), y')
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    y: Tensor
    x_validation: Tensor
    y_validation: Tensor

    def stationarity(self, w: Tensor, t: Tensor) -> Tensor:
        """The gradient of the inner objective, zero at w(t)."""
        prediction = self.x @ w
        if self.loss is torch.nn.functional.mse_loss:
            residual = 2 * (prediction - self.y)
        else:
            residual = prediction.sigmoid() - self.y
        return self.x.T @ residual / len(self.y) + t.exp() * w

    def hessian(self, w: Tensor, t: Tensor) -> Tensor:
        """The Hessian of the inner objective, written out."""
        of_loss = torch.func.hessian(lambda z: self.loss(z, self.y))(self.x @ w)
        return self.x.T @ of_loss @ self.x + torch.diag(t.exp())

    def solve(self, t: Tensor) -> Tensor:
        """The minimiser w(t), by Newton's method to round-off."""
        w = torch.zeros_like(t)
        for _ in range(20):
            w = w - torch.linalg.solve(self.hessian(w, t), self.stationarity(w, t))
        return w

    def outer(self, w: Tensor) -> Tensor:
        """The validation loss."""
        return self.loss(self.x_validation @ w, self.y_validation)

    def hypergradient(self, t: Tensor, w: Tensor) -> Tensor:
        """d outer / dt at w = w(t), by a dense solve: the reference."""
        slope = torch.func.grad(self.outer)(w)
        return -t.exp() * w * torch.linalg.solve(self.hessian(w, t), slope)


def penalised_problems(quick: bool = False) -> dict[str, Penalised]:
    """Ridge 100x5 and 1000x100, logistic 1000x100 (samples x features), float64; a validation set of the same size."""
    sizes = {"ridge 100x5": (100, 5), "ridge 1000x100": (1000, 100), "logistic 1000x100": (1000, 100)}
    problems = {}
    for name, (n, d) in sizes.items():
        n, d = (20, d // 5 + 2) if quick else (n, d)
        with seeded():
            truth = torch.randn(d, dtype=torch.float64)
            x, noise = torch.randn(2 * n, d, dtype=torch.float64), torch.randn(2 * n, dtype=torch.float64)
        y, loss = x @ truth + noise, torch.nn.functional.mse_loss
        if name.startswith("logistic"):
            y, loss = (y > 0).double(), torch.nn.functional.binary_cross_entropy_with_logits
        problems[name] = Penalised(loss, x[:n], y[:n], x[n:], y[n:])
    return problems
