"""Solvers that can run by compiled blocks: some steps are one graph, after which the host looks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..compiling import compiled
from ..linear_solvers.base import default_tolerance
from ..modes import in_transform
from ..solution import Solution
from .base import Evaluate, FixedPointSolver, Function
from .judge import Judge, StopRule

_STEPS = 6  # of a block, where the solver does not say


@dataclasses.dataclass(frozen=True)
class BlockSolver(FixedPointSolver):
    """Base of the solvers whose steps `torch.compile` can take: `Picard`, `Anderson`, `Broyden`.

    Args:
        compile: do `check_every` steps (None: 6) as one graph of `torch.compile`, then look at the stop rule: one read
            of the host per block. A method's memory begins anew in each block, and a system may take up to a block more
            than it needs. The derivative is that of the fixed point, as always. The first solve compiles, for seconds.
            With `stop="never"` there is nothing to look at, and code around the whole solve can be compiled instead.
            Without effect in `torch.func` transforms, with `keep`, `compact`, or on the tape (`Unrolled`).
    """

    compile: bool = dataclasses.field(default=False, kw_only=True)

    def run(self, evaluate: Evaluate, z: Tensor, finite: Tensor | None, compact: bool) -> Solution:
        """As `FixedPointSolver.run`."""
        plain = self.stop == "never" or compact or self.keep or evaluate.root
        if not self.compile or plain or torch.is_grad_enabled() or in_transform():
            return super().run(evaluate, z, finite, compact)
        return iterate_in_blocks(self, evaluate, z, finite)


def iterate_in_blocks(options: FixedPointSolver, evaluate: Evaluate, z: Tensor, finite: Tensor | None) -> Solution:
    """The loop: a block of steps, judge each system, keep the best; the first evaluation stands before all blocks."""
    g, image = evaluate.first(z)
    tol = default_tolerance(evaluate.precision) if options.tol is None else options.tol
    eps = torch.finfo(evaluate.precision).eps
    judge = Judge(StopRule(options.stop, tol, options.atol, options.patience, eps), z, None, finite, options.trace)
    block, step = _compiled_advance(), 0
    while judge.assess(step, z, g, image, host=True)[0] and step < options.max_steps:
        steps = min(options.check_every or _STEPS, options.max_steps - step)
        z, g, image = block(options, evaluate.f, tol, z, g, image, steps)
        evaluate.calls, step = evaluate.calls + steps, step + steps
    return judge.solution(evaluate.calls)


def advance(
    options: FixedPointSolver, f: Function, tol: float, z: Tensor, g: Tensor, image: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """z, g = f(z) - z and f(z) after so many steps of the solver's method, from its beginning."""
    method = options.method(lambda x: f(x) - x, tol)
    for _ in range(steps):
        z = method.step(z, g, image)
        image = f(z)
        g = image - z
    return z, g, image


@functools.cache
def _compiled_advance() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    return compiled(advance)
