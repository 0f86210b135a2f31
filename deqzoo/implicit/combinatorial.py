"""Combinatorial argmaxes in batches: what `Perturbed` can make differentiable.

Each takes scores (instances, *shape) and returns, of the same shape, the y of a finite set with the largest sum of
y times the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor


def best_choice(scores: Tensor) -> Tensor:
    """The largest of n entries, as a one-hot vector: scores (instances, n).

    >>> best_choice(torch.tensor([[0.1, 2.0, 0.3]]))
    tensor([[0., 1., 0.]])
    """
    return torch.nn.functional.one_hot(scores.argmax(dim=-1), scores.shape[-1]).to(scores)


def best_ranking(scores: Tensor) -> Tensor:
    """The ranks 1 (the smallest score), ..., n: scores (instances, n).

    >>> best_ranking(torch.tensor([[0.1, 2.0, 0.3]]))
    tensor([[1., 3., 2.]])
    """
    return scores.argsort(dim=-1).argsort(dim=-1).to(scores) + 1


def best_assignment(scores: Tensor) -> Tensor:
    """The assignment of rows to columns of the largest score, 0 or 1 each: scores (instances, m, n). Needs SciPy.

    Source: Crouse, "On implementing 2D rectangular assignment algorithms", 2016, in `scipy.optimize`.

    >>> best_assignment(torch.tensor([[[3.0, 2.0], [2.0, 0.0]]]))
    tensor([[[0., 1.],
             [1., 0.]]])
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError("best_assignment needs SciPy: pip install scipy") from error
    found = torch.zeros_like(scores, device="cpu")
    for chosen, score in zip(found, scores.cpu().numpy(), strict=True):
        rows, columns = linear_sum_assignment(score, maximize=True)
        chosen[rows, columns] = 1
    return found.to(scores.device)


def best_grid_path(scores: Tensor) -> Tensor:
    """The path of the largest score from the first to the last cell of a grid: scores (instances, rows, columns).

    A path goes down, to the right, or both at once; it is 1 on its cells. For a shortest path pass minus the costs.

    By dynamic programming, a row at a time: the gradient of the best score is the path.

    >>> best_grid_path(-torch.tensor([[[1.0, 9.0, 9.0], [1.0, 9.0, 9.0], [9.0, 1.0, 1.0]]]))
    tensor([[[1., 0., 0.],
             [1., 0., 0.],
             [0., 1., 1.]]])
    """
    with torch.enable_grad():
        leaf = scores.detach().requires_grad_()
        best = leaf[:, 0].cumsum(dim=1)
        for row in leaf.unbind(dim=1)[1:]:
            from_corner = torch.nn.functional.pad(best[:, :-1], (1, 0), value=-torch.inf)
            # From the row above, then any way to the right. Not `maximum`: its gradient at a tie is half of each path.
            entry = torch.where(best >= from_corner, best, from_corner)
            sums = row.cumsum(dim=1)
            best = sums + (entry - sums + row).cummax(dim=1).values
        (path,) = torch.autograd.grad(best[:, -1].sum(), leaf)
    return path
