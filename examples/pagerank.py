"""Power iteration and PageRank: fixed points, and how they depend on a matrix and on links.

    x = M x / |M x|                  the leading eigenvector of a symmetric M, its eigenvalue m = x^T M x
    p = d A p + (1 - d) / n          PageRank: A = W / column sums of W, W_ij the weight of the link from j to i

`fixed_point` by plain iteration is the power method in both cases. The derivatives, for a loss <c, x> or <c, p>:

    dL/dM = x (m I - M)^+ c^T  (symmetric part),    m and x by a dense eigendecomposition
    dL/dA = d u p^T,    u = (I - d A)^-T c,         dL/dW_ij = (dL/dA_ij - sum_k dL/dA_kj A_kj) / column sum j

These are the known answers. The second tells which new link would raise the rank of a page most.

Source: Page, Brin, Motwani, Winograd, "The PageRank Citation Ranking: Bringing Order to the Web", 1999.

Run: python examples/pagerank.py [PICTURE.png]
"""

import sys

import torch
from torch import Tensor

from deqzoo.implicit import Picard, fixed_point

PAGES, DAMPING, PAGE = 12, 0.85, 7
POWER = Picard(tol=1e-14, max_steps=2000)  # the power method


def links() -> Tensor:
    """W, (PAGES, PAGES): each page links to its successor and to some others, the first ones more often."""
    generator = torch.Generator().manual_seed(0)
    likely = 0.5 / (1 + torch.arange(PAGES)).sqrt()
    W = (torch.rand(PAGES, PAGES, generator=generator) < likely[:, None]).double()
    W += torch.eye(PAGES, dtype=torch.float64).roll(1, dims=0)
    return W.clamp(max=1).fill_diagonal_(0)


def rank(W: Tensor) -> Tensor:
    """p(W), (PAGES,), which sums to 1."""
    uniform = torch.full((PAGES,), 1 / PAGES, dtype=torch.float64)
    return fixed_point(lambda p: DAMPING * (W / W.sum(dim=0)) @ p + (1 - DAMPING) / PAGES, uniform, solver=POWER)


def leading_eigenvector(M: Tensor) -> Tensor:
    """x(M), of norm 1, its sign such that it has a positive mean."""

    def step(x: Tensor) -> Tensor:
        return M @ x / torch.linalg.vector_norm(M @ x)

    return fixed_point(step, torch.ones(len(M), dtype=torch.float64), solver=POWER)


def known_rank(W: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """p and dL/dW by dense solves."""
    A = W / W.sum(dim=0)
    system = torch.eye(PAGES, dtype=torch.float64) - DAMPING * A
    p = torch.linalg.solve(system, torch.full((PAGES,), (1 - DAMPING) / PAGES, dtype=torch.float64))
    slope = DAMPING * torch.linalg.solve(system.T, c).outer(p)
    return p, (slope - (slope * A).sum(dim=0)) / W.sum(dim=0)


def known_eigenvector(M: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """x and the symmetric dL/dM by an eigendecomposition."""
    values, vectors = torch.linalg.eigh(M)
    x = vectors[:, -1] * vectors[:, -1].sum().sign()
    gaps = torch.where(values == values[-1], 0, 1 / (values[-1] - values))
    slope = (vectors * gaps @ vectors.T @ c).outer(x)
    return x, (slope + slope.T) / 2


def main() -> dict[str, float]:
    """Relative errors of eigenvector and ranks, and of the gradients of one of their entries."""
    c, W = torch.eye(PAGES, dtype=torch.float64)[PAGE], links()
    M, weights = (W + W.T).requires_grad_(), W.clone().requires_grad_()
    x, p = leading_eigenvector(M), rank(weights)
    (by_M,), (by_W,) = torch.autograd.grad(x @ c, M), torch.autograd.grad(p @ c, weights)
    free = (W[PAGE] == 0) & (c == 0)  # pages without a link to PAGE
    best = torch.where(free, by_W[PAGE], -torch.inf).argmax()
    more = W.clone()
    more[PAGE, best] = 1
    print(f"the best new link to page {PAGE} is from page {best}: rank {p[PAGE]:.4f} -> {rank(more)[PAGE]:.4f}")
    pairs = {
        "eigenvector": (x, known_eigenvector(M.detach(), c)[0]),
        "gradient of the eigenvector": ((by_M + by_M.T) / 2, known_eigenvector(M.detach(), c)[1]),
        "PageRank": (p, known_rank(W, c)[0]),
        "gradient of the PageRank": (by_W, known_rank(W, c)[1]),
    }
    return {name: float((found.detach() - known).norm() / known.norm()) for name, (found, known) in pairs.items()}


def draw_picture(file: str) -> None:
    """Pages on a circle, sized by rank, coloured by what a new link from them to `PAGE` is worth."""
    from matplotlib.figure import Figure

    W = links().requires_grad_()
    p = rank(W)
    (gradient,) = torch.autograd.grad(p[PAGE], W)
    worth = torch.where(W.detach()[PAGE] > 0, torch.nan, gradient[PAGE])
    worth[PAGE] = torch.nan
    angle = 2 * torch.pi * torch.arange(PAGES) / PAGES
    x, y = angle.sin(), angle.cos()
    figure = Figure((5.6, 3.8), layout="constrained")
    axes = figure.subplots()
    for i, j in W.nonzero().tolist():
        arrow = {"arrowstyle": "->", "color": "silver", "shrinkA": 8, "shrinkB": 8}
        axes.annotate("", (x[i], y[i]), (x[j], y[j]), arrowprops=arrow)
    axes.scatter(x, y, s=4000 * p.detach(), c="white", edgecolors="black")
    dots = axes.scatter(x, y, s=4000 * p.detach(), c=worth, cmap="viridis_r", edgecolors="black", zorder=3)
    for page in range(PAGES):
        axes.annotate(str(page), (1.3 * x[page], 1.3 * y[page]), ha="center", va="center")
    figure.colorbar(dots, label=f"derivative of the rank of page {PAGE}\nin a link from there")
    axes.set(
        title=f"size: rank; white: {PAGE} and what links to it", aspect="equal", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5)
    )
    axes.set_axis_off()
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:28s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])
