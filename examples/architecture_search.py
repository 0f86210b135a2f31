"""A small differentiable architecture search: which mixture of operations made the data? By implicit gradients.

    inner:  W(a) = argmin  |sum_k p_k f_k(X) W - Y|^2,  p = softmax(a)       outer:  min over a of the validation loss

The data are made by a known mixture of the operations f_k and a known W. For any a the inner problem is convex, and at
the optimum of the outer one p is that mixture: the answer is known. `argmin` differentiates the inner minimiser,
where the first-order search of DARTS takes W for a constant; both problems are solved by the same minimisers.

Run: python examples/architecture_search.py

Source: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", 2019; Lorraine, Vicol, Duvenaud,
"Optimizing Millions of Hyperparameters by Implicit Differentiation", 2020.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from deqzoo.implicit import CG, LBFGS, Implicit, NewtonCG, argmin

OPERATIONS = {"identity": lambda x: x, "tanh": torch.tanh, "square": torch.square, "sine": lambda x: torch.sin(2 * x)}
TRUTH = torch.tensor([0.1, 0.5, 0.15, 0.25], dtype=torch.float64)


def mixture(x: Tensor, p: Tensor, weights: Tensor) -> Tensor:
    """sum_k p_k f_k(x) W."""
    return torch.stack([f(x) for f in OPERATIONS.values()], -1) @ p @ weights


def validation_losses() -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The outer loss of a, (4,), with the inner problem solved by `argmin` and by a dense solve."""
    generator = torch.Generator().manual_seed(0)
    x, x_validation = torch.randn(2, 60, 3, generator=generator, dtype=torch.float64).unbind()
    true_weights = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    y, y_validation = mixture(x, TRUTH, true_weights), mixture(x_validation, TRUTH, true_weights)

    def train_loss(weights: Tensor, a: Tensor) -> Tensor:
        return (mixture(x, a.softmax(0), weights) - y).square().mean()

    def validation_loss(a: Tensor) -> Tensor:
        weights = argmin(
            train_loss, torch.zeros(3, 2).double(), a, solver=NewtonCG(tol=1e-10), adjoint=Implicit(CG(tol=1e-13))
        )
        return (mixture(x_validation, a.softmax(0), weights) - y_validation).square().mean()

    def dense_loss(a: Tensor) -> Tensor:
        features = torch.stack([f(x) for f in OPERATIONS.values()], -1) @ a.softmax(0)
        weights = torch.linalg.solve(features.T @ features, features.T @ y)
        return (mixture(x_validation, a.softmax(0), weights) - y_validation).square().mean()

    return validation_loss, dense_loss


def main() -> dict[str, float]:
    """Search; relative errors of the gradient at the start, against a dense solve, and of the mixture found."""
    validation_loss, dense_loss = validation_losses()
    start = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(validation_loss(start), start)
    (known,) = torch.autograd.grad(dense_loss(start), start)
    found_mixture = LBFGS(tol=1e-12)(validation_loss, start.detach()).value.softmax(0)
    return {
        "gradient at the start": float((found - known).norm() / known.norm()),
        "mixture": float((found_mixture - TRUTH).norm() / TRUTH.norm()),
    }


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:24s} relative error {error:.1e}")
