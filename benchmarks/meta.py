"""Meta-learning beside TorchOpt: `python -m benchmarks.meta [--device cuda] [--json FILE] [--quick]`.

Time of a meta-gradient of MAML, five inner steps on 5-way 1-shot tasks, a network of four convolutions: the same tasks,
network and steps for both. And the bytes that autograd keeps between forward and backward pass, by inner steps.
"""

from __future__ import annotations

import dataclasses
import statistics
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from benchmarks.measure import SavedBytes, interleaved, median_ratio, time_on
from benchmarks.problems import seeded
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started, tell_missing
from deqzoo.implicit import CG, GradientDescent
from deqzoo.models import FewShotNetwork, MetaLearner
from deqzoo.nn import IMAML, MAML, Adaptation

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchopt
except ImportError:
    torchopt = None

STEPS, LR = 5, 0.1  # of MAML, in both libraries
AT_MOST = {"cpu": 1.05, "cuda": 0.4}  # of TorchOpt's time
SAME = 1e-3  # the most that meta-gradients in float32 may differ, relative: five steps of second derivatives


@dataclasses.dataclass
class TimeRow:
    """One way to a meta-gradient."""

    library: str
    method: str
    seconds: float  # a task
    over_peer: float | None  # over TorchOpt
    difference: float  # of the meta-gradient from TorchOpt's, relative; else from the loop's


@dataclasses.dataclass
class BytesRow:
    """Bytes that autograd keeps, by inner steps."""

    method: str
    bytes_after: dict[int, int]


@dataclasses.dataclass
class Tasks:
    """Support images and labels, query images and labels, one leading index per task."""

    support: Tensor
    labels: Tensor
    queries: Tensor
    targets: Tensor


def draw_tasks(count: int, device: torch.device) -> Tasks:
    """5-way 1-shot tasks of noise, 28 x 28, with five queries per class."""
    with seeded():
        support, queries = torch.rand(count, 5, 1, 28, 28), torch.rand(count, 25, 1, 28, 28)
    labels = torch.arange(5, device=device)
    targets = labels.repeat_interleave(5).expand(count, 25)
    return Tasks(support.to(device), labels.expand(count, 5), queries.to(device), targets)


def network(width: int, tasks: Tasks) -> FewShotNetwork:
    """The network, the same each time, where the tasks are."""
    with seeded():
        return FewShotNetwork(1, (28, 28), 5, [0.5], [0.3], width=width).to(tasks.support.device)


def our_gradient(method: Adaptation, tasks: Tasks, width: int, chunk: int | None) -> Callable[[], Tensor]:
    """The meta-gradient by deqzoo."""
    learner = MetaLearner(network(width, tasks), method, nn.functional.cross_entropy, chunk=chunk)

    def run() -> Tensor:
        logits = learner(tasks.support, tasks.labels, tasks.queries)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tasks.targets.flatten())
        return parameters_to_vector(torch.autograd.grad(loss, list(learner.parameters())))

    return run


def their_gradient(tasks: Tasks, width: int) -> Callable[[], Tensor]:
    """The meta-gradient by TorchOpt's differentiable SGD, task by task, as its examples do it."""
    model = network(width, tasks)
    inner = torchopt.MetaSGD(model, lr=LR)

    def run() -> Tensor:
        parameters = list(model.parameters())
        total = [torch.zeros_like(p) for p in parameters]
        start, optimizer = torchopt.extract_state_dict(model, by="reference"), torchopt.extract_state_dict(inner)
        for i in range(len(tasks.support)):
            for _ in range(STEPS):
                inner.step(nn.functional.cross_entropy(model(tasks.support[i]), tasks.labels[i]))
            loss = nn.functional.cross_entropy(model(tasks.queries[i]), tasks.targets[i]) / len(tasks.support)
            total = [a + g for a, g in zip(total, torch.autograd.grad(loss, parameters), strict=True)]
            torchopt.recover_state_dict(model, start)
            torchopt.recover_state_dict(inner, optimizer)
        return parameters_to_vector(total)

    return run


def time_table(quick: bool, device: torch.device) -> list[TimeRow]:
    """MAML, each way."""
    count, width = (2, 4) if quick else (8, 64)
    tasks = draw_tasks(count, device)
    ways = {
        ("deqzoo", "one by one"): our_gradient(MAML(STEPS, LR), tasks, width, 1),
        ("deqzoo", f"vmap over {count}"): our_gradient(MAML(STEPS, LR), tasks, width, None),
        ("deqzoo", "one by one, checkpointed"): our_gradient(MAML(STEPS, LR, checkpoint=True), tasks, width, 1),
    }
    if torchopt is not None:
        ways["torchopt", "MetaSGD, one by one"] = their_gradient(tasks, width)
    gradients = {key: run() for key, run in ways.items()}
    *_, last = gradients.values()
    times = interleaved(ways, 1 if quick else 9, time_on(device))
    peer = times.get(("torchopt", "MetaSGD, one by one"))
    return [
        TimeRow(
            library,
            method,
            statistics.median(measured) / count,
            None if peer is None else median_ratio(measured, peer),
            ((gradients[library, method] - last).norm() / last.norm()).item(),
        )
        for (library, method), measured in times.items()
    ]


def bytes_table(quick: bool, device: torch.device) -> list[BytesRow]:
    """iMAML by plain descent that takes all its steps, and MAML, beside each other."""
    counts, width = ((2, 4) if quick else (16, 256)), 4 if quick else 16
    tasks = draw_tasks(1, device)

    def implicit(steps: int) -> IMAML:
        solver = GradientDescent(tol=0.0, stop="abs", max_steps=steps, patience=steps + 1)
        return IMAML(2.0, solver, CG(max_steps=5), on_failure="ignore")

    methods: dict[str, Callable[[int], Adaptation]] = {
        "iMAML": implicit,
        "MAML": lambda steps: MAML(steps, 0.01),
    }
    rows = []
    for name, method in methods.items():
        found = {}
        for steps in counts:
            learner = MetaLearner(network(width, tasks), method(steps), nn.functional.cross_entropy, chunk=1)
            with SavedBytes() as saved:
                loss = learner(tasks.support, tasks.labels, tasks.queries).sum()
            found[steps] = saved.total
            del loss  # the tape, until here
        rows.append(BytesRow(name, found))
    return rows


def checks(times: list[TimeRow], held: list[BytesRow], device: torch.device) -> list[Check]:
    """What deqzoo promises."""
    same = held[0].bytes_after
    found = [
        Check("iMAML keeps the same bytes, whatever the inner steps", f"{same}", len(set(same.values())) == 1),
    ]
    largest, at_most = max(row.difference for row in times), AT_MOST[device.type]
    found.append(Check(f"the meta-gradients differ by at most {SAME:g}", f"{largest:.1e}", largest <= SAME))
    ours = [row for row in times if row.library == "deqzoo" and row.over_peer is not None]
    if ours:
        best = min(ours, key=lambda row: row.over_peer or 0.0)
        promise = f"MAML takes at most {at_most:g} of TorchOpt's time on {device.type}"
        found.append(Check(promise, f"{best.over_peer:.2f}, {best.method}", (best.over_peer or 9.0) <= at_most))
    return found


def main() -> int:
    """Run, print, and write."""
    options = started(__doc__)
    device = torch.device(options.device)
    warnings.filterwarnings("ignore", category=FutureWarning)
    console = open_console()
    tell_missing(console, torchopt=torchopt)
    times, held = time_table(options.quick, device), bytes_table(options.quick, device)
    clock = "on the GPU" if device.type == "cuda" else "CPU time of one thread"
    print_table(
        console,
        f"Meta-gradient of MAML, {STEPS} inner steps, 5-way 1-shot, {clock}",
        ["library", "method"],
        ["ms per task", "over TorchOpt", "difference"],
        [
            (
                r.library,
                r.method,
                f"{r.seconds * 1e3:.0f}",
                "" if r.over_peer is None else f"{r.over_peer:.2f}",
                f"{r.difference:.1e}",
            )
            for r in times
        ],
    )
    print_table(
        console,
        "MiB kept for the backward pass, by inner steps",
        ["method"],
        [f"{steps}" for steps in held[0].bytes_after],
        [(r.method, *(f"{size / 2**20:.2f}" for size in r.bytes_after.values())) for r in held],
    )
    promises = checks(times, held, device)
    print_checks(console, promises)
    return finished(options, ["deqzoo", "torchopt"], promises, times=times, held=held)


if __name__ == "__main__":
    raise SystemExit(main())
