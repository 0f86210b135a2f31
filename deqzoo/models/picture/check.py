"""Are pictures represented as well by equilibria as by several layers, and do the solves converge?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deqzoo.data.pictures import LICENCES
from deqzoo.models.common.images import psnr_of
from deqzoo.models.common.kind import Trained
from deqzoo.models.picture.module import squared_errors
from deqzoo.models.picture.network import Pictures
from deqzoo.nn import use_solver

BELOW = 0.5  # dB: at most, below the baseline
STEPS = 1, 2, 4, 8, 16, 32, 64  # over which the PSNR is measured


@torch.no_grad()
def picture_check(trained: Trained) -> dict[str, Any]:
    """Measure a `deqzoo.models.ImplicitPictures` on all pixels.

    Returns:
        ``psnr``: by width and picture, dB. ``parameters``: of the network of one picture, by width.
        ``converged``: the share of solves that met the solver's tolerance ``tol``, over pixels, pictures and widths;
            ``residual``: the largest of them all; ``nfe``: the most evaluations.
        ``over_steps``: mean PSNR by width for the budgets `STEPS`, with the tolerance 0.
        ``spectral_radius``: the largest of df/dz at the equilibria of 16 pixels of each network.
        ``baseline``: of the shipped baseline, its name, ``psnr``, ``parameters`` and the cost of its training.
    """
    network: Any = trained.network
    places, colours = pixels(trained)
    result: dict[str, Any] = {"psnr": by_width(network, places, colours), "parameters": sizes(network)}
    solutions = [layer.solution for layer in network.equilibria]
    result |= {
        "n": len(places),
        "tol": network.equilibria[0].solver.tol,
        "converged": torch.stack([solution.converged.float().mean() for solution in solutions]).mean().item(),
        "residual": max(float(solution.residual.max()) for solution in solutions),
        "nfe": max(solution.nfe for solution in solutions),
        "over_steps": over_steps(network, places, colours, STEPS),
    }
    few = places[:: max(1, len(places) // 16)]
    fields = [field for row in network.fields for field in row]
    radii = [field.deq.spectral_radius(field.inject(few), field.deq(field.inject(few))).max() for field in fields]
    result["spectral_radius"] = float(torch.stack(radii).max())
    if baseline := trained.find_baseline(trained.settings.baseline):
        other: Any = baseline.load(trained.device)
        found = {"psnr": by_width(other, places, colours), "parameters": sizes(other)}
        costs = baseline.costs()
        result["baseline"] = {"entry": baseline.entry, **found, "steps": costs["steps"], "time": costs["time"]}
    return result


def pixels(trained: Trained) -> tuple[Tensor, Tensor]:
    """All places and their colours."""
    places, colours = zip(*trained.test_batches(), strict=True)
    return torch.cat(places), torch.cat(colours)


def by_width(network: Pictures, places: Tensor, colours: Tensor) -> dict[str, dict[str, float]]:
    """The PSNR of each picture, by width."""
    found = psnr_of(squared_errors(network(places), colours)).tolist()
    rows = (dict(zip(network.pictures, row, strict=True)) for row in found)
    return dict(zip(map(str, network.widths), rows, strict=True))


def sizes(network: Pictures) -> dict[str, int]:
    """Parameters of the network of one picture, by width."""
    return {str(width): network.parameters_of(width) for width in network.widths}


def over_steps(network: Any, places: Tensor, colours: Tensor, steps: Sequence[int]) -> dict[str, dict[str, float]]:
    """Mean PSNR over the pictures, by width and by most steps of a solve; tolerance 0."""
    found: dict[str, dict[str, float]] = {str(width): {} for width in network.widths}
    solver = network.equilibria[0].solver
    for most in steps:
        with use_solver(network, dataclasses.replace(solver, max_steps=most, tol=0.0, patience=most + 1)):
            for width, row in by_width(network, places, colours).items():
                found[width][str(most)] = mean(row)
    return found


def mean(row: Mapping[str, float]) -> float:
    """Over the pictures."""
    return sum(row.values()) / len(row)


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of a `picture_check`: check, measured, required."""
    rows, baseline = [], check.get("baseline")
    for index, (width, row) in enumerate(check["psnr"].items()):
        what = f"PSNR of each picture, {check['parameters'][width]:,} parameters each"
        told = ", ".join(f"{name} {value:.2f} dB" for name, value in row.items())
        rows.append((what, f"{told}; mean {mean(row):.2f} dB", ""))
        if baseline and len(baseline["psnr"]) == len(check["psnr"]):
            other = list(baseline["psnr"])[index]
            theirs = baseline["psnr"][other]
            gaps = ", ".join(f"{name} {row[name] - theirs[name]:+.2f} dB" for name in row if name in theirs)
            what = f"beside `{baseline['entry']}`, {baseline['parameters'][other]:,} parameters each"
            rows.append((what, f"{gaps}; its mean {mean(theirs):.2f} dB", f"each at least -{BELOW:g} dB"))
    solves = f"{check['converged']:.2%}, largest residual {check['residual']:.1e}, at most {check['nfe']} evaluations"
    rows.append((f"solves that converged to {check['tol']:g}, of all pixels, pictures and widths", solves, ""))
    curve = list(check["over_steps"].values())[-1]
    told = ", ".join(f"{value:.2f} dB at {steps}" for steps, value in curve.items())
    rows.append(("mean PSNR over steps of a solve, the largest width", told, ""))
    rows.append(("largest spectral radius of df/dz, at 16 pixels", f"{check['spectral_radius']:.2f}", ""))
    return rows


def check_text(check: Mapping[str, Any]) -> str:
    """What the numbers of the card mean."""
    text = (
        f"PSNR is that of all {check['n']:,} pixels of a picture, which are those of the training: a picture is "
        f"represented, and nothing is predicted. The pictures are small, and are not those of the paper ({LICENCES}). "
        "Where the bound of the matrices is above 1, that the iteration converges is measured, not proved. "
        "In the table above, a pixel counts as not converged where any of its solves, one a picture and width, is not."
    )
    if baseline := check.get("baseline"):
        text += (
            f" The baseline had {baseline['steps']:,} steps, in {baseline['time']:.0f} s. The comparison is at equal "
            "parameters, steps and pixels a step, not at equal time; the learning rate of each is its own."
        )
    return text
