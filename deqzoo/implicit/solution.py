"""What a solver returns. Failure is a value: it stands in `status`, and the caller chooses to ignore, warn or raise."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .call_site import warn_once
from .modes import host_flags, in_transform
from .pytree import tensor_leaves, with_tensors

OnFailure = Literal["ignore", "warn", "raise"]
ADVICE = "Raise max_steps, loosen tol, or try another solver"
FAILURES: tuple[OnFailure, ...] = ("ignore", "warn", "raise")


class Status(enum.IntEnum):
    """Why a system stopped."""

    CONVERGED = 0
    STALLED = (
        1  # no better residual for `patience` steps (tolerance below round-off, a cycle); an ODE's step underflows
    )
    DIVERGED = 2  # a non-finite iterate, or a non-finite input; the best finite iterate before it is kept
    MAX_STEPS = 3  # the step limit came first
    BAD_CURVATURE = 4  # conjugate gradients met a direction in which the operator is not positive definite
    INFEASIBLE = 5  # it is proven that nothing meets the constraints of a program
    UNBOUNDED = 6  # it is proven that the objective of a program falls for ever


class NonConvergenceWarning(RuntimeWarning):
    """A solve did not converge, and its result is used all the same."""


class NonConvergenceError(RuntimeError):
    """A solve did not converge, and the caller asked to be stopped by it."""


@dataclasses.dataclass(repr=False)
class Solution:
    """The result of a solve. It prints as one line; `summary()` has more.

    Attributes:
        value: the best iterate found, in the structure of the unknown; finite also where the solve diverged.
        status: `Status` of each system, an integer tensor of the batch's shape (0-dim for a single system).
        residual: residual norm of `value` as the stop rule measures it, of the batch's shape.
        steps: updates taken by each system, of the batch's shape.
        nfe: calls of the function for the whole batch, a product with its Jacobian counted as one.
        trace: residual after each step, (steps + 1, *batch), if required.
        backward: the `Solution` (without value) of the latest adjoint solve, once a backward pass has run.
        kept: iterates, in the structure of the unknown, after the steps that the solver was asked to `keep`; the last
            one in place of those that the solve did not come to.
        inverse: v -> M v with M near (I - df/dz)^-1 at the solution, on (systems, unknowns), if the solver has one.
        rejected: steps of an ODE solver that were tried and not taken, of the batch's shape.
        all_converged: whether each system converged, where the host has read so with the stop rule; None: not read yet.
        event: which of several events took place, -1 for none, of the shape of the event's time; see `odeint_event`.
    """

    value: Any
    status: Tensor
    residual: Tensor
    steps: Tensor
    nfe: int
    trace: Tensor | None = None
    backward: Solution | None = None
    rejected: Tensor | None = None
    kept: list[Any] = dataclasses.field(default_factory=list)
    inverse: Callable[[Tensor], Tensor] | None = None
    all_converged: bool | None = None
    event: Tensor | None = None

    @property
    def converged(self) -> Tensor:
        """True for each system that met its tolerance."""
        return self.status == Status.CONVERGED

    def check(self, on_failure: OnFailure, what: str, truncated: bool = False, advice: str = ADVICE) -> None:
        """Warn or raise if a system did not converge. `what` names the solve in the message, `advice` ends it.

        A `truncated` solve stops on purpose before its tolerance: only divergence is a failure there. It warns once per
        call site (see `warn_once`).
        """
        if on_failure not in FAILURES:
            raise ValueError(f"on_failure must be one of {', '.join(FAILURES)}, got {on_failure!r}")
        if on_failure == "ignore" or self.all_converged:
            return
        if truncated or self.all_converged is None:
            good = self._all_good(truncated)
            self.all_converged = self.all_converged if truncated else good
            if good:
                return
        message = f"{what}: {self.describe()}. {advice}"
        if on_failure == "raise":
            raise NonConvergenceError(message)
        warn_once(message, NonConvergenceWarning, what)

    def _all_good(self, truncated: bool) -> bool:
        if self.status.numel() == 1 and not in_transform():  # the short way
            return int(self.status) == Status.CONVERGED or (truncated and int(self.status) == Status.MAX_STEPS)
        good = self.converged | (self.status == Status.MAX_STEPS) if truncated else self.converged
        return host_flags(good)[0][1]

    def replace_failed(self, value: Any, other: Any = torch.nan) -> Any:
        """`value`, a tree like the unknown, with `other` (a number or such a tree) where a system has no solution.

        That is: it has diverged, or its program is infeasible or unbounded.

        >>> Solution(None, torch.tensor([0, 2]), torch.zeros(2), torch.zeros(2), 1).replace_failed(torch.ones(2, 2))
        tensor([[1., 1.],
                [nan, nan]])
        """
        if self.all_converged:
            return value
        # for ==, `torch.compile` takes the enum to differ from any tensor
        failed = self.status.eq(Status.DIVERGED) | self.status.ge(Status.INFEASIBLE)
        leaves = tensor_leaves(value)
        others = tensor_leaves(other) or [other] * len(leaves)
        rows = [failed.reshape(failed.shape + (1,) * (leaf.dim() - failed.dim())) for leaf in leaves]
        return with_tensors(value, [torch.where(*each) for each in zip(rows, others, leaves, strict=True)])

    def __repr__(self) -> str:
        """One line for people, without the numbers of the solution.

        >>> Solution(None, torch.tensor([0, 3]), torch.tensor([1e-6, 0.5]), torch.tensor([4, 9]), 10)
        Solution(1 of 2 systems converged (1 max steps), residual at most 5.0e-01, steps at most 9, nfe 10)
        """
        if in_transform() or torch.compiler.is_compiling() or self.status.is_meta:
            return f"Solution(nfe {self.nfe})"
        status, failed = self.status.detach(), self._failures()
        residual, steps = (_largest(values) for values in (self.residual, self.steps))
        return (
            f"Solution({int((status == Status.CONVERGED).sum())} of {status.numel()} systems converged"
            f"{f' ({failed})' if failed else ''}, residual at most {residual:.1e}, steps at most {steps:.0f}, "
            f"nfe {self.nfe})"
        )

    def summary(self) -> str:
        """A table for people: how many systems ended how; residuals and steps; the adjoint solve, once it has run.

        >>> print(Solution(None, torch.tensor([0, 3]), torch.tensor([1e-6, 0.5]), torch.tensor([4, 9]), 10).summary())
                        least    median      most
        residual      1.0e-06   2.5e-01   5.0e-01
        steps               4       6.5         9
        converged 1 of 2 systems (1 max steps), 10 evaluations
        """
        if in_transform() or self.status.is_meta:
            return repr(self)
        failed = self._failures()
        lines = [f"{'':12}{'least':>9} {'median':>9} {'most':>9}"]
        rows = [("residual", self.residual, ".1e"), ("steps", self.steps, "g"), ("rejected", self.rejected, "g")]
        for name, values, form in rows:
            if values is not None and values.numel():
                three = torch.quantile(values.detach().double().reshape(-1).cpu(), torch.tensor([0, 0.5, 1]).double())
                lines.append(f"{name:12}" + " ".join(f"{value:9{form}}" for value in three.tolist()))
        lines.append(
            f"converged {int(self.converged.sum())} of {self.status.numel()} systems"
            f"{f' ({failed})' if failed else ''}, {self.nfe} evaluations"
        )
        if self.backward is not None:
            lines += ["backward:", *self.backward.summary().splitlines()]
        return "\n".join(lines)

    def _failures(self) -> str:
        """How many systems ended how, without those that converged; empty: all did."""
        counts = torch.bincount(self.status.detach().reshape(-1), minlength=len(Status)).tolist()
        return ", ".join(f"{counts[s]} {s.name.lower().replace('_', ' ')}" for s in Status if s and counts[s])

    def describe(self) -> str:
        """A line for people: how many systems ended how, and the worst residual.

        >>> Solution(None, torch.tensor([0, 3]), torch.tensor([1e-6, 0.5]), torch.tensor([4, 9]), 10).describe()
        '1 of 2 systems did not converge (1 max steps), worst residual 5.0e-01 after 10 evaluations'
        """
        if in_transform():
            return f"some systems did not converge after {self.nfe} evaluations"
        failed = int((~self.converged).sum())
        return (
            f"{failed} of {self.status.numel()} systems did not converge ({self._failures() or 'none'}), "
            f"worst residual {_largest(self.residual):.1e} after {self.nfe} evaluations"
        )


def _largest(values: Tensor) -> float:
    return values.detach().max().item() if values.numel() else 0.0
