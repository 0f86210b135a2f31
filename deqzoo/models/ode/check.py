"""Is it the ODE that classifies, or the steps that its solver happened to take?"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.implicit import Dopri5, Euler
from deqzoo.models.common.kind import Batches, first_batches
from deqzoo.models.common.shares import accuracies_agree
from deqzoo.nn import solver_layers, use_solver

TIGHT = 1e-5  # the tolerance at which the ODE counts as solved


@torch.no_grad()
def ode_check(network: nn.Module, batches: Batches, *, limit: int = 10_000) -> dict[str, Any]:
    """Measure it on the first ``limit`` test samples.

    Returns:
        ``accuracy``, ``nfe``: with the network's own solver.
        ``accuracy_tight``, ``nfe_tight``: with Dopri5 at rtol = atol = 1e-5.
        ``accuracy_one_step``: with one step of Euler's method for the whole interval, a residual block.
        ``n``: test samples. ``passed``: the first two accuracies are within .2 points (or one sample, where fewer than
            500 are tested): the model is the ODE, whichever solver computes it.
    """
    chosen = first_batches(batches, limit)
    accuracy, nfe = _accuracy(network, chosen)
    with use_solver(network, Dopri5(rtol=TIGHT, atol=TIGHT)):
        tight, nfe_tight = _accuracy(network, chosen)
    with use_solver(network, Euler()):
        one_step, _ = _accuracy(network, chosen)
    n = sum(len(labels) for _, labels in chosen)
    return {
        "accuracy": accuracy,
        "nfe": nfe,
        "accuracy_tight": tight,
        "nfe_tight": nfe_tight,
        "accuracy_one_step": one_step,
        "n": n,
        "passed": accuracies_agree(accuracy, tight, n),
    }


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of an `ode_check`: check, measured, required."""
    n = f"{check['n']:,} test samples"
    return [
        (f"accuracy, {n}", f"{100 * check['accuracy']:.2f} % at {check['nfe']:.0f} NFE", ""),
        (
            f"accuracy at tolerance 1e-5 (dopri5), {n}",
            f"{100 * check['accuracy_tight']:.2f} % at {check['nfe_tight']:.0f} NFE",
            "within .2 points (or one sample)",
        ),
        (
            f"ablation: these weights, one step of Euler's method, {n}",
            f"{100 * check['accuracy_one_step']:.2f} %",
            "",
        ),
        ("does not depend on its solver", "yes" if check["passed"] else "**no**", ""),
    ]


def _accuracy(network: nn.Module, batches: Batches) -> tuple[float, float]:
    """Accuracy, and the mean over the batches of the largest NFE over the layers."""
    right: list[Tensor] = []
    nfe: list[int] = []
    for inputs, labels in batches:
        right.append(network(inputs).argmax(1) == labels)
        nfe.append(max(layer.solution.nfe for layer in solver_layers(network) if layer.solution is not None))
    return torch.cat(right).double().mean().item(), sum(nfe) / len(nfe)
