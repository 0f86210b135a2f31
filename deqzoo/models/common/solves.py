"""What the solves of a network's layers cost and reached, as numbers to log."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deqzoo.implicit import Solution
from deqzoo.nn import DEQ, NeuralODE, ProgramLayer, SolverLayer

OF_SAMPLES = DEQ, ProgramLayer  # layers with a residual for each sample


def forward_metrics(layers: Sequence[SolverLayer]) -> dict[str, Tensor]:
    """Of the forward solves of one batch:

    - ``nfe``: evaluations of the layer's function (of a program, of its optimality conditions), the largest over the
      layers;
    - of DEQ layers and programs: ``residual``, see `residuals`, its median over the samples, and ``unconverged``, the
      fraction of samples of which some layer did not meet its tolerance (a layer with ``batch_dims=0`` has one sample,
      the whole);
    - of programs: ``iterations`` of the solver, their mean over the samples, the largest over the layers;
    - of ODE layers: ``steps`` (accepted) and ``rejected``, the largest over the layers, and ``failed``, the fraction of
      solves (of samples, where each has its own steps) that did not reach the end of the interval.
    """
    solutions = _solutions(layers, SolverLayer)
    if not solutions:
        return {}
    metrics = {"nfe": largest_nfe(solutions)}
    if (of_each := residuals(layers)) is not None:
        metrics |= {"residual": of_each.median(), "unconverged": _unconverged(_solutions(layers, OF_SAMPLES))}
    if programs := _solutions(layers, ProgramLayer):
        metrics["iterations"] = torch.stack([solution.steps.float().mean() for solution in programs]).max()
    if odes := _solutions(layers, NeuralODE):
        failed = torch.cat([~solution.converged.reshape(-1) for solution in odes])
        metrics |= {
            "steps": torch.stack([solution.steps.max() for solution in odes]).max().float(),
            "rejected": torch.stack([torch.as_tensor(solution.rejected).max() for solution in odes]).max().float(),
            "failed": failed.float().mean(),
        }
    return metrics


def backward_metrics(layers: Sequence[SolverLayer]) -> dict[str, Tensor]:
    """Of the backward solves of a batch: ``nfe_backward``, and of DEQ layers and programs ``residual_backward``.

    {} if none ran.
    """
    adjoint = [solution.backward for solution in _solutions(layers, SolverLayer) if solution.backward is not None]
    if not adjoint:
        return {}
    metrics = {"nfe_backward": largest_nfe(adjoint)}
    of_samples = [solution.backward for solution in _solutions(layers, OF_SAMPLES) if solution.backward is not None]
    if of_samples:
        metrics["residual_backward"] = torch.stack([solution.residual for solution in of_samples]).amax(0).median()
    return metrics


def residuals(layers: Sequence[SolverLayer]) -> Tensor | None:
    """The residual of each sample of the last batch, the largest over the layers that have one; None: none has."""
    solutions = _solutions(layers, OF_SAMPLES)
    found = [solution.residual.reshape(-1) for solution in solutions]
    return torch.stack(found).amax(0) if found else None


def largest_nfe(solutions: Sequence[Solution]) -> Tensor:
    """The most evaluations of a function, where the solves took place: what is logged stands on one device.

    A tensor made of a number by a kernel: a copy to the device would wait for it.
    """
    return torch.full((), float(max(solution.nfe for solution in solutions)), device=solutions[0].status.device)


def _unconverged(equilibria: Sequence[Solution]) -> Tensor:
    return 1.0 - torch.stack([solution.converged for solution in equilibria]).all(0).float().mean()


def _solutions(
    layers: Sequence[SolverLayer], sort: type[SolverLayer] | tuple[type[SolverLayer], ...]
) -> list[Solution]:
    found = [layer.solution for layer in layers if isinstance(layer, sort)]
    return [solution for solution in found if solution is not None]
