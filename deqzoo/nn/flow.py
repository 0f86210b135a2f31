"""Continuous normalising flows: densities that an ODE carries from a standard normal one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Size, Tensor, nn

from ..implicit import ODEAdjoint, ODESolver, Tsit5
from ..implicit.solution import OnFailure
from .divergence import DIVERGENCES, DensityDynamics, probes, start
from .layer import NeedsFullPrecision
from .ode import PENALTIES, NeuralODE
from .tensors import check_tensor

LOG_2PI = math.log(2 * math.pi)


class FlowODE(NeedsFullPrecision):
    r"""An invertible map by an ODE, dx/dt = f(t, x, context) from z = x(t_0) to x(t_1), and how log densities change:

        log p(x(t_1)) = log p(x(t_0)) - int div f dt

    Args:
        dynamics: `f(t, x, *context)` of x's shape, (B, ...); t is a 0-dim tensor. With a method `with_jvp` (see
            `deqzoo.nn.squash`) its derivatives are cheapest.
        t: the interval (t_0, t_1).
        solver: an ODE solver of `deqzoo.implicit`; `Tsit5(rtol=1e-5, atol=1e-5)` by default. The error of the log
            density counts as that of x does.
        adjoint: how gradients are computed (`Discrete`, `Backsolve`, `Direct`); None: `odeint`'s default.
        divergence: in training mode: "exact", or Hutchinson's estimate with "gaussian" or "rademacher" noise, which is
            drawn once per solve and stays the same in its backward.
        eval_divergence: likewise in eval mode; there the noise is the same in every call.
        penalties: which of "kinetic" and "jacobian" to integrate in training mode, see `path`.
        on_failure: "warn", "raise" or "ignore" (the status stands in `ode.solution`), see `NeuralODE`.

    Attributes:
        ode: the `NeuralODE`; `ode.solution` tells what the last solve cost.
        path: integrals of the last `to_base` in training mode, (B,) each, with a graph: "kinetic": of |f|^2 / D,
            "jacobian": of ||df/dx||_F^2 / D, by the products that the divergence has anyway.

    Source: Chen et al., "Neural Ordinary Differential Equations", 2018; Grathwohl et al., "FFJORD", 2019; Finlay et
    al., "How to Train Your Neural ODE", 2020 (`penalties`).

    >>> flow = FlowODE(lambda t, x: -x)
    >>> z, change = flow.to_base(torch.ones(3, 2))
    >>> z[0, 0].detach().round(decimals=4), change[0].round(decimals=4)  # e, and log p(x) - log p(z) = 2
    (tensor(2.7183), tensor(2.))
    """

    why = "three digits are too few for a log density"
    default_solver: ClassVar[ODESolver] = Tsit5(rtol=1e-5, atol=1e-5)

    def __init__(
        self,
        dynamics: Any,
        *,
        t: Sequence[float] = (0.0, 1.0),
        solver: ODESolver | str | None = None,
        adjoint: ODEAdjoint | str | None = None,
        divergence: str = "exact",
        eval_divergence: str = "exact",
        penalties: Sequence[str] = (),
        on_failure: OnFailure = "warn",
    ) -> None:
        super().__init__()
        for name, value in (("divergence", divergence), ("eval_divergence", eval_divergence)):
            if value not in DIVERGENCES:
                raise ValueError(f"{name}={value} is unknown; valid are {', '.join(DIVERGENCES)}")
        if unknown := set(penalties) - set(PENALTIES):
            raise ValueError(f"there is no penalty {min(unknown)!r}; valid are {', '.join(PENALTIES)}")
        solver = self.default_solver if solver is None else solver
        self.ode = NeuralODE(DensityDynamics(dynamics), t=t, solver=solver, adjoint=adjoint, on_failure=on_failure)
        self.divergence, self.eval_divergence = divergence, eval_divergence
        self.penalties: tuple[str, ...] = tuple(penalties)
        self.path: dict[str, Tensor] = {}

    @property
    def dynamics(self) -> Any:
        """The vector field f."""
        return self.ode.dynamics.dynamics

    def to_base(self, x: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        """z = x(t_0) of x = x(t_1), and log p(x) - log p(z), (B,)."""
        penalties = self.penalties if self.training and torch.is_grad_enabled() else ()
        end = self._solve(start(x, ["log_density", *penalties]), self.ode.interval[::-1], *context)
        # Backwards in time each integral is minus that along the path, and log_density is log p(z) - log p(x).
        self.path = {name: -end[name] for name in penalties}
        return end["y"], -end["log_density"]

    def from_base(self, z: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        """x = x(t_1) of z = x(t_0), and log p(x) - log p(z), (B,)."""
        end = self._solve(start(z, ["log_density"]), self.ode.interval, *context)
        return end["y"], end["log_density"]

    def states(self, y: Tensor, times: Tensor | Sequence[float], *context: Tensor) -> Tensor:
        """x at two or more times, (len(times), B, ...), from y at the first one; without densities, so cheaper."""
        return self.ode(start(y, ()), times, y.new_zeros(0), *context)["y"]

    def _solve(self, state: dict[str, Tensor], times: Sequence[float], *context: Tensor) -> dict[str, Tensor]:
        y = state["y"]
        divergence, generator = self.divergence, None
        if not self.training:
            divergence, generator = self.eval_divergence, Generator(y.device).manual_seed(0)
        v = probes(y, divergence, None if divergence == "exact" else generator)
        states = self.ode(state, times, v, *context)
        return {name: value[-1] for name, value in states.items()}

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without what hangs on the last solve's graph."""
        return {**self.__dict__, "path": {}}


class ContinuousFlow(nn.Module):
    r"""A density p(x), or p(x | context), in the manner of `torch.distributions`: a `FlowODE` from N(0, I).

    Args:
        dynamics: `f(t, x, *context)`, see `FlowODE`.
        event_shape: shape of one x.
        options: those of `FlowODE`, in the attribute `flow`.

    `log_prob` works under `torch.func` too, for scores for example; a network with `eval_divergence="exact"` draws
    nothing there.

    >>> flow = ContinuousFlow(lambda t, x: torch.full_like(x, 3.0), (2,)).eval()  # N(3, I)
    >>> flow.log_prob(torch.full((2,), 3.0))  # -log(2 pi)
    tensor(-1.8379)
    >>> flow.sample((5,)).shape
    torch.Size([5, 2])
    >>> score = torch.func.vmap(torch.func.grad(flow.log_prob))
    >>> score(torch.zeros(4, 2))[0]
    tensor([3., 3.])
    """

    def __init__(self, dynamics: Any, event_shape: Sequence[int], **options: Any) -> None:
        super().__init__()
        self.event_shape = Size(event_shape)
        self.flow = FlowODE(dynamics, **options)

    @property
    def path(self) -> dict[str, Tensor]:
        """The penalties of the last `log_prob` in training mode, see `FlowODE`."""
        return self.flow.path

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`log_prob`."""
        return self.log_prob(x, context)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x | context), in nats, of x (..., *event_shape) and context (..., features), which are broadcast."""
        check_tensor("x", x)
        if not x.is_floating_point():
            raise ValueError(f"x must be floats, got {x.dtype}: x.to(torch.get_default_dtype())")
        outer = x.shape[: x.dim() - len(self.event_shape)]
        if x.shape[len(outer) :] != self.event_shape:
            raise ValueError(f"x must end with the shape {tuple(self.event_shape)}, got shape {tuple(x.shape)}")
        if context is not None:
            outer = torch.broadcast_shapes(outer, context.shape[:-1])
        z, change = self.flow.to_base(
            x.expand(*outer, *self.event_shape).reshape(-1, *self.event_shape), *_rows(context, outer)
        )
        return (standard_normal(z) + change).view(outer)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), context: Tensor | None = None) -> Tensor:
        """Draws of x, (*sample_shape, ..., *event_shape), for a context (..., features), without a graph."""
        return self.rsample(sample_shape, context)

    def rsample(self, sample_shape: Sequence[int] = (), context: Tensor | None = None) -> Tensor:
        """As `sample`, with a graph: x is a function of z ~ N(0, I), the parameters and the context."""
        z, outer = self._noise(sample_shape, context)
        return self.from_base(z, *_rows(context, outer)).view(*outer, *self.event_shape)

    def from_base(self, z: Tensor, *context: Tensor) -> Tensor:
        """The draws x (B, *event_shape) that the noise z ~ N(0, I), of the same shape, becomes."""
        return self.flow.states(z, self.flow.ode.interval, *context)[-1]

    def rsample_with_log_prob(
        self, sample_shape: Sequence[int] = (), context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws with a graph, and their log p(x | context), by one solve."""
        z, outer = self._noise(sample_shape, context)
        x, change = self.flow.from_base(z, *_rows(context, outer))
        return x.view(*outer, *self.event_shape), (standard_normal(z) + change).view(outer)

    def _noise(self, sample_shape: Sequence[int], context: Tensor | None) -> tuple[Tensor, Size]:
        """z ~ N(0, I) in rows, and the shape of the rows."""
        outer = Size((*sample_shape, *(() if context is None else context.shape[:-1])))
        like = next(self.parameters(), torch.zeros(())) if context is None else context
        z = torch.randn(math.prod(outer), *self.event_shape, dtype=like.dtype, device=like.device)
        return z, outer


def standard_normal(z: Tensor) -> Tensor:
    """log density of N(0, I) at z (B, ...): (B,)."""
    return -0.5 * (z.square() + LOG_2PI).flatten(1).sum(1)


def _rows(context: Tensor | None, outer: Size) -> tuple[Tensor, ...]:
    """The context of each row, as arguments."""
    if context is None:
        return ()
    return (context.expand(*outer, context.shape[-1]).reshape(-1, context.shape[-1]),)
