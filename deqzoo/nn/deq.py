"""The deep equilibrium layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..implicit import (
    EQUATION_ADJOINTS,
    SOLVERS,
    SPLITTINGS,
    Adjoint,
    Anderson,
    EquationAdjoint,
    FixedPointSolver,
    Implicit,
    fixed_point,
    spectral_radius,
)
from ..implicit.by_name import instance, renamed
from ..implicit.private_api import BatchNorm
from ..implicit.pytree import Ravel, map_tensors, tensor_leaves
from ..implicit.solution import OnFailure
from .layer import SolverLayer, half_dtype, with_parameters
from .randomness import same_randomness


class DEQ(SolverLayer):
    """The fixed point z* = cell(z*, x) as a layer; each sample of the batch, or all of z, is a system of its own.

    Gradients flow to the cell's parameters and to x by the implicit function theorem, in training and in eval mode.
    Dropout masks and other random draws of the cell are the same in every evaluation of one forward and its backward.

    Args:
        cell: module `cell(z, x) -> z`; z is a tensor, or a tuple or other pytree of tensors, batch axis first. If it
            has a method `prepare(x)`, that is called once per forward, and the cell as `cell(z, x, prepare(x))`.
        solver: solver of the forward pass, or its name ("picard"); `Anderson(tol=1e-3, max_steps=30)` by default.
        adjoint: how gradients are computed, `Implicit()` by default; `Phantom`, `OneStep`, `Unrolled`,
            `ReversibleIteration`, or the name of one ("one_step"). (Called `gradient` before.)
        batch_dims: 1: each sample is a system; 0: all of z is one, as where the cell couples the nodes of a graph.
        compact: in eval mode, evaluate the cell for the samples alone that have not converged (see `fixed_point`). In
            training it changes nothing: there the cell's random draws belong to the whole batch.
        on_failure: "warn", "raise" or "ignore" (the status stands in `solution`) when a system does not converge.

    A sample that has diverged, or whose input is not finite, is NaN in the output and leaves the others alone.
    A cell in half precision (`deq.half()`, `deq.to(torch.bfloat16)`) gets states of that type, and so is the output;
    the solver computes in float32.

    Attributes:
        solution: `Solution` of the last forward; its `backward` is filled once the backward pass has run.
        intermediate: in training, cell(z, x) of each iterate z that the solver was asked to `keep`, with the graph of
            this one step: estimates of the fixed point, for losses on the way to it.

    Source: Bai, Kolter, Koltun, "Deep Equilibrium Models", 2019.

    >>> cell = lambda z, x: torch.tanh(0.5 * z + x)
    >>> deq = DEQ(cell)
    >>> deq
    DEQ(solver=Anderson(tol=0.001, max_steps=30), adjoint=Implicit())
    >>> z = deq(torch.zeros(3, 2))
    >>> z.abs().max().item(), deq.solution.converged
    (0.0, tensor([True, True, True]))
    """

    evaluated = "cell"
    default_solver: ClassVar[FixedPointSolver] = Anderson(tol=1e-3, max_steps=30)

    def __init__(
        self,
        cell: Callable[..., Any],
        *,
        solver: FixedPointSolver | str | None = None,
        adjoint: EquationAdjoint | str | None = None,
        batch_dims: int = 1,
        compact: bool = False,
        on_failure: OnFailure = "warn",
        gradient: EquationAdjoint | None = None,
    ) -> None:
        super().__init__()
        self.cell: Any = cell
        solver = instance("solver", {**SOLVERS, **SPLITTINGS}, solver)
        self.solver = self.default_solver if solver is None else solver
        adjoint = renamed({"gradient": gradient}, "gradient", "adjoint", Adjoint, adjoint)
        self.adjoint = Implicit() if adjoint is None else instance("adjoint", EQUATION_ADJOINTS, adjoint)
        self.batch_dims = batch_dims
        self.compact = compact
        self.on_failure = on_failure
        self.solution = None
        self.intermediate: list[Any] = []

    def forward(self, x: Any, z0: Any = None) -> Any:
        """z*(x), from the start z0: a former solution (warm start), or `cell.initial_state(x)`, or zeros like x."""
        if self.training and self.batch_dims:
            _refuse_batch_norm(self.cell)
        if z0 is None:
            z0 = self.initial_state(x)
        half = half_dtype(self.cell)
        if half is not None:  # of what the cell is given: between its evaluations the solver has float32
            z0 = map_tensors(lambda t: t.to(half), z0)
        f, args = self.equation(z0, x)
        z, self.solution = fixed_point(
            f,
            z0,
            *args,
            solver=self.chosen_solver,
            adjoint=self.adjoint,
            batch_dims=self.batch_dims,
            compact=self.compact and not self.training,
            on_failure=self.on_failure,
            return_solution=True,
        )
        self.solution.value = map_tensors(torch.Tensor.detach, self.solution.value)
        learning = self.training and torch.is_grad_enabled()
        self.intermediate = [f(kept, *args) for kept in self.solution.kept] if learning else []
        return z

    @property
    def is_one_graph(self) -> bool:
        """As `SolverLayer.is_one_graph`: the solver has `stop="never"`, and the adjoint's products are fixed."""
        return getattr(self.solver, "stop", None) == "never" and self.adjoint.compiles

    def __getstate__(self) -> dict[str, Any]:
        """As `SolverLayer` does, and without other results."""
        return {**super().__getstate__(), "intermediate": []}

    def equation(self, z0: Any, x: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """f and its further arguments, of the z = f(z, *args) that is solved from z0."""
        args: tuple[Any, ...]
        if hasattr(self.cell, "prepare"):
            # As arguments: what a closure holds is found by one evaluation more. An axis of its own in front tells
            # what was prepared from the samples, which a compact solve may cut.
            prepared = map_tensors(lambda t: t.unsqueeze(0), self.cell.prepare(x))
            f, args = lambda z, x, prepared: self.cell(z, x, map_tensors(_without_axis, prepared)), (x, prepared)
        else:
            f, parameters = with_parameters(self.cell)
            args = (x, *parameters)
        if self.training:
            f = same_randomness(f, self.cell, tensor_leaves(z0)[0].device, self.is_one_graph)
        return f, args

    @property
    def certified(self) -> bool:
        """Whether z* is proved to exist, to be unique and to be found by plain iteration, with the weights as they are.

        So it is where the cell bounds its Lipschitz constant in z, by `cell.lipschitz()`, and the bound is below one.
        """
        return hasattr(self.cell, "lipschitz") and self.cell.lipschitz() < 1

    def initial_state(self, x: Any) -> Any:
        """The state from which a solve starts: zeros in at least float32, unless the cell has its own."""
        if hasattr(self.cell, "initial_state"):
            return self.cell.initial_state(x)
        return map_tensors(lambda t: torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32)), x)

    @torch.no_grad()
    def relative_residual(self, x: Any, z: Any) -> Tensor:
        """||cell(z, x) - z|| / ||cell(z, x)|| of each sample, (B,), by an evaluation of its own."""
        ravel = Ravel(z, batch_dims=1)
        image, state = ravel.flatten(self.cell(z, x)), ravel.flatten(z)
        return (image - state).norm(dim=1) / image.norm(dim=1)

    def spectral_radius(self, x: Any, z: Any, steps: int = 20) -> Tensor:
        """Largest absolute eigenvalue of d cell / dz at (z, x), for each system (see `implicit.spectral_radius`)."""
        return spectral_radius(self.cell, z, x, batch_dims=self.batch_dims, steps=steps)


@contextmanager
def recorded_residuals(layers: Iterable[DEQ]) -> Iterator[list[Tensor]]:
    """Inside, each forward of each layer adds its samples' `DEQ.relative_residual` to the list."""
    found: list[Tensor] = []

    def look(layer: Any, inputs: tuple[Any, ...], z: Any) -> None:
        found.append(layer.relative_residual(inputs[0], z))

    hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _without_axis(t: Tensor) -> Tensor:
    return t.squeeze(0)


def _refuse_batch_norm(cell: Any) -> None:
    """Batch statistics couple the samples, whose systems are solved, and differentiated, each on its own."""
    for name, module in cell.named_modules() if isinstance(cell, nn.Module) else ():
        if isinstance(module, BatchNorm) and module.training:
            raise ValueError(
                f"the cell's {name or 'module'} is a {type(module).__name__} in training mode, which couples the "
                "samples of a batch; use GroupNorm or LayerNorm inside a DEQ, or put it into eval mode"
            )
