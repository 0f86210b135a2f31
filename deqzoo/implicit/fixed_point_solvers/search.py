"""The loop of methods that try points and accept some of them: Newton's in a trust region, and all minimisers."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..linear_solvers.base import default_tolerance, row_norm
from ..modes import Looks, host_flags, in_transform
from ..rows import select
from ..solution import Solution, Status
from .base import Evaluate, FixedPointSolver, Function, Method


class Search(ABC):
    """The memory of one solve. What stands, is judged and is returned is the last *accepted* point.

    Attributes:
        start, point: the first and the last accepted point, (systems, unknowns).
        g, image: g(z) = f(z) - z, or -f(z) for a root, and z + g, at the accepted point.
        accepted: the systems whose last trial was accepted, (systems,).
        active: the systems that still search, (systems,).
        tol, eps: the tolerance, and the round-off of the precision in which f is evaluated.
        products: products with the Jacobian so far, counted into the NFE.
    """

    start: Tensor
    point: Tensor
    g: Tensor
    image: Tensor
    accepted: Tensor
    active: Tensor
    tol: float
    eps: float
    products = 0

    def begin(self, z: Tensor, g: Tensor, image: Tensor) -> None:
        """Take the start as the first accepted point."""
        self.start, self.point, self.g, self.image = z, z, g, image
        self.accepted = self.active = torch.ones_like(g[:, :0].sum(dim=1), dtype=torch.bool)

    def accept(self, mask: Tensor, z: Tensor, g: Tensor, image: Tensor) -> None:
        """Move the systems of the mask to their trial."""
        self.accepted = mask & self.active
        self.point, self.g = select(self.accepted, z, self.point), select(self.accepted, g, self.g)
        self.image = select(self.accepted, image, self.image)

    @property
    def size(self) -> Tensor:
        """Of each unknown: the larger of what it is and of how far it came, (systems, unknowns)."""
        return torch.maximum(self.point.abs(), (self.point - self.start).abs())

    @abstractmethod
    def observe(self, z: Tensor, g: Tensor, image: Tensor) -> None:
        """Accept or reject the trial z, where the residual is g."""

    @abstractmethod
    def trial(self) -> Tensor:
        """The next point to try, (systems, unknowns)."""

    @abstractmethod
    def relative(self) -> Tensor:
        """The residual of the accepted point that `stop="rel"` compares with the tolerance, (systems,)."""

    @abstractmethod
    def scales(self) -> Tensor:
        """What `relative` divides each component of g by, (systems, unknowns) or (systems, 1)."""

    def at_rest(self) -> Tensor:
        """The systems that have converged if they find no better point any more, (systems,)."""
        return torch.zeros_like(self.accepted)

    def fell(self) -> Tensor:
        """The systems whose last trial was better by more than round-off, whatever the residual says."""
        return torch.zeros_like(self.accepted)

    def lost(self) -> Tensor:
        """The systems that run away, or had no finite value to start from."""
        return ~(row_norm(self.g) < torch.inf)


@dataclasses.dataclass(frozen=True)
class SearchingSolver(FixedPointSolver):
    """Base of the solvers that are a `Search`."""

    def method(self, g: Function, tol: float) -> Method:
        """Not for a search, which has a loop of its own."""
        raise TypeError(f"{type(self).__name__} has no update of each iterate: it accepts and rejects trials")

    @abstractmethod
    def search(self, evaluate: Evaluate) -> Search:
        """The memory of one solve."""

    def run(self, evaluate: Evaluate, z: Tensor, finite: Tensor | None, compact: bool) -> Solution:
        """As `FixedPointSolver.run`."""
        if self.stop == "never":
            raise ValueError('stop="never" is for solvers whose last iterate stands: a search must judge each')
        g, image = evaluate.first(z)
        tol = default_tolerance(evaluate.precision) if self.tol is None else self.tol
        if in_transform():
            z = z + torch.zeros_like(g)  # take on the batch axes of what f reads
        method = self.search(evaluate)
        method.tol, method.eps = tol, torch.finfo(evaluate.precision).eps
        method.begin(z, g, image)
        if finite is not None:
            method.active = method.active & finite
        judge = _Judge(self, tol, method)
        kept, looks = [], Looks(self.check_every, z.device)
        for step in range(self.max_steps + 1):
            if step in self.keep:
                kept.append(method.point)
            last = step == self.max_steps
            host = last or looks.after(step)
            judge.assess(step, method)
            any_active, all_active = judge.read(method) if host else (True, False)
            if last or not any_active:
                break
            if compact and host and not (all_active or in_transform()):
                evaluate.leave_out(method.active, -method.g if evaluate.root else method.image)
            z = select(method.active, method.trial(), method.point)
            g, image = evaluate(z)
            method.observe(z, g, image)
        solution = judge.solution(method, evaluate.calls + method.products)
        solution.kept = kept + [method.point] * (len(self.keep) - len(kept))
        return solution


class _Judge:
    """Status, residual and steps of each system, all on the device."""

    def __init__(self, options: FixedPointSolver, tol: float, method: Search) -> None:
        self.options, self.tol = options, tol
        like = method.g[:, :0].sum(dim=1)
        self.residual = self.least = torch.full_like(like, torch.inf)
        # What is not active from the start has an input that is not finite.
        self.status = torch.where(method.active, Status.MAX_STEPS, Status.DIVERGED)
        self.all_converged = False
        self.steps = self.improved_at = torch.zeros_like(self.status)
        self.trace: list[Tensor] = []

    def assess(self, step: int, method: Search) -> None:
        """Judge the accepted points after trial number `step`, and end the search of those that are done."""
        residual = row_norm(method.g) if self.options.stop == "abs" else method.relative()
        self.trace = [*self.trace, residual] if self.options.trace else []
        lost = method.lost()
        reached = residual <= self.tol
        if self.options.atol:
            reached = reached | (method.g.abs() <= self.options.atol + self.tol * method.scales()).all(dim=1)
        reached = reached & ~lost
        improved = (residual < self.least) | method.fell()
        self.improved_at = torch.where(improved, step, self.improved_at)
        self.least = torch.where(improved, torch.minimum(residual, self.least), self.least)
        stalled = step - self.improved_at >= self.options.patience
        if self.options.stop == "rel":
            reached = reached | (stalled & method.at_rest() & ~lost)
        ends = method.active & (reached | lost | stalled)
        why = torch.where(reached, Status.CONVERGED, torch.where(lost, Status.DIVERGED, Status.STALLED))
        self.status = torch.where(ends, why, self.status)
        self.residual = torch.where(method.active, residual, self.residual)
        self.steps = torch.where(method.active, step, self.steps)
        method.active = method.active & ~ends

    def read(self, method: Search) -> tuple[bool, bool]:
        """Whether any system is active, and whether all are: what the host reads."""
        flags, (_, self.all_converged) = host_flags(method.active, self.status == Status.CONVERGED)
        return flags

    def solution(self, method: Search, nfe: int) -> Solution:
        trace = torch.stack(self.trace) if self.options.trace else None
        converged = self.all_converged
        return Solution(method.point, self.status, self.residual, self.steps, nfe, trace, all_converged=converged)
