"""Does the iteration go on where the training has ended? Whole mazes over size and over evaluations of the cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deqzoo.data.maze_generator import Cells, Places, distances, without_dead_ends
from deqzoo.models.common.kind import Baseline, Trained
from deqzoo.models.puzzle.check import (
    SOLVED_RESIDUAL,
    Puzzles,
    over_nfe,
    percent,
    puzzle_sets,
    share_of,
    solved,
    split,
    standard_error,
)
from deqzoo.models.puzzle.maze_cell import GOAL, START, WALL

FACTORS = (0.5, 1, 2, 4)  # of the training's evaluations
BAR = 0.9  # whole mazes of twice the training's side, at least


@torch.no_grad()
def maze_check(trained: Trained) -> dict[str, Any]:
    """Measure a `deqzoo.models.MazeEquilibrium` on mazes of all sizes of its data.

    Returns:
        ``nfe``: evaluations of the cell in the training at most; those of the curve are half, 1, 2 and 4 times as many.
        ``budget``: the most that are done to meet the tolerance.
        ``side``, ``longest``: of the mazes of the training the largest side, and the most steps of a shortest path.
        ``sets``: by the sides of the mazes, from small to large, the numbers of `_measured`.
        ``baseline``: of the shipped baseline, its name, ``solved`` on the same sets, parameters, steps, time.
    """
    network: Any = trained.network
    nfe = trained.settings.depth + trained.settings.lead
    sets = sets_by_side(trained)
    training = trained.data.tensors[0][trained.data.parts["train"]]
    longest = int(path_lengths(*_places(training)).max())
    result: dict[str, Any] = {
        "nfe": nfe,
        "budget": network.deq.solver.max_steps,
        "side": training.shape[-1],
        "longest": longest,
        "sets": {str(side): _measured(network, mazes, nfe, longest) for side, mazes in sets.items()},
    }
    if baseline := trained.find_baseline(trained.settings.baseline):
        result["baseline"] = _of_baseline(baseline, sets, trained.device)
    return result


def sets_by_side(trained: Trained) -> dict[int, Puzzles]:
    """The test part and the further sets, by the side of their mazes, from small to large."""
    found = {mazes.shape[-1]: (mazes, paths) for mazes, paths in puzzle_sets(trained).values()}
    return dict(sorted(found.items()))


def path_lengths(free: Cells, start: Places, goal: Places) -> np.ndarray:
    """Steps from start to goal of each maze, (n,)."""
    lengths: np.ndarray = distances(free, start)[np.arange(len(free)), goal[:, 0], goal[:, 1]]
    return lengths


def share_right(network: Any, mazes: Puzzles) -> float:
    """The share of whole mazes that are right, of a network with or without an equilibrium."""
    right = torch.cat([solved(network, network(batch[0]), batch) for batch in split(mazes)])
    return right.double().mean().item()


def _measured(network: Any, mazes: Puzzles, nfe: int, longest: int) -> dict[str, Any]:
    """Of a set: what the network has right, and what there was to be found.

    ``n``; ``solved``, whole mazes that are right within the recipe's budget, with its ``standard_error``; ``over_nfe``;
    ``longer``, how many have a longer path than all of the training, and ``solved_of_longer``; ``converged``, the share
    that met the tolerance, and ``solved_of_converged``; ``steps``, the median of those it took these; of the solved
    ones ``residual``, the median, and ``settled``, the share with at most `SOLVED_RESIDUAL`. Of the mazes ``length``
    and ``most``, the mean and largest number of steps of a shortest path; ``one_path``, the share with one alone;
    ``dead_ends``, the share of which the paths are what is left when dead ends are filled.
    """
    found: list[list[Tensor]] = []
    for batch in split(mazes):
        right = solved(network, network(batch[0]), batch)
        solution = network.deq.solution
        found.append([t.cpu() for t in (right, solution.converged, solution.residual, solution.steps)])
    right, converged, residual, steps = (torch.cat(parts) for parts in zip(*found, strict=True))
    share = right.double().mean().item()
    places, paths = _places(mazes[0]), mazes[1].cpu().numpy()
    lengths = torch.from_numpy(path_lengths(*places))
    counts = [round(factor * nfe) for factor in FACTORS]
    return {
        "n": len(right),
        "solved": share,
        "standard_error": standard_error(share, len(right)),
        "over_nfe": {str(count): value for count, value in over_nfe(network, mazes, counts).items()},
        "longer": int((lengths > longest).sum()),
        "solved_of_longer": share_of(right[lengths > longest]),
        "converged": converged.double().mean().item(),
        "solved_of_converged": share_of(right[converged]),
        "steps": _median(steps[converged].double()),
        "residual": _median(residual[right]),
        "settled": share_of(residual[right] <= SOLVED_RESIDUAL),
        "length": lengths.double().mean().item(),
        "most": int(lengths.max()),
        "one_path": float((paths.sum((1, 2)) == lengths.numpy() + 1).mean()),
        "dead_ends": float((without_dead_ends(*places) == paths).all((1, 2)).mean()),
    }


def _of_baseline(baseline: Baseline, sets: Mapping[int, Puzzles], device: torch.device) -> dict[str, Any]:
    other = baseline.load(device)
    shares = {str(side): share_right(other, mazes) for side, mazes in sets.items()}
    return {"entry": baseline.entry, "solved": shares, **baseline.costs()}


def _places(mazes: Tensor) -> tuple[Cells, Places, Places]:
    """Where one can walk, and the starts and goals."""
    cells = mazes.cpu().numpy()
    start, goal = (np.argwhere(cells == code)[:, 1:] for code in (START, GOAL))
    return cells != WALL, start, goal


def _median(values: Tensor) -> float | None:
    return values.median().item() if len(values) else None


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of a `maze_check`: check, measured, required."""
    rows, baseline = [], check.get("baseline")
    for side, found in check["sets"].items():
        what = f"{side} x {side} cells"
        shown = f"{percent(found['solved'])} (standard error {100 * found['standard_error']:.2f})"
        if baseline:
            shown += f"; `{baseline['entry']}`: {percent(baseline['solved'][side])}"
        bar = f"at least {100 * BAR:.0f} %" if 2 * check["side"] <= int(side) <= 2 * check["side"] + 1 else ""
        rows.append((f"{what}, {found['n']:,} mazes: whole mazes right, at most {check['budget']} steps", shown, bar))
        curve = ", ".join(f"{percent(share)} at {count}" for count, share in found["over_nfe"].items())
        rows.append((f"{what}: over steps; in training at most {check['nfe']}", curve, ""))
        converged = (
            f"{percent(found['converged'])} converged, {percent(found['solved_of_converged'])} of these right; "
            f"{'none' if found['steps'] is None else round(found['steps'])} steps in the median"
        )
        rows.append((f"{what}: share that converged, and what of it is right", converged, ""))
        if found["residual"] is not None:
            settled = f"median {found['residual']:.1e}; {percent(found['settled'])} at most {SOLVED_RESIDUAL:g}"
            rows.append((f"{what}: residual of the mazes that are right", settled, f"at most {SOLVED_RESIDUAL:g}"))
        longer = f"{percent(found['solved_of_longer'])} of {found['longer']}"
        rows.append(
            (f"{what}: right, of paths of more than {check['longest']} steps, as no training maze has", longer, "")
        )
        facts = (
            f"{found['length']:.0f} steps in the mean, {found['most']} at most; one shortest path alone "
            f"{percent(found['one_path'])}; found by filling dead ends {percent(found['dead_ends'])}"
        )
        rows.append((f"{what}: the mazes themselves", facts, ""))
    if baseline:
        size = f"{baseline['parameters']:,} parameters, {baseline['steps']:,} steps, {baseline['time']:.0f} s"
        rows.append((f"baseline `{baseline['entry']}`: layers with weights of their own", size, ""))
    return rows


def check_text(check: Mapping[str, Any]) -> str:
    """What the numbers of the card mean."""
    side = check["side"]
    return (
        f"Trained on mazes of at most {side} x {side} cells. A maze is right if each of its cells is: asked for are "
        "the cells of a shortest path, of all of them where several are equally short. The mazes have loops, so that "
        "filling dead ends does not solve them. Built in are the maze (a cell hears its four neighbours, walls say "
        "nothing) and its symmetry (turned or mirrored, it has the same answer); nothing of distances. The cell is no "
        "contraction, and the iteration starts from zeros. The residual is |f(z) - z| / |f(z)|. The baseline has the "
        "same cell, told the same, in a fixed number of layers with weights of their own, and about as many parameters "
        "in all: each layer is narrower, and none is used twice."
    )
