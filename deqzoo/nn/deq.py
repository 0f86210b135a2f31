"""The deep equilibrium layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..implicit import Anderson, FixedPointSolver, Gradient, Implicit, Solution, fixed_point, spectral_radius
from ..implicit.modes import in_transform
from ..implicit.pytree import map_tensors, tensor_leaves
from ..implicit.solution import OnFailure


class DEQ(nn.Module):
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

    Source: Bai, Kolter, Koltun, "Deep Equilibrium Models", 2019.

    >>> cell = lambda z, x: torch.tanh(0.5 * z + x)
    >>> deq = DEQ(cell)
    >>> z = deq(torch.zeros(3, 2))
    >>> z.abs().max().item(), deq.solution.converged
    (0.0, tensor([True, True, True]))
    """

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
        self.solution: Solution | None = None

    def forward(self, x: Any, z0: Any = None) -> Any:
        """z*(x), from the start z0: a former solution (warm start), or `cell.initial_state(x)`, or zeros like x."""
        if self.training:
            _refuse_batch_norm(self.cell)
        if z0 is None:
            z0 = self.initial_state(x)
        f, args = _with_parameters(self.cell, x)
        if self.training:
            f = _same_randomness(f, tensor_leaves(z0)[0].device)
        z, self.solution = fixed_point(
            f,
            z0,
            *args,
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

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without the last solution, which may hang on a graph."""
        return {**self.__dict__, "solution": None}


def _refuse_batch_norm(cell: Any) -> None:
    """Batch statistics couple the samples, whose systems are solved, and differentiated, each on its own."""
    for name, module in cell.named_modules() if isinstance(cell, nn.Module) else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ValueError(
                f"the cell's {name or 'module'} is a {type(module).__name__} in training mode, which couples the "
                "samples of a batch; use GroupNorm or LayerNorm inside a DEQ, or put it into eval mode"
            )


def _with_parameters(cell: Any, x: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The cell with the parameters of this moment, and its arguments besides z.

    Under `torch.func.functional_call` a module holds other parameters only while it is called; the backward evaluates
    the cell later. Inside transforms they become arguments, so that each level sees its own version of them.
    """
    if not isinstance(cell, nn.Module):
        return cell, (x,)
    state = {**dict(cell.named_parameters()), **dict(cell.named_buffers())}
    if in_transform():
        return lambda z, x, state: functional_call(cell, state, (z, x)), (x, state)
    parameters = list(cell.parameters())

    def call(z: Any, x: Any) -> Any:
        if all(now is then for now, then in zip(cell.parameters(), parameters, strict=True)):
            return cell(z, x)
        return functional_call(cell, state, (z, x))

    return call, (x,)


def _same_randomness(f: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """`f` with the same random draws in each call; outside, the generators move on as after a single call."""
    accelerator = None if device.type == "cpu" else getattr(torch, device.type)
    start = _rng_state(accelerator, device)
    first = True

    def call(*args: Any) -> Any:
        nonlocal first
        outside = None if first else _rng_state(accelerator, device)
        _set_rng_state(accelerator, device, start)
        try:
            return f(*args)
        finally:
            first = False
            if outside is not None:
                _set_rng_state(accelerator, device, outside)

    return call


def _rng_state(accelerator: Any, device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), None if accelerator is None else accelerator.get_rng_state(device)


def _set_rng_state(accelerator: Any, device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if accelerator is not None:
        accelerator.set_rng_state(state[1], device)
