"""Newton's method in a trust region, dense or matrix-free, each system with its own radius."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..fixed_point_solvers.base import Evaluate, probe
from ..fixed_point_solvers.search import Search
from ..linear_solvers.base import row_norm, safe_divide
from ..modes import host_flags
from .trust_region import ACCEPTABLE, START, next_radius


class NewtonMethod(Search):
    """z <- z + s, where s minimises ||g + J s|| within ||D s|| <= radius: Newton's step, if it is short enough.

    A root has converged by its componentwise backward error,

        |g_i| <= tol sum_j |J_ij| max(|z_j|, |z_j - start_j|)    for each i

    which no scale of the equations or of the unknowns changes, nor the choice of the start.

    Source of the criterion: Oettli, Prager, "Compatibility of Approximate Solution of Linear Equations with Given Error
    Bounds for Coefficients and Right-Hand Sides", 1964.
    """

    radius: Tensor
    newton: Tensor
    newton_model: Tensor

    def __init__(self, evaluate: Evaluate) -> None:
        self.evaluate, self.root = evaluate, evaluate.root

    def function(self, z: Tensor) -> Tensor:
        """g(z)."""
        return self.evaluate(z)[0]

    def begin(self, z: Tensor, g: Tensor, image: Tensor) -> None:
        """As `Search.begin`; a root looks whether its start is one."""
        super().begin(z, g, image)
        self.norm, self.first_image = self.merit(g), row_norm(image)
        self.first = True
        self.terms = probe(self.evaluate, z, g) if self.root else torch.zeros_like(g)

    def relative(self) -> Tensor:
        """As `Search.relative`."""
        if self.root:
            ratio = torch.where(self.g == 0, torch.zeros_like(self.g), self.g.abs() / self.terms)
            return ratio.amax(dim=1) if ratio.shape[1] else row_norm(ratio)
        # At a fixed point at zero no ratio to ||f(z)|| falls: there the first one, times eps, is the scale.
        floor = self.eps * self.first_image
        norm = row_norm(self.g)
        return torch.where(norm == 0, norm, norm / torch.maximum(row_norm(self.image), floor))

    def scales(self) -> Tensor:
        """As `Search.scales`."""
        return self.terms if self.root else self.image.abs()

    def observe(self, z: Tensor, g: Tensor, image: Tensor) -> None:
        """As `Search.observe`."""
        norm = self.merit(g)
        fall = 1 - (norm / self.norm) ** 2
        ratio = fall / self.foretold
        accepted = (ratio >= ACCEPTABLE) & (norm < self.norm)
        self.accept(accepted, z, g, image)
        self.norm = torch.where(self.accepted, norm, self.norm)
        self.radius = next_radius(self.radius, ratio, self.length)

    def trial(self) -> Tensor:
        """As `Search.trial`."""
        if host_flags(self.accepted)[0][0]:
            self.linearise()
            size = self.norm_of(self.newton)
            self.full = torch.isfinite(size) & (size > 0)
            if self.first:
                self.first = False
                extent = START * self.norm_of(self.point)
                instead = torch.where(self.full, size, torch.full_like(size, START))
                self.radius = torch.where(extent > 0, extent, instead)
            self.newton_length = torch.where(self.full, size, torch.full_like(size, torch.inf))
        step, model = self.newton, self.newton_model
        outside = (self.newton_length > self.radius) & self.active
        if host_flags(outside)[0][0]:
            shorter, its_model = self.step_within(self.radius)
            step = torch.where(outside.unsqueeze(1), shorter, step)
            model = torch.where(outside, its_model, model)
        size = self.norm_of(step)
        # Where no step brings the model down, the residual itself is the step, as in plain iteration.
        foretold = 1 - (model / self.norm) ** 2
        useful = (size > 0) & (foretold > 0)
        plain = self.g * safe_divide(self.radius, self.norm_of(self.g)).clamp(max=1.0).unsqueeze(1)
        step = torch.where(useful.unsqueeze(1), step, plain)
        self.length = torch.where(useful, size, self.norm_of(plain))
        self.foretold = torch.where(useful, foretold, torch.full_like(foretold, ACCEPTABLE))
        return self.point + step

    def merit(self, g: Tensor) -> Tensor:
        """What an accepted step brings down, (systems,): ||g||, or the norm of it with each equation scaled."""
        return row_norm(g)

    @abstractmethod
    def linearise(self) -> None:
        """Set, at the accepted points, `newton`, `newton_model` and `terms`.

        They are Newton's step (not finite where there is none), the merit of g + J s, (systems,), and the sum in the
        rule.
        """

    @abstractmethod
    def step_within(self, radius: Tensor) -> tuple[Tensor, Tensor]:
        """A step of length `radius` at most that brings the merit of g + J s down, and that merit, (systems,)."""

    @abstractmethod
    def norm_of(self, step: Tensor) -> Tensor:
        """The norm in which the region is a ball, (systems,)."""
