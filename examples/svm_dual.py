"""A support vector machine by its dual, and the gradient of the validation loss in C.

    a(C) = argmin  a^T Q a / 2 - sum a    over 0 <= a <= C,    Q_ij = y_i y_j k(x_i, x_j)

with k a Gaussian kernel plus 1, whose constant has the place of an intercept. Of the samples, those with a_i = 0 do not
matter, those with a_i = C lie within the margin (call them B), and the free ones (F) on it:

    a_F = Q_FF^-1 (1 - C Q_FB 1),    da_F/dC = -Q_FF^-1 Q_FB 1,    da_B/dC = 1

`ProjectedNewton` solves the problem between its bounds, and `argmin` differentiates it, C being a bound. These
formulas are the known answers: the first tells that the solution is one, the second its derivative.

Run: python examples/svm_dual.py [PICTURE.png]
"""

import sys

import torch
from torch import Tensor

from deqzoo.implicit import Box, ProjectedNewton, argmin

N = 40


def draw_data(seed: int) -> tuple[Tensor, Tensor]:
    """Two half moons with noise, labels -1 and 1."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.pi * torch.rand(N, generator=generator, dtype=torch.float64)
    sign = torch.where(torch.arange(N) % 2 == 0, 1.0, -1.0).double()
    x = torch.stack([sign * angle.cos() + (1 - sign) / 2, sign * (angle.sin() - 0.25)], dim=1)
    return x + 0.25 * torch.randn(N, 2, generator=generator, dtype=torch.float64), sign


def kernel(x: Tensor, z: Tensor) -> Tensor:
    """exp(-|x - z|^2) + 1."""
    return torch.exp(-(torch.cdist(x, z) ** 2)) + 1


def solve(C: Tensor, Q: Tensor) -> Tensor:
    """a(C), a differentiable function of C."""

    def dual(a: Tensor) -> Tensor:
        return a @ Q @ a / 2 - a.sum()

    return argmin(dual, torch.zeros(N, dtype=torch.float64), constraint=Box(0.0, C), solver=ProjectedNewton(tol=1e-14))


def known(a: Tensor, C: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """The solution with the bounds that a has, and its derivative in C."""
    at_C, free = a >= C, (a > 0) & (a < C)
    solution, derivative = torch.where(at_C, C, 0.0), at_C.double()
    solution[free] = torch.linalg.solve(Q[free][:, free], 1 - Q[free] @ solution)
    derivative[free] = -torch.linalg.solve(Q[free][:, free], Q[free] @ at_C.double())
    return solution, derivative


def main() -> dict[str, float]:
    """Descent on log C by the validation loss; relative errors of a, and of the gradient, over the steps."""
    (x, y), (x_validation, y_validation) = draw_data(0), draw_data(1)
    Q, K = y[:, None] * kernel(x, x) * y, kernel(x_validation, x) * y
    log_C = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_C], lr=0.2)
    errors = {"solution by its bounds": 0.0, "gradient in C by its bounds": 0.0}
    for _ in range(12):
        C = log_C.exp()
        a = solve(C, Q)
        loss = torch.nn.functional.softplus(-y_validation * (K @ a)).mean()
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            solution, derivative = known(a, C, Q)
            slope = torch.sigmoid(-y_validation * (K @ a)) * -y_validation @ K / N
            gradient = C * (slope @ derivative)
            found = {"solution": (a - solution).norm() / a.norm(), "gradient": (log_C.grad - gradient).abs()}
            found["gradient"] = found["gradient"] / gradient.abs()
        for name, error in zip(errors, found.values(), strict=True):
            errors[name] = max(errors[name], float(error))
        optimizer.step()
    wrong = int((torch.sign(K @ a.detach()) != y_validation).sum())
    print(f"C = {C:.3f}: validation loss {loss:.4f}, {wrong} of {N} wrong, {int((a > 0).sum())} support vectors")
    return errors


def draw_picture(file: str) -> None:
    """The data, the margins and the support vectors at C = 1."""
    from matplotlib.figure import Figure

    x, y = draw_data(0)
    a = solve(torch.tensor(1.0, dtype=torch.float64), y[:, None] * kernel(x, x) * y)
    u, v = (torch.linspace(low, high, 120, dtype=torch.float64) for low, high in ((-1.8, 2.8), (-1.6, 1.6)))
    score = (kernel(torch.cartesian_prod(u, v), x) * y) @ a
    figure = Figure((5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.contourf(u, v, score.reshape(120, 120).T, levels=20, cmap="coolwarm", alpha=0.5)
    axes.contour(u, v, score.reshape(120, 120).T, levels=[-1, 0, 1], colors="black", linestyles=[":", "-", ":"])
    axes.scatter(*x.T, c=y, cmap="coolwarm", s=15 + 60 * a, edgecolors="black")
    axes.set(title="size: dual variable")
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:30s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])
