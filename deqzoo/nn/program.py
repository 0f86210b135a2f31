"""A quadratic program with learned constraints as a layer."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..implicit import InteriorPoint, quadratic_program
from ..implicit.pytree import map_tensors
from ..implicit.solution import OnFailure
from .layer import SolverLayer


class ProgramLayer(SolverLayer):
    """The solution of a quadratic program whose equalities are learned; each sample of the batch is one program.

        z*(p) = argmin_z  strength / 2 |z|^2 - p'z    subject to    A z = A exp(u),  z >= 0

    A (constraints, features) and u (features,) are the parameters. As exp(u) is positive there is a solution whatever
    they are, and as strength is positive it is the only one. p is (B, features), z* as well, of the dtype of p.

    Args:
        features: n, of p and z.
        constraints: rows of A, at most `features`.
        strength: of the quadratic term. As it goes to 0 the program becomes linear, whose solution is a corner of the
            set that the constraints leave, and does not change with p nearly everywhere.
        level: exp(u) at the start: a value of z that the constraints allow then.
        dtype: of the solve; float64, as near a corner float32 leaves the derivatives few digits. None: that of p.
        solver: `InteriorPoint()` by default.
        on_failure: "warn", "raise" or "ignore" (the status stands in `solution`) when a program is not solved.

    A starts uniform in [0, 1]. A sample of p that is not finite is NaN in the output and leaves the others alone.

    Attributes:
        solution: `Solution` of the last forward; its `backward` is filled once the backward pass has run.

    Source: Amos, Kolter, "OptNet: Differentiable Optimization as a Layer in Neural Networks", 2017.

    >>> layer = ProgramLayer(3, 1, strength=0.1, level=1 / 3)
    >>> _ = nn.init.ones_(layer.matrix)  # the sum of z is 1
    >>> layer(torch.tensor([[0.0, 0.0, 1.0]])).detach().numpy().round(6) + 0.0
    array([[0., 0., 1.]], dtype=float32)
    """

    evaluated = "constraints"
    default_solver: ClassVar[InteriorPoint] = InteriorPoint()

    def __init__(
        self,
        features: int,
        constraints: int,
        *,
        strength: float = 0.1,
        level: float = 1.0,
        dtype: torch.dtype | None = torch.float64,
        solver: InteriorPoint | None = None,
        on_failure: OnFailure = "warn",
    ) -> None:
        super().__init__()
        if not 1 <= constraints <= features:
            raise ValueError(f"constraints must lie between 1 and the {features} features, got {constraints}")
        if not (strength > 0 and level > 0):
            raise ValueError(f"strength and level must be positive, got {strength} and {level}")
        self.strength, self.dtype = strength, dtype
        self.solver = self.default_solver if solver is None else solver
        self.on_failure = on_failure
        self.solution = None
        self.matrix = nn.Parameter(torch.rand(constraints, features))
        self.log_point = nn.Parameter(torch.full((features,), math.log(level)))

    def constraints(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """A (constraints, features) and b = A exp(u) (constraints,), in another dtype if asked."""
        A = self.matrix.to(dtype)
        return A, A @ self.log_point.to(dtype).exp()

    def forward(self, p: Tensor) -> Tensor:
        """z*(p), (B, features)."""
        rewards = p.to(self.dtype)
        A, b = self.constraints(rewards.dtype)
        identity = torch.eye(p.shape[-1], dtype=rewards.dtype, device=p.device)
        point, self.solution = quadratic_program(
            self.strength * identity,
            -rewards,
            A,
            b,
            -identity,
            rewards.new_zeros(p.shape[-1]),
            solver=self.solver,
            on_failure=self.on_failure,
            return_solution=True,
        )
        self.solution.value = map_tensors(torch.Tensor.detach, self.solution.value)
        return point.x.to(p.dtype)
