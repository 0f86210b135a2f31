"""Training steps of MDEQ-small beside torchdeq: `python -m benchmarks.deq_training [--json FILE] [--quick]`.

A step is forward, loss, backward and the optimiser's update. Both libraries get the same modules and weights, solver,
tolerance and budget, both memory layouts (torchdeq's own MDEQ runs in NCHW), and a phantom gradient of five damped
steps. torchdeq unrolls it; deqzoo does so, too, or sums its Neumann series where the solve ended, which at the fixed
point is the same gradient. With fresh weights the solves use up their budget; with a contracting cell they meet the
tolerance, and the gradients are compared with the exact one.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from benchmarks.measure import SavedBytes, interleaved, median_ratio
from benchmarks.problems import seeded
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started, tell_missing
from deqzoo.implicit import GMRES, Anderson, Broyden, Implicit, Neumann, Phantom
from deqzoo.models import MDEQClassifier
from deqzoo.nn import MDEQCell

try:
    import torchdeq
except ImportError:
    torchdeq = None

TOL, STEPS = 1e-3, 22  # of the solves: relative; steps at most, one call of f more
PHANTOM, DAMPING = 5, 0.5
AT_MOST = 0.6  # of torchdeq's time in the faster layout, promised with the recipe's solver, Broyden
THEIRS = ("torchdeq", "unrolled", "NCHW")  # as its own MDEQ runs
SOLVERS: dict[str, tuple[Any, dict[str, Any]]] = {  # ours, and torchdeq's with the same number of calls
    "Broyden": (Broyden(tol=TOL, max_steps=STEPS), {"f_solver": "broyden", "f_max_iter": STEPS}),
    "Anderson": (Anderson(tol=TOL, max_steps=STEPS), {"f_solver": "anderson", "f_max_iter": STEPS + 1}),
}
UNROLLED, SERIES = "unrolled", "series"
GRADIENTS = {
    UNROLLED: Phantom(PHANTOM, DAMPING),
    SERIES: Implicit(Neumann(k=PHANTOM - 1, damping=DAMPING)),
}
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
WAYS = [  # library, gradient, layout
    ("deqzoo", SERIES, "NHWC"),
    ("deqzoo", UNROLLED, "NHWC"),
    ("deqzoo", UNROLLED, "NCHW"),
    ("torchdeq", UNROLLED, "NHWC"),
    ("torchdeq", UNROLLED, "NCHW"),
]


@dataclasses.dataclass
class Row:
    """A training step in one way."""

    weights: str
    solver: str
    library: str
    gradient: str
    layout: str
    nfe: int  # of the solve
    nfe_taped: int  # for the gradient
    residual: float  # of the solve, relative, the worst sample's, as the library reports it
    error: float | None  # of all parameters' gradient, relative to the exact one, where there is a fixed point
    seconds: float
    over_torchdeq: float | None  # over torchdeq's in NCHW, the layout of its own MDEQ
    over_best: float | None  # over torchdeq's in the faster layout
    saved_bytes: int  # kept for the backward pass


class Task:
    """A classifier in training, its solver and gradient those of one library.

    Args:
        library, gradient, layout: see `WAYS`.
        solver: a key of `SOLVERS`.
        contracts: see `let_contract`; else the weights are fresh.
        quick: a small network and batch.
    """

    def __init__(self, library: str, gradient: str, layout: str, solver: str, contracts: bool, quick: bool) -> None:
        small: dict[str, Any] = {"widths": [8, 8], "head_widths": [2, 4], "final_width": 16} if quick else {}
        ours, theirs = SOLVERS[solver]
        about: dict[str, Any] = {"in_channels": 3, "classes": "0123456789", "mean": [0.5] * 3, "std": [0.25] * 3}
        with seeded():  # without weight normalisation: torchdeq computes its own once per step, torch's in each call
            model = MDEQClassifier(**about, **small, weight_norm=False, solver=ours, adjoint=GRADIENTS[gradient])
            images = torch.rand(4, 3, 8, 8) if quick else torch.rand(16, 3, 32, 32)
            self.labels = torch.randint(10, (len(images),))
        if contracts:
            let_contract(model.body.cell)
        self.model: Any = model.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
        self.images = images.to(memory_format=LAYOUTS[layout])
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        self.start = [parameter.detach().clone() for parameter in model.parameters()]
        self.theirs = None
        if library == "torchdeq":
            self.theirs = torchdeq.get_deq(f_tol=TOL, f_stop_mode="rel", grad=PHANTOM, tau=DAMPING, **theirs)
        self.residual = math.nan

    def loss(self) -> Tensor:
        """Of the batch, with its graph."""
        model = self.model
        x = model.stem((self.images - model.mean) / model.std)
        if self.theirs is None:
            state = model.body(x)
            residuals = model.body.solution.residual
        else:
            states, info = self.theirs(lambda *z: model.body.cell(z, x), list(model.body.initial_state(x)))
            state, residuals = states[-1], info["rel_lowest"]
        self.residual = residuals.max().item()
        return F.cross_entropy(model.head(state), self.labels)

    def gradient(self) -> Tensor:
        """Of all parameters, as one vector."""
        return torch.cat([g.flatten() for g in torch.autograd.grad(self.loss(), list(self.model.parameters()))])

    def exact_gradient(self) -> Tensor:
        """The same in float64, solved to round-off, by the implicit function theorem."""
        exact = copy.copy(self)
        exact.model, exact.images, exact.theirs = copy.deepcopy(self.model).double(), self.images.double(), None
        exact.model.body.solver, exact.model.body.adjoint = Anderson(max_steps=200), Implicit(GMRES())
        return exact.gradient()

    def step(self) -> None:
        """A training step from the first weights."""
        with torch.no_grad():
            for parameter, start in zip(self.model.parameters(), self.start, strict=True):
                parameter.copy_(start)
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def counts(self) -> tuple[int, int, int]:
        """NFE of the solve, NFE on the tape, bytes kept for the backward pass."""
        taped: list[bool] = []
        hook = self.model.body.cell.register_forward_hook(lambda *_: taped.append(torch.is_grad_enabled()))
        with SavedBytes() as saved:
            loss = self.loss()
        hook.remove()
        kept = saved.total
        del loss  # the tape, until here
        return len(taped) - sum(taped), sum(taped), kept


def let_contract(cell: MDEQCell) -> None:
    """Give the state so little weight in the cell that its Jacobian's radius is about a half."""
    for output in cell.outputs:
        torch.nn.init.constant_(output[-1].weight, 0.1)
    for blocks in cell.blocks[1:]:
        torch.nn.init.constant_(blocks[-1].norm3.weight, 0.03)


def measure(weights: str, solver: str, rounds: int, quick: bool) -> list[Row]:
    """A row for each way."""
    contracts = weights == "contracting"
    ways = [way for way in WAYS if torchdeq is not None or way[0] != "torchdeq"]
    tasks = {way: Task(*way, solver, contracts, quick) for way in ways}
    exact = tasks[WAYS[0]].exact_gradient() if contracts else None
    rows = {}
    for way, task in tasks.items():
        nfe, taped, saved = task.counts()
        error = None if exact is None else ((task.gradient() - exact).norm() / exact.norm()).item()
        rows[way] = Row(weights, solver, *way, nfe, taped, task.residual, error, math.nan, None, None, saved)
    calls: dict[Any, Callable[[], Any]] = {way: task.step for way, task in tasks.items()}
    times = interleaved(calls, rounds)
    for way, row in rows.items():
        row.seconds = statistics.median(times[way])
    theirs = [way for way in rows if way[0] == "torchdeq"]
    if theirs:
        faster = min(theirs, key=lambda way: rows[way].seconds)
        for way, row in rows.items():
            row.over_torchdeq = median_ratio(times[way], times[THEIRS])
            row.over_best = median_ratio(times[way], times[faster])
    return list(rows.values())


def checks(rows: list[Row]) -> list[Check]:
    """What is promised of our fastest step."""
    found = []
    for row in rows:
        if (row.library, row.gradient, row.layout) == WAYS[0] and row.solver == "Broyden" and row.over_best:
            promise = f"MDEQ-small, {row.weights} weights, Broyden: at most {AT_MOST} of torchdeq's time at its best"
            found.append(Check(promise, f"{row.over_best:.3f}", row.over_best <= AT_MOST))
    return found


def print_rows(console: Console, rows: list[Row]) -> None:
    """The table."""
    print_table(
        console,
        f"Training steps of MDEQ-small, phantom gradient of {PHANTOM} steps, relative {TOL:g}, {STEPS + 1} NFE",
        ["weights", "solver", "library", "gradient", "layout"],
        ["NFE", "on tape", "residual", "gradient error", "ms", "over torchdeq", "over its best", "MiB kept"],
        [
            (
                row.weights,
                row.solver,
                row.library,
                row.gradient,
                row.layout,
                f"{row.nfe}",
                f"{row.nfe_taped}",
                f"{row.residual:.1e}",
                "" if row.error is None else f"{row.error:.3f}",
                f"{row.seconds * 1e3:.0f}",
                *("" if ratio is None else f"{ratio:.2f}" for ratio in (row.over_torchdeq, row.over_best)),
                f"{row.saved_bytes / 2**20:.0f}",
            )
            for row in rows
        ],
    )


def main() -> int:
    """Run, print, and write."""
    options = started(__doc__)
    console = open_console()
    tell_missing(console, torchdeq=torchdeq)
    rounds = 1 if options.quick else 5
    rows = [
        row
        for weights in ("fresh", "contracting")
        for solver in SOLVERS
        for row in measure(weights, solver, rounds, options.quick)
    ]
    print_rows(console, rows)
    kept = checks(rows)
    print_checks(console, kept)
    return finished(options, ["deqzoo", "torchdeq"], kept, rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
