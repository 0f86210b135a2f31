"""Neural ODEs as a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import vjp

from ..implicit import ODE_ADJOINTS, ODE_SOLVERS, ODEAdjoint, ODESolver, TorchDiffEq, Tsit5, odeint
from ..implicit.by_name import instance
from ..implicit.ode.solvers import is_explicit
from ..implicit.ode.times import are_moving
from ..implicit.ode.traced import is_traceable
from ..implicit.pytree import map_tensors, tensor_leaves
from ..implicit.solution import OnFailure
from .layer import SolverLayer, evaluated_in, half_dtype, with_parameters
from .randomness import same_randomness

PENALTIES = ("kinetic", "jacobian")


class NeuralODE(SolverLayer):
    r"""The solution of dy/dt = f(t, y) as a layer: y(t_0) in, y(t_1) out.

    Gradients flow to the dynamics' parameters and to y(t_0). Dropout masks and other random draws of the dynamics are
    the same in every evaluation of one forward and its backward. Dynamics in half precision (`layer.half()`) get states
    of that type, and so is the output; the solver computes in float32.

    Args:
        dynamics: `f(t, y, *args) -> dy/dt`, t a 0-dim tensor, y a tensor (B, ...) or a pytree of such.
        t: the interval (t_0, t_1); t_1 < t_0 integrates backwards.
        solver: an ODE solver of `deqzoo.implicit`, or its name ("dopri5"); `Tsit5(rtol=1e-3, atol=1e-3)` by default.
        adjoint: how gradients are computed (`Discrete`, `Backsolve`, `Direct`, `Reversible`), or its name; None: that
            of `odeint`.
        augment: number of channels of zeros that are appended to y(t_0) along axis 1; they stay in the output.
        penalties: which of "kinetic" and "jacobian" to integrate along the path in training mode, see `path`.
        on_failure: "warn", "raise" or "ignore" (the status stands in `solution`) when a sample does not reach the end:
            it is NaN then. The samples share the steps alone, and one that fails does not change the others. With
            implicit methods each sample has a Jacobian of its own, so that samples must not depend on each other; a
            state of one axis, which may be a batch of numbers or one vector, is one system for them.

    Attributes:
        solution: `Solution` of the last forward; its `backward` is filled once the backward pass has run.
        path: integrals along the last forward's path in training mode, (B,) each, with a graph:
            "kinetic": of |f|^2 / dim, "jacobian": of |v^T df/dy|^2 / dim, whose mean over v ~ N(0, I) is the squared
            Frobenius norm over dim; v is drawn once per solve. They are extra states of the ODE, under its tolerance.

    Source: Chen et al., "Neural Ordinary Differential Equations", 2018; Dupont, Doucet, Teh, "Augmented Neural ODEs",
    2019 (`augment`); Finlay et al., "How to Train Your Neural ODE", 2020 (`penalties`).

    >>> decay = NeuralODE(lambda t, y: -y, t=(0.0, 2.0))
    >>> decay(torch.ones(3, 1))[0].item()  # exp(-2) = .1353
    0.135...
    >>> decay(torch.ones(3, 1), torch.linspace(0, 2, 5)).shape
    torch.Size([5, 3, 1])
    """

    evaluated = "dynamics"
    default_solver: ClassVar[ODESolver] = Tsit5(rtol=1e-3, atol=1e-3)
    times: Tensor

    def __init__(
        self,
        dynamics: Callable[..., Any],
        *,
        t: Sequence[float] = (0.0, 1.0),
        solver: ODESolver | str | None = None,
        adjoint: ODEAdjoint | str | None = None,
        augment: int = 0,
        penalties: Sequence[str] = (),
        on_failure: OnFailure = "warn",
    ) -> None:
        super().__init__()
        if len(t) != 2 or t[0] == t[1]:
            raise ValueError(f"t must be two different times, got {tuple(t)}")
        if augment < 0:
            raise ValueError(f"augment must not be negative, got {augment}")
        if unknown := set(penalties) - set(PENALTIES):
            raise ValueError(f"there is no penalty {min(unknown)!r}; valid are {', '.join(PENALTIES)}")
        self.dynamics: Any = dynamics
        self.interval = tuple(float(time) for time in t)
        self.times = torch.tensor(tuple(t))  # stays on the host, where a solve reads it to choose its steps
        self.solver = self.default_solver if solver is None else instance("ODE solver", ODE_SOLVERS, solver)
        self.adjoint = instance("adjoint", ODE_ADJOINTS, adjoint)
        self.augment = augment
        self.penalties: tuple[str, ...] = tuple(penalties)
        self.on_failure = on_failure
        self.solution = None
        self.path: dict[str, Tensor] = {}

    def forward(self, y0: Any, t: Tensor | Sequence[float] | None = None, *args: Any) -> Any:
        """y(t_1) of y0 = y(t_0); with `t`, 1-d and of any two or more times, y at all of them, (len(t), B, ...).

        Times that are numbers can be part of a graph of `torch.compile` or `torch.export`.

        Further arguments go to the dynamics, f(t, y, *args); tensors among them get gradients.
        """
        y0 = map_tensors(lambda leaf: leaf.to(torch.promote_types(leaf.dtype, torch.float32)), y0)
        leaf = tensor_leaves(y0)[0]
        times = self._times_as_precise(t, leaf.real.dtype)
        y = self._solved(self._augmented(y0), times, args, self.chosen_solver)
        return map_tensors(lambda leaf: leaf[-1], y) if t is None else y

    def _times_as_precise(self, t: Tensor | Sequence[float] | None, dtype: torch.dtype) -> Any:
        """The times with all digits that they have, of which the dynamics get those of `dtype`."""
        if not isinstance(t, Tensor) and torch.compiler.is_compiling():
            return self.interval if t is None else t  # numbers, which a graph can hold
        times: Any = self.times if t is None else t
        if not isinstance(times, Tensor):
            return times
        if times.dtype != torch.float64 or times.dim() != 1 or torch.compiler.is_compiling() or are_moving(times):
            return times.to(dtype)
        return times.tolist()

    def _solved(self, y0: Any, times: Any, args: tuple[Any, ...], solver: Any) -> Any:
        """y at all of the times."""
        leaf = tensor_leaves(y0)[0]
        f, parameters = with_parameters(self.dynamics)
        half = half_dtype(self.dynamics)
        f = self._right_hand_side(f if half is None else evaluated_in(half, f))
        penalties = self.penalties if self.training and torch.is_grad_enabled() else ()
        if penalties:
            if leaf.is_complex():
                raise ValueError("penalties are for real states: take torch.view_as_real of y0, view_as_complex in f")
            f, y0 = _with_penalties(f, y0, penalties)
        if self.training:
            f = same_randomness(f, self.dynamics, leaf.device, self.is_one_graph)
        separate = not isinstance(solver, TorchDiffEq) and _are_separate(y0, is_explicit(solver))
        y, self.solution = odeint(
            f,
            y0,
            times,
            *args,
            *parameters,
            solver=solver,
            adjoint=self.adjoint,
            batch_dims=int(separate),
            shared_steps=separate,
            on_failure=self.on_failure,
            return_solution=True,
        )
        if penalties:
            y, integrals = y
            self.solution.value = self.solution.value[0]
            self.path = {name: integral[-1] for name, integral in integrals.items()}
        else:
            self.path = {}
        self.solution.value = map_tensors(torch.Tensor.detach, self.solution.value)
        return y if half is None else map_tensors(lambda leaf: leaf.to(half), y)

    def _right_hand_side(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """dy/dt, from the dynamics."""
        return f

    @property
    def is_one_graph(self) -> bool:
        """As `SolverLayer.is_one_graph`: the solver has fixed steps."""
        return is_traceable(self.interval, self.solver, self.adjoint)

    def _augmented(self, y0: Any) -> Any:
        if not self.augment:
            return y0
        return torch.nn.functional.pad(y0, (*(0, 0) * (y0.dim() - 2), 0, self.augment))  # keeps the memory format

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without what hangs on the last solve's graph."""
        return {**super().__getstate__(), "path": {}}


def _are_separate(y0: Any, explicit: bool) -> bool:
    """Whether the state has samples: all tensors the same leading size; for implicit methods, not a number a sample."""
    leaves = tensor_leaves(y0)
    same = all(leaf.dim() and leaf.shape[0] == leaves[0].shape[0] for leaf in leaves)
    return same and (explicit or any(leaf.dim() > 1 for leaf in leaves))


def _with_penalties(f: Callable[..., Any], y0: Tensor, names: Sequence[str]) -> tuple[Callable[..., Any], Any]:
    """Dynamics and start of the state (y, {name: integral}); the noise of Hutchinson's estimate is drawn here, once."""
    noise = torch.randn_like(y0)

    def extended(t: Tensor, state: Any, *args: Any) -> Any:
        y = state[0]
        if "jacobian" in names:
            dy, pull_back = vjp(lambda y: f(t, y, *args), y)[:2]
            (product,) = pull_back(noise)
        else:
            dy = f(t, y, *args)
            product = dy
        vectors = {"kinetic": dy, "jacobian": product}
        return dy, {name: vectors[name].square().flatten(1).mean(1) for name in names}

    return extended, (y0, {name: y0.new_zeros(len(y0)) for name in names})
