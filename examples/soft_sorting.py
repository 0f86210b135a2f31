"""Soft ranks, soft sorting and a soft top-k: continuous in the values, exact where these are far apart.

A soft rank is a projection of theta / s onto the hull of all orders of (1, ..., n), a soft top-k one onto the hull of
all 0-1 vectors with k ones, {0 <= x <= 1, sum x = k}. On a block of values that are near to each other all ranks are

    r_i = mean rank + (theta_i - mean theta) / s,    dr/dtheta = (I - 1 1^T / m) / s

and the entries of a top-k that are neither 0 nor 1 are theta_i / s - tau with

    dx/dtheta = (diag(f) - f f^T / |f|) / s,    f the mask of these entries.

tau is the root of sum x = k, by `root`. A loss on soft ranks, Spearman's, then fits a linear model to an order of which
only the ranks are known.

Run: python examples/soft_sorting.py [PICTURE.png]
"""

import sys

import torch
from torch import Tensor

from deqzoo.implicit import Bisection, root, soft_rank, soft_sort

STRENGTH = 0.5


def soft_top_k(theta: Tensor, k: int, strength: float) -> Tensor:
    """The projection of theta / strength onto {0 <= x <= 1, sum x = k}: clamp(theta / strength - tau, 0, 1)."""
    scores = theta / strength

    def excess(tau: Tensor, scores: Tensor) -> Tensor:
        return k - (scores - tau).clamp(0, 1).sum()

    tau = root(excess, torch.zeros_like(scores[0]), scores, solver=Bisection(low=-100.0, high=100.0))
    return (scores - tau).clamp(0, 1)


def learn_an_order() -> float:
    """Gradient descent on 1 - Spearman's correlation of soft ranks; the correlation of the ranks at the end."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    ranks = (X @ torch.tensor([1.0, -2.0, 0.5, 0.0]).double()).exp().argsort().argsort().double()
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (soft_rank(X @ w, STRENGTH) - 1 - ranks).square().mean()
        loss.backward()
        optimizer.step()
    hard = (X @ w.detach()).argsort().argsort().double()
    return float(torch.corrcoef(torch.stack([hard, ranks]))[0, 1])


def main() -> dict[str, float]:
    """Relative errors of ranks, sorted values and top-k, and of their derivatives, beside the closed forms."""
    theta = torch.tensor([0.1, 5.0, 0.3, -4.0, 0.2], dtype=torch.float64)
    block = torch.tensor([True, False, True, False, True])
    ranks, jacobian = soft_rank(theta, STRENGTH), torch.func.jacrev(lambda t: soft_rank(t, STRENGTH))(theta)
    known = torch.where(block, 3 + (theta - theta[block].mean()) / STRENGTH, torch.tensor([0, 5, 0, 1, 0]))
    mask = block.double()
    slope = (mask.diag() - mask.outer(mask) / 3) / STRENGTH
    top = soft_top_k(theta, 2, STRENGTH)
    shared = torch.tensor([0.1, 0.0, 0.3, 0.0, 0.2], dtype=torch.float64)
    known_top = torch.where(block, (shared - 0.2) / STRENGTH + 1 / 3, torch.tensor([0, 1, 0, 0, 0]))
    print(f"Spearman's correlation of the learnt order: {learn_an_order():.4f}")
    pairs = {
        "soft ranks": (ranks, known),
        "derivative of soft ranks": (jacobian, slope),
        "sorted values": (soft_sort(theta, 0.01), theta.sort().values),
        "soft top-2": (top, known_top),
        "derivative of the top-2": (torch.func.jacrev(lambda t: soft_top_k(t, 2, STRENGTH))(theta), slope),
    }
    return {name: float((found - known).norm() / known.norm()) for name, (found, known) in pairs.items()}


def draw_picture(file: str) -> None:
    """The soft ranks of five values, one of which moves past the others, for three strengths."""
    from matplotlib.figure import Figure

    moving = torch.linspace(-4, 4, 300)
    values = torch.stack([moving, *[torch.full_like(moving, x) for x in (-2.0, -0.2, 0.2, 2.0)]], dim=1)
    figure = Figure((7, 2.6), layout="constrained")
    for axes, strength in zip(figure.subplots(1, 3, sharey=True), (0.05, 0.5, 2.0), strict=True):
        axes.plot(moving, soft_rank(values, strength))
        axes.set(title=f"strength {strength}", xlabel="first value")
    figure.axes[0].set(ylabel="soft ranks")
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:26s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])
