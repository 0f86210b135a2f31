"""How much of a network its equilibria are, in parameters and FLOPs, and what is required of a DEQ."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deqzoo.implicit import FixedPointSolver
from deqzoo.implicit.fixed_point_solvers.splitting import Splitting
from deqzoo.nn import solver_layers, use_solver
from deqzoo.nn.layer import use_options

SHARE, STATE_SHARE = 0.8, 0.6  # least, of the equilibria with their injections, and of what acts on the state
RESIDUAL = 1e-2  # largest
GAP = 0.002  # largest, of the accuracies at two tolerances


def accuracies_agree(one: float, other: float, n: int) -> bool:
    """Within .2 points, or one of n samples where that is more.

    >>> accuracies_agree(0.7178, 0.7176, 10_000), accuracies_agree(0.6063, 0.5948, 4000), accuracies_agree(0.9, 0.8, 10)
    (True, False, True)
    >>> accuracies_agree(0.53675, 0.53475, 4000), accuracies_agree(0.53675, 0.5345, 4000)  # 8 and 9 samples
    (True, False)
    """
    samples = round(abs(one - other) * n)  # a whole number: the difference of two means is rounded
    return samples <= max(GAP * n + 1e-6, 1)


@contextmanager
def solved_by(network: nn.Module, solver: FixedPointSolver | None) -> Iterator[None]:
    """Another solver, None: its own, for the samples alone that have not converged; failures are counted.

    A splitting takes the whole batch.
    """
    used = network.equilibria[0].solver if solver is None else solver  # type: ignore[index, union-attr]
    options = use_options(solver_layers(network), on_failure="ignore", compact=not isinstance(used, Splitting))
    with options, use_solver(network, solver) if solver else nullcontext():
        yield


@torch.no_grad()
def flop_share(
    network: nn.Module, modules: Sequence[nn.Module], inputs: Tensor, solver: FixedPointSolver | None = None
) -> float:
    """FLOPs inside of the modules over all of a forward pass; None: with the own solver.

    Matrix products and convolutions are counted.
    """
    with solved_by(network, solver):
        network(inputs)  # the bound of a norm is found once, not in every pass
        return share_of_flops(modules, lambda: network(inputs))


def count(parameters: Iterable[Tensor]) -> int:
    """Numbers in all of them."""
    return sum(p.numel() for p in parameters)


def parameter_share(network: nn.Module) -> float:
    """Parameters of the equilibrium cells over all parameters."""
    in_cells = {id(p): p.numel() for deq in network.equilibria for p in deq.cell.parameters()}  # type: ignore[union-attr]
    return sum(in_cells.values()) / sum(p.numel() for p in network.parameters())


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
