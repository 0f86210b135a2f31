"""Has the program learned the rules? By the givens of a puzzle, on all solution grids, and beside its baseline."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.data.sudoku import BOX, SIDE, sudoku_grids
from deqzoo.models.common.kind import Trained
from deqzoo.models.optimisation.network import one_hot


def sudoku_rules() -> Tensor:
    """Sudoku's rules as equalities: z sums to 1 in each of 64 rows, (64, 64) float64, of which 40 are independent.

    First come the 16 cells, each of which has one digit; then for each digit the rows, the columns and the boxes.

    >>> rules = sudoku_rules()
    >>> torch.linalg.matrix_rank(rules).item(), (rules @ one_hot(sudoku_grids(), 4).flatten(1).double().T == 1).all()
    (40, tensor(True))
    """
    cells = torch.arange(SIDE**2)
    row, column = cells // SIDE, cells % SIDE
    units = row, column, row // BOX * BOX + column // BOX
    members = torch.cat([(unit == cells[:SIDE, None]).double() for unit in units])  # (units, cells)
    one_digit = torch.kron(torch.eye(SIDE**2).double(), torch.ones(1, SIDE).double())
    return torch.cat([one_digit, torch.kron(members, torch.eye(SIDE).double())])


def row_space(matrix: Tensor) -> Tensor:
    """The orthogonal projector (n, n) onto the span of the rows of a matrix (k, n).

    >>> row_space(torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    _, sizes, directions = torch.linalg.svd(matrix, full_matrices=False)
    directions = directions[sizes > sizes.max() * max(matrix.shape) * torch.finfo(matrix.dtype).eps]
    return directions.mT @ directions


@torch.no_grad()
def sudoku_check(trained: Trained) -> dict[str, Any]:
    """Measure a `deqzoo.models.SudokuProgram`.

    Returns:
        ``givens``: for each number of given cells, the share of whole puzzles ``wrong``, and ``n``, the puzzles.
        ``untrained``: the share of whole puzzles wrong with other random constraints, as before the training.
        ``rules_missing``: 1 - |P r|^2 / |r|^2 over the rules r together, P the projector onto the learned rows: the
            part of the rules that the rows do not span. It is 0 where they imply all of them.
        ``rules_missing_untrained``: the same with random rows, for a comparison.
        ``violation``: the largest |A (z - exp(u))| / |A exp(u)| over all 288 solution grids z, seen in training or not.
        ``baseline``: of the shipped baseline, its name, the share of puzzles wrong, the same by givens, parameters,
            steps, time.
    """
    network: Any = trained.network
    other = random_program(network)
    A, b = (t.cpu() for t in network.program.constraints(torch.float64))
    grids = one_hot(sudoku_grids(), SIDE).flatten(1).double()
    by_givens = wrong_by_givens(network, trained)
    result: dict[str, Any] = {
        "givens": by_givens,
        "untrained": _total(wrong_by_givens(other.to(trained.device), trained)),
        "rules_missing": _missing(A),
        "rules_missing_untrained": _missing(other.program.matrix.cpu().double()),
        "violation": ((grids @ A.T - b).norm(dim=1).max() / b.norm()).item(),
    }
    if baseline := trained.find_baseline(trained.settings.baseline):
        result["baseline"] = {
            "entry": baseline.entry,
            "puzzles_wrong": baseline.metrics["test"]["puzzles_wrong"],
            "givens": wrong_by_givens(baseline.load(trained.device), trained),
            **baseline.costs(),
        }
    return result


def random_program(network: Any) -> Any:
    """A `deqzoo.models.SudokuProgram` as the network, with random constraints as before its training, in eval mode."""
    other = type(network)(network.side, constraints=len(network.program.matrix), strength=network.program.strength)
    nn.init.uniform_(other.program.matrix, generator=torch.Generator().manual_seed(0))
    other.program.on_failure = "ignore"
    return other.eval()


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of a `sudoku_check`: check, measured, required."""
    baseline = check.get("baseline")
    rows = []
    for index, part in enumerate(check["givens"]):
        shown = f"{100 * part['wrong']:.2f} %"
        if baseline:
            shown += f"; `{baseline['entry']}`: {100 * baseline['givens'][index]['wrong']:.2f} %"
        rows.append((f"whole puzzles wrong, {part['n']:,} with {part['givens']} cells given", shown, "at most 1 %"))
    if baseline:
        size = f"{baseline['parameters']:,} parameters, {baseline['steps']:,} steps, {baseline['time']:.0f} s"
        shown = f"{100 * baseline['puzzles_wrong']:.2f} %"
        rows.append((f"explicit baseline `{baseline['entry']}` ({size}), whole puzzles wrong", shown, "more"))
    rows.append(("with random constraints, whole puzzles wrong", f"{100 * check['untrained']:.2f} %", ""))
    missing = f"{100 * check['rules_missing']:.2f} % (random rows: {100 * check['rules_missing_untrained']:.1f} %)"
    rows.append(("part of Sudoku's rules outside of the span of the learned rows", missing, ""))
    rows.append(
        (
            "largest violation of Az = b by one of all 288 solution grids, over the size of b",
            f"{check['violation']:.1e}",
            "",
        )
    )
    return rows


@torch.no_grad()
def wrong_by_givens(network: nn.Module, trained: Trained) -> list[dict[str, float]]:
    """By the number of given cells, the share of test puzzles that are ``wrong``, and their number ``n``."""
    givens, wrong = [], []
    for puzzles, solutions in trained.test_batches():
        givens.append((puzzles > 0).flatten(1).sum(1).cpu())
        wrong.append((network(puzzles).argmax(-1) + 1 != solutions).flatten(1).any(1).cpu())
    numbers, failed = torch.cat(givens), torch.cat(wrong).double()
    return [
        {"givens": number, "wrong": failed[numbers == number].mean().item(), "n": int((numbers == number).sum())}
        for number in numbers.unique().tolist()
    ]


def _total(parts: list[dict[str, float]]) -> float:
    return sum(part["wrong"] * part["n"] for part in parts) / sum(part["n"] for part in parts)


def _missing(matrix: Tensor) -> float:
    rules = sudoku_rules()
    return (1 - (rules @ row_space(matrix)).square().sum() / rules.square().sum()).item()
