"""Does the equilibrium do the work, and is it reached? What an entry must show to count as a DEQ."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.implicit import Anderson, Picard
from deqzoo.models.common.kind import Batches
from deqzoo.models.common.shares import (
    RESIDUAL,
    SHARE,
    STATE_SHARE,
    accuracies_agree,
    count,
    flop_share,
    parameter_share,
    solved_by,
)
from deqzoo.nn.deq import recorded_residuals

BUDGET = 12  # evaluations
TIGHT = {"tol": 1e-4, "max_steps": 29}  # of the network's own solver, for the accuracy of its equilibrium
SECOND = Anderson(tol=1e-5, max_steps=60)  # the other solver


def deq_check(network: nn.Module, batches: Batches) -> dict[str, Any]:
    """Measure it on all the images of `batches`; a stage is a cell with its injection.

    Returns:
        ``parameter_share``, ``state_share``: of the stages, and of what acts on the state, in all parameters.
        ``flop_share``, ``flop_share_used``: of the stages in all FLOPs, with U x computed once and 12 evaluations, or
            the number that the network's own solver takes.
        ``certified``: each cell has a Lipschitz constant that is proved to lie below one; None: none claims to.
        ``unconverged``, ``median_residual``, ``largest_residual``: of the network's own solver, relative, of each image
            in the stage where it is worst.
        ``nfe``: its evaluations, the largest over the stages, the mean over the batches.
        ``accuracy``, ``accuracy_tight``, ``accuracy_one_step``: with it, with it at `TIGHT`, and of one application.
        ``unconverged_tight``: the fraction above 1e-4 within 30 evaluations.
        ``disagreements``: images that are labelled otherwise by `SECOND`.
        ``n``: images. ``passed``: shares of 80, 80 and 60 % at least, every cell that claims it certified,
            every residual at most 1e-2 within 12 evaluations, and the accuracies within .2 points (or one image).
    """
    chosen = list(batches)
    layers: Any = network.equilibria
    own = _run(network, chosen)
    fixed = getattr(layers[0].solver, "stop", None) == "never"  # steps: here they stop at the tolerance
    tight = _run(network, chosen, dataclasses.replace(layers[0].solver, **TIGHT, **({"stop": "rel"} if fixed else {})))
    second = _run(network, chosen, SECOND)
    once = _run(network, chosen, Picard(tol=0.0, max_steps=1))
    labels = torch.cat([labels for _, labels in chosen]).cpu()
    few = chosen[0][0][:64]  # a batch, as some of the work may be done once per batch
    stages, bounded = _stages(network), [layer for layer in layers if hasattr(layer.cell, "lipschitz")]
    result: dict[str, Any] = {
        "parameter_share": count(p for stage in stages for p in stage.parameters()) / count(network.parameters()),
        "state_share": parameter_share(network),
        "flop_share": flop_share(network, stages, few, Picard(tol=0.0, max_steps=BUDGET - 1)),
        "flop_share_used": flop_share(network, stages, few),
        "certified": all(layer.certified for layer in bounded) if bounded else None,
        "unconverged": (own["residual"] > RESIDUAL).double().mean().item(),
        "median_residual": own["residual"].median().item(),
        "largest_residual": own["residual"].max().item(),
        "nfe": own["nfe"],
        "accuracy": (own["labels"] == labels).double().mean().item(),
        "accuracy_tight": (tight["labels"] == labels).double().mean().item(),
        "accuracy_one_step": (once["labels"] == labels).double().mean().item(),
        "unconverged_tight": (tight["residual"] > TIGHT["tol"]).double().mean().item(),
        "disagreements": int((own["labels"] != second["labels"]).sum()),
        "n": len(labels),
    }
    result["passed"] = (
        min(result["parameter_share"], result["flop_share"]) >= SHARE
        and result["state_share"] >= STATE_SHARE
        and result["certified"] is not False
        and result["unconverged"] == 0
        and own["nfe"] <= BUDGET
        and accuracies_agree(result["accuracy"], result["accuracy_tight"], len(labels))
    )
    return result


@torch.no_grad()
def _run(network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], solver: Any = None) -> dict[str, Any]:
    """Labels, largest residual over the stages (each of an evaluation of its own), and NFE; None: the own solver.

    A residual that is not finite counts as infinite.
    """
    labels, residuals, nfe = [], [], []
    layers: Any = network.equilibria
    with solved_by(network, solver), recorded_residuals(layers) as found:
        for images, _ in batches:
            found.clear()
            labels.append(network(images).argmax(1).cpu())
            residuals.append(torch.stack(found).amax(0).nan_to_num(nan=torch.inf).cpu())
            nfe.append(max(layer.solution.nfe for layer in layers if layer.solution is not None))
    return {"labels": torch.cat(labels), "residual": torch.cat(residuals), "nfe": sum(nfe) / len(nfe)}


def _stages(network: nn.Module) -> list[nn.Module]:
    """The equilibria, with their injections where the network keeps these together."""
    return [network.body] if hasattr(network, "body") else [*network.entries, *network.stages]  # type: ignore[list-item, misc]


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of a `deq_check`, and of the ``baseline`` beside it: check, measured, required.

    That of an earlier version, which measured less, has fewer rows; ``python -m deqzoo measure`` makes it anew.
    """
    rows = [row(check) for measured, row in _ROWS if check.get(measured) is not None]
    if baseline := check.get("baseline"):
        rows.append(baseline_row(baseline, "test images"))
    return rows


def baseline_row(found: Mapping[str, Any], tested: str) -> tuple[str, str, str]:
    """What the card says of a baseline, measured on the ``tested``."""
    cost = f"{found['parameters']:,} parameters, {found['steps']:,} steps"
    return f"baseline `{found['entry']}` ({cost}), all {tested}", f"{100 * found['accuracy']:.2f} %", ""


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _images(check: Mapping[str, Any], share: float) -> str:
    return f"{round(share * check['n']):,} of {check['n']:,}"


_ROWS: tuple[tuple[str, Callable[[Mapping[str, Any]], tuple[str, str, str]]], ...] = (  # by what they need
    (
        "parameter_share",
        lambda c: ("parameters in the equilibria and their injections", _percent(c["parameter_share"]), ">= 80 %"),
    ),
    ("state_share", lambda c: ("parameters that act on the state", _percent(c["state_share"]), ">= 60 %")),
    ("flop_share", lambda c: ("FLOPs in both, at 12 NFE", _percent(c["flop_share"]), ">= 80 %")),
    (
        "flop_share_used",
        lambda c: (f"FLOPs in both, at the NFE used ({c['nfe']:.1f})", _percent(c["flop_share_used"]), ""),
    ),
    ("certified", lambda c: ("each cell is certified to contract", "yes" if c["certified"] else "**no**", "yes")),
    (
        "unconverged",
        lambda c: (
            f"converged to 1e-2 within {max(BUDGET, math.ceil(c['nfe']))} NFE",
            _images(c, 1 - c["unconverged"]),
            f"all, within {BUDGET} NFE",
        ),
    ),
    (
        "largest_residual",
        lambda c: (
            "residual, median and largest",
            f"{c['median_residual']:.1e}, {c['largest_residual']:.1e}",
            "<= 1e-2",
        ),
    ),
    ("unconverged_tight", lambda c: ("above 1e-4 within 30 NFE", _images(c, c["unconverged_tight"]), "")),
    (
        "disagreements",
        lambda c: ("labelled otherwise by Anderson to 1e-5", f"{c['disagreements']:,} of {c['n']:,}", ""),
    ),
    ("accuracy", lambda c: ("accuracy", _percent(c["accuracy"], 2), "within .2 points (or one image) of the next")),
    ("accuracy_tight", lambda c: ("accuracy at tolerance 1e-4", _percent(c["accuracy_tight"], 2), "")),
    (
        "accuracy_one_step",
        lambda c: (
            "ablation: these weights, each cell applied once",
            _percent(c["accuracy_one_step"], 2),
            "the equilibrium matters",
        ),
    ),
    ("unconverged", lambda c: ("counts as a DEQ", "yes" if c["passed"] else "**no**", "")),
)
