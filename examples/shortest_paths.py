"""Structured prediction: the costs of terrains, learnt from shortest paths on maps alone.

A map (SIDE, SIDE) has a terrain in each cell, which costs c_k > 0 to enter. Given are maps and their shortest paths
from corner to corner, but no costs. The path is a vector of 0 and 1, piecewise constant in the costs, so that its
derivative is of no use; the mean path under noise has one, and its Fenchel-Young loss

    L(w) = E max_path <path, -cost(w) + sigma Z> + <path of the map, cost(w)>,    dL/dcost = path of the map - mean path

is convex in w and needs the shortest paths of perturbed costs alone. (Only the ratios of costs can be found.)

The known answers: the paths' lengths by Dijkstra's algorithm (SciPy); the gradient by differences of the loss, which
for fixed draws is piecewise linear in the costs; and, on the maps that were learnt from, the true costs of the paths by
the learnt costs: those of the shortest paths.

Source: Berthet et al., "Learning with Differentiable Perturbed Optimizers", 2020, section 5.3.

Run: python examples/shortest_paths.py [PICTURE.png]
"""

import sys

import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from deqzoo.implicit import Perturbed, best_grid_path

SIDE, COSTS = 10, (1.0, 2.2, 3.7, 7.5)


def draw_maps(count: int, seed: int) -> Tensor:
    """Terrains as one-hot vectors, (count, SIDE, SIDE, 4), in patches: the quartiles of a smoothed noise."""
    noise = torch.randn(
        count, 1, SIDE + 2, SIDE + 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1)[:, 0]
    edges = smooth.quantile(torch.tensor([0.25, 0.5, 0.75]).double())
    return torch.nn.functional.one_hot(torch.bucketize(smooth, edges), 4).double()


def true_costs(maps: Tensor) -> Tensor:
    """Of the cells, (count, SIDE, SIDE)."""
    return maps @ torch.tensor(COSTS, dtype=torch.float64)


def loss(w: Tensor, maps: Tensor, paths: Tensor, seed: int, samples: int = 4) -> Tensor:
    """The Fenchel-Young loss of the costs softplus(w), a mean over maps."""
    costs = maps @ torch.nn.functional.softplus(w)
    return Perturbed(best_grid_path, samples, sigma=0.2, batch_dims=1, seed=seed).loss(-costs, paths).mean()


def learn(maps: Tensor) -> tuple[Tensor, int]:
    """Costs, the first of them 1, by which the paths of all maps are shortest ones; and the steps it took."""
    paths = best_grid_path(-true_costs(maps))
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=0.2)
    for step in range(1000):
        costs = torch.nn.functional.softplus(w.detach())
        if excess(costs, maps) < 1e-12:
            break
        optimizer.zero_grad()
        loss(w, maps, paths, seed=step).backward()
        optimizer.step()
    return costs / costs[0], step


def excess(costs: Tensor, maps: Tensor) -> float:
    """True costs of the paths that are shortest by `costs`, beyond those of the shortest ones, relatively."""
    truth, found = true_costs(maps), best_grid_path(-(maps @ costs))
    shortest = (truth * best_grid_path(-truth)).sum()
    return float(((truth * found).sum() - shortest) / shortest)


def by_dijkstra(costs: Tensor) -> float:
    """The cost of the shortest path of one map, over its graph."""
    cells = torch.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    ways = [(cells[:-1], cells[1:]), (cells[:, :-1], cells[:, 1:]), (cells[:-1, :-1], cells[1:, 1:])]
    start, end = (torch.cat([way[k].flatten() for way in ways]) for k in (0, 1))
    graph = csr_array((costs.flatten()[end].numpy(), (start.numpy(), end.numpy())), shape=(SIDE**2, SIDE**2))
    return float(costs[0, 0]) + dijkstra(graph, indices=0)[-1]


def main() -> dict[str, float]:
    """Relative errors of path lengths and of the gradient; the excess of paths by the costs that were learnt."""
    maps = draw_maps(20, seed=2)
    truth = true_costs(maps)
    paths = best_grid_path(-truth)
    lengths, known = (truth * paths).sum(dim=(1, 2)), torch.tensor([by_dijkstra(one) for one in truth]).double()
    w = torch.tensor([0.1, 0.9, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(w, maps, paths, seed=0), w)
    small = 1e-5 * torch.eye(4, dtype=torch.float64)
    with torch.no_grad():
        ends = torch.stack([torch.stack([loss(w + sign * d, maps, paths, seed=0) for sign in (1, -1)]) for d in small])
    differences = (ends[:, 0] - ends[:, 1]) / 2e-5
    learnt_from, others = draw_maps(60, seed=0), draw_maps(200, seed=1)
    costs, steps = learn(learnt_from)
    print("costs: learnt " + " ".join(f"{c:.2f}" for c in costs) + ", true " + " ".join(f"{c:.2f}" for c in COSTS))
    print(f"after {steps} steps; paths on other maps cost {excess(costs, others):.2%} more than the shortest ones")
    return {
        "lengths by Dijkstra": float((lengths - known).norm() / known.norm()),
        "gradient by differences": float((gradient - differences).norm() / differences.norm()),
        "excess of the paths": abs(excess(costs, learnt_from)),
    }


def draw_picture(file: str) -> None:
    """A map, its shortest path, and the mean paths by the learnt costs under more and more noise."""
    from matplotlib.figure import Figure

    one, costs = draw_maps(6, seed=1)[5:], learn(draw_maps(60, seed=0))[0]
    figure = Figure((7.5, 2.3), layout="constrained")
    axes = figure.subplots(1, 4)
    axes[0].imshow(true_costs(one)[0], cmap="terrain")
    axes[0].set_title("costs")
    axes[1].imshow(best_grid_path(-true_costs(one))[0], cmap="Greys")
    axes[1].set_title("shortest path")
    for ax, sigma in zip(axes[2:], (0.5, 2.0), strict=True):
        ax.imshow(Perturbed(best_grid_path, 200, sigma, batch_dims=1, seed=0)(-(one @ costs))[0], cmap="Greys")
        ax.set_title(f"learnt, noise {sigma:g}")
    for ax in axes:
        ax.set_axis_off()
    figure.savefig(file, dpi=90)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:26s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])
