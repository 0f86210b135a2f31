"""What the solves of a network's DEQ layers cost and reached, as numbers to log."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deqzoo.implicit import Solution


def forward_metrics(solutions: Sequence[Solution]) -> dict[str, Tensor]:
    """Of the forward solves of one batch, one solution a DEQ layer:

    - ``nfe``: evaluations of the cell, the largest over the layers (each runs its own cell);
    - ``residual``: median over the samples of the largest residual over the layers;
    - ``unconverged``: fraction of samples of which some layer did not meet its tolerance.
    """
    residual = torch.stack([solution.residual for solution in solutions]).amax(0)
    converged = torch.stack([solution.converged for solution in solutions]).all(0)
    return {
        "nfe": torch.tensor(float(max(solution.nfe for solution in solutions))),
        "residual": residual.median(),
        "unconverged": 1.0 - converged.float().mean(),
    }


def backward_metrics(solutions: Sequence[Solution]) -> dict[str, Tensor]:
    """Of the adjoint solves of one batch: ``nfe_backward``, ``residual_backward``; empty if none was run."""
    adjoint = [solution.backward for solution in solutions if solution.backward is not None]
    if not adjoint:
        return {}
    return {
        "nfe_backward": torch.tensor(float(max(solution.nfe for solution in adjoint))),
        "residual_backward": torch.stack([solution.residual for solution in adjoint]).amax(0).median(),
    }
