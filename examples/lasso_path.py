"""The lasso path, and the gradient of the validation loss in its hyperparameter.

    w(s) = argmin  |X w - y|^2 / 2n + s sum |w_j|        V(s) = |X' w(s) - y'|^2 / 2n'

`argmin` with a penalty solves each point of the path, from where the last one ended. On the support S of w, where no
sign changes,

    dw_S/ds = -n (X_S^T X_S)^-1 sign(w_S),    dV/ds = (X' w - y')^T X'_S dw_S/ds / n'

The known answers: the path by least angle regression (scikit-learn), and the gradient above, written out. Descent on
log s then finds the best point of the path, without a grid.

Run: python examples/lasso_path.py [PICTURE.png]
"""

import sys

import torch
from sklearn.linear_model import lars_path
from torch import Tensor

from deqzoo.implicit import L1, ProximalGradient, argmin

N, FEATURES = 60, 20


def draw_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Five features of twenty matter; half of the rows are to validate on."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(2 * N, FEATURES, generator=generator, dtype=torch.float64)
    truth = torch.zeros(FEATURES, dtype=torch.float64)
    truth[:5] = torch.tensor([3.0, -2.0, 1.5, 1.0, -0.5])
    y = X @ truth + torch.randn(2 * N, generator=generator, dtype=torch.float64)
    return X[:N], y[:N], X[N:], y[N:]


def lasso(X: Tensor, y: Tensor, strength: Tensor, start: Tensor) -> Tensor:
    """w(s), a differentiable function of s."""

    def loss(w: Tensor) -> Tensor:
        return (X @ w - y).square().sum() / (2 * len(y))

    return argmin(loss, start, penalty=L1(strength), solver=ProximalGradient(tol=1e-14))


def known_gradient(X: Tensor, X_validation: Tensor, y_validation: Tensor, w: Tensor) -> Tensor:
    """dV/ds by the normal equations of the support."""
    on = w != 0
    slope = -len(X) * torch.linalg.solve(X[:, on].T @ X[:, on], w[on].sign())
    return (X_validation @ w - y_validation) @ X_validation[:, on] @ slope / len(y_validation)


def path() -> tuple[Tensor, Tensor, float]:
    """Strengths, the solutions there, and the largest relative difference from least angle regression."""
    X, y, _, _ = draw_data()
    knots, _, known = lars_path(X.numpy(), y.numpy(), method="lasso")
    strengths, solutions, w = torch.from_numpy(knots.copy()), [], torch.zeros(FEATURES, dtype=torch.float64)
    for strength in strengths:
        w = lasso(X, y, strength, w)
        solutions.append(w)
    found, known = torch.stack(solutions), torch.from_numpy(known.T.copy())
    return strengths, found, float((found - known).norm() / known.norm())


def descend() -> tuple[float, float]:
    """Gradient descent on log s. The relative error of the gradients, and the strength that was found."""
    X, y, X_validation, y_validation = draw_data()
    log_strength = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    optimizer, w, worst = torch.optim.Adam([log_strength], lr=0.2), torch.zeros(FEATURES, dtype=torch.float64), 0.0
    for _ in range(25):
        w = lasso(X, y, log_strength.exp(), w.detach())
        value = (X_validation @ w - y_validation).square().sum() / (2 * len(y_validation))
        optimizer.zero_grad()
        value.backward()
        known = known_gradient(X, X_validation, y_validation, w.detach()) * log_strength.detach().exp()
        worst = max(worst, float((log_strength.grad - known).abs() / known.abs()))
        optimizer.step()
    print(f"strength {log_strength.exp():.4f}: validation loss {value:.4f}, {int((w != 0).sum())} features")
    return worst, float(log_strength.detach().exp())


def main() -> dict[str, float]:
    """Relative errors of the path and of the gradients in the hyperparameter."""
    return {"path by least angle regression": path()[2], "gradient by the normal equations": descend()[0]}


def draw_picture(file: str) -> None:
    """The path, and the strength that the descent has found."""
    from matplotlib.figure import Figure

    strengths, solutions, _ = path()
    figure = Figure((5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(strengths, solutions)
    axes.axvline(descend()[1], color="black", linestyle=":", label="by gradients of the validation loss")
    axes.set(xscale="log", xlabel="strength", ylabel="coefficients", xlim=(1e-3, None))
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:34s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])
