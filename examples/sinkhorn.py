"""Entropic optimal transport as a differentiable function, through its marginals.

    minimise  <P, C> + eps sum P (log P - 1)   over P >= 0 with row sums a and column sums b

The solution is P = exp((f + g - C) / eps) with one potential f per row and one potential g per column, found by
Sinkhorn's iteration. The conditions are the marginals. Only f + g enters, so that the Jacobian of all n + m
conditions would be singular: one potential is free, and one condition follows from the others. Both are
left out: the last g is 0, and the last column sum is not asked for. The Jacobian of the rest is symmetric
positive definite, hence conjugate gradients.

The known answers (by the envelope theorem): the gradient of the cost in a is the potential f up to a
constant, the gradient in C is the plan P itself.

Run: python examples/sinkhorn.py
"""

import torch
from torch import Tensor

from deqzoo.implicit import CG, ImplicitFunction

EPS = 0.1
Potentials = tuple[Tensor, Tensor]


def plan(y: Potentials, C: Tensor) -> Tensor:
    """The transport plan of the potentials f (n,) and g (m - 1,); the last column's potential is 0."""
    f, g = y
    g = torch.cat([g, g.new_zeros(1)])
    return torch.exp((f[:, None] + g - C) / EPS)


def solve(a: Tensor, b: Tensor, C: Tensor) -> Potentials:
    """Sinkhorn's iteration on the potentials, until the rows hold, too."""
    g = torch.zeros_like(b)
    for _ in range(10_000):
        f = EPS * (a.log() - torch.logsumexp((g - C) / EPS, 1))
        g = EPS * (b.log() - torch.logsumexp((f[:, None] - C) / EPS, 0))
        rows = torch.exp((f[:, None] + g - C) / EPS).sum(1)
        if (rows - a).abs().max() < 1e-14:
            break
    return f + g[-1], g[:-1] - g[-1]


def conditions(y: Potentials, a: Tensor, b: Tensor, C: Tensor) -> Potentials:
    """Row sums, and all column sums but the last."""
    P = plan(y, C)
    return P.sum(1) - a, P.sum(0)[:-1] - b[:-1]


transport = ImplicitFunction(solve, conditions, linear_solver=CG(), tags=("positive_definite",))


def cost(y: Potentials, C: Tensor) -> Tensor:
    """The objective at the plan of these potentials."""
    P = plan(y, C)
    return (P * C).sum() + EPS * (P * (P.log() - 1)).sum()


def relative(found: Tensor, known: Tensor) -> float:
    """Norm of the difference over that of the known answer."""
    return float((found - known).norm() / known.norm())


def main() -> dict[str, float]:
    """Transport between random points; relative errors of the marginals and of the two gradients."""
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.rand(n, 2, generator=generator, dtype=torch.float64) for n in (6, 8))
    a, b = (torch.rand(n, generator=generator, dtype=torch.float64) + 0.5 for n in (6, 8))
    a, b, C = a / a.sum(), b / b.sum(), torch.cdist(x, z) ** 2
    a.requires_grad_()
    C.requires_grad_()

    y = transport(a, b, C)
    in_a, in_C = torch.autograd.grad(cost(y, C), [a, C])
    with torch.no_grad():
        f, P = y[0], plan(y, C)
        return {
            "row sums = a": relative(P.sum(1), a),
            "column sums = b": relative(P.sum(0), b),
            "d cost/da = f + constant": relative(in_a - in_a.mean(), f - f.mean()),
            "d cost/dC = P": relative(in_C, P),
        }


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:26s} relative error {error:.1e}")
