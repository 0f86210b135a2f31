"""The reversible iteration: a pair of states that is run backwards, to the bit, so that no step need be kept.

With b in (0, 1), N steps go

    y <- (1 - b) y + b f(z),        z <- (1 - b) z + b f(y)

from y = z = z0, and back, in the backward pass,

    z <- (z - b f(y)) / (1 - b),    y <- (y - b f(z)) / (1 - b)

Each step back multiplies what rounding has changed by 1 / (1 - b) or more: along an eigenvalue l of df/dz near 1 by
about l^2 / (1 - b)^2. At b = .8 the states of float64 are lost after a dozen steps, and with them a gradient through
more. So the states are integers here, multiples of 2^-40, and 1 - b is a fraction p / q: what the division by q leaves
over is kept, as a digit to the base q, and given back by the multiplication. No step loses anything, as long as f gives
the same for the same.

Source: McCallum, Arora, Foster, "Reversible Deep Equilibrium Models", 2025; of the remainders, Maclaurin, Duvenaud,
Adams, "Gradient-based Hyperparameter Optimization through Reversible Learning", 2015.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from .fixed_point_solvers import Picard
from .lifting import Lifted, apply_visibly, check_complete, lift
from .linear_solvers.base import default_tolerance, row_norm
from .modes import eager, in_transform, keep_autocast, needs_derivative, no_derivatives
from .precision import finite_inputs
from .private_api import is_grads_batched
from .problem import Problem, report_to
from .pytree import Ravel, Tensors, map_tensors, tensor_leaves, with_tensors
from .solution import Solution, Status

_UNIT = 2.0**40  # integers to 1
_LARGEST = 2.0**22  # of a state and of f: beyond it a system counts as diverged
_DENOMINATOR = 64  # largest q
_BITS = 62  # of an int64, for remainders
_ADVICE = (
    "f has given other values in the backward than in the forward, so the gradient is not that of the steps: it must "
    "not change in between, nor draw random numbers anew"
)


def reversed_gradient(problem: Problem) -> tuple[Any, Solution]:
    """What `ReversibleIteration` does: the problem's value with its derivative, and the solution."""
    iteration = _Iteration(problem)
    ravel = iteration.ravel
    start = ravel.flatten_leaves(tensor_leaves(problem.y0)).clone()
    if not needs_derivative():
        rows = iteration.run(start, None)
    else:
        leaves = tuple(t.detach().clone() for t in ravel.unflatten_leaves(start))
        iteration.f, _ = lift(iteration.f, leaves, iteration.args)
        iteration.calls += 1
        rows = apply_visibly(_Reversed, iteration, start, *iteration.f.inputs)
    solution = iteration.solution(rows.detach())
    iteration.report = report_to(solution)
    problem.checked(solution)
    return ravel.restore(ravel.unflatten_leaves(rows)), solution


def can_be_reversed(solver: Any) -> bool:
    """Whether the solver is damped iteration with a fixed number of steps, of which nothing is to be looked at."""
    fits = isinstance(solver, Picard) and solver.stop == "never" and 0 < solver.damping < 1
    return fits and not solver.trace and not solver.compile


class _Remainders:
    """Remainders of divisions by q, last in, first out: as many to an int64 as fit."""

    def __init__(self, q: int, words: Sequence[Tensor] = (), count: int = 0) -> None:
        self.q, self.words, self.count = q, list(words), count
        self.to_a_word = int(_BITS / math.log2(q))

    def copy(self) -> _Remainders:
        """One that is emptied apart from this: `pop` leaves the tensors as they are."""
        return _Remainders(self.q, self.words, self.count)

    def push(self, remainder: Tensor) -> None:
        """Keep a remainder."""
        if self.count % self.to_a_word == 0:
            self.words.append(torch.zeros_like(remainder))
        self.words[-1].mul_(self.q).add_(remainder)
        self.count += 1

    def pop(self) -> Tensor:
        """The last one that was kept."""
        word = self.words[-1]
        self.words[-1] = word.div(self.q, rounding_mode="floor")
        remainder = word - self.words[-1] * self.q
        self.count -= 1
        if self.count % self.to_a_word == 0:
            self.words.pop()
        return remainder


class _Iteration:
    """The pair of states of one solve, on rows (systems, unknowns), and f on their leaves."""

    def __init__(self, problem: Problem) -> None:
        solver = problem.solver
        if not can_be_reversed(solver):
            raise TypeError(
                "ReversibleIteration is of damped iteration with a fixed number of steps: pass a solver like "
                f'Picard(damping=0.8, max_steps=15, stop="never"), without trace and compile; got {solver!r}'
            )
        if in_transform():
            raise RuntimeError(
                "ReversibleIteration has no torch.func transforms and no forward mode: pass adjoint=Implicit(), or "
                "Unrolled()"
            )
        kept = Fraction(1 - solver.damping).limit_denominator(_DENOMINATOR)
        self.p, self.q = kept.numerator, kept.denominator
        if not 0 < self.p < self.q:
            raise ValueError(
                f"damping={solver.damping} is too near to 0 or 1 for ReversibleIteration: 0.02 to 0.98 will do"
            )
        self.solver, self.problem = solver, problem
        self.ravel, args = Ravel(problem.y0, problem.batch_dims), problem.args
        ravel = self.ravel

        def on_leaves(leaves: Tensors, tensors: Tensors) -> Tensors:
            return tuple(ravel.leaves(problem.f(ravel.restore(leaves), *with_tensors(args, tensors))))

        self.args = tuple(tensor_leaves(args))
        self.f: Any = keep_autocast(on_leaves, ravel.device.type)
        self.report: Callable[[Solution], None] | None = None
        self.calls = 0
        self.kept: list[Any] = []
        self.sound = torch.ones(ravel.systems, dtype=torch.bool, device=ravel.device)

    def run(self, start: Tensor, remainders: _Remainders | None) -> Tensor:
        """z after all steps, as float rows; `remainders` is filled with what the way back needs."""
        y = z = self.integers(start)
        self.ends = y, z
        for step in range(self.solver.max_steps + 1):
            if step in self.solver.keep:
                self.kept.append(self.ravel.unflatten(self.floats(z)))
            if step == self.solver.max_steps:
                break
            y = self._ahead(y, self._call(z), remainders)
            z = self._ahead(z, self._call(y), remainders)
        self.ends = y, z
        return self.floats(z)

    def back(self, x: Tensor, image: Tensor, remainders: _Remainders) -> Tensor:
        """The state before a step that has added `image`, rows of integers, to it."""
        return (x - image).div_(self.p, rounding_mode="floor").mul_(self.q).add_(remainders.pop())

    def integers(self, rows: Tensor) -> Tensor:
        """Multiples of the unit; 0 where they are too large for it, or not finite, and `sound` is then False."""
        fits = rows.abs() < _LARGEST
        self.sound = self.sound & fits.all(1)
        return rows.double().masked_fill(~fits, 0.0).mul_(_UNIT).round_().long()

    def image(self, values: Tensor) -> Tensor:
        """b f, as integers."""
        return self.integers(values.double() * (1 - self.p / self.q))

    def floats(self, x: Tensor) -> Tensor:
        """What integers stand for, in the precision of the unknown."""
        return x.double().mul_(1 / _UNIT).to(self.ravel.dtype)

    def solution(self, rows: Tensor) -> Solution:
        """How it has ended: by the relative residual of z, which takes one evaluation more."""
        with no_derivatives():
            image = self._values(rows)
            residual = row_norm(image - rows) / row_norm(image).clamp_min(torch.finfo(rows.dtype).tiny)
            tol = default_tolerance(self.ravel.dtypes[0]) if self.solver.tol is None else self.solver.tol
            status = torch.where(residual <= tol, Status.CONVERGED, Status.MAX_STEPS)
            given = map_tensors(Tensor.detach, (self.problem.y0, self.problem.args))
            finite = finite_inputs(given, self.ravel.batch_shape, self.ravel.device)
            sound = self.sound if finite is None else self.sound & finite.reshape(-1)
            status = torch.where(sound & residual.isfinite(), status, Status.DIVERGED)
        steps = torch.full_like(status, self.solver.max_steps)
        status, residual, steps = map(self.ravel.per_system, (status, residual, steps))
        value = self.ravel.unflatten(rows)
        return Solution(value, status, residual, steps, self.calls, kept=self.kept)

    def _ahead(self, x: Tensor, image: Tensor, remainders: _Remainders | None) -> Tensor:
        whole = x.div(self.q, rounding_mode="floor")
        if remainders is not None:
            remainders.push(x - whole * self.q)
        return whole.mul_(self.p).add_(image)

    def _call(self, x: Tensor) -> Tensor:
        return self.image(self._values(self.floats(x)))

    def _values(self, rows: Tensor) -> Tensor:
        self.calls += 1
        own = () if isinstance(self.f, Lifted) else self.args
        return self.ravel.flatten_leaves(self.f(self.ravel.unflatten_leaves(rows), own))


class _Reversed(torch.autograd.Function):
    """(start, inputs) -> z after all steps; the backward runs them the other way."""

    @staticmethod
    def forward(ctx: Any, iteration: _Iteration, start: Tensor, *inputs: Tensor) -> Tensor:
        ctx.iteration, ctx.remainders = iteration, _Remainders(iteration.q)
        value = iteration.run(start, ctx.remainders)
        ctx.save_for_backward(start, *iteration.ends, *inputs)
        return value

    @staticmethod
    @eager
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        if needs_derivative() or is_grads_batched(g):
            raise RuntimeError(
                "ReversibleIteration has first derivatives, one at a time: for create_graph=True and "
                "is_grads_batched=True pass adjoint=Implicit(), or Unrolled()"
            )
        start, y, z, *inputs = ctx.saved_tensors
        iteration, remainders = ctx.iteration, ctx.remainders.copy()
        leaves = iteration.ravel.unflatten_leaves(start.detach())
        check_complete(iteration.f, leaves, tuple(inputs))
        pull = _Pull(iteration, inputs, ctx.needs_input_grad[2:])
        b = 1 - iteration.p / iteration.q
        of_z, of_y = g.to(torch.float64, copy=True), torch.zeros_like(g, dtype=torch.float64)
        for _ in range(iteration.solver.max_steps):
            image, product = pull(y, b * of_z)
            z, of_z, of_y = iteration.back(z, image, remainders), of_z.mul_(1 - b), of_y.add_(product)
            image, product = pull(z, b * of_y)
            y, of_y, of_z = iteration.back(y, image, remainders), of_y.mul_(1 - b), of_z.add_(product)
        _tell(iteration, iteration.integers(start), y, z, pull.calls)
        return (None, (of_z + of_y).to(start.dtype), *pull.grads)


class _Pull:
    """f at a state, with the products of a cotangent; those with the inputs are added up in `grads`."""

    def __init__(self, iteration: _Iteration, inputs: Sequence[Tensor], wanted: Sequence[bool]) -> None:
        self.iteration, self.wanted, self.calls = iteration, wanted, 0
        self.inputs = [t.detach().requires_grad_(needed) for t, needed in zip(inputs, wanted, strict=True)]
        self.grads: list[Tensor | None] = [None] * len(inputs)

    def __call__(self, x: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """b f as integers, and J^T u as rows."""
        self.calls += 1
        iteration, ravel = self.iteration, self.iteration.ravel
        leaves = [t.detach().requires_grad_() for t in ravel.unflatten_leaves(iteration.floats(x))]
        with torch.enable_grad():
            values = iteration.f(tuple(leaves), tuple(self.inputs))
        image = iteration.image(ravel.flatten_leaves([t.detach() for t in values]))
        pairs = zip(values, ravel.unflatten_leaves(cotangent.to(ravel.dtype)), strict=True)
        taped = [(value, u.to(value.dtype)) for value, u in pairs if value.requires_grad]
        chosen = [i for i, needed in enumerate(self.wanted) if needed]
        if not taped:
            return image, torch.zeros_like(cotangent)
        found = torch.autograd.grad(
            [value for value, _ in taped],
            [*leaves, *(self.inputs[i] for i in chosen)],
            [u for _, u in taped],
            allow_unused=True,
        )
        of_leaves, of_inputs = found[: len(leaves)], found[len(leaves) :]
        for i, grad in zip(chosen, of_inputs, strict=True):
            if grad is not None:
                before = self.grads[i]
                self.grads[i] = grad if before is None else before + grad
        products = [torch.zeros_like(t) if p is None else p for t, p in zip(leaves, of_leaves, strict=True)]
        return image, ravel.flatten_leaves(products).double()


def _tell(iteration: _Iteration, start: Tensor, y: Tensor, z: Tensor, calls: int) -> None:
    """Whether the way back has led to the start: in `solution.backward`, and as a warning or error where it has not."""
    away = torch.maximum((y - start).abs(), (z - start).abs()).double().amax(1) / _UNIT
    status = torch.where(away == 0, Status.CONVERGED, Status.STALLED)
    status, away, steps = map(
        iteration.ravel.per_system, (status, away, torch.full_like(status, iteration.solver.max_steps))
    )
    backward = Solution(None, status, away, steps, calls)
    if iteration.report is not None:
        iteration.report(backward)
    backward.check(iteration.problem.on_failure, "reversed iteration", advice=_ADVICE)
