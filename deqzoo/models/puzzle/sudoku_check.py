"""Does more computation solve more? Whole puzzles over evaluations of the cell, over restarts, and with the rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
from deqzoo.models.puzzle.sudoku_answers import keeps_rules

STARTS = (1, 2, 5)  # from other noise, until one has converged
MOST = {"hardest": 200}  # puzzles of a set: most of the hardest take all steps of all starts


@dataclass(frozen=True)
class Answers:
    """What a network answers to puzzles from one start, a number or truth value for each.

    Attributes:
        right: whether all digits are those of the solution.
        valid: whether the digits keep the rules and those that are given.
        converged: whether the tolerance is met.
        residual: of the state that was read.
    """

    right: Tensor
    valid: Tensor
    converged: Tensor
    residual: Tensor

    def put(self, rows: Tensor, others: Answers) -> None:
        """In place, the answers of some rows."""
        for field in dataclasses.fields(self):
            getattr(self, field.name)[rows] = getattr(others, field.name)


@torch.no_grad()
def sudoku_equilibrium_check(trained: Trained) -> dict[str, Any]:
    """Measure a `deqzoo.models.SudokuEquilibrium` on all sets of its data.

    Returns:
        ``side``: cells of a row.
        ``nfe``: evaluations of the cell in the training at most; those of the curve are half, 1, 2 and 4 times as many.
        ``sets``: of each set, its ``n`` puzzles and their digits (``fewest``, ``most``, ``mean``); ``solved``, whole
            puzzles from one start at the recipe's budget, with its ``standard_error``; ``over_nfe``; ``over_starts``,
            of up to so many starts the first one that converged, else the one of least residual; ``rules``, likewise
            the first whose digits keep the rules; ``converged``, the share that met the tolerance, and
            ``solved_of_converged``; of the solved ones ``residual``, the median, and ``settled``, the share with at
            most `SOLVED_RESIDUAL`.
        ``baseline``: of the shipped baseline, its name, ``solved`` on the same sets, parameters, steps, time.
    """
    network: Any = trained.network
    nfe = trained.settings.depth + trained.settings.lead
    sets = puzzle_sets(trained, MOST)
    result: dict[str, Any] = {
        "side": network.side,
        "nfe": nfe,
        "budget": network.deq.solver.max_steps,
        "sets": {name: _measured(network, puzzles, nfe) for name, puzzles in sets.items()},
    }
    if baseline := trained.find_baseline(trained.settings.baseline):
        result["baseline"] = _of_baseline(baseline, sets, trained.device)
    return result


def answers(network: Any, puzzles: Puzzles, start: int = 0) -> Answers:
    """What the network answers from the noise of this seed."""
    found = []
    for given, solutions in split(puzzles):
        scores = network(given, start)
        digits = scores.argmax(-1) + 1
        right = solved(network, scores, (given, solutions))
        valid = keeps_rules(digits) & ((given == 0) | (given == digits)).flatten(1).all(1)
        solution = network.deq.solution
        found.append([t.cpu() for t in (right, valid, solution.converged, solution.residual)])
    return Answers(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def answers_over_starts(network: Any, puzzles: Puzzles) -> dict[int, float]:
    """The share solved by up to so many starts: the first that converged, else the one of least residual."""
    by_residual, _ = _over_starts(network, puzzles, answers(network, puzzles), rules=False)
    return {int(count): share for count, share in by_residual.items()}


def _measured(network: Any, puzzles: Puzzles, nfe: int) -> dict[str, Any]:
    first = answers(network, puzzles)
    share, residuals = first.right.double().mean().item(), first.residual[first.right]
    starts, rules = _over_starts(network, puzzles, first)
    return {
        "n": len(puzzles[0]),
        **digits_given(puzzles[0]),
        "solved": share,
        "standard_error": standard_error(share, len(puzzles[0])),
        "over_nfe": {str(k): v for k, v in over_nfe(network, puzzles, (nfe // 2, nfe, 2 * nfe, 4 * nfe)).items()},
        "over_starts": starts,
        "rules": rules,
        "converged": first.converged.double().mean().item(),
        "solved_of_converged": share_of(first.right[first.converged]),
        "residual": residuals.median().item() if len(residuals) else None,
        "settled": share_of(residuals <= SOLVED_RESIDUAL),
    }


def _over_starts(
    network: Any, puzzles: Puzzles, first: Answers, rules: bool = True
) -> tuple[dict[str, float], dict[str, float]]:
    """Whole puzzles solved by up to so many starts: chosen by convergence and residual, and, if asked, by the rules."""
    chosen, checked = (Answers(*(t.clone() for t in vars(first).values())) for _ in range(2))
    by_residual, by_rules = {}, {}
    for count in range(1, max(STARTS) + 1):
        done = chosen.converged & checked.valid if rules else chosen.converged
        open_ = (~done).nonzero().flatten()
        if count > 1 and len(open_):
            again = answers(network, (puzzles[0][open_], puzzles[1][open_]), count - 1)
            better = ~chosen.converged[open_] & (again.converged | (again.residual < chosen.residual[open_]))
            found = ~checked.valid[open_] & again.valid
            for held, rows in ((chosen, better), (checked, found)):
                held.put(open_[rows], Answers(*(t[rows] for t in vars(again).values())))
        if count in STARTS:
            by_residual[str(count)] = chosen.right.double().mean().item()
            by_rules[str(count)] = checked.right.double().mean().item()
    return by_residual, by_rules


def _of_baseline(baseline: Baseline, sets: Mapping[str, Puzzles], device: torch.device) -> dict[str, Any]:
    other = baseline.load(device)
    shares = {name: answers(other, puzzles).right.double().mean().item() for name, puzzles in sets.items()}
    return {"entry": baseline.entry, "solved": shares, **baseline.costs()}


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of a `sudoku_equilibrium_check`: check, measured, required."""
    rows, baseline = [], check.get("baseline")
    for name, found in check["sets"].items():
        what = set_label(name, found)
        shown = f"{percent(found['solved'])} (standard error {100 * found['standard_error']:.2f})"
        if baseline:
            shown += f"; `{baseline['entry']}`: {percent(baseline['solved'][name])}"
        one = f"{what}, {found['n']:,} puzzles: whole puzzles solved, one start of at most {check['budget']} steps"
        rows.append((one, shown, _bar(found)))
        curve = ", ".join(f"{percent(share)} at {count}" for count, share in found["over_nfe"].items())
        rows.append((f"{what}: over steps; in training at most {check['nfe']}", curve, "no fall beyond that"))
        starts = ", ".join(f"{percent(share)} of {count}" for count, share in found["over_starts"].items())
        rows.append((f"{what}: of up to so many starts, chosen by convergence and residual alone", starts, ""))
        searched = ", ".join(f"{percent(share)} of {count}" for count, share in found["rules"].items())
        rows.append((f"{what}: search, which starts again until the rules hold", searched, ""))
        converged = f"{percent(found['converged'])} converged, {percent(found['solved_of_converged'])} of these solved"
        rows.append((f"{what}: share that converged, and what of it is solved", converged, ""))
        if found["residual"] is not None:
            settled = f"median {found['residual']:.1e}; {percent(found['settled'])} at most {SOLVED_RESIDUAL:g}"
            rows.append((f"{what}: residual of solved puzzles", settled, f"at most {SOLVED_RESIDUAL:g}"))
    if baseline:
        size = f"{baseline['parameters']:,} parameters, {baseline['steps']:,} steps, {baseline['time']:.0f} s"
        rows.append((f"baseline `{baseline['entry']}`: without digit symmetry", size, ""))
    return rows


def check_text(check: Mapping[str, Any]) -> str:
    """What the numbers of the card mean."""
    text = (
        "Built in is what a puzzle is: which cells share a row, a column or a box, and, but for the baseline, that "
        "digits may be renamed. The cell is no contraction: a puzzle may have several equilibria, and from other noise "
        "the iteration may end in another one, or in none. The residual is |f(z) - z| / |f(z)|. A start that does not "
        "converge gives its point of least residual; the numbers over steps are of its last one: the two may differ. "
    )
    if check["side"] == 4:
        return text + (
            "All solution grids of 4 x 4 cells are one of two but for symmetries, which the network has built in: test "
            "puzzles have other grids than those of the training, and are nevertheless not new to it."
        )
    return text + (
        "No solution grid of a set is one of another set, or of the training, by any symmetry of the game.\n\n"
        "[SATNet](https://arxiv.org/abs/1905.12149) learns its rules, so its 98.3 % of whole puzzles of 31 to 42 "
        "digits (36.2 in the mean) is a reference, not a like-for-like win; [recurrent relational networks]"
        "(https://arxiv.org/abs/1711.08028), which are told the same as the baseline, solve 96.6 % of their puzzles of "
        "17 digits. The puzzles are not those of Sudoku-Extreme, and the numbers not comparable with theirs."
    )


def set_label(name: str, found: Mapping[str, Any]) -> str:
    """What a set is called where people read of it.

    >>> set_label("17", {"fewest": 17, "most": 17, "mean": 17.0})
    '17 digits, collected'
    """
    digits = str(found["fewest"])
    if found["most"] > found["fewest"]:
        digits = f"{found['fewest']} to {found['most']}"
    mean = f" ({found['mean']:.1f} in the mean)" if found["most"] > found["fewest"] else ""
    kind = {"17": ", collected", "hardest": ", a forum's hardest"}.get(name, "")
    return f"{digits} digits{mean}{kind}"


def digits_given(puzzles: Tensor) -> dict[str, Any]:
    """The ``fewest`` and ``most`` digits of puzzles (n, side, side), and their ``mean``."""
    givens = (puzzles > 0).flatten(1).sum(1)
    return {"fewest": int(givens.min()), "most": int(givens.max()), "mean": givens.double().mean().item()}


def _bar(found: Mapping[str, Any]) -> str:
    """What the recipe for 9 x 9 cells is asked for, by the digits that are given."""
    for fewest, most, bar in ((31, 42, "99.7 %"), (25, 30, "97 %"), (17, 17, "90 %")):
        if fewest <= found["fewest"] and found["most"] <= most:
            return f"at least {bar}"
    return ""
