"""What the checks of networks that solve puzzles have in common: whole puzzles over evaluations of the cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deqzoo.models.common.kind import Trained
from deqzoo.nn.layer import use_options

SOLVED_RESIDUAL = 1e-3  # of a puzzle that is solved, at most
_BATCH = 25  # whose states stay in the cache of a core
Puzzles = tuple[Tensor, Tensor]  # and their solutions


def puzzle_sets(trained: Trained, most: Mapping[str, int] | None = None) -> dict[str, Puzzles]:
    """The test part, and the further sets that the data have; of some at most so many, the first ones."""
    batches = list(trained.test_batches())
    sets = {"test": (torch.cat([p for p, _ in batches]), torch.cat([s for _, s in batches]))}
    for name, puzzles in getattr(trained.data, "others", {}).items():
        first = (most or {}).get(name)
        sets[name] = puzzles[0][:first].to(trained.device), puzzles[1][:first].to(trained.device)
    return sets


def split(puzzles: Puzzles) -> Iterator[Puzzles]:
    """Small batches."""
    yield from zip(*(part.split(_BATCH) for part in puzzles), strict=True)


def solved(network: Any, scores: Tensor, puzzles: Puzzles) -> Tensor:
    """Whether no cell of a puzzle is wrong by the scores, (B,)."""
    right: Tensor = ~network.wrong(scores, *puzzles).flatten(1).any(1)
    return right


def over_nfe(
    network: Any, puzzles: Puzzles, steps: Sequence[int], read: Callable[[Tensor, Tensor], Tensor] | None = None
) -> dict[int, float]:
    """The share of whole puzzles solved after each of the increasing numbers of steps, of one start.

    ``read`` makes scores of states and puzzles; None: ``network.read`` makes them of states alone.
    """
    solver = dataclasses.replace(network.deq.solver, max_steps=max(steps), keep=tuple(steps), patience=max(steps) + 1)
    right: dict[int, list[Tensor]] = {count: [] for count in steps}
    with use_options([network.deq], solver=solver):
        for batch in split(puzzles):
            network(batch[0])
            for count, z in zip(steps, network.deq.solution.kept, strict=True):
                scores = network.read(z) if read is None else read(z, batch[0])
                right[count].append(solved(network, scores, batch))
    return {count: torch.cat(parts).double().mean().item() for count, parts in right.items()}


def standard_error(share: float, count: int) -> float:
    """Of a share of so many."""
    return (share * (1 - share) / count) ** 0.5


def share_of(which: Tensor) -> float | None:
    """The share of true ones; None if there are none to ask."""
    return which.double().mean().item() if len(which) else None


def percent(share: float | None) -> str:
    """A share as text.

    >>> percent(0.9985), percent(None)
    ('99.85 %', 'none')
    """
    return "none" if share is None else f"{100 * share:.2f} %"
