"""How a network's parameters are fitted to a task, so that one can learn where to start: MAML, first order, iMAML.

A task has a loss L_i. Adaptation makes of the shared start theta the parameters phi_i(theta) of each task, and
meta-learning minimises the sum of query losses at the phi_i over theta. The methods differ in what phi is, and in its
derivative:

    MAML              phi after a few gradient steps      dphi/dtheta by backpropagation through them
    FirstOrderMAML    the same                            dphi/dtheta taken for the identity
    IMAML             argmin L_i + strength/2 |phi - theta|^2     strength (H_i + strength I)^-1, H_i the Hessian of L_i
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils.checkpoint import checkpoint

from ..implicit import CG, LBFGS, Implicit, LinearSolver, Minimizer, Solution, argmin
from ..implicit.minimizers import gradient
from ..implicit.modes import in_transform, needs_derivative
from ..implicit.private_api import tree_leaves, tree_map
from ..implicit.solution import OnFailure

Params = dict[str, Tensor]
Loss = Callable[..., Tensor]  # (parameters, *task) -> the task's loss, a scalar


@dataclasses.dataclass(frozen=True)
class Adaptation(ABC):
    """Base of the methods, called as `method(loss, start, *tasks) -> (parameters, solution)`.

    `loss(parameters, *task)` is that of one task; `start` is a pytree of parameters, shared by all tasks; `tasks` are
    tensors with one leading index per task. The result is a pytree like `start` whose leaves have the tasks as leading
    axis, differentiable in `start`, and the `Solution` of the inner solve, where there is one (else None).

    The tasks are adapted side by side by `torch.func.vmap`; a single task is adapted without it.
    """

    @abstractmethod
    def __call__(self, loss: Loss, start: Any, *tasks: Tensor) -> tuple[Any, Solution | None]:
        """Parameters for each task."""


@dataclasses.dataclass(frozen=True)
class MAML(Adaptation):
    """Gradient steps phi <- phi - lr grad L(phi) from theta, and backpropagation through all of them.

    Args:
        steps: of gradient descent, at least 1.
        lr: their length.
        checkpoint: keep the parameters between the steps alone and evaluate each step again in the backward pass: half
            as much time again, and memory for one step, and a copy of the parameters per step.

    Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017.

    >>> start = torch.tensor([1.0], requires_grad=True)
    >>> adapted, _ = MAML(steps=2, lr=0.5)(lambda p, x: ((p - x) ** 2 / 2).sum(), start, torch.tensor([[3.0], [5.0]]))
    >>> adapted.tolist(), torch.autograd.grad(adapted.sum(), start)[0].tolist()
    ([[2.5], [4.0]], [0.5])
    """

    steps: int = 5
    lr: float = 0.01
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.lr > 0:
            raise ValueError(f"steps must be at least 1 and lr positive, got {self.steps} and {self.lr}")

    def __call__(self, loss: Loss, start: Any, *tasks: Tensor) -> tuple[Any, None]:
        """See `Adaptation`."""
        objective = each_task(loss)

        def step(parameters: Any, *tasks: Tensor) -> Any:
            slope, _ = gradient(objective, parameters, *tasks, batch_dims=1)
            return tree_map(lambda p, g: p - self.lr * g, parameters, slope)

        spare = self.checkpoint and needs_derivative() and not in_transform()
        parameters = repeated(start, len(tasks[0]))
        for _ in range(self.steps):
            parameters = (
                checkpoint(step, parameters, *tasks, use_reentrant=False) if spare else step(parameters, *tasks)
            )
        return parameters, None


@dataclasses.dataclass(frozen=True)
class FirstOrderMAML(Adaptation):
    """The same gradient steps, through which gradients pass as if they moved theta by a constant.

    Args:
        steps, lr: as `MAML` has them.

    Source: Finn, Abbeel, Levine, 2017, section 5.2.

    >>> start = torch.tensor([1.0], requires_grad=True)
    >>> loss = lambda p, x: ((p - x) ** 2 / 2).sum()
    >>> adapted, _ = FirstOrderMAML(steps=2, lr=0.5)(loss, start, torch.tensor([[3.0]]))
    >>> adapted.tolist(), torch.autograd.grad(adapted.sum(), start)[0].tolist()
    ([[2.5]], [1.0])
    """

    steps: int = 5
    lr: float = 0.01

    def __post_init__(self) -> None:
        MAML(self.steps, self.lr)  # its checks

    def __call__(self, loss: Loss, start: Any, *tasks: Tensor) -> tuple[Any, None]:
        """See `Adaptation`."""
        with torch.no_grad():
            moved, _ = MAML(self.steps, self.lr)(loss, start, *tasks)
        return tree_map(lambda first, last: first + (last - first).detach(), start, moved), None


@dataclasses.dataclass(frozen=True)
class IMAML(Adaptation):
    """The minimiser of L(phi) + strength/2 |phi - theta|^2, and its derivative by the implicit function theorem.

        dphi/dtheta = strength (H + strength I)^-1,    H the Hessian of L at phi

    Nothing of the solver's way is kept, so memory does not grow with its steps. The derivative is that of the
    minimiser: look at the solution's ``residual``, the norm of the inner gradient over that at theta, to see how near
    it was; and at the status of the backward solve, which is BAD_CURVATURE where phi is no regular minimum (as with
    piecewise linear activations): take a larger strength, `MINRES`, or `Damped(CG(), damping)` then.

    Args:
        strength: lambda, positive.
        solver: of the inner problem: `LBFGS()` by default, `NewtonCG` (Hessian-free), `GradientDescent`.
        linear_solver: of the meta-gradient, `CG()` by default.
        on_failure: "ignore", "warn" or "raise" when a solve, inner or backward, does not converge.

    Source: Rajeswaran, Finn, Kakade, Levine, "Meta-Learning with Implicit Gradients", 2019.

    >>> start = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    >>> loss = lambda p, x: ((p - x) ** 2 / 2).sum()  # H = 1
    >>> adapted, _ = IMAML(strength=3.0)(loss, start, torch.tensor([[5.0]], dtype=torch.float64))
    >>> adapted.round(decimals=6).tolist(), torch.autograd.grad(adapted.sum(), start)[0].tolist()
    ([[2.0]], [0.75])
    """

    strength: float = 1.0
    solver: Minimizer = dataclasses.field(default_factory=LBFGS)
    linear_solver: LinearSolver = dataclasses.field(default_factory=CG)
    on_failure: OnFailure = "warn"

    def __post_init__(self) -> None:
        if not self.strength > 0:
            raise ValueError(f"strength must be positive, got {self.strength}")

    def __call__(self, loss: Loss, start: Any, *tasks: Tensor) -> tuple[Any, Solution]:
        """See `Adaptation`."""
        adapted, solution = argmin(
            self.objective(loss),
            repeated(tree_map(Tensor.detach, start), len(tasks[0])),
            start,
            *tasks,
            solver=self.solver,
            adjoint=Implicit(self.linear_solver),
            batch_dims=1,
            on_failure=self.on_failure,
            return_solution=True,
        )
        return adapted, solution

    def objective(self, loss: Loss) -> Loss:
        """The inner objective (parameters, start, *tasks) -> its value for each task, (tasks,)."""
        of_tasks = each_task(loss)

        def proximal(parameters: Any, start: Any, *tasks: Tensor) -> Tensor:
            gaps = tree_leaves(tree_map(torch.sub, parameters, start))
            distance = sum(gap.square().flatten(1).sum(1) for gap in gaps)
            return of_tasks(parameters, *tasks) + self.strength / 2 * distance

        return proximal


def each_task(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(parameters, *task)` for each task: by `vmap`, or as it is where there is one task alone."""

    def of_tasks(parameters: Any, *tasks: Tensor) -> Any:
        if len(tasks[0]) > 1:
            return vmap(function)(parameters, *tasks)
        alone = tree_map(lambda t: t.squeeze(0), (parameters, *tasks))
        return tree_map(lambda t: t.unsqueeze(0), function(*alone))

    return of_tasks


def repeated(start: Any, tasks: int) -> Any:
    """`start` once per task, (tasks, ...) each leaf, as views."""
    return tree_map(lambda p: p.unsqueeze(0).expand(tasks, *p.shape), start)
