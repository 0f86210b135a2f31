"""A classifier each weight of which has a decay of its own, that is learned."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.implicit import CG, LBFGS, Implicit, LinearSolver, Minimizer, Solution, argmin
from deqzoo.implicit.solution import OnFailure
from deqzoo.models.common.images import check_images

CHUNK = 1000  # images whose responses to the filters are held at once
SIZE = 5  # of a filter
FLOOR = 0.05  # added to the features' standard deviations: one that hardly varies is not blown up


class DecayLearner(nn.Module):
    """Softmax regression on random convolutional features; the decays of its weights are learned by implicit gradients.

        W(v) = argmin_W  1/N sum_i CE(W phi(x_i), y_i) + 1/2 sum_jk exp(v_jk) W_jk^2

    phi is a convolution with fixed random filters (5x5, stride 2), a rectifier and means over 2x2, each feature shifted
    and scaled to mean 0 and deviation 1 on the training images. The problem is strictly convex: `fit` gives its one
    solution W as a differentiable function of v, found from where the last fit ended, and the loss of W on a validation
    set has a gradient in v: one decay for each weight, which no grid could search.

    Args:
        shape: (channels, height, width) of the images.
        classes: number of them.
        filters: number of them, at least 1.
        start: exp(v) at the start, positive.
        solver: of the inner problem, `LBFGS()` by default.
        linear_solver: of the gradient, `CG()` by default.
        on_failure: "warn", "raise" or "ignore" when a solve, of the fit or of its gradient, does not converge.

    Attributes:
        log_decays: v, (features + 1, classes); the last row is the bias's.
        weights: W of the last fit, of the same shape.
        solution: of the last fit.

    Source: Lorraine, Vicol, Duvenaud, "Optimizing Millions of Hyperparameters by Implicit Differentiation", 2020.

    >>> learner = DecayLearner((1, 8, 8), classes=2, filters=3)
    >>> images = torch.rand(20, 1, 8, 8)
    >>> learner.fit(images, torch.arange(20) % 2).shape, learner(images[:7]).shape
    (torch.Size([13, 2]), torch.Size([7, 2]))
    """

    kernels: Tensor
    mean: Tensor
    scale: Tensor
    weights: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        filters: int = 16,
        start: float = 1e-2,
        solver: Minimizer | None = None,
        linear_solver: LinearSolver | None = None,
        on_failure: OnFailure = "warn",
    ) -> None:
        super().__init__()
        if not start > 0:
            raise ValueError(f"start must be positive, got {start}")
        if filters < 1:
            raise ValueError(f"filters must be at least 1, got {filters}")
        self.solver = LBFGS() if solver is None else solver
        self.linear_solver = CG() if linear_solver is None else linear_solver
        self.on_failure = on_failure
        channels, height, width = shape
        random = torch.randn(filters, channels * SIZE**2)
        random = F.normalize(random - random.mean(1, keepdim=True), dim=1)  # blind to an even grey
        self.register_buffer("kernels", random.unflatten(1, (channels, SIZE, SIZE)))
        features = filters * ((height + 1) // 2 // 2) * ((width + 1) // 2 // 2)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.log_decays = nn.Parameter(torch.full((features + 1, classes), math.log(start)))
        self.register_buffer("weights", torch.zeros(features + 1, classes))
        self.solution: Solution | None = None

    def features(self, images: Tensor) -> Tensor:
        """phi of images, (batch, features + 1), with a one at the end for the bias."""
        return self._with_one((self._responses(images) - self.mean) / self.scale)

    def fit(self, images: Tensor, labels: Tensor, decays: Tensor | float | None = None) -> Tensor:
        """W for the training set, differentiable in v; `decays`, of any shape that broadcasts, stands in for exp(v)."""
        raw = self._responses(images)
        self.mean.copy_(raw.mean(0))
        self.scale.copy_(raw.std(0) + FLOOR)
        return self.solve(self._with_one((raw - self.mean) / self.scale), labels, decays)

    def solve(self, features: Tensor, labels: Tensor, decays: Tensor | float | None = None) -> Tensor:
        """As `fit`, of what `features` has made of the images."""

        def objective(weights: Tensor, decays: Tensor) -> Tensor:
            return F.cross_entropy(features @ weights, labels) + (decays * weights.square()).sum() / 2

        fitted, self.solution = argmin(
            objective,
            self.weights.clone(),
            self.log_decays.exp()
            if decays is None
            else torch.as_tensor(decays, dtype=features.dtype, device=features.device),
            solver=self.solver,
            adjoint=Implicit(self.linear_solver),
            on_failure=self.on_failure,
            return_solution=True,
        )
        self.weights.copy_(fitted.detach())
        return fitted

    def forward(self, images: Tensor, weights: Tensor | None = None) -> Tensor:
        """Logits (batch, classes) by the last fit, or by the W given."""
        check_images(images, self.kernels.shape[1])
        return self.features(images) @ (self.weights if weights is None else weights)

    def _responses(self, images: Tensor) -> Tensor:
        def of(part: Tensor) -> Tensor:
            return F.avg_pool2d(F.conv2d(part, self.kernels, stride=2, padding=SIZE // 2).relu(), 2).flatten(1)

        return torch.cat([of(part) for part in images.split(CHUNK)])

    @staticmethod
    def _with_one(features: Tensor) -> Tensor:
        return torch.cat([features, features.new_ones(len(features), 1)], 1)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without the last solution, which may hang on a graph."""
        return {**self.__dict__, "solution": None}
