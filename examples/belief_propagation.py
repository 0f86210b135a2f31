"""Belief propagation on a tree and on a grid with loops, and how its marginals depend on the model.

    P(s) ~ exp(sum_ij J_ij s_i s_j + sum_i h_i s_i),    s_i = -1 or 1        (an Ising model)
    u_ij = atanh(tanh(J_ij) tanh(h_i + sum_k u_ki)),    k the neighbours of i but j
    m_i = tanh(h_i + sum_k u_ki),    the mean of s_i; P(s_i = 1) = (1 + m_i) / 2

The messages u are a fixed point, and `fixed_point` makes m a differentiable function of J and h.

The known answers: on a tree m is exact, so it is the mean by the sum over all 2^n states, and its derivatives are
dm_i/dh_j = cov(s_i, s_j), dm_i/dJ_jk = cov(s_i, s_j s_k). On the grid m is an approximation (Bethe's); there the
derivatives are compared with differences, and dm/dh is symmetric, since m is the gradient of Bethe's free energy.

Source: Pearl, "Probabilistic Reasoning in Intelligent Systems", 1988; Welling, Teh, "Linear Response Algorithms for
Approximate Inference in Graphical Models", 2004.

Run: python examples/belief_propagation.py [PICTURE.png]
"""

import sys

import torch
from torch import Tensor

from deqzoo.implicit import Picard, fixed_point

SIDE = 4
TREE = torch.tensor([[0, 1], [0, 2], [1, 3], [1, 4], [1, 5], [2, 6], [6, 7], [6, 8]])
CELLS = torch.arange(SIDE * SIDE).reshape(SIDE, SIDE)
GRID = torch.cat(
    [torch.stack([a.flatten(), b.flatten()], 1) for a, b in ((CELLS[:-1], CELLS[1:]), (CELLS.T[:-1], CELLS.T[1:]))]
)


def draw_model(edges: Tensor) -> tuple[Tensor, Tensor]:
    """J, of the edges, and h, of the nodes: neighbours like to agree, each has an inclination of its own."""
    generator = torch.Generator().manual_seed(0)
    J = 0.3 + 0.2 * torch.rand(len(edges), generator=generator, dtype=torch.float64)
    return J, 0.5 * torch.randn(int(edges.max()) + 1, generator=generator, dtype=torch.float64)


def means(J: Tensor, h: Tensor, edges: Tensor) -> Tensor:
    """m, (nodes,), by belief propagation."""
    start, end = torch.cat([edges, edges.flip(1)]).T  # of the messages: along each edge, then against it

    def fields(u: Tensor, h: Tensor) -> Tensor:
        return h.index_add(0, end, u)

    def update(u: Tensor, J: Tensor, h: Tensor) -> Tensor:
        against = u.roll(len(edges))  # the message from j to i, which does not count in that from i to j
        return torch.atanh(torch.tanh(torch.cat([J, J])) * torch.tanh(fields(u, h)[start] - against))

    u = fixed_point(update, J.new_zeros(len(start)), J, h, solver=Picard(tol=1e-15, max_steps=500))
    return torch.tanh(fields(u, h))


def by_enumeration(J: Tensor, h: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """m and its derivatives in J and h, (nodes, edges) and (nodes, nodes), by the sum over all states."""
    bits = torch.arange(2 ** len(h))[:, None] >> torch.arange(len(h)) & 1
    s = 2.0 * bits.double() - 1
    pairs = s[:, edges[:, 0]] * s[:, edges[:, 1]]
    p = torch.softmax(pairs @ J + s @ h, dim=0)[:, None]
    m, mean_pairs = (p * s).sum(dim=0), (p * pairs).sum(dim=0)
    return m, (p * s).T @ (pairs - mean_pairs), (p * s).T @ (s - m)


def differences(J: Tensor, h: Tensor, directions: Tensor) -> Tensor:
    """The derivatives of the grid's m along directions of (J, h), (directions, nodes), by differences."""
    step, x, found = 2e-3, torch.cat([J, h]), []
    for direction in step * directions:
        a, b, c, d = (means(*(x + k * direction).split([len(J), len(h)]), GRID) for k in (-2, -1, 1, 2))
        found.append((a - 8 * b + 8 * c - d) / (12 * step))
    return torch.stack(found)


def main() -> dict[str, float]:
    """Relative errors on the tree, by enumeration, and of the derivatives on the grid."""
    model = draw_model(TREE)
    known = by_enumeration(*model, TREE)
    by_J, by_h = torch.func.jacrev(means, argnums=(0, 1))(*model, TREE)
    pairs = {
        "tree: means": (means(*model, TREE), known[0]),
        "tree: derivatives in J": (by_J, known[1]),
        "tree: derivatives in h": (by_h, known[2]),
    }
    J, h = draw_model(GRID)
    by_J, by_h = torch.func.jacrev(means, argnums=(0, 1))(J, h, GRID)
    some = torch.randn(4, len(J) + len(h), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    some = some / some.norm(dim=1, keepdim=True)
    pairs["grid: derivatives by differences"] = some @ torch.cat([by_J, by_h], dim=1).T, differences(J, h, some)
    pairs["grid: symmetry"] = by_h, by_h.T
    off = (means(J, h, GRID) - by_enumeration(J, h, GRID)[0]).abs().max()
    print(f"on the grid, which has loops, the means are off by {off:.3f} at most")
    return {name: float((found - known).norm() / known.norm()) for name, (found, known) in pairs.items()}


def draw_picture(file: str) -> None:
    """Means beside the true ones, and how those of the grid follow the field of one node."""
    from matplotlib.figure import Figure

    figure = Figure((7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([-1, 1], [-1, 1], "k:")
    for name, edges in (("tree", TREE), ("grid", GRID)):
        model = draw_model(edges)
        left.plot(by_enumeration(*model, edges)[0], means(*model, edges), "o", label=name)
    left.set(xlabel="mean, by enumeration", ylabel="by belief propagation", aspect="equal")
    left.legend()
    response = torch.func.jacrev(means, argnums=1)(*draw_model(GRID), GRID)[:, CELLS[1, 1]]
    image = right.imshow(response.reshape(SIDE, SIDE), cmap="viridis", vmin=0)
    right.set(title="grid: derivatives in one field", xticks=[], yticks=[])
    figure.colorbar(image, ax=right)
    figure.savefig(file, dpi=90)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:32s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])
