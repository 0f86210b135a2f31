"""Small problems whose answer is known: each as `implicit`, by the library, and as `exact`, on the ordinary tape.

`exact` is a closed form, or so many plain iterations of a contraction that nothing is left to gain; torch
differentiates it in every mode and to every order, without anything of the library.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from deqzoo.implicit import CG, GMRES, Dense, Implicit, ImplicitFunction, argmin, fixed_point, root

STEPS = 26  # of the unrolled references: every contraction below has a factor near 0.2


@dataclasses.dataclass(frozen=True)
class Problem:
    """Two ways to the same y(*args), and float64 arguments at which to compare them."""

    implicit: Callable[..., Any]
    exact: Callable[..., Any]
    args: tuple[Tensor, ...]

    def leaves(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        """Fresh arguments that require a gradient."""
        return tuple(t.to(dtype).clone().requires_grad_() for t in self.args)


def flat(tree: Any) -> Tensor:
    """All entries of a pytree as one vector."""
    return torch.cat([leaf.reshape(-1) for leaf in _pytree.tree_leaves(tree)])


def loss(tree: Any) -> Tensor:
    """A scalar of y with all derivatives different from zero."""
    y = flat(tree)
    return (torch.sin(y + torch.arange(y.numel(), dtype=y.dtype)) + 0.3 * y**3).sum()


def loss_of(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """args -> loss(function(*args))."""
    return lambda *args: loss(function(*args))


def flat_of(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """args -> flat(function(*args))."""
    return lambda *args: flat(function(*args))


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64, the same in every test."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def contraction(n: int, factor: float = 0.2, seed: int = 1) -> Tensor:
    """A square matrix of spectral norm `factor`."""
    matrix = draw(n, n, seed=seed)
    return factor * matrix / torch.linalg.matrix_norm(matrix, 2)


def unroll(f: Callable[..., Any], z: Any, *args: Any) -> Any:
    """Plain iteration on the tape."""
    for _ in range(STEPS):
        z = f(z, *args)
    return z


class Cell(nn.Module):
    """A layer's f(z, x) = tanh(A z + b + C x) with parameters, float64."""

    def __init__(self, width=3):
        super().__init__()
        self.state, self.input = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.state.weight *= 0.2
        self.double()

    def forward(self, z, x):
        return torch.tanh(self.state(z) + self.input(x))


def looped(solve, weights, x):
    """Layers in a loop: every lambda reads the loop's variables, which have moved on when backward comes."""
    z = x
    for W in weights:
        below = z
        z = solve(lambda z: torch.tanh(z @ W + below), torch.zeros_like(x))  # noqa: B023
    return z


# z = tanh(z W + x), rows are samples


def tanh_map(z: Tensor, W: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(z @ W + x)


def tanh_by_arguments(W: Tensor, x: Tensor) -> Tensor:
    return fixed_point(tanh_map, torch.zeros_like(x), W, x, on_failure="raise")


def tanh_captured(W: Tensor, x: Tensor) -> Tensor:
    return fixed_point(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x), on_failure="raise")


def tanh_batch(W: Tensor, x: Tensor) -> Tensor:
    return fixed_point(lambda z, x: tanh_map(z, W, x), torch.zeros_like(x), x, batch_dims=1, on_failure="raise")


def tanh_exact(W: Tensor, x: Tensor) -> Tensor:
    return unroll(tanh_map, torch.zeros_like(x), W, x)


# y = cos(theta y), a scalar


def cosine(theta: Tensor) -> Tensor:
    return fixed_point(lambda y, theta: torch.cos(theta * y), torch.ones_like(theta), theta, on_failure="raise")


def cosine_exact(theta: Tensor) -> Tensor:
    return unroll(lambda y: torch.cos(theta * y), torch.ones_like(theta))


# Two unknowns of different shapes, coupled both ways


def pair_map(state: dict[str, Tensor], a: Tensor, b: Tensor) -> dict[str, Tensor]:
    u, v = state["u"], state["v"]
    return {"u": 0.2 * torch.cos(v.sum(1)[0] + a * u), "v": 0.1 * torch.sin(torch.outer(b, u[:2]) + v.mT)}


def pair_start(a: Tensor) -> dict[str, Tensor]:
    return {"u": torch.zeros(3, dtype=a.dtype), "v": torch.zeros(2, 2, dtype=a.dtype)}


def pair(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    return fixed_point(lambda state, b: pair_map(state, a, b), pair_start(a), b, on_failure="raise")


def pair_exact(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    return unroll(pair_map, pair_start(a), a, b)


# y^3 = a


def cubic(a: Tensor) -> Tensor:
    return root(lambda y, a: y**3 - a, torch.ones_like(a), a, on_failure="raise")


def cubic_exact(a: Tensor) -> Tensor:
    return a ** (1 / 3)


# Ridge regression: min |X w - t|^2 + exp(s) |w|^2


def ridge(X: Tensor, t: Tensor, s: Tensor) -> Tensor:
    def objective(w: Tensor, X: Tensor, t: Tensor) -> Tensor:
        return ((X @ w - t) ** 2).sum() + s.exp() * (w**2).sum()

    w0 = torch.zeros(X.shape[-1], dtype=X.dtype)
    return argmin(objective, w0, X, t, adjoint=Implicit(CG(tol=1e-13)), on_failure="raise")


def ridge_exact(X: Tensor, t: Tensor, s: Tensor) -> Tensor:
    return torch.linalg.inv(X.mT @ X + s.exp() * torch.eye(X.shape[-1], dtype=X.dtype)) @ (X.mT @ t)


# A y = b by a black box


def numpy_solve(A: Tensor, b: Tensor) -> Tensor:
    return torch.from_numpy(np.linalg.solve(A.numpy(), b.numpy()))


def linear_condition(y: Tensor, A: Tensor, b: Tensor) -> Tensor:
    return A @ y - b


def linear_exact(A: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.inv(A) @ b  # torch.linalg.solve has wrong derivatives forward over reverse


linear = ImplicitFunction(numpy_solve, linear_condition, linear_solver=Dense(), on_failure="raise")
linear_vectorized = ImplicitFunction(
    torch.linalg.solve, linear_condition, linear_solver=GMRES(), vectorized=True, on_failure="raise"
)

_tanh = (contraction(3), draw(2, 3, seed=2))
_linear = (draw(3, 3, seed=3) + 4 * torch.eye(3, dtype=torch.float64), draw(3, seed=4))

PROBLEMS = {
    "tanh_by_arguments": Problem(tanh_by_arguments, tanh_exact, _tanh),
    "tanh_captured": Problem(tanh_captured, tanh_exact, _tanh),
    "tanh_batch": Problem(tanh_batch, tanh_exact, _tanh),
    "cosine": Problem(cosine, cosine_exact, (torch.tensor(0.4, dtype=torch.float64),)),
    "pair": Problem(pair, pair_exact, (draw(3, seed=5), draw(2, seed=6))),
    "cubic": Problem(cubic, cubic_exact, (torch.tensor([0.5, 2.0, 5.0], dtype=torch.float64),)),
    "ridge": Problem(ridge, ridge_exact, (draw(4, 2, seed=7), draw(4, seed=8), torch.tensor(0.3, dtype=torch.float64))),
    "linear": Problem(linear, linear_exact, _linear),
    "linear_vectorized": Problem(linear_vectorized, linear_exact, _linear),
}
