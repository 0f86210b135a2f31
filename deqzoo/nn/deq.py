"""The deep equilibrium layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..implicit import (
    Anderson,
    FixedPointSolver,
    Gradient,
    Implicit,
    Solution,
    Status,
    fixed_point,
    spectral_radius,
)
from ..implicit.pytree import Ravel, map_tensors, tensor_leaves
from ..implicit.solution import OnFailure
from .layer import SolverLayer, same_randomness, solver_layers, with_parameters


class DEQ(SolverLayer):
    """The fixed point z* = cell(z*, x) as a layer; each sample of the batch is a system of its own.

    Gradients flow to the cell's parameters and to x by the implicit function theorem, in training and in eval mode.
    Dropout masks and other random draws of the cell are the same in every evaluation of one forward and its backward.

    Args:
        cell: module `cell(z, x) -> z`; z is a tensor, or a tuple or other pytree of tensors, batch axis first.
        solver: solver of the forward pass.
        gradient: how gradients are computed (`Implicit`, `Phantom`, `OneStep`, `Unrolled`).
        on_failure: "ignore" (the status stands in `solution`), "warn" or "raise" when a sample does not converge.

    Attributes:
        solution: `Solution` of the last forward; its `backward` is filled once the backward pass has run.
        depth: None, or the number of iterations without a solve, see `use_unrolled`.

    Source: Bai, Kolter, Koltun, "Deep Equilibrium Models", 2019.

    >>> cell = lambda z, x: torch.tanh(0.5 * z + x)
    >>> deq = DEQ(cell)
    >>> z = deq(torch.zeros(3, 2))
    >>> z.abs().max().item(), deq.solution.converged
    (0.0, tensor([True, True, True]))
    """

    evaluated = "cell"

    def __init__(
        self,
        cell: Callable[..., Any],
        *,
        solver: FixedPointSolver | None = None,
        gradient: Gradient | None = None,
        on_failure: OnFailure = "ignore",
    ) -> None:
        super().__init__()
        self.cell: Any = cell
        self.solver = Anderson(tol=1e-3, max_steps=30) if solver is None else solver
        self.gradient = Implicit() if gradient is None else gradient
        self.on_failure = on_failure
        self.solution = None
        self.depth: int | None = None

    def forward(self, x: Any, z0: Any = None) -> Any:
        """z*(x), from the start z0: a former solution (warm start), or `cell.initial_state(x)`, or zeros like x."""
        if self.training:
            _refuse_batch_norm(self.cell)
        if z0 is None:
            z0 = self.initial_state(x)
        f, parameters = with_parameters(self.cell)
        if self.training:
            f = same_randomness(f, tensor_leaves(z0)[0].device)
        if self.depth is not None:
            z, self.solution = _iterated(f, z0, (x, *parameters), self.depth)
            return z
        z, self.solution = fixed_point(
            f,
            z0,
            x,
            *parameters,
            solver=self.solver,
            gradient=self.gradient,
            batch_dims=1,
            on_failure=self.on_failure,
            return_solution=True,
        )
        self.solution.value = map_tensors(torch.Tensor.detach, z)
        return z

    def initial_state(self, x: Any) -> Any:
        """The state from which a solve starts: zeros in at least float32, unless the cell has its own."""
        if hasattr(self.cell, "initial_state"):
            return self.cell.initial_state(x)
        return map_tensors(lambda t: torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32)), x)

    def spectral_radius(self, x: Any, z: Any, steps: int = 20) -> Tensor:
        """Largest absolute eigenvalue of d cell / dz at (z, x), for each sample (see `implicit.spectral_radius`)."""
        return spectral_radius(self.cell, z, x, batch_dims=1, steps=steps)


@contextmanager
def use_unrolled(network: nn.Module, depth: int) -> Iterator[None]:
    """Within it, each DEQ layer of `network` is an explicit network: `depth` iterations of its cell, all recorded.

    So the original DEQs begin their training: it is cheap, and the solves that follow start from a cell that converges.
    """
    deqs = [layer for layer in solver_layers(network) if isinstance(layer, DEQ)]
    own = [deq.depth for deq in deqs]
    try:
        for deq in deqs:
            deq.depth = depth
        yield
    finally:
        for deq, before in zip(deqs, own, strict=True):
            deq.depth = before


def _iterated(f: Callable[..., Any], z: Any, args: tuple[Any, ...], depth: int) -> tuple[Any, Solution]:
    """f applied `depth` times to z; its residual is that of the iterate before the last, which costs nothing."""
    ravel, last = Ravel(z, batch_dims=1), z
    for _ in range(depth):
        last, z = z, f(z, *args)
    before, rows = ravel.flatten(last).detach(), ravel.flatten(z).detach()
    steps = torch.full((ravel.systems,), depth, device=ravel.device)
    status = torch.full_like(steps, Status.MAX_STEPS)
    residual = (rows - before).norm(dim=1) / rows.norm(dim=1)
    return z, Solution(map_tensors(torch.Tensor.detach, z), status, residual, steps, nfe=depth)


def _refuse_batch_norm(cell: Any) -> None:
    """Batch statistics couple the samples, whose systems are solved, and differentiated, each on its own."""
    for name, module in cell.named_modules() if isinstance(cell, nn.Module) else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ValueError(
                f"the cell's {name or 'module'} is a {type(module).__name__} in training mode, which couples the "
                "samples of a batch; use GroupNorm or LayerNorm inside a DEQ, or put it into eval mode"
            )
