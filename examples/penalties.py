"""One penalty per feature, found by gradients of the validation loss: ridge and logistic regression.

    inner:  w(t) = argmin  loss(X w, y) + 1/2 sum_j exp(t_j) w_j^2        outer:  V(t) = loss(X' w(t), y')

`argmin` solves the inner problem, to optimality and from where the last one ended, and differentiates the minimiser:

    dV/dt = -diag(exp(t) w) H^-1 X'^T loss'(X' w, y'),     H = X^T loss'' X + diag(exp t)

which this script compares with, H written out. Half of the features are noise, and their penalties grow.

Run: python examples/penalties.py
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from deqzoo.implicit import CG, Implicit, NewtonCG, argmin

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {"ridge": mse_loss, "logistic": binary_cross_entropy_with_logits}
STEPS = 30  # of the outer descent


class Data(NamedTuple):
    """Features and targets, to train and to validate on."""

    x: Tensor
    y: Tensor
    x_validation: Tensor
    y_validation: Tensor


def draw_data(name: str, n: int = 40, features: int = 8) -> Data:
    """Half of the features matter."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(features, generator=generator, dtype=torch.float64)
    truth[features // 2 :] = 0
    x = torch.randn(2 * n, features, generator=generator, dtype=torch.float64)
    y = x @ truth + torch.randn(2 * n, generator=generator, dtype=torch.float64)
    y = y if name == "ridge" else (y > 0).double()
    return Data(x[:n], y[:n], x[n:], y[n:])


def minimiser(loss: Loss, t: Tensor, data: Data, start: Tensor) -> Tensor:
    """w(t), a differentiable function of t."""

    def objective(w: Tensor, t: Tensor) -> Tensor:
        return loss(data.x @ w, data.y) + (t.exp() * w.square()).sum() / 2

    return argmin(objective, start, t, solver=NewtonCG(tol=1e-12), adjoint=Implicit(CG(tol=1e-13)))


def known_gradient(loss: Loss, t: Tensor, data: Data, w: Tensor) -> Tensor:
    """dV/dt by the Hessian written out."""
    curvature = torch.func.hessian(lambda z: loss(z, data.y))(data.x @ w)
    hessian = data.x.T @ curvature @ data.x + torch.diag(t.exp())
    slope = data.x_validation.T @ torch.func.grad(lambda z: loss(z, data.y_validation))(data.x_validation @ w)
    return -t.exp() * w * torch.linalg.solve(hessian, slope)


def main() -> dict[str, float]:
    """Descend; the relative error of the gradient at the first and at the last step, for each problem."""
    errors = {}
    for name, loss in LOSSES.items():
        data = draw_data(name)
        t = torch.full((data.x.shape[1],), -3.0, dtype=torch.float64, requires_grad=True)
        optimizer, w = torch.optim.Adam([t], lr=0.2), torch.zeros_like(t)
        for step in range(STEPS):
            w = minimiser(loss, t, data, w.detach())
            value = loss(data.x_validation @ w, data.y_validation)
            optimizer.zero_grad()
            value.backward()
            if step in (0, STEPS - 1):
                known = known_gradient(loss, t.detach(), data, w.detach())
                assert t.grad is not None
                errors[f"{name}, step {step + 1}, loss {value:.4f}"] = float((t.grad - known).norm() / known.norm())
            optimizer.step()
        matter, noise = t.detach().exp().chunk(2)
        print(f"{name}: penalties of features that matter {matter.mean():.3f}, of noise {noise.mean():.3f}")
    return errors


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:32s} relative error {error:.1e}")
