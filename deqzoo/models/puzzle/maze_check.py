"""Does value iteration go on where the training has ended? Whole mazes over size and over evaluations of the cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deqzoo.data.maze_generator import Cells, Places, distances, shortest_paths, without_dead_ends
from deqzoo.models.common.kind import Baseline, Trained
from deqzoo.models.puzzle.check import Puzzles, over_nfe, percent, puzzle_sets, share_of, solved, split, standard_error
from deqzoo.models.puzzle.maze_cell import GOAL, START, WALL
from deqzoo.models.puzzle.maze_moves import moves_right
from deqzoo.nn.layer import use_options

COUNTS = 16, 32, 64, 128, 256, 512  # evaluations of the curves
BAR = 0.9  # whole mazes of twice the training's side, at least


@torch.no_grad()
def maze_check(trained: Trained) -> dict[str, Any]:
    """Measure a `deqzoo.models.MazePlanner` on mazes of all sizes of its data.

    Returns:
        ``budget``: the most evaluations that are done to meet the tolerance.
        ``side``, ``longest``: of the mazes of the training the largest side, and the most steps of a shortest path.
        ``sets``: by the sides of the mazes, from small to large, the numbers of `_measured`.
        ``baselines``: of the shipped ones, by name, ``solved`` on the same sets, parameters, steps, time; of one that
        iterates a fixed number of times, ``steps_taken``, and ``solved_iterated``: by as many as this network takes.
    """
    network: Any = trained.network
    sets = sets_by_side(trained)
    training = trained.data.tensors[0][trained.data.parts["train"]]
    longest = int(path_lengths(training).max())
    found = {entry: trained.find_baseline(entry) for entry in trained.settings.baselines}
    return {
        "budget": network.deq.solver.max_steps,
        "side": training.shape[-1],
        "longest": longest,
        "sets": {str(side): _measured(network, mazes, longest) for side, mazes in sets.items()},
        "baselines": {
            entry: _of_baseline(baseline, network, sets, trained.device)
            for entry, baseline in found.items()
            if baseline
        },
    }


def sets_by_side(trained: Trained) -> dict[int, Puzzles]:
    """The test part and the further sets, by the side of their mazes, from small to large."""
    found = {puzzles[0].shape[-1]: puzzles for puzzles in puzzle_sets(trained).values()}
    return dict(sorted(found.items()))


def path_lengths(mazes: Tensor) -> np.ndarray:
    """Steps from start to goal of each maze, (n,)."""
    free, start, goal = _places(mazes)
    lengths: np.ndarray = distances(free, start)[np.arange(len(free)), goal[:, 0], goal[:, 1]]
    return lengths


def share_right(network: Any, mazes: Puzzles) -> float:
    """The share of whole mazes that are right, of a network with or without an equilibrium."""
    right = torch.cat([solved(network, network(batch[0]), batch) for batch in split(mazes)])
    return right.double().mean().item()


def _measured(network: Any, mazes: Puzzles, longest: int) -> dict[str, Any]:
    """Of a set: what the network has right, and what there was to be found.

    ``n``; ``solved``, whole mazes that are right within the recipe's budget, with its ``standard_error``; ``cells``, of
    all cells the share with an optimal move; ``over_nfe``; ``longer``, how many have a longer path than all of the
    training, and ``solved_of_longer``; ``converged``, the share that met the tolerance; ``steps`` and ``most_steps``,
    the median and the largest number of those taken; ``residual``, the median. Of the mazes ``length`` and ``most``,
    the mean and largest number of steps of a shortest path; ``one_path``, the share with one alone; ``dead_ends``, the
    share of which the paths are what is left when dead ends are filled.
    """
    found: list[list[Tensor]] = []
    cells: list[Tensor] = []
    for batch in split(mazes):
        scores, optimal = network(batch[0]), batch[1]
        solution = network.deq.solution
        right = solved(network, scores, batch)
        found.append([t.cpu() for t in (right, solution.converged, solution.residual, solution.steps)])
        cells.append(moves_right(scores, optimal)[optimal.any(1)].cpu())
    right, converged, residual, steps = (torch.cat(parts) for parts in zip(*found, strict=True))
    share = right.double().mean().item()
    places = _places(mazes[0])
    paths, lengths = shortest_paths(*places), torch.from_numpy(path_lengths(mazes[0]))
    curve = over_nfe(network, mazes, COUNTS, read=network.read)
    return {
        "n": len(right),
        "solved": share,
        "standard_error": standard_error(share, len(right)),
        "cells": torch.cat(cells).double().mean().item(),
        "over_nfe": {str(count): value for count, value in curve.items()},
        "longer": int((lengths > longest).sum()),
        "solved_of_longer": share_of(right[lengths > longest]),
        "converged": converged.double().mean().item(),
        "steps": int(steps.median()),
        "most_steps": int(steps.max()),
        "residual": residual.median().item(),
        "length": lengths.double().mean().item(),
        "most": int(lengths.max()),
        "one_path": float((paths.sum((1, 2)) == lengths.numpy() + 1).mean()),
        "dead_ends": float((without_dead_ends(*places) == paths).all((1, 2)).mean()),
    }


def _of_baseline(baseline: Baseline, network: Any, sets: Mapping[int, Puzzles], device: torch.device) -> dict[str, Any]:
    other: Any = baseline.load(device)
    result = {"solved": {str(side): share_right(other, mazes) for side, mazes in sets.items()}, **baseline.costs()}
    if hasattr(other, "deq"):
        result["steps_taken"] = other.deq.solver.max_steps
        with use_options([other.deq], solver=network.deq.solver, on_failure="ignore"):
            result["solved_iterated"] = {str(side): share_right(other, mazes) for side, mazes in sets.items()}
    return result


def _places(mazes: Tensor) -> tuple[Cells, Places, Places]:
    """Where one can walk, and the starts and goals."""
    cells = mazes.cpu().numpy()
    start, goal = (np.argwhere(cells == code)[:, 1:] for code in (START, GOAL))
    return cells != WALL, start, goal


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of a `maze_check`: check, measured, required."""
    rows = []
    for side, found in check["sets"].items():
        what = f"{side} x {side} cells"
        shown = f"{percent(found['solved'])} (standard error {100 * found['standard_error']:.2f})"
        bar = f"at least {100 * BAR:.0f} %" if 2 * check["side"] <= int(side) <= 2 * check["side"] + 1 else ""
        rows.append((f"{what}, {found['n']:,} mazes: whole mazes right", shown, bar))
        rows.append((f"{what}: cells from which the move is right", percent(found["cells"]), ""))
        curve = ", ".join(f"{percent(share)} at {count}" for count, share in found["over_nfe"].items())
        rows.append((f"{what}: whole mazes right over steps", curve, ""))
        converged = (
            f"{percent(found['converged'])}; {found['steps']} steps in the median, {found['most_steps']} at most; "
            f"median residual {found['residual']:.1e}"
        )
        rows.append((f"{what}: converged, of at most {check['budget']:,} steps", converged, ""))
        longer = f"{percent(found['solved_of_longer'])} of {found['longer']}"
        rows.append(
            (f"{what}: right, of ways of more than {check['longest']} steps, as no training maze has", longer, "")
        )
        facts = (
            f"{found['length']:.0f} steps in the mean, {found['most']} at most; one shortest path alone "
            f"{percent(found['one_path'])}; found by filling dead ends {percent(found['dead_ends'])}"
        )
        rows.append((f"{what}: the mazes themselves", facts, ""))
    for entry, other in check["baselines"].items():
        after = f", {other['steps_taken']} iterations" if "steps_taken" in other else ""
        cost = f"{other['parameters']:,} parameters, {other['steps']:,} steps, {other['time']:.0f} s"
        rows.append((f"`{entry}` ({cost}){after}: whole mazes right", _by_side(other["solved"]), ""))
        if "steps_taken" in other:
            rows.append((f"`{entry}`, iterated to the same tolerance", _by_side(other["solved_iterated"]), ""))
    return rows


def _by_side(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{percent(share)} at {side} x {side}" for side, share in shares.items())


def check_text(check: Mapping[str, Any]) -> str:
    """What the numbers of the card mean."""
    cells = f"{check['side']} x {check['side']} cells"
    return (
        f"Trained on mazes of at most {cells}. A maze is right if by the moves of highest score one comes "
        "from start to goal in as few steps as possible. The mazes have loops, so that filling dead ends does not "
        "solve them. Built in are that the process is local and the same everywhere and in all four directions, its "
        "maximum over actions, and its discount; what actions do, what walls and the goal are, and which action is "
        "which move is learned, from the optimal moves of each cell of small mazes. The cell contracts in the maximum "
        "norm: the equilibrium is the only one. The residual is |f(V) - V| / |f(V)|; far from the goal values are "
        "small, so it must be very small before all cells know their way. `unrolled_maze` is the same network, trained "
        "through a fixed number of steps."
    )
