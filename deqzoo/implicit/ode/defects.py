"""What the error of a step does not say: whether the solution between its ends obeys f.

The defect of the dense output u at a time inside a step is u' - f(t, u). With it the error e = u - y, for which
e' = J e + defect, is about

    -(I - gamma h J)^-1 gamma h defect,

which is e for the stiff components, and of the size of gamma h e' for the others (J = 0 for explicit methods). What it
changes at the end of the step is less by (I - gamma h J)^-1 once more.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import torch
from torch import Tensor

from ..modes import no_derivatives
from ..private_api import below_all_transforms
from ..sending import send
from .interpolants import slopes
from .norms import Norm, on_host
from .solvers import Adaptive, is_explicit
from .stage_values import Length, Stages, coefficients, dense_weights
from .steps import Stepper
from .tableaus import Tableau
from .tolerances import scale

_WIDEST = 1 / 3  # share of a step in which nothing is seen of f
_REST = 0.05  # error, over the tolerance, of two steps in a row: less than the step control aims at


@functools.cache
def between(tableau: Tableau) -> tuple[float, ...]:
    """Fractions of a step in the middle of the widest gaps between the stages, so that none is wider than a third.

    >>> from deqzoo.implicit.ode.tableaus import DOPRI5
    >>> [round(fraction, 2) for fraction in between(DOPRI5)]  # stages at .3 and .8
    [0.55]
    """
    nodes, found = sorted({0.0, 1.0, *(float(c) for c in tableau.c[: tableau.stages] if 0 < c < 1)}), list[float]()
    while True:
        width, start = max((b - a, a) for a, b in itertools.pairwise(nodes))
        if width <= _WIDEST:
            return tuple(found)
        found.append(start + width / 2)
        nodes = sorted([*nodes, found[-1]])


class InsideChecks:
    """Evaluates f inside of steps that are about to be accepted, at the fractions `between` or output times near them.

    In steps of methods for stiff problems whose dense output is used: their error estimate falls with the stiffness,
    and does not watch it. And in a rest, where two errors in a row are far below the tolerance, lest what f does
    between the stages be overlooked.

    Args:
        stepper: of an adaptive method.
        norm: of errors.
        kept: the dense output of all steps is used.
    """

    def __init__(self, stepper: Stepper, norm: Norm, kept: bool) -> None:
        options, tableau = stepper.solver, stepper.tableau
        assert isinstance(options, Adaptive)
        self._stepper, self._options, self._norm = stepper, options, norm
        # A method with stages for dense output alone would have to evaluate them first.
        self.fractions = between(tableau) if tableau.stages == len(tableau.a) else ()
        self.watches_dense = bool(self.fractions) and not is_explicit(options)
        self._kept, self._blind = kept and self.watches_dense, options.first_step != "span"
        self.of_each: Tensor | None = None  # of each row, what the last check found, over the tolerance

    def __call__(
        self,
        t: Tensor,
        h: Length,
        before: Tensor,
        new: Tensor,
        stages: Stages,
        rows: Tensor | None,
        errors: list[float],
        last: Any,
        outputs: Tensor | None,
    ) -> list[float]:
        """The errors over the tolerance of a step, (rows,) or one for all, with what was found inside of it.

        `last` is the error of the step before, likewise.
        `outputs` are fractions of the step to look at, (fractions, rows) or (fractions, 1), NaN in rows without output
        times inside; None: no row has one.
        """
        self.of_each = None
        if not self.fractions or not any(e <= 1 for e in errors):
            return errors
        with below_all_transforms():
            error = torch.tensor(errors, dtype=torch.float64)
            inside = torch.tensor(False) if outputs is None else outputs[0].isfinite()
            used = (error <= 1) & (inside | self._kept)
            blind = (error <= _REST) & (torch.as_tensor(last) <= _REST) & self._blind & ~used
            at = torch.tensor(self.fractions, dtype=torch.float64).unsqueeze(1)
            at = at if outputs is None else torch.where(inside, outputs, at)
            if not (used | blind).any():
                return errors
            # From what is looked at in a rest, nothing follows but whether it goes on.
            least = torch.where(used, 0.0, torch.where(blind, 1.0, torch.inf)).tolist()  # that counts
            in_rest = blind if blind.any() else None
        with no_derivatives():
            unit = scale(self._options, self._norm.cut(torch.maximum(before.abs(), new.abs())), rows)
            seen = []
            for theta in at:
                found = self._error(theta, t, h, before, stages, rows, in_rest)
                seen.append(self._norm.cut(found) / unit)
            self.of_each = torch.stack([self._norm.rows(x) for x in seen]).amax(dim=0)
            worst = on_host(torch.stack([self._norm(x) for x in seen]).amax(dim=0), len(before), largest=True)
        return [
            e if bound == math.inf or x <= bound else math.inf if math.isnan(x) else max(e, x)
            for e, x, bound in zip(errors, worst, least, strict=True)
        ]

    def _error(
        self,
        theta: Tensor,
        t: Tensor,
        h: Length,
        before: Tensor,
        stages: Stages,
        rows: Tensor | None,
        blind: Tensor | None,
    ) -> Tensor:
        """At fractions theta, (rows,) or (1,); where `blind`, (rows,) or (1,), what the end has of it."""
        stepper, co = self._stepper, coefficients(self._stepper.tableau, before)
        share, k = send(theta.to(before.dtype), before.device), stages.rows(len(co.dense))
        weights = torch.stack([dense_weights(co, share), slopes(co.dense, share)]).expand(2, len(before), -1)
        change, slope = torch.einsum("drs,srn->drn", weights, k)
        length = h if isinstance(h, float) else h.reshape(t.shape)
        time = t + send((theta if t.dim() else theta[0]).to(t.dtype), t.device) * length
        at, gh = before + h * change, stepper.gamma * h
        found = stepper.relaxed(gh * (slope - stepper.evaluate(time, at, rows)), time, at, gh)
        if blind is None:
            return found
        return torch.where(send(blind, at.device).unsqueeze(1), stepper.relaxed(found, time, at, gh), found)
