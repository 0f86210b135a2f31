"""Does a well-posed equilibrium do the work, and is it reached? What an entry must show to count as a DEQ."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.implicit import Anderson, FixedPointSolver, Picard
from deqzoo.models.baseline import baseline_row
from deqzoo.models.deq_check import GAP, RESIDUAL, SHARE, Batches, share_of_flops
from deqzoo.nn import ImageClassifier, solver_layers, use_solver
from deqzoo.nn.deq import recorded_residuals
from deqzoo.nn.layer import use_options

STATE_SHARE = 0.6  # of the parameters, that act on the state
BUDGET = 12  # evaluations
TIGHT = Picard(tol=1e-4, max_steps=29)
SECOND = Anderson(tol=1e-5, max_steps=60)  # the other solver


def contractive_check(network: ImageClassifier, batches: Batches) -> dict[str, Any]:
    """Measure it on all the images of `batches`; f(z, x) = relu(W z + U x + b) is a stage, with its injection.

    Returns:
        ``parameter_share``, ``state_share``: of the stages, and of what acts on the state, in all parameters.
        ``flop_share``, ``flop_share_used``: of the stages in all FLOPs, with U x computed once and 12 evaluations, or
            as many as the network's own solver takes.
        ``certified``: each cell has a Lipschitz constant that is proved to lie below one.
        ``unconverged``, ``median_residual``, ``largest_residual``: of the network's own solver, relative, of each image
            in the stage where it is worst.
        ``nfe``: its evaluations, the largest over the stages, the mean over the batches.
        ``accuracy``, ``accuracy_tight``, ``accuracy_one_step``: with it, with `TIGHT`, and of one application.
        ``unconverged_tight``: the fraction above 1e-4 within 30 evaluations.
        ``disagreements``: images that are labelled otherwise by `SECOND`.
        ``n``: images. ``passed``: shares of 80, 80 and 60 % at least, every cell certified, every residual at most 1e-2
            within 12 evaluations, and the accuracies within .2 points (or one image).
    """
    batches = list(batches)
    own = _run(network, batches)
    tight = _run(network, batches, TIGHT)
    second = _run(network, batches, SECOND)
    once = _run(network, batches, Picard(tol=0.0, max_steps=1))
    labels = torch.cat([labels for _, labels in batches]).cpu()
    few = batches[0][0][:64]
    state = [p for layer in network.equilibria for p in layer.cell.parameters()]
    result: dict[str, Any] = {
        "parameter_share": _count(network.body.parameters()) / _count(network.parameters()),
        "state_share": _count(state) / _count(network.parameters()),
        "flop_share": _flop_share(network, few, Picard(tol=0.0, max_steps=BUDGET - 1)),
        "flop_share_used": _flop_share(network, few),
        "certified": all(layer.certified for layer in network.equilibria),
        "unconverged": (own["residual"] > RESIDUAL).double().mean().item(),
        "median_residual": own["residual"].median().item(),
        "largest_residual": own["residual"].max().item(),
        "nfe": own["nfe"],
        "accuracy": (own["labels"] == labels).double().mean().item(),
        "accuracy_tight": (tight["labels"] == labels).double().mean().item(),
        "accuracy_one_step": (once["labels"] == labels).double().mean().item(),
        "unconverged_tight": (tight["residual"] > TIGHT.tol).double().mean().item(),
        "disagreements": int((own["labels"] != second["labels"]).sum()),
        "n": len(labels),
    }
    result["passed"] = (
        min(result["parameter_share"], result["flop_share"]) >= SHARE
        and result["state_share"] >= STATE_SHARE
        and result["certified"]
        and result["unconverged"] == 0
        and own["nfe"] <= BUDGET
        and abs(result["accuracy_tight"] - result["accuracy"]) <= max(GAP, 1.001 / len(labels))
    )
    return result


@torch.no_grad()
def _run(network: ImageClassifier, batches: Sequence[tuple[Tensor, Tensor]], solver: Any = None) -> dict[str, Any]:
    """Labels, largest residual over the stages (each of an evaluation of its own), and NFE; None: the own solver."""
    labels, residuals, nfe = [], [], []
    with _solved_by(network, solver), recorded_residuals(network.equilibria) as found:
        for images, _ in batches:
            found.clear()
            labels.append(network(images).argmax(1).cpu())
            residuals.append(torch.stack(found).amax(0).cpu())
            nfe.append(max(layer.solution.nfe for layer in network.equilibria if layer.solution is not None))
    return {"labels": torch.cat(labels), "residual": torch.cat(residuals), "nfe": sum(nfe) / len(nfe)}


@torch.no_grad()
def _flop_share(network: ImageClassifier, images: Tensor, solver: FixedPointSolver | None = None) -> float:
    """FLOPs of the stages over all of a forward pass."""
    with _solved_by(network, solver):
        network(images)  # the bound of the norm is found once, not in every pass
        return share_of_flops([network.body], lambda: network(images))


@contextmanager
def _solved_by(network: nn.Module, solver: FixedPointSolver | None) -> Iterator[None]:
    """Another solver, None: the own one, for the samples alone that have not converged; failures are counted."""
    options = use_options(solver_layers(network), on_failure="ignore", compact=True)
    with options, use_solver(network, solver) if solver else nullcontext():
        yield


def _count(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What a card and a run's end say of a `contractive_check`: check, measured, asked for."""
    n = check["n"]
    converged = n - round(check["unconverged"] * n)
    rows = [
        ("parameters in the equilibria and their injections", f"{100 * check['parameter_share']:.1f} %", ">= 80 %"),
        ("parameters that act on the state", f"{100 * check['state_share']:.1f} %", ">= 60 %"),
        ("FLOPs in both, at 12 NFE", f"{100 * check['flop_share']:.1f} %", ">= 80 %"),
        (
            f"FLOPs in both, at the NFE used ({check['nfe']:.1f})",
            f"{100 * check['flop_share_used']:.1f} %",
            "",
        ),
        ("each cell is certified to contract", "yes" if check["certified"] else "**no**", "yes"),
        ("converged to 1e-2 within 12 NFE", f"{converged:,} of {n:,}", "all"),
        (
            "residual, median and largest",
            f"{check['median_residual']:.1e}, {check['largest_residual']:.1e}",
            "<= 1e-2",
        ),
        ("above 1e-4 within 30 NFE", f"{round(check['unconverged_tight'] * n):,} of {n:,}", ""),
        ("labelled otherwise by Anderson to 1e-5", f"{check['disagreements']:,} of {n:,}", ""),
        ("accuracy", f"{100 * check['accuracy']:.2f} %", "within .2 points (or one image) of the next"),
        ("accuracy at tolerance 1e-4", f"{100 * check['accuracy_tight']:.2f} %", ""),
        (
            "ablation: these weights, each cell applied once",
            f"{100 * check['accuracy_one_step']:.2f} %",
            "the equilibrium matters",
        ),
        ("counts as a DEQ", "yes" if check["passed"] else "**no**", ""),
    ]
    if baseline := check.get("baseline"):
        rows.append(baseline_row(baseline, "test images"))
    return rows
