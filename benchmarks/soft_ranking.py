"""Soft ranks beside torchsort's: a part of `optimisation.py` that runs alone, too."""

from __future__ import annotations

import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from benchmarks.problems import seeded
from benchmarks.side_by_side import Comparison, Row, SolutionAndGradient, Way, side_by_side
from deqzoo.implicit import soft_rank

_MISSING = ""
try:
    import torchsort
except ImportError as error:
    _MISSING = str(error)

SIZES = [(10, 1), (100, 64), (1_000, 64), (10_000, 8)]
QUICK = [(6, 2)]


def ranking_rows(quick: bool) -> list[Row]:
    """Ranks of Gaussian values of deviation n / 2, in float64, and the gradient of a random combination of them.

    So ranks near the middle are pooled in blocks of many sizes, and those at the ends are exact.
    """
    rows = []
    for n, batch in QUICK if quick else SIZES:
        with seeded():
            values, weights = torch.randn(2, batch, n, dtype=torch.float64)
            values *= n / 2

        def with_gradient(rank, values=values, weights=weights) -> SolutionAndGradient:
            leaf = values.clone().requires_grad_()
            ranks = rank(leaf)
            return ranks.detach(), torch.autograd.grad((ranks * weights).sum(), leaf)[0]

        ways: dict[str, Way] = {"deqzoo": lambda: with_gradient(soft_rank)}
        ways["torchsort"] = _MISSING or (lambda: with_gradient(torchsort.soft_rank))
        repeats = 1 if quick else max(1, 20_000 // (n * batch))
        rows += side_by_side(f"{n} values, batch {batch}", ways, _exact(values, weights), 1 if quick else 11, repeats)
    return rows


def _exact(values: Tensor, weights: Tensor) -> SolutionAndGradient:
    """By scikit-learn's isotonic regression: a rank is a score less its block's mean of (score - place)."""
    ranks, slopes = torch.empty_like(values), torch.empty_like(values)
    for row, (scores, weight) in enumerate(zip(values, weights, strict=True)):
        order = scores.argsort(descending=True)
        places = torch.arange(len(scores), 0, -1, dtype=scores.dtype)
        falling = IsotonicRegression(increasing=False).fit_transform(
            range(len(scores)), (scores[order] - places).numpy()
        )
        level = torch.as_tensor(falling)
        _, block = level.unique_consecutive(return_inverse=True)
        mean = torch.zeros_like(level).index_add(0, block, weight[order]) / block.bincount(minlength=len(level))
        ranks[row, order] = scores[order] - level
        slopes[row, order] = weight[order] - mean[block]
    return ranks, slopes


COMPARISON = Comparison("ranking", "Soft ranks: values and a gradient", ranking_rows, ("deqzoo", "torchsort"))

if __name__ == "__main__":
    raise SystemExit(COMPARISON.main(__doc__))
