"""Neural controlled differential equations as a layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..implicit import ODEAdjoint, ODESolver, TorchDiffEq
from ..implicit.modes import in_transform, unwrap
from ..implicit.private_api import below_all_transforms
from ..implicit.solution import OnFailure
from .interpolation import PiecewisePolynomial
from .ode import NeuralODE


class NeuralCDE(NeuralODE):
    r"""The solution of dz = f(t, z) dX(t), driven by a path X, as a layer: path and z(t_0) in, z(t_1) out.

        dz/dt = f(t, z) dX/dt,    f(t, z) a matrix (hidden, channels)

    What a recurrent network is to series at regular times this is to irregular ones: X interpolates the observations
    (`hermite_cubic`, `natural_cubic`, `piecewise_linear`, `rectilinear`). Time is to be one of its channels, else z
    does not see how fast X is passed through. Gradients flow to the field's parameters, to z(t_0), and to the path
    (and through it to the series), by the adjoints of `NeuralODE`.

    Args:
        field: `f(t, z, *args)`, (B, hidden) -> (B, hidden, channels), t a 0-dim tensor, such as `MLPVectorField`. What
            grows without bound makes solves of ever more steps: let it end in a tanh.
        solver: an ODE solver of `deqzoo.implicit`, or its name; `Tsit5(rtol=1e-3, atol=1e-3)` by default. One with
            fixed steps and no `step_size` takes a step from knot to knot: `RK4()`.
        adjoint: how gradients are computed (`Discrete`, `Backsolve`, `Direct`), or its name; None: `odeint`'s default.
        stop_at_knots: steps end at each knot of the path, where dX/dt jumps (straight lines) or has kinks (cubics), so
            that f dX/dt is smooth within a step. False: adaptive steps may be longer than the distance of the knots,
            for cubic paths through long series that are sampled densely; at tolerances of 1e-3 their error is then
            some ten times as large, below 1e-5 steps that end at knots are the fewer ones.
        on_failure: "warn", "raise" or "ignore", as for `NeuralODE`.

    Attributes:
        solution: `Solution` of the last forward; its `backward` is filled once the backward pass has run.

    Source: Kidger, Morrill, Foster, Lyons, "Neural Controlled Differential Equations for Irregular Time Series", 2020,
    [arXiv:2005.08926](https://arxiv.org/abs/2005.08926).

    >>> from deqzoo.nn import hermite_cubic
    >>> x = torch.tensor([[[0.0, 1.0], [1.0, torch.nan], [2.0, 3.0]]])  # time and a value, (1, 3, 2)
    >>> total = NeuralCDE(lambda t, z: torch.ones(1, 1, 2))  # z = z(0) + all changes of X
    >>> total(hermite_cubic(x), torch.zeros(1, 1)).round(decimals=3)
    tensor([[4.]])
    """

    evaluated: ClassVar[str] = "dynamics"

    def __init__(
        self,
        field: Callable[..., Any],
        *,
        solver: ODESolver | str | None = None,
        adjoint: ODEAdjoint | str | None = None,
        stop_at_knots: bool = True,
        on_failure: OnFailure = "warn",
    ) -> None:
        super().__init__(field, solver=solver, adjoint=adjoint, on_failure=on_failure)
        self.stop_at_knots = stop_at_knots

    def forward(  # type: ignore[override]
        self, path: PiecewisePolynomial, z0: Tensor, t: Tensor | Sequence[float] | None = None, *args: Any
    ) -> Tensor:
        """z at the path's end, (B, hidden), of z0 = z at its start; with `t`, at all these times, (len(t), B, hidden).

        Args:
            path: of a batch of series, coefficients (length - 1, degree + 1, B, channels).
            z0: (B, hidden); at t[0], where t is given.
            t: two or more times within the path, increasing or decreasing.
            args: go to the field; tensors among them get gradients.

        Raises:
            ValueError: batch of path and state differ; t leaves the path; the field gives another shape.
        """
        if not isinstance(path, PiecewisePolynomial):
            raise ValueError(
                f"the first argument is the path, such as hermite_cubic(x, t) of series x, got a {type(path).__name__}"
            )
        batch = path.coefficients.shape[2:-1]
        if z0.shape[:-1] != batch:
            raise ValueError(f"z0 must be {_shape((*batch, 'hidden'))} as the path is, got {_shape(z0.shape)}")
        z0 = z0.to(torch.promote_types(z0.dtype, torch.float32))
        times = path.interval if t is None else torch.as_tensor(t)
        if t is not None and not in_transform():
            ends = path.interval.to(times)
            if not bool(((times >= ends[0]) & (times <= ends[1])).all()):
                raise ValueError(f"times t must lie on the path, from {ends[0].item():g} to {ends[1].item():g}")
        z: Tensor = self._solved(z0, times.to(z0.dtype), (path.differentiate(), *args), self._solver_along(path))
        return z[-1] if t is None else z

    def _right_hand_side(self, f: Callable[..., Any]) -> Callable[..., Any]:
        def controlled(t: Tensor, z: Tensor, derivative: PiecewisePolynomial, *args: Any) -> Tensor:
            slope, matrix = derivative(t).to(z.dtype), f(t, z, *args)
            wanted = (*z.shape, slope.shape[-1])
            if matrix.shape != wanted and matrix.shape != (*(1,) * (z.dim() - 1), *wanted[-2:]):
                raise ValueError(f"the field must return (..., hidden, channels) = {wanted}, got {tuple(matrix.shape)}")
            return (matrix @ slope.unsqueeze(-1)).squeeze(-1)

        return controlled

    def _solver_along(self, path: PiecewisePolynomial) -> Any:
        """The solver, with steps that end at the knots where that is wanted."""
        solver = self.chosen_solver
        if not self.stop_at_knots or isinstance(solver, TorchDiffEq):
            return solver
        with below_all_transforms():
            knots = unwrap(path.knots).detach()
            if knots.dim() > 1:
                raise ValueError("steps cannot end at knots that differ under vmap: share them, or stop_at_knots=False")
            jumps = knots[1:-1].tolist()
        return dataclasses.replace(solver, jump_times=(*solver.jump_times, *jumps))

    @property
    def is_one_graph(self) -> bool:
        """As `SolverLayer.is_one_graph`: it is none, as the path's knots are read on the host."""
        return False


def _shape(sizes: Sequence[Any]) -> str:
    return f"({', '.join(map(str, sizes))})"
