"""A training step of well-posed equilibria through `DEQ`, beside the same network with a loop written by hand.

The loop is plain PyTorch: Picard iteration until every image meets the tolerance, and for the gradient the Neumann
series with the mask of the last evaluation. It has no other mode, order, status or failure than this. Both networks
have the same weights, images and tolerances; the injections, the norm of W and the head are the same modules.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measure import interleaved
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started
from deqzoo.implicit import Implicit, Neumann, Picard
from deqzoo.models import ImageClassifier, contractive_net

TOL, TIGHT = 1e-2, 1e-10  # of solves, forward and backward: of the step, and in float64 for a look at the gradient
MOST = 100  # steps of a solve
ALLOWED = 1.25  # time through `DEQ` over the time by hand


class ByHand(nn.Module):
    """z = relu(W z + x) of a `ContractiveConvCell` by a loop of its own."""

    def __init__(self, cell: Any, tol: float) -> None:
        super().__init__()
        self.cell, self.tol = cell, tol

    def forward(self, x: Tensor) -> Tensor:
        """The equilibrium."""
        z: Tensor = _Equilibrium.apply(x, self.cell.prepare(x), self.tol)
        return z


class _Equilibrium(torch.autograd.Function):
    """(x, W, tol) -> z, and back: u = D (g + W^T u), with D the mask of relu at z."""

    evaluations, products = 0, 0

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, tol: float) -> Tensor:
        z = F.relu(x)
        for _ in range(MOST):
            before, z = z, F.conv2d(z, W, padding=1).add_(x).relu_()
            _Equilibrium.evaluations += 1
            if _changed_by(z, before) <= tol:
                break
        ctx.save_for_backward(z, W)
        ctx.tol = tol
        return z

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        z, W = ctx.saved_tensors
        on = z > 0
        first = u = g * on
        for _ in range(MOST):
            before, u = u, conv2d_input(z.shape, W, u, padding=1).mul_(on).add_(first)
            _Equilibrium.products += 1
            if _changed_by(u, before) <= ctx.tol:
                break
        return u, conv2d_weight(z, W.shape, u, padding=1), None


def _changed_by(now: Tensor, before: Tensor) -> float:
    """The largest relative change of a sample."""
    return ((now - before).flatten(1).norm(dim=1) / now.flatten(1).norm(dim=1)).max().item()


class CountConvolutions(TorchDispatchMode):
    """Counts convolutions: forward, and products with their transposes that give gradients of inputs or of kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.inputs = self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.forward += 1
        elif func is torch.ops.aten.convolution_backward.default:
            self.inputs += bool(args[-1][0])
            self.kernels += bool(args[-1][1])
        return func(*args, **(kwargs or {}))


@dataclasses.dataclass
class Row:
    """One way of making a step: what it calls, summed over the stages, and how long it takes."""

    way: str
    evaluations: int
    products: int  # with the transposed Jacobian, in the backward solves
    convolutions: int
    input_gradients: int
    kernel_gradients: int
    seconds: float  # the least of the rounds

    def shown(self) -> list[str]:
        """The numbers of the table."""
        counts = (self.evaluations, self.products, self.convolutions, self.input_gradients, self.kernel_gradients)
        return [*map(str, counts), f"{self.seconds:.2f}"]


def networks(widths: Sequence[int], size: tuple[int, int], tol: float) -> dict[str, ImageClassifier]:
    """The same weights twice, in training mode: through `DEQ`, and by hand."""
    torch.manual_seed(0)
    through = contractive_net(
        size,
        [str(label) for label in range(10)],
        [0.5] * 3,
        [0.25] * 3,
        widths=widths,
        solver=Picard(tol=tol, max_steps=MOST),
        adjoint=Implicit(Neumann(k=MOST, tol=tol)),
    ).to(memory_format=torch.channels_last)
    hand = copy.deepcopy(through)
    for stage in hand.body:  # type: ignore[union-attr]
        stage[1] = ByHand(stage[1].cell, tol)
    return {"through DEQ": through.train(), "by hand": hand.train()}


def step_of(network: ImageClassifier, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Forward and backward of a batch, from the same norms each time."""
    buffers = copy.deepcopy(dict(network.named_buffers()))

    def step() -> None:
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
        network.zero_grad()
        F.cross_entropy(network(images), labels).backward()

    return step


def counted(way: str, network: ImageClassifier, step: Callable[[], None]) -> Row:
    """One step, its calls counted."""
    _Equilibrium.evaluations = _Equilibrium.products = 0
    with CountConvolutions() as count:
        step()
    evaluations, products = _Equilibrium.evaluations, _Equilibrium.products
    for layer in network.equilibria if way == "through DEQ" else []:
        assert layer.solution is not None
        assert layer.solution.backward is not None
        evaluations += layer.solution.nfe
        products += layer.solution.backward.nfe
    return Row(way, evaluations, products, count.forward, count.inputs, count.kernels, seconds=float("nan"))


def apart(widths: Sequence[int], size: tuple[int, int], images: Tensor, labels: Tensor) -> float:
    """How far the two gradients are from each other, relatively, in float64 where the solves are tight."""
    found = []
    for network in networks(widths, size, TIGHT).values():
        step_of(network.double(), images.double(), labels)()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    return ((found[0] - found[1]).norm() / found[1].norm()).item()


def main() -> int:
    """Run, print, and write."""
    options = started(__doc__)
    widths, size, batch = ([8, 12], (16, 16), 6) if options.quick else ([32, 128, 128], (32, 32), 125)
    both = networks(widths, size, TOL)
    draw = torch.Generator().manual_seed(1)
    coarse = torch.rand(batch, 3, size[0] // 4, size[1] // 4, generator=draw)
    images = F.interpolate(coarse, size, mode="bilinear") + 0.1 * torch.rand(batch, 3, *size, generator=draw)
    images, labels = images.contiguous(memory_format=torch.channels_last), torch.arange(batch) % 10
    steps = {way: step_of(network, images, labels) for way, network in both.items()}
    rows = [counted(way, network, steps[way]) for way, network in both.items()]
    times = interleaved(steps, 1 if options.quick else 5)
    for row in rows:
        row.seconds = min(times[row.way])
    console = open_console()
    print_table(
        console,
        f"A training step of stages {widths} on {batch} images, CPU seconds",
        [""],
        ["evaluations", "products", "convolutions", "gradients of inputs", "gradients of kernels", "seconds"],
        [(row.way, *row.shown()) for row in rows],
    )
    ratio = rows[0].seconds / rows[1].seconds
    gap = apart(widths, size, images[:25], labels[:25])
    checks = [
        Check(f"a step through DEQ takes at most {ALLOWED} times the time by hand", f"{ratio:.2f}", ratio <= ALLOWED),
        Check(f"both have the same gradient where the solves go to {TIGHT}", f"{gap:.1e} apart", gap <= 1e-6),
    ]
    print_checks(console, checks)
    return finished(options, ["deqzoo"], checks, rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
