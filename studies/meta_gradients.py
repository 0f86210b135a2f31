"""How right are meta-gradients? `python -m studies.meta_gradients [--entry imaml_omniglot_5w1s] [--tasks 20]`.

On test tasks of an iMAML entry, with its trained weights (fresh ones where it has none), the meta-gradient of each
method is compared with a reference for the same proximal problem: in float64, from the method's own inner solution on
(MAML's from that of iMAML's defaults), to a stationarity of 1e-6 and a linear residual of 1e-8. Cosines and relative
errors are medians over the tasks that have a reference: where the inner problem has no regular minimum (as with ReLU)
there is none, which is told. A recipe may end its inner solves early, at the cost that its row shows.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import statistics
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from torch.utils._pytree import tree_map

import deqzoo
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started
from deqzoo.data.kinds import make_data
from deqzoo.implicit import CG, LBFGS, MINRES, Extremes, Implicit, NewtonCG, Solution, Status, argmin, curvature
from deqzoo.models import MetaLearner, build_network
from deqzoo.nn import IMAML, MAML, FirstOrderMAML
from deqzoo.nn.adaptation import each_task
from studies.training import recipe

STATIONARITY, LINEAR = 1e-6, 1e-8  # of the reference
DEFAULTS = "iMAML, defaults"
LEAST_COSINE = 0.99  # of these, with a smooth network
LANCZOS = 20  # steps


@dataclasses.dataclass
class Row:
    """One method; medians over the tasks."""

    method: str
    cosine: float  # with the reference
    least_cosine: float  # the worst task's
    error: float  # relative to the reference
    stationarity: float | None  # inner gradient left, over that at the start
    low: float  # least curvature of the inner objective where the method ended, the worst task's; from above
    high: float  # largest
    tasks: int  # that have a reference


def load(entry: str, weights: str | None, activation: str | None, seed: int = 0) -> tuple[MetaLearner, bool]:
    """The network of an entry, if asked with another activation, and whether it has trained weights."""
    settings, data, _ = recipe(entry)
    settings.activation = activation or settings.activation
    torch.manual_seed(seed)
    network = build_network(settings, make_data(data, seed).info)
    trained = weights is not None or entry in deqzoo.list_models(pretrained=True)
    if trained:
        network.load_state_dict(deqzoo.load(weights or entry).state_dict())
    return network, trained


def test_tasks(entry: str, count: int, root: str | None) -> list[tuple[Tensor, ...]]:
    """The first test tasks of an entry's data, one per batch."""
    _, settings, _ = recipe(entry)
    settings.eval_batch_size = 1
    if hasattr(settings, "root"):
        settings.root = root
    data = make_data(settings, 0)
    data.prepare_data()
    data.setup()
    return [batch for batch, _ in zip(data.test_dataloader(), range(count), strict=False)]


def learned(learner: MetaLearner) -> list[Tensor]:
    """The parameters whose start is learned: not those of a head that starts at zero."""
    return [p for p in learner.network.parameters() if p.requires_grad]


def query_loss(learner: MetaLearner, parameters: Any, task: tuple[Tensor, ...]) -> Tensor:
    """The loss on the queries of one task, of parameters (1, ...)."""
    *_, queries, targets = task
    return learner.loss(each_task(learner.predict)(parameters, queries).flatten(0, 1), targets.flatten(0, 1))


def meta_gradient(learner: MetaLearner, task: tuple[Tensor, ...]) -> tuple[Tensor, Any, Solution | None]:
    """The gradient of a task's query loss in the start, the adapted parameters, and the inner solution."""
    x, y, *_ = task
    adapted, solution = learner.method(learner.task_loss, learner.start, x, y)
    gradients = torch.autograd.grad(query_loss(learner, adapted, task), learned(learner))
    return parameters_to_vector(gradients).double(), tree_map(Tensor.detach, adapted), solution


def reference(learner: MetaLearner, strength: float, task: tuple[Tensor, ...], near: Any) -> Tensor | None:
    """The exact meta-gradient of the proximal problem at the minimum next to `near`; None where none was found."""
    exact = copy.deepcopy(learner).double()
    x, y, queries, targets = (t.double() if t.is_floating_point() else t for t in task)
    objective = IMAML(strength).objective(exact.task_loss)
    adapted, solution = argmin(
        objective,
        tree_map(lambda t: t.double(), near),
        exact.start,
        x,
        y,
        solver=LBFGS(tol=0.1 * STATIONARITY, stop="abs", max_steps=2000),
        adjoint=Implicit(CG(tol=0.1 * LINEAR)),
        batch_dims=1,
        on_failure="ignore",
        return_solution=True,
    )
    loss = query_loss(exact, adapted, (x, y, queries, targets))
    gradients = torch.autograd.grad(loss, learned(exact))
    solved = solution.residual.item() <= STATIONARITY and solution.backward.status.item() == Status.CONVERGED
    return parameters_to_vector(gradients) if solved and solution.backward.residual.item() <= LINEAR else None


def methods(learner: MetaLearner) -> dict[str, MetaLearner]:
    """iMAML as it is by default and as the entry has it, and others beside them."""
    own: Any = learner.method
    quiet = {"strength": own.strength, "on_failure": "ignore"}
    beside = {
        DEFAULTS: IMAML(**quiet),
        "iMAML, recipe": own,
        "iMAML, Hessian-free": IMAML(solver=NewtonCG(tol=1e-3), linear_solver=CG(tol=1e-3), **quiet),
        "iMAML, MINRES": dataclasses.replace(own, linear_solver=MINRES(max_steps=10)),
        "MAML, 5 steps": MAML(5, 0.01),
        "first-order MAML, 5 steps": FirstOrderMAML(5, 0.01),
    }
    made = {}
    for name, method in beside.items():
        made[name] = copy.deepcopy(learner)
        made[name].method = method
    return made


def measure(learner: MetaLearner, tasks: list[tuple[Tensor, ...]]) -> list[Row]:
    """A row for each method."""
    own: Any = learner.method
    found: dict[str, list[tuple[float, float, float | None, Extremes]]] = {}
    for task in tasks:
        x, y, *_ = task
        by_default: Any = None  # the first method's
        for name, other in methods(learner).items():
            gradient, adapted, solution = meta_gradient(other, task)
            if name == DEFAULTS:
                by_default = adapted
            exact = reference(learner, own.strength, task, by_default if solution is None else adapted)
            objective = IMAML(own.strength).objective(other.task_loss)
            ends = curvature(objective, adapted, other.start, x, y, batch_dims=1, steps=LANCZOS)
            cosine = math.nan if exact is None else torch.cosine_similarity(gradient, exact, 0).item()
            error = math.nan if exact is None else ((gradient - exact).norm() / exact.norm()).item()
            stationarity = None if solution is None else solution.residual.item()
            found.setdefault(name, []).append((cosine, error, stationarity, ends))
    rows = []
    for name, values in found.items():
        cosines, errors, stationarities, ends = zip(*values, strict=True)
        left = None if stationarities[0] is None else statistics.median(stationarities)
        low, high = min(e.low.item() for e in ends), max(e.high.item() for e in ends)
        known = [(c, e) for c, e in zip(cosines, errors, strict=True) if not math.isnan(c)]
        cosine = statistics.median(c for c, _ in known) if known else math.nan
        error = statistics.median(e for _, e in known) if known else math.nan
        least = min((c for c, _ in known), default=math.nan)
        rows.append(Row(name, cosine, least, error, left, low, high, len(known)))
    return rows


def main() -> int:
    """Run, print, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--entry", default="imaml_sinusoid", help="an iMAML entry")
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--root", help="folder of the data")
    parser.add_argument("--activation", choices=("relu", "silu"), help="another than the entry's, of its weights")
    parser.add_argument("--weights", help="a checkpoint folder, in place of the shipped one")
    options = started(__doc__, parser)
    warnings.filterwarnings("ignore", category=FutureWarning)
    console, count = open_console(), 2 if options.quick else options.tasks
    learner, trained = load(options.entry, options.weights, options.activation)
    rows = measure(learner, test_tasks(options.entry, count, options.root))
    weights = f"{'trained' if trained else 'fresh'} weights"
    weights += f", {options.activation}" if options.activation else ""
    print_table(
        console,
        f"Meta-gradients of {options.entry}, {weights}, {count} test tasks",
        ["method"],
        ["cosine", "worst", "relative error", "stationarity", "least curvature", "largest", "tasks with a reference"],
        [
            (
                r.method,
                f"{r.cosine:.5f}",
                f"{r.least_cosine:.5f}",
                f"{r.error:.1e}",
                "" if r.stationarity is None else f"{r.stationarity:.1e}",
                f"{r.low:.3f}",
                f"{r.high:.1f}",
                f"{r.tasks} of {count}",
            )
            for r in rows
        ],
    )
    checks = []
    if options.activation != "relu":  # whose inner problem need not have a regular minimum: reported without a bar
        promise = f"iMAML at its default settings: median cosine at least {LEAST_COSINE:g}, most tasks with a reference"
        default = next(row for row in rows if row.method == DEFAULTS)
        kept = default.cosine >= LEAST_COSINE and 2 * default.tasks > count
        checks.append(Check(promise, f"{default.cosine:.5f} over {default.tasks} of {count} tasks", kept))
    print_checks(console, checks)
    return finished(options, ["deqzoo"], checks, rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
