"""An equality-constrained quadratic programme as a differentiable function, through its KKT conditions.

    minimise  1/2 x'Qx + q'x   subject to   Ax = b

The unknowns are a pytree: the minimiser x and the multipliers nu. They solve

    Qx + q + A'nu = 0   (stationarity)
    Ax - b        = 0   (feasibility)

NumPy finds them; `ImplicitFunction` differentiates them by these two conditions. The gradients are compared
with their closed form: with the KKT matrix K = [[Q, A'], [A, 0]] and (u, w) = K^-T (dL/dx, dL/dnu),

    dL/dq = -u,   dL/db = w,   dL/dQ = -u x',   dL/dA = -nu u' - w x'

Run: python examples/equality_qp.py
"""

import numpy as np
import torch
from torch import Tensor

from deqzoo.implicit import ImplicitFunction

Unknowns = dict[str, Tensor]


def solve(Q: Tensor, q: Tensor, A: Tensor, b: Tensor) -> Unknowns:
    """The solution of the KKT system, by NumPy."""
    n, m = len(q), len(b)
    K = np.block([[Q.numpy(), A.numpy().T], [A.numpy(), np.zeros((m, m))]])
    y = torch.from_numpy(np.linalg.solve(K, np.concatenate([-q.numpy(), b.numpy()])))
    return {"x": y[:n], "nu": y[n:]}


def conditions(y: Unknowns, Q: Tensor, q: Tensor, A: Tensor, b: Tensor) -> Unknowns:
    """The KKT conditions, zero at the solution; of the structure of the unknowns."""
    return {"x": Q @ y["x"] + q + A.T @ y["nu"], "nu": A @ y["x"] - b}


quadratic_program = ImplicitFunction(solve, conditions)


def loss(y: Unknowns) -> Tensor:
    """Any smooth function of all unknowns."""
    return (y["x"] ** 3).sum() + torch.sin(y["nu"]).sum()


def closed_form(y: Unknowns, Q: Tensor, A: Tensor) -> dict[str, Tensor]:
    """The gradients of `loss` in Q, q, A and b."""
    x, nu = y["x"], y["nu"]
    K = torch.cat([torch.cat([Q, A.T], 1), torch.cat([A, A.new_zeros(len(A), len(A))], 1)])
    u, w = torch.linalg.solve(K.T, torch.cat([3 * x**2, torch.cos(nu)])).split([len(x), len(nu)])
    return {"Q": -torch.outer(u, x), "q": -u, "A": -torch.outer(nu, u) - torch.outer(w, x), "b": w}


def main() -> dict[str, float]:
    """Solve a random problem; relative error of each gradient, and of the constraint's price db."""
    generator = torch.Generator().manual_seed(0)
    root, q, A, b = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((6, 6), (6,), (3, 6), (3,))
    )
    problem = {"Q": root @ root.T + torch.eye(6), "q": q, "A": A, "b": b}
    for tensor in problem.values():
        tensor.requires_grad_()

    y = quadratic_program(*problem.values())
    found = torch.autograd.grad(loss(y), list(problem.values()), retain_graph=True)
    with torch.no_grad():
        known = closed_form(y, problem["Q"], problem["A"])
    errors = {
        f"dL/d{name}": float((gradient - known[name]).norm() / known[name].norm())
        for name, gradient in zip(problem, found, strict=True)
    }

    # The envelope theorem: raising b by db costs -nu'db at the optimum.
    x, Q = y["x"], problem["Q"]
    (price,) = torch.autograd.grad(x @ Q @ x / 2 + q @ x, b)
    nu = y["nu"].detach()
    errors["d cost/db = -nu"] = float((price + nu).norm() / nu.norm())
    return errors


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:16s} relative error {error:.1e}")
