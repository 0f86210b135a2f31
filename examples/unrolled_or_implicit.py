"""Unrolled or implicit: the error of the Jacobian after t steps of gradient descent on ridge regression.

    x(theta) = argmin  |X x - y|^2 / 2 + sum theta_i x_i^2 / 2,    H = X^T X + diag(theta),    dx/dtheta = -H^-1 diag(x)

The steps x <- x - eta (H x - X^T y) have been stopped at x_t. Their Jacobian is

    unrolled    J_t = (I - eta H) J_(t-1) - eta diag(x_(t-1)),    J_0 = 0
    implicit    -H^-1 diag(x_t),    which is off by no more than |x_t - x| / the least eigenvalue of H

The implicit one is as near to the truth as the iterate is; the unrolled one lags behind, and needs the memory of all
steps. The known answers: the lines above by dense matrices, for each t; and that the bound holds.

Source: Blondel et al., "Efficient and Modular Implicit Differentiation", 2022, figure 3 and theorem 1.

Run: python examples/unrolled_or_implicit.py [PICTURE.png]
"""

import sys

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor

from deqzoo.implicit import EquationAdjoint, Implicit, Picard, Unrolled, fixed_point

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Ridge:
    """The data and what is known of the problem.

    Attributes:
        theta: (features,), all 0.5.
        H, step: the Hessian and the length of the steps, 1 / its largest eigenvalue.
        x: the minimiser.
        jacobian: dx/dtheta there.
    """

    def __init__(self) -> None:
        X, self.y = map(torch.from_numpy, load_diabetes(return_X_y=True))
        self.y = self.y - self.y.mean()
        self.X, self.theta = X, torch.full((X.shape[1],), 0.5, dtype=torch.float64)
        self.H = X.T @ X + self.theta.diag()
        values = torch.linalg.eigvalsh(self.H)
        self.step, self.least = float(1 / values[-1]), float(values[0])
        self.x = torch.linalg.solve(self.H, X.T @ self.y)
        self.jacobian = -torch.linalg.solve(self.H, self.x.diag())

    def descend(self, theta: Tensor, steps: int, adjoint: EquationAdjoint) -> Tensor:
        """x_t, differentiable in theta as `adjoint` says."""

        def descent(x: Tensor, theta: Tensor) -> Tensor:
            return x - self.step * (self.X.T @ (self.X @ x - self.y) + theta * x)

        solver = Picard(max_steps=steps, stop="never")
        return fixed_point(descent, torch.zeros_like(theta), theta, solver=solver, adjoint=adjoint)

    def by_hand(self) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        """x_t and the two Jacobians for each t of `STEPS`."""
        found, x, unrolled = {}, torch.zeros_like(self.theta), torch.zeros_like(self.H)
        for t in range(1, max(STEPS) + 1):
            unrolled = unrolled - self.step * (self.H @ unrolled + x.diag())
            x = x - self.step * (self.H @ x - self.X.T @ self.y)
            if t in STEPS:
                found[t] = x, unrolled, -torch.linalg.solve(self.H, x.diag())
        return found


def errors_over_steps(ridge: Ridge) -> tuple[Tensor, float, float]:
    """Errors (t, 3) of the iterate and of both Jacobians; the worst relative differences of these from the formulas."""
    rows, worst = [], [0.0, 0.0]
    for t, (x, *known) in ridge.by_hand().items():
        row = [torch.linalg.vector_norm(x - ridge.x)]
        for k, adjoint in enumerate((Unrolled(), Implicit())):
            J = torch.func.jacrev(lambda theta: ridge.descend(theta, t, adjoint))(ridge.theta)  # noqa: B023
            row.append(torch.linalg.matrix_norm(J - ridge.jacobian, ord=2))
            worst[k] = max(worst[k], float((J - known[k]).norm() / ridge.jacobian.norm()))
        rows.append(torch.stack(row))
    return torch.stack(rows), worst[0], worst[1]


def main() -> dict[str, float]:
    """Relative errors of the Jacobians, at each t and at the end, and by how much the bound is exceeded."""
    ridge = Ridge()
    errors, unrolled, implicit = errors_over_steps(ridge)
    size = torch.linalg.matrix_norm(ridge.jacobian, ord=2)
    for t, row in zip(STEPS, errors, strict=True):
        print(f"t = {t:3d}: |x_t - x| {row[0]:.1e}, error of the Jacobian {row[1]:.1e} unrolled, {row[2]:.1e} implicit")
    return {
        "unrolled, at each t": unrolled,
        "implicit, at each t": implicit,
        "implicit, beyond its bound": float(((errors[:, 2] - errors[:, 0] / ridge.least).clamp(min=0) / size).max()),
        "implicit, at the end": float(errors[-1, 2] / size),
    }


def draw_picture(file: str) -> None:
    """The errors of both Jacobians over that of the iterate, as in the article."""
    from matplotlib.figure import Figure

    ridge = Ridge()
    errors = errors_over_steps(ridge)[0]
    figure = Figure((5, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.loglog(errors[:, 0], errors[:, 1], "o-", label="unrolled")
    axes.loglog(errors[:, 0], errors[:, 2], "s-", label="implicit")
    axes.loglog(errors[:, 0], errors[:, 0] / ridge.least, "k:", label="bound of the implicit one")
    axes.set(xlabel="error of the iterate $|x_t - x|$", ylabel="error of the Jacobian")
    axes.invert_xaxis()
    axes.legend()
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:28s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])
