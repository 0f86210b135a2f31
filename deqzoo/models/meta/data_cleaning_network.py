"""A classifier whose training examples have weights that are learned: those with wrong labels lose theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.implicit import CG, LBFGS, Implicit, LinearSolver, Minimizer, Solution, argmin
from deqzoo.implicit.solution import OnFailure
from deqzoo.nn.tensors import check_tensor


class DataCleaner(nn.Module):
    """Softmax regression on weighted examples; the weights are hyperparameters, learned by implicit gradients.

        W(v) = argmin_W  1/N sum_i sigmoid(v_i) CE(W x_i, y_i) + strength/2 |W|^2

    `fit` gives W as a differentiable function of v, found from where the last one ended. The loss of W on a small clean
    set then tells by its gradient in v which examples serve it.

    Args:
        examples: N.
        features, classes: of an example (images are flattened).
        strength: of the penalty, positive: it makes the inner problem regular.
        solver: of the inner problem, `LBFGS()` by default.
        linear_solver: of the gradient, `CG()` by default.
        on_failure: "warn", "raise" or "ignore" when a solve, of the fit or of its gradient, does not converge.

    Attributes:
        scores: v, (N,).
        weights: W of the last fit, (features + 1, classes); the last row is the bias.
        solution: of the last fit.

    Source: Franceschi, Donini, Frasconi, Pontil, "Forward and Reverse Gradient-Based Hyperparameter Optimization",
    2017, section 5.1.

    >>> cleaner = DataCleaner(20, features=3, classes=2)
    >>> fitted = cleaner.fit(torch.randn(20, 3), torch.arange(20) % 2)
    >>> fitted.shape, cleaner(torch.randn(7, 3)).shape
    (torch.Size([4, 2]), torch.Size([7, 2]))
    """

    weights: Tensor

    def __init__(
        self,
        examples: int,
        features: int,
        classes: int,
        *,
        strength: float = 1e-3,
        solver: Minimizer | None = None,
        linear_solver: LinearSolver | None = None,
        on_failure: OnFailure = "warn",
    ) -> None:
        super().__init__()
        if not strength > 0:
            raise ValueError(f"strength must be positive, got {strength}")
        self.strength = strength
        self.solver = LBFGS() if solver is None else solver
        self.linear_solver = CG() if linear_solver is None else linear_solver
        self.on_failure = on_failure
        self.scores = nn.Parameter(torch.zeros(examples))
        self.register_buffer("weights", torch.zeros(features + 1, classes))
        self.solution: Solution | None = None

    @property
    def trust(self) -> Tensor:
        """sigmoid(v), the weight of each example, (N,) in (0, 1)."""
        return self.scores.sigmoid()

    def fit(self, inputs: Tensor, labels: Tensor, trust: Tensor | None = None) -> Tensor:
        """W for the training set, differentiable in the scores; `trust` stands in for their sigmoid."""
        trust = self.trust if trust is None else trust
        features = _with_one(inputs)

        def objective(weights: Tensor, trust: Tensor) -> Tensor:
            losses = nn.functional.cross_entropy(features @ weights, labels, reduction="none")
            return (trust * losses).mean() + self.strength / 2 * weights.square().sum()

        fitted, self.solution = argmin(
            objective,
            self.weights.clone(),
            trust,
            solver=self.solver,
            adjoint=Implicit(self.linear_solver),
            on_failure=self.on_failure,
            return_solution=True,
        )
        self.weights.copy_(fitted.detach())
        return fitted

    def forward(self, inputs: Tensor, weights: Tensor | None = None) -> Tensor:
        """Logits (batch, classes) by the last fit, or by the W given."""
        check_tensor("inputs", inputs)
        if inputs.shape[1:].numel() + 1 != len(self.weights):
            raise ValueError(f"inputs must have {len(self.weights) - 1} numbers each, got shape {tuple(inputs.shape)}")
        return _with_one(inputs) @ (self.weights if weights is None else weights)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without the last solution, which may hang on a graph."""
        return {**self.__dict__, "solution": None}


def _with_one(inputs: Tensor) -> Tensor:
    flat = inputs.flatten(1)
    return torch.cat([flat, flat.new_ones(len(flat), 1)], 1)
