"""Does the equilibrium do the work? What an entry must show to count as a DEQ."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deqzoo.implicit import Anderson, Picard
from deqzoo.implicit.fixed_point_solvers.splitting import Splitting
from deqzoo.models.baseline import baseline_row
from deqzoo.nn import use_solver
from deqzoo.nn.deq import recorded_residuals
from deqzoo.nn.layer import use_options

Batches = Iterable[tuple[Tensor, Tensor]]

_TIGHT = Anderson(tol=1e-4, max_steps=50)
SHARE, RESIDUAL, GAP = 0.8, 1e-2, 0.002  # least share in cells, largest median residual, largest accuracy gap


def deq_check(network: nn.Module, batches: Batches, *, limit: int = 10_000) -> dict[str, Any]:
    """Measure it on the first ``limit`` test images.

    Returns:
        ``parameter_share``, ``flop_share``: of the equilibrium cells in the whole network.
        ``median_residual``: relative, with the network's own solver.
        ``accuracy_12_nfe``, ``accuracy_tight``: of Anderson after 12 evaluations, and at tolerance 1e-4.
        ``accuracy_one_step``: with each cell applied once, to its start.
        ``n``: test images. ``passed``: at least 80 % of parameters and FLOPs in cells, a median residual of
            at most 1e-2, and the two accuracies within .2 points (or one image, where fewer than 500 are tested).
    """
    chosen = first_batches(batches, limit)
    images = chosen[0][0]
    residual = _median_residual(network, chosen)
    with use_solver(network, Anderson(tol=0.0, max_steps=11)):  # f is called once more than that
        at_12 = _accuracy(network, chosen)
    own = network.equilibria[0].solver  # type: ignore[index, union-attr]
    # Anderson need not converge where an operator splitting does.
    tighter = dataclasses.replace(own, tol=1e-4, max_steps=300) if isinstance(own, Splitting) else _TIGHT
    # Few samples take many steps: the solves go on with those alone, but for splittings, which take the whole batch.
    compact = not isinstance(tighter, Splitting)
    with use_solver(network, tighter), use_options(network.equilibria, compact=compact):  # type: ignore[arg-type]
        tight = _accuracy(network, chosen)
    with use_solver(network, Picard(tol=0.0, max_steps=1)):
        one_step = _accuracy(network, chosen)
    result: dict[str, Any] = {
        "parameter_share": parameter_share(network),
        "flop_share": flop_share(network, images[:64]),  # so many, as some of the work may be done once a batch
        "median_residual": residual,
        "accuracy_12_nfe": at_12,
        "accuracy_tight": tight,
        "accuracy_one_step": one_step,
        "n": sum(len(labels) for _, labels in chosen),
    }
    result["passed"] = (
        min(result["parameter_share"], result["flop_share"]) >= SHARE
        and residual <= RESIDUAL
        and abs(tight - at_12) <= max(GAP, 1.001 / result["n"])
    )
    return result


def parameter_share(network: nn.Module) -> float:
    """Parameters of the equilibrium cells over all parameters."""
    in_cells = {id(p): p.numel() for deq in network.equilibria for p in deq.cell.parameters()}  # type: ignore[union-attr]
    return sum(in_cells.values()) / sum(p.numel() for p in network.parameters())


@torch.no_grad()
def flop_share(network: nn.Module, images: Tensor) -> float:
    """FLOPs of the equilibrium cells over all FLOPs of a forward pass with 12 evaluations of each cell.

    Matrix products and convolutions are counted; the solver's own are none, as plain iteration is used here.
    """
    cells = [deq.cell for deq in network.equilibria]  # type: ignore[union-attr]
    with use_solver(network, Picard(tol=0.0, max_steps=11)):
        return share_of_flops(cells, lambda: network(images))


def share_of_flops(modules: Iterable[nn.Module], run: Callable[[], object]) -> float:
    """FLOPs of products and convolutions inside of the modules over all that run() takes."""
    counter, inside = FlopCounterMode(display=False), 0
    starts: list[int] = []

    def enter(*_: Any) -> None:
        starts.append(counter.get_total_flops())

    def leave(*_: Any) -> None:
        nonlocal inside
        inside += counter.get_total_flops() - starts.pop()

    hooks = [
        hook
        for module in modules
        for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]
    try:
        with counter:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return inside / max(1, counter.get_total_flops())


def first_batches(batches: Batches, limit: int) -> Sequence[tuple[Tensor, Tensor]]:
    """The batches up to ``limit`` samples."""
    chosen, left = [], limit
    for images, labels in batches:
        chosen.append((images[:left], labels[:left]))
        left -= len(images)
        if left <= 0:
            break
    return chosen


@torch.no_grad()
def _accuracy(network: nn.Module, batches: Batches) -> float:
    right = [network(images).argmax(1) == labels for images, labels in batches]
    return torch.cat(right).double().mean().item()


@torch.no_grad()
def _median_residual(network: nn.Module, batches: Batches) -> float:
    """The median over the images of the largest residual over the layers.

    The residual is that of the fixed point: a solver's own may be another, as a splitting's is.
    """
    with recorded_residuals(network.equilibria) as found:  # type: ignore[arg-type]
        for images, _ in batches:
            network(images)
    layers = len(network.equilibria)  # type: ignore[arg-type]
    largest = [torch.stack(found[i : i + layers]).amax(0) for i in range(0, len(found), layers)]
    return torch.cat(largest).median().item()


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of a `deq_check`, and of the ``baseline`` beside it: check, measured, asked for."""
    n = f"{check['n']:,} test images"
    rows = [
        ("parameters in equilibrium cells", f"{100 * check['parameter_share']:.1f} %", ">= 80 %"),
        ("FLOPs in equilibrium cells", f"{100 * check['flop_share']:.1f} %", ">= 80 %"),
        ("median test residual", f"{check['median_residual']:.1e}", "<= 1e-2"),
        (
            f"accuracy at tol 1e-4, {n}",
            f"{100 * check['accuracy_tight']:.2f} %",
            "within .2 points (or one image) of the next",
        ),
        (f"accuracy at 12 NFE, {n}", f"{100 * check['accuracy_12_nfe']:.2f} %", ""),
        (
            f"ablation: these weights, each cell applied once, {n}",
            f"{100 * check['accuracy_one_step']:.2f} %",
            "the equilibrium matters",
        ),
        ("counts as a DEQ", "yes" if check["passed"] else "**no**", ""),
    ]
    if baseline := check.get("baseline"):
        rows.append(baseline_row(baseline, "test images"))
    return rows
