"""Training steps on a GPU, by family of models: `python -m benchmarks.gpu [--device cuda] [--json FILE] [--quick]`.

A step is forward, loss, backward and the optimiser's update, of a recipe of the zoo on a batch of noise, in bfloat16 as
the recipes train on a GPU. Each family is measured eager, compiled as `model.compile=true` does it, with a fixed number
of steps compiled whole, and captured in a CUDA graph; beside it stand torchdeq or torchdiffeq in the place of the
layer's own solve, and the family's explicit baseline. What fails is in the table with its error. It takes at most eight
minutes: what has not begun by then is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from torch import Tensor, nn

from benchmarks.measure import HostReads, interleaved, median_ratio, time_on
from benchmarks.problems import seeded
from benchmarks.report import finished, open_console, print_table, started, tell_missing
from deqzoo.config import TrainerConfig
from deqzoo.data.info import DataInfo, DensityInfo, FewShotInfo, ImageInfo, TextInfo
from deqzoo.implicit import RK4, Backsolve, Bosh3, Dopri5, TorchDiffEq, Tsit5
from deqzoo.models import build_network
from deqzoo.models.common.optim import make_optimizer
from deqzoo.models.registry import kind_of
from deqzoo.nn import DEQ, NeuralODE, solver_layers
from deqzoo.training.device import speed_up
from deqzoo.training.stages import composed_of

try:
    import torchdeq
except ImportError:
    torchdeq = None

MINUTES = 8.0
DIGITS = tuple("0123456789")
WARM_UP, ROUNDS = 3, 10  # steps of each way
FIXED = [  # a DEQ that is one graph: as many steps and products as the recipe's tolerance takes
    *("model.solver_options.stop=never", "model.solver_options.max_steps=6", "model.train_tol=null"),
    *("model.adjoint_options.linear_solver_options.k=5", "model.adjoint_options.linear_solver_options.tol=null"),
]
THEIR_METHODS = {Bosh3: "bosh3", Dopri5: "dopri5", Tsit5: "dopri5"}  # of as many stages
SMALL_IMAGES = ["model.widths=[8,8]"]


@dataclasses.dataclass(frozen=True)
class Way:
    """A training step to be measured.

    Attributes:
        library, way: its name in the table.
        words: the recipe and its settings, as on the command line.
        change: made to the module before its first step.
    """

    library: str
    way: str
    words: Sequence[str]
    change: Callable[[Any], None] = lambda module: None


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        info: of the data.
        batch: makes one, on the CPU; its argument is the number of samples.
        size: samples in a batch, and in a quick run.
        quick: settings of a quick run.
    """

    name: str
    info: DataInfo
    batch: Callable[[int], tuple[Tensor, ...]]
    size: tuple[int, int]
    quick: Sequence[str]
    ways: Sequence[Way]


@dataclasses.dataclass
class Row:
    """What a step costs in one way."""

    family: str
    library: str
    way: str
    seconds: float = math.nan  # the median of the rounds
    over_eager: float | None = None  # over the family's first way
    first: float = math.nan  # seconds of the first step, compilation included
    waits: int | None = None  # of the host for the device
    kernels: int | None = None  # launched; on the CPU operators
    bytes: int | None = None  # of the device's memory, the most at once
    error: str = ""


# --- the ways ---


def captured(module: Any) -> None:
    """Each solver layer is one graph, captured as a CUDA graph."""
    whole(module, mode="reduce-overhead")


def whole(module: Any, mode: str | None = None) -> None:
    """Each solver layer is one graph; that of an ODE takes two steps."""
    for layer in solver_layers(module.network):
        if isinstance(layer, NeuralODE):
            layer.solver = RK4(step_size=0.5)
        layer.compile_training(mode=mode)


def by_torchdiffeq(module: Any) -> None:
    """torchdiffeq solves with the same method and tolerances, and differentiates by the adjoint equation."""
    for layer in solver_layers(module.network):
        method, rtol, atol = THEIR_METHODS[type(layer.solver)], layer.solver.rtol, layer.solver.atol
        layer.solver = TorchDiffEq(method, rtol, atol)
        layer.adjoint = Backsolve(rtol=rtol, atol=atol)


def by_torchdeq(module: Any) -> None:
    """torchdeq solves, forward and backward, with the same cells, tolerance and budget."""
    tol, steps = module.options.train_tol, 30
    for parent in list(module.network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, DEQ):
                setattr(parent, name, _TheirDEQ(layer, tol, steps))


class _TheirDEQ(nn.Module):
    def __init__(self, layer: DEQ, tol: float, steps: int) -> None:
        super().__init__()
        self.layer = layer
        common = {"f_solver": "fixed_point_iter", "b_solver": "fixed_point_iter", "f_stop_mode": "rel"}
        budget = {"f_tol": tol, "b_tol": tol, "f_max_iter": steps, "b_max_iter": steps, "b_stop_mode": "rel"}
        self.solve = torchdeq.get_deq(ift=True, **common, **budget)

    def forward(self, x: Tensor) -> Tensor:
        z0 = self.layer.initial_state(x)
        f, args = self.layer.equation(z0, x)
        z: Tensor = self.solve(lambda z: f(z, *args), z0)[0][-1]
        return z


def deq_ways(entry: str, baseline: Sequence[str]) -> list[Way]:
    """Those of a recipe of equilibria."""
    recipe = f"model={entry}"
    ways = [
        Way("deqzoo", "eager", [recipe]),
        Way("deqzoo", "compiled", [recipe, "model.compile=true"]),
        Way("deqzoo", "fixed steps, compiled", [recipe, *FIXED, "model.compile=true"]),
        Way("deqzoo", "fixed steps, captured", [recipe, *FIXED], captured),
    ]
    if torchdeq is not None:
        ways.append(Way("torchdeq", "eager", [recipe], by_torchdeq))
    return [*ways, Way("explicit baseline", "eager", baseline)]


def ode_ways(entry: str, baseline: Sequence[str]) -> list[Way]:
    """Those of a recipe of neural ODEs."""
    recipe = [f"model={entry}"]
    return [
        *flow_ways(entry),
        Way("deqzoo", "fixed steps, compiled", recipe, whole),
        Way("deqzoo", "fixed steps, captured", recipe, captured),
        Way("explicit baseline", "eager", baseline),
    ]


def flow_ways(entry: str) -> list[Way]:
    """Those of a recipe of continuous flows."""
    recipe = [f"model={entry}"]
    return [
        Way("deqzoo", "eager", recipe),
        Way("deqzoo", "compiled", [*recipe, "model.compile=true"]),
        Way("torchdiffeq", "eager", recipe, by_torchdiffeq),
    ]


# --- the families ---


def images(*shape: int) -> Callable[[int], tuple[Tensor, ...]]:
    """Images and labels."""
    return lambda count: (torch.rand(count, *shape), torch.randint(10, (count,)))


def episodes(count: int) -> tuple[Tensor, ...]:
    """5-way 1-shot tasks: support images and labels, query images and labels."""
    labels, targets = torch.arange(5), torch.arange(5).repeat_interleave(10)
    support, queries = torch.rand(count, 5, 1, 28, 28), torch.rand(count, 50, 1, 28, 28)
    return support, labels.expand(count, 5), queries, targets.expand(count, 50)


def texts(count: int) -> tuple[Tensor, ...]:
    """Windows of 128 tokens, and what follows each."""
    tokens = torch.randint(1, 66, (count, 129))
    return tokens[:, :-1], tokens[:, 1:]


def families() -> list[Family]:
    """The five."""
    cifar = ImageInfo(3, DIGITS, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), (32, 32))
    mnist = ImageInfo(1, DIGITS, (0.13,), (0.31,), (28, 28))
    omniglot = FewShotInfo(1, (28, 28), (0.92,), (0.27,), 5, 1)
    characters = TextInfo("characters", ("<unk>", *map(chr, range(33, 98))), 128)
    meta = [
        Way("deqzoo", "eager", ["model=imaml_omniglot_5w1s", "stages=[]"]),
        Way("deqzoo", "MAML, eager", ["model=maml_omniglot_5w1s", "stages=[]", "model.chunk=8"]),  # the chunk of iMAML
    ]
    small_text = ["model.width=24", "model.heads=2", "model.features=8", "model.context=1", "model.size=6"]
    return [
        Family(
            *("equilibrium", cifar, images(3, 32, 32), (125, 4), SMALL_IMAGES),
            deq_ways("deq_cifar", ["model=deq_cifar", "model.body=explicit"]),
        ),
        Family(
            *("neural ODE", mnist, images(1, 28, 28), (128, 4), ["model.width=8", "model.groups=4"]),
            ode_ways("node_mnist", ["model=conv_mnist"]),
        ),
        Family(
            *("flow", DensityInfo(2, "8gaussians"), lambda count: (torch.randn(count, 2),), (1000, 16)),
            ["model.hidden=[8]"],
            flow_ways("cnf_8gaussians"),
        ),
        Family("meta-learning", omniglot, episodes, (32, 2), ["model.width=4"], meta),
        Family(
            *("language", characters, texts, (16, 2), small_text),
            deq_ways("deq_lm_shakespeare", ["model=lm_shakespeare"]),
        ),
    ]


# --- a step ---


class Step:
    """A training step on one batch, again and again.

    Args:
        way: what is trained.
        family: its data.
        device: where.
        quick: a small network and batch.
    """

    def __init__(self, way: Way, family: Family, device: torch.device, quick: bool) -> None:
        words = [*way.words, *(family.quick if quick and way.library != "explicit baseline" else [])]
        settings = OmegaConf.to_object(composed_of(words).model)
        with seeded(), torch.device("cpu"):
            network = build_network(settings, family.info)
            self.module: Any = kind_of(settings.kind).module(network, settings).to(device).train()
            self.batch = [part.to(device) for part in family.batch(family.size[quick])]
        speed_up(network, settings, TrainerConfig(accelerator="cpu"))  # not by itself: where the way says so
        way.change(self.module)
        options = self.module.options
        self.optimizer = make_optimizer(
            network,
            options.optimizer.value,
            lr=1e-6,  # the weights stay about what they are
            momentum=options.momentum,
            groups=[dataclasses.replace(group, lr=1e-6) for group in options.parameter_groups],
            **options.optimizer_options,
        )
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def __call__(self) -> None:
        """A step."""
        self.optimizer.zero_grad()
        self.backward()
        self.optimizer.step()

    def backward(self) -> None:
        """Its gradients."""
        with self.autocast:
            loss = self.module.training_step(self.batch, 0)
        loss.backward()
        self.module._parts.clear()  # what the check for NaN would look at; a trainer would


@contextmanager
def counted_waits(device: torch.device, compiled: bool) -> Iterator[Callable[[], int | None]]:
    """Inside, the waits of the host are counted; None where they cannot be: on the CPU, of compiled code."""
    if device.type == "cuda":
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield lambda: sum("synchroniz" in str(warning.message) for warning in seen)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    elif compiled:
        yield lambda: None
    else:
        with HostReads() as reads:
            yield lambda: reads.count


def launches(step: Step, device: torch.device) -> int:
    """Kernels that a step launches; on the CPU the operators that call no others."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        step()
    events = profile.events()
    if device.type == "cuda":
        return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events)
    return sum(event.name.startswith("aten::") and not event.cpu_children for event in events)


def prepared(way: Way, family: Family, device: torch.device, quick: bool) -> tuple[Row, Step | None]:
    """The step, warm, and its row without times; None where it fails."""
    row = Row(family.name, way.library, way.way)
    try:
        step = Step(way, family, device, quick)
        row.first = time_on(device)(step)
        for _ in range(1 if quick else WARM_UP):
            step()
        with counted_waits(device, "comp" in way.way or "capt" in way.way) as waits:
            step.backward()  # on the CPU the optimisers read counters, which is no wait
        row.waits = waits()
        row.kernels = launches(step, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            step()
            row.bytes = torch.cuda.max_memory_allocated(device)
    except Exception as error:  # a peer's, or ours: the other rows are worth having
        row.error = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:120]
        return row, None
    return row, step


def measure(family: Family, device: torch.device, quick: bool, deadline: float) -> list[Row]:
    """A row for each way."""
    rows, steps = [], {}
    for way in family.ways:
        if time.monotonic() > deadline:
            rows.append(Row(family.name, way.library, way.way, error="not run: out of time"))
            continue
        row, step = prepared(way, family, device, quick)
        rows.append(row)
        if step is not None:
            steps[len(rows) - 1] = step
    times = interleaved(steps, 1 if quick else ROUNDS, time_on(device))
    for number, seconds in times.items():
        rows[number].seconds = statistics.median(seconds)
        if 0 in times:
            rows[number].over_eager = median_ratio(seconds, times[0])
    return rows


def print_rows(console: Console, rows: Sequence[Row], device: torch.device) -> None:
    """The table."""

    def shown(row: Row) -> Sequence[str]:
        name = row.family, row.library, row.way
        if row.error:
            return *name, row.error, *[""] * 5
        numbers = (
            f"{row.seconds * 1e3:.1f}",
            "" if row.over_eager is None else f"{row.over_eager:.2f}",
            *("" if count is None else f"{count:,}" for count in (row.waits, row.kernels)),
            "" if row.bytes is None else f"{row.bytes / 2**20:,.0f}",
            f"{row.first:.1f}",
        )
        return *name, *numbers

    launched = "kernels" if device.type == "cuda" else "operators"
    print_table(
        console,
        f"Training steps, {device}",
        ["family", "library", "way"],
        ["ms", "over eager", "waits", launched, "MiB", "first step, s"],
        map(shown, rows),
    )


def main() -> int:
    """Run, print, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--families", nargs="*", metavar="NAME", help="those alone; equilibrium, flow, ...")
    options = started(__doc__, parser)
    device = torch.device(options.device)
    console = open_console()
    tell_missing(console, torchdeq=torchdeq)
    warnings.filterwarnings("ignore", message=".*self.trainer.*")
    deadline = time.monotonic() + 60 * MINUTES
    chosen = [family for family in families() if not options.families or family.name in options.families]
    rows = [row for family in chosen for row in measure(family, device, options.quick, deadline)]
    print_rows(console, rows, device)
    return finished(options, ["deqzoo", "torchdeq", "torchdiffeq"], rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
