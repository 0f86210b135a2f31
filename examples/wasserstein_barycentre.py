"""The Wasserstein barycentre of histograms, as a constrained minimisation over transports.

    p = argmin  sum_k weight_k W(p, q_k) + eps sum p log p    over the simplex,
    W(p, q) = min_P  sum P C + eps KL(P, p q^T)    over P with marginals p and q

`sinkhorn` gives W and its gradient, `argmin` with `MirrorDescent` the barycentre. (With the entropy of p in the
objective the transports are regularised by their own entropy alone, as in the paper.) It is differentiable in turn: in
the weights, and in the histograms.

The known answers: the barycentre by iterative Bregman projections (Benamou et al., "Iterative Bregman Projections for
Regularized Transportation Problems", 2015), and the derivative in the weights by the differences of two of these.

Run: python examples/wasserstein_barycentre.py [PICTURE.png]
"""

import sys

import torch
from torch import Tensor

from deqzoo.implicit import LBFGS, MirrorDescent, Simplex, argmin, sinkhorn

EPS, BINS = 0.03, 20


def histograms() -> tuple[Tensor, Tensor]:
    """Two bumps on [0, 1] and the squared distances of their bins."""
    x = torch.linspace(0, 1, BINS, dtype=torch.float64)
    bumps = torch.stack([torch.exp(-(((x - mean) / width) ** 2)) for mean, width in ((0.25, 0.08), (0.7, 0.15))]) + 1e-3
    return bumps / bumps.sum(dim=1, keepdim=True), (x[:, None] - x) ** 2


def barycentre(weights: Tensor, q: Tensor, cost: Tensor) -> Tensor:
    """p, a differentiable function of weights and histograms."""

    def objective(p: Tensor, weights: Tensor, q: Tensor) -> Tensor:
        costs = cost.expand(len(q), BINS, BINS)
        # q on the side of the unknowns: p may come near to 0
        values = sinkhorn(costs, q, p.expand(len(q), BINS), epsilon=EPS, solver=LBFGS(tol=1e-12)).value
        return (weights * values).sum() + EPS * (p * p.log()).sum()

    start = torch.full((BINS,), 1 / BINS, dtype=torch.float64)
    return argmin(objective, start, weights, q, constraint=Simplex(), solver=MirrorDescent(tol=1e-11))


def by_projections(weights: Tensor, q: Tensor, cost: Tensor) -> Tensor:
    """p by iterative Bregman projections, in the log domain."""
    kernel = -cost / EPS
    log_v = torch.zeros_like(q)
    for _ in range(3000):
        log_u = q.log() - torch.logsumexp(kernel + log_v[:, None], dim=2)
        columns = torch.logsumexp(kernel.T + log_u[:, None], dim=2)
        log_p = (weights[:, None] * columns).sum(dim=0)
        log_v = log_p - columns
    return log_p.exp()


def main() -> dict[str, float]:
    """Relative errors of the barycentre and of the gradient of its mean in the weights."""
    q, cost = histograms()
    weights = torch.tensor([0.6, 0.4], dtype=torch.float64, requires_grad=True)
    x = torch.linspace(0, 1, BINS, dtype=torch.float64)
    p = barycentre(weights, q, cost)
    (gradient,) = torch.autograd.grad((p * x).sum(), weights)
    direction = torch.tensor([1.0, -1.0], dtype=torch.float64)
    step = 1e-3
    with torch.no_grad():  # a difference of fourth order
        means = [(by_projections(weights + k * step * direction, q, cost) * x).sum() for k in (-2, -1, 1, 2)]
    known = (means[0] - 8 * means[1] + 8 * means[2] - means[3]) / (12 * step)
    pairs = {
        "barycentre": (p.detach(), by_projections(weights.detach(), q, cost)),
        "derivative in the weights": (gradient @ direction, known),
    }
    return {name: float((found - known).norm() / known.norm()) for name, (found, known) in pairs.items()}


def draw_picture(file: str) -> None:
    """From one histogram to the other by the weights."""
    from matplotlib.figure import Figure

    q, cost = histograms()
    figure = Figure((5, 3.2), layout="constrained")
    axes = figure.subplots()
    for share in torch.linspace(0, 1, 5, dtype=torch.float64):
        p = barycentre(torch.stack([1 - share, share]), q, cost).detach()
        axes.plot(torch.linspace(0, 1, BINS), p, color=(float(share), 0.2, 1 - float(share)), label=f"{share:.2f}")
    figure.legend(title="weight of the second", loc="outside right upper")
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:26s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])
