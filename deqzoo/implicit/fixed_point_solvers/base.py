"""The loop that all fixed-point and root solvers share. A solver only says how to update."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..linear_solvers.base import default_tolerance, row_norm
from ..modes import (
    Looks,
    call_unchanged,
    compiled_runs_eagerly,
    eager,
    full_precision,
    host_flags,
    in_transform,
    is_single,
    keep_autocast,
    no_derivatives,
    not_inference,
)
from ..precision import Coarsest, expected_precision, finite_inputs
from ..pytree import Ravel, map_tensors, take_rows, tensor_leaves
from ..rows import select
from ..solution import Solution, Status
from .judge import Judge, StopRule, ratio
from .judge_of_one import JudgeOfOne

_GOLDEN = (5**0.5 - 1) / 2
_WORTH_A_COPY = 15 / 16  # of the systems evaluated so far: then at most a sixteenth of the work is wasted

Function = Callable[[Tensor], Tensor]  # on matrices (systems, unknowns), one system per row


class Method(ABC):
    """The memory of one solve: proposes the next iterate from the present one."""

    @abstractmethod
    def step(self, z: Tensor, g: Tensor, image: Tensor) -> Tensor:
        """The next iterate, given z, g(z) = f(z) - z and z + g, all (systems, unknowns)."""

    def inverse(self) -> Function | None:
        """v -> M v with M near (I - df/dz)^-1, on (systems, unknowns), where the method has built such an M."""
        return None


@dataclasses.dataclass(frozen=True)
class FixedPointSolver(ABC):
    """Base of the solvers of z = f(z), called as `solver(f, z0, *args, batch_dims=0) -> Solution`.

    Each system has converged when its residual g = f(z) - z meets

        ||g|| <= tol ||f(z)||  for stop="rel"        ||g|| <= tol    for stop="abs"

    with the Euclidean norm over all unknowns of the system. (With "rel", after the start, ||g|| must also have fallen
    below half the largest one so far, less eps / 2 ||f(z)||: beside iterates that run away a residual looks small.) A
    system that is done is frozen, so that others never change its answer. The best iterate is returned, and its
    residual with it. A system has diverged at once if its own arguments hold a NaN or Inf: those tensors among `args`
    that have the batch axes as leading ones. Norms are taken in the state's precision: float32 states should lie
    between 1e-18 and 1e18.

    Args:
        tol: tolerance; None: eps^(3/4) of the precision in which f is evaluated (float64 2e-12, float32 6e-6, float16
            6e-3, bfloat16 3e-2): its first call is watched for half precision, by autocast or of its own.
        max_steps: updates at most; f is called once more than that.
        stop: "rel" or "abs"; "never": always max_steps steps, of which the last iterate is returned (where it is not
            finite, the start); its status is that of the relative rule. The host reads nothing, so `torch.compile`
            takes the whole solve (at inference, and with the gradients `Phantom` and `OneStep`), and CUDA graphs too.
        check_every: the host reads the stop rule after every N evaluations; one synchronisation each. None: after each
            one on the CPU, elsewhere after every sixth. A system that is done stays as it is; only `nfe` grows.
        patience: steps without a better residual after which a system has stalled.
        trace: keep the residual of each step.
        keep: numbers of steps after which to keep the iterate, in `Solution.kept`.
        atol: a system has converged too where each component meets |g_i| <= atol + tol scale_i, with |f(z)_i| for the
            scale (for a root or a minimiser: that of its own rule).
        rtol: another name of `tol`.
    """

    tol: float | None = None
    max_steps: int = 100
    stop: Literal["rel", "abs", "never"] = "rel"
    check_every: int | None = None
    patience: int = 50
    trace: bool = False
    keep: Sequence[int] = ()
    atol: float = 0.0
    rtol: float | None = None

    def __post_init__(self) -> None:
        if self.rtol is not None:
            if self.tol not in (None, self.rtol):
                raise ValueError(f"tol and rtol are two names of one tolerance, got {self.tol} and {self.rtol}")
            object.__setattr__(self, "tol", self.rtol)
        if not self.atol >= 0:
            raise ValueError(f"atol must be a number >= 0, got {self.atol}")
        object.__setattr__(self, "keep", tuple(self.keep))
        if list(self.keep) != sorted(set(self.keep)) or (self.keep and self.keep[0] < 0):
            raise ValueError(f"keep must be increasing numbers of steps, got {list(self.keep)}")
        if self.stop not in ("rel", "abs", "never"):
            raise ValueError(f"stop must be 'rel', 'abs' or 'never', got {self.stop!r}")
        if self.max_steps < 0 or (self.check_every is not None and self.check_every < 1) or self.patience < 1:
            raise ValueError("max_steps must be at least 0, check_every and patience at least 1")
        if self.tol is not None and not self.tol >= 0:
            raise ValueError(f"tol must be a number >= 0, got {self.tol}")

    @abstractmethod
    def method(self, g: Function, tol: float) -> Method:
        """The update rule, for one solve of g(z) = f(z) - z = 0."""

    def __call__(
        self,
        f: Callable[..., Any],
        z0: Any,
        *args: Any,
        batch_dims: int = 0,
        root: bool = False,
        record: bool = False,
        compact: bool = False,
    ) -> Solution:
        """Solve z = f(z, *args), or f(z, *args) = 0 with `root`, from z0; no derivatives (see `fixed_point`, `root`).

        For a root, f(z) stands in the stop rule for g, each component by itself, and for the scale its largest value
        so far, up to ||f(z0)||: |f_i(z)| <= tol min(max_k |f_i(z_k)|, ||f(z0)||). A z0 that is a root to within `tol`
        of the size of the terms that f sums is taken. (Newton's methods have a rule of their own.)
        With `record`, which `Picard` alone allows, the iterations stay on the tape. `compact`: see `fixed_point`.
        """
        solve = self._solve if self.stop == "never" else self._solve_eagerly
        return solve(f, z0, args, batch_dims, root, record, compact)

    def _solve(
        self,
        f: Callable[..., Any],
        z0: Any,
        args: tuple[Any, ...],
        batch_dims: int,
        root: bool,
        record: bool,
        compact: bool,
    ) -> Solution:
        if compact and batch_dims != 1:
            raise ValueError("compact=True needs batch_dims=1: else there are no samples to leave out")
        ravel = Ravel(z0, batch_dims)
        device = ravel.device.type
        start, args = (z0, args) if record else map_tensors(torch.Tensor.detach, (z0, args))
        call, given = keep_autocast(f, device), tensor_leaves(args)
        precision = expected_precision(ravel.dtype, ravel.dtypes, device) if self.tol is None else ravel.dtype

        def flat(z: Tensor, rows: Tensor | None = None) -> Tensor:
            z = not_inference(z)
            if rows is None:
                return ravel.flatten(call_unchanged(call, (z, *given), ravel.unflatten(z), *args))
            part, some = ravel.of(len(rows)), take_rows(args, rows, ravel.systems)
            return part.flatten(call_unchanged(call, (z, *given), part.unflatten(z), *some))

        with contextlib.nullcontext() if record else no_derivatives(), full_precision(device):
            z = ravel.flatten(start)
            finite = finite_inputs((z0, args) if root else args, ravel.batch_shape, ravel.device)
            evaluate = Evaluate(flat, root, precision, watched=self.tol is None)
            solution = self.run(evaluate, z, finite, compact)
        solution.value = ravel.unflatten(solution.value)
        solution.status = ravel.per_system(solution.status)
        solution.residual = ravel.per_system(solution.residual)
        solution.steps = ravel.per_system(solution.steps)
        solution.kept = [ravel.unflatten(z) for z in solution.kept]
        if solution.trace is not None:
            solution.trace = ravel.per_system(solution.trace)
        return solution

    def run(self, evaluate: Evaluate, z: Tensor, finite: Tensor | None, compact: bool) -> Solution:
        """The loop, on matrices (systems, unknowns); `finite` tells which systems have finite inputs, None: all."""
        return (take_all_steps if self.stop == "never" else iterate)(self, evaluate, z, finite, compact)

    @eager
    def _solve_eagerly(self, *arguments: Any) -> Solution:
        return self._solve(*arguments)


def iterate(options: FixedPointSolver, evaluate: Evaluate, z: Tensor, finite: Tensor | None, compact: bool) -> Solution:
    """The loop: evaluate, judge each system, keep the best, let the method propose, freeze what is done.

    `finite` tells which systems have finite inputs; None: all of them, or not known.
    """
    root = evaluate.root
    g, image = evaluate.first(z)
    tol = default_tolerance(evaluate.precision) if options.tol is None else options.tol
    method = options.method(lambda x: evaluate(x)[0], tol)
    if in_transform():
        z = z + torch.zeros_like(g)  # take on the batch axes of what f reads
    eps = torch.finfo(evaluate.precision).eps
    rule = StopRule(options.stop, tol, options.atol, options.patience, eps)
    kept, looks = [], Looks(options.check_every, z.device)
    judge: Judge | JudgeOfOne
    if is_single(z) and not root and looks.every == 1:
        judge = JudgeOfOne(rule, z, finite, options.trace)
    else:
        judge = Judge(rule, z, _terms(evaluate, z, g, tol) if root else None, finite, options.trace)
    for step in range(options.max_steps + 1):
        if step in options.keep:
            kept.append(z)
        last = step == options.max_steps
        host = last or looks.after(step)
        any_active, all_active = judge.assess(step, z, g, image, host)
        if last or not any_active:
            break
        if compact and host and not (all_active or in_transform()):
            evaluate.leave_out(judge.active, image if not root else z - image)
        z_next = method.step(z, g, image)
        z = z_next if all_active else select(judge.active, z_next, z)
        g, image = evaluate(z)
    solution = judge.solution(evaluate.calls)
    solution.kept = kept + [z] * (len(options.keep) - len(kept))
    solution.inverse = method.inverse()
    return solution


def take_all_steps(
    options: FixedPointSolver, evaluate: Evaluate, z: Tensor, finite: Tensor | None, compact: bool
) -> Solution:
    """The loop without a stop: `max_steps` steps of all systems, without a stop rule."""
    start, root = z, evaluate.root
    g, image = evaluate.first(z)
    tol = default_tolerance(evaluate.precision) if options.tol is None else options.tol
    method = options.method(lambda x: evaluate(x)[0], tol)
    first = row_norm(g)
    iterates = [z]
    for _ in range(options.max_steps):
        z = method.step(z, g, image)
        g, image = evaluate(z)
        iterates = [*iterates, z] if options.keep else [z]
    norm, scale = row_norm(g), first if root else row_norm(image)
    reached = norm <= tol * scale
    if not root and options.max_steps:  # as `Judge` has it
        eps = torch.finfo(evaluate.precision).eps
        reached = reached & ((norm <= (first - eps * scale) / 2) | (first <= tol * scale))
    status = torch.where(reached, Status.CONVERGED, Status.MAX_STEPS)
    sound = norm < torch.inf if finite is None else (norm < torch.inf) & finite
    status, z = torch.where(sound, status, Status.DIVERGED), torch.where(sound.unsqueeze(1), z, start)
    steps = torch.full_like(status, options.max_steps)
    kept = [iterates[min(step, options.max_steps)] for step in options.keep]
    return Solution(z, status, ratio(norm, scale), steps, evaluate.calls, kept=kept)


class Evaluate:
    """z -> (g, z + g): g = f(z) - z for a fixed point, g = -f(z) for a root. Counts the calls of f.

    Attributes:
        precision: in which f is evaluated, once `first` has run.
    """

    def __init__(self, f: Callable[..., Tensor], root: bool, precision: torch.dtype, watched: bool) -> None:
        self.f, self.root, self.precision, self.watched, self.calls = f, root, precision, watched, 0
        self.rows: Tensor | None = None  # the systems that f is evaluated for; None: all
        self.values: Tensor  # of f, for the others

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate f."""
        self.calls += 1
        value = (
            self.f(z) if self.rows is None else self.values.index_copy(0, self.rows, self.f(z[self.rows], self.rows))
        )
        return (-value, z - value) if self.root else (value - z, value)

    def first(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The first call, watched for the precision where a tolerance depends on it."""
        if not self.watched or torch.compiler.is_compiling():
            return self(z)
        with compiled_runs_eagerly(), Coarsest(z.dtype) as seen:
            result = self(z)
        self.precision = seen.dtype
        return result

    def leave_out(self, active: Tensor, values: Tensor) -> None:
        """From now on evaluate f for the active systems alone, once they are few enough to pay for the copies."""
        rows = active.nonzero().squeeze(1)
        if len(rows) <= _WORTH_A_COPY * (len(active) if self.rows is None else len(self.rows)):
            self.rows, self.values = rows, values.detach()


def _terms(evaluate: Evaluate, z: Tensor, g: Tensor, tol: float) -> Tensor:
    """The size of each equation of a root problem, (systems, unknowns): that of g, or near a root that of its terms.

    A start where g is small beside z may be a root: one evaluation close by tells the size of the terms that make up g,
    which is the Jacobian times the unknowns, up to signs.
    """
    size = g.abs().nan_to_num(posinf=0.0)
    near_root = (g.abs() <= tol**0.5 * z.abs()).all(dim=1) & (size > 0).any(dim=1)
    if host_flags(near_root)[0][0]:
        size = torch.where(near_root.unsqueeze(1), torch.maximum(size, probe(evaluate, z, g)), size)
    return size


def probe(evaluate: Evaluate, z: Tensor, g: Tensor, along: Tensor | None = None) -> Tensor:
    """The size of the terms that make up each component of g, (systems, unknowns), by a step of sqrt(eps) `along`.

    None: along `spread(z)`.
    """
    step = torch.finfo(evaluate.precision).eps ** 0.5
    along = spread(z) if along is None else along
    return ((evaluate(z + step * along)[0] - g) / step).abs().nan_to_num(posinf=0.0)


def spread(z: Tensor) -> Tensor:
    """z with signs and weights in [1/2, 1] that no row of a Jacobian is likely to cancel."""
    place = torch.remainder(torch.arange(1, z.shape[1] + 1, dtype=z.dtype, device=z.device) * _GOLDEN, 1.0)
    return z * torch.where(place < 0.5, place + 0.5, -place)
