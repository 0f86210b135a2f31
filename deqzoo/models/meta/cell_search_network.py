"""A cell whose operations are searched for, by implicit gradients, and a classifier on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.implicit import CG, LBFGS, Implicit, LinearSolver, Minimizer, Solution, argmin
from deqzoo.implicit.solution import OnFailure
from deqzoo.models.common.images import check_images

FILTERS: dict[str, list[list[float]]] = {  # 3x3
    "identity": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
    "blur": [[1, 2, 1], [2, 4, 2], [1, 2, 1]],
    "across": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "down": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "rising": [[0, 1, 2], [-1, 0, 1], [-2, -1, 0]],
    "falling": [[2, 1, 0], [1, 0, -1], [0, -1, -2]],
    "laplacian": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "relu of -x": lambda x: torch.relu(-x),
    "abs": torch.abs,
    "tanh": torch.tanh,
}
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: F.avg_pool2d(x, 2),
    "max": lambda x: F.max_pool2d(x, 2),
    "one in four": lambda x: x[:, :, : x.shape[2] // 2 * 2 : 2, : x.shape[3] // 2 * 2 : 2],
}
PLACES: dict[str, tuple[str, ...]] = {  # of a channel, in its order: what may stand there
    "filter 1": tuple(FILTERS),
    "activation 1": tuple(ACTIVATIONS),
    "filter 2": tuple(FILTERS),
    "activation 2": tuple(ACTIVATIONS),
    "pooling": tuple(POOLS),
}
FLOOR = 0.05  # added to the features' standard deviations
SPREAD = 0.1  # standard deviation of the scores at the start: equal channels would stay so

Choice = Sequence[Tensor]  # for each place the weights of what may stand there, (channels, operations)


class Fit(NamedTuple):
    """A classifier on a cell: its weights W, and the mean and scale of the features that it was fitted to."""

    weights: Tensor
    mean: Tensor
    scale: Tensor


class CellSearch(nn.Module):
    """A cell of mixed operations with softmax regression on it; the mixtures are learned by implicit gradients.

        W(a) = argmin_W  1/N sum_i CE(W phi(x_i; p), y_i) + strength/2 |W|^2,   p = softmax(a / temperature)

    Each channel of the cell phi is a chain: a fixed 3x3 filter, an activation, a filter, an activation, a pooling over
    2x2. At each place stands a mixture of what may stand there (`PLACES`), with weights p. The validation loss of W(a)
    has a gradient in a, through W too: the inner problem is strictly convex and solved. First-order DARTS
    takes W for a constant. `derive` takes at each place what has the largest weight, fits W anew, and keeps the best
    such cell of a search by its validation loss, as random search does.

    Args:
        shape: (channels, height, width) of the images; one channel.
        classes: number of them.
        channels: of the cell, at least 1.
        strength: of the penalty, positive.
        first_order: take W for a constant.
        solver: of the inner problem, `LBFGS()` by default.
        linear_solver: of the gradient, `CG()` by default.
        on_failure: "warn", "raise" or "ignore" when a solve, of the fit or of its gradient, does not converge.

    Attributes:
        scores: a, of each place, (channels, operations).
        temperature: lowered in the search, so that the mixtures come near to single operations.
        weights: W of the last fit in the search; that of the derived cell is `derived_weights`.
        chosen: the operations of the derived cell, (channels, places).
        derived_loss: its validation loss.
        solution: of the last fit.

    Source: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", 2019; Lorraine, Vicol, Duvenaud,
    "Optimizing Millions of Hyperparameters by Implicit Differentiation", 2020.

    >>> search = CellSearch((1, 8, 8), classes=2, channels=3)
    >>> images = torch.rand(20, 1, 8, 8)
    >>> search(images[:7], search.fit(images, torch.arange(20) % 2)).shape
    torch.Size([7, 2])
    """

    filters: Tensor
    weights: Tensor
    chosen: Tensor
    derived_loss: Tensor
    derived_weights: Tensor
    derived_mean: Tensor
    derived_scale: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        channels: int = 8,
        strength: float = 1e-3,
        first_order: bool = False,
        solver: Minimizer | None = None,
        linear_solver: LinearSolver | None = None,
        on_failure: OnFailure = "warn",
    ) -> None:
        super().__init__()
        if not strength > 0:
            raise ValueError(f"strength must be positive, got {strength}")
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if shape[0] != 1:
            raise ValueError(f"shape must be of images with one channel, got {shape}")
        self.strength, self.first_order, self.on_failure = strength, first_order, on_failure
        self.solver = LBFGS() if solver is None else solver
        self.linear_solver = CG() if linear_solver is None else linear_solver
        filters = torch.tensor(list(FILTERS.values()), dtype=torch.get_default_dtype()).flatten(1)
        self.register_buffer("filters", F.normalize(filters, dim=1), persistent=False)
        starts = [SPREAD * torch.randn(channels, len(operations)) for operations in PLACES.values()]
        self.scores = nn.ParameterList(starts)
        self.temperature = 1.0
        features = channels * (shape[1] // 2) * (shape[2] // 2)
        self.register_buffer("weights", torch.zeros(features + 1, classes))
        self.register_buffer("chosen", torch.zeros(channels, len(PLACES), dtype=torch.long))
        self.register_buffer("derived_loss", torch.tensor(torch.finfo(self.weights.dtype).max))
        self.register_buffer("derived_weights", torch.zeros(features + 1, classes))
        self.register_buffer("derived_mean", torch.zeros(features))
        self.register_buffer("derived_scale", torch.ones(features))
        self.solution: Solution | None = None
        self._last_derived: list[list[int]] = []  # the operations of the latest one

    def mixtures(self) -> list[Tensor]:
        """p of each place, (channels, operations), rows of sum 1."""
        return [(scores / self.temperature).softmax(1) for scores in self.scores]

    def derived(self) -> list[Tensor]:
        """As `mixtures`, with 1 for the operations of the derived cell and 0 for the others."""
        return _single(self.chosen, self.scores)

    def cell(self, images: Tensor, choice: Choice) -> Tensor:
        """phi of images, (batch, features)."""
        first, after_first, second, after_second, pooling = choice

        def filtered(x: Tensor, mixture: Tensor, groups: int) -> Tensor:
            kernels = (mixture @ self.filters).unflatten(1, (1, 3, 3))
            return F.conv2d(x, kernels, padding=1, groups=groups)

        def mixed(x: Tensor, mixture: Tensor, operations: dict[str, Callable[[Tensor], Tensor]]) -> Tensor:
            return torch.einsum("kbcij,ck->bcij", torch.stack([f(x) for f in operations.values()]), mixture)

        hidden = mixed(filtered(images, first, 1), after_first, ACTIVATIONS)
        hidden = mixed(filtered(hidden, second, len(second)), after_second, ACTIVATIONS)
        return mixed(hidden, pooling, POOLS).flatten(1)

    def fit(self, images: Tensor, labels: Tensor) -> Fit:
        """The classifier of the mixtures, differentiable in the scores."""
        fitted = self.fit_cell(images, labels, self.mixtures(), self.weights)
        self.weights.copy_(fitted.weights.detach())
        return fitted

    @torch.no_grad()
    def derive(self, images: Tensor, labels: Tensor, validation: Tensor, validation_labels: Tensor) -> None:
        """Fit the classifier to the operations with the largest scores, from zero; keep this cell if it is the best."""
        likeliest = torch.stack([scores.argmax(1) for scores in self.scores], 1)
        if (operations := likeliest.tolist()) == self._last_derived:
            return
        self._last_derived = operations
        choice = _single(likeliest, self.scores)
        fitted = self.fit_cell(images, labels, choice, torch.zeros_like(self.weights))
        loss = F.cross_entropy(self.logits(validation, choice, fitted), validation_labels)
        if loss < self.derived_loss:
            self.chosen.copy_(likeliest)
            self.derived_loss.copy_(loss)
            self.derived_weights.copy_(fitted.weights)
            self.derived_mean.copy_(fitted.mean)
            self.derived_scale.copy_(fitted.scale)

    def fit_cell(self, images: Tensor, labels: Tensor, choice: Choice, start: Tensor) -> Fit:
        """The classifier of a cell."""
        raw = self.cell(images, choice)
        mean, scale = raw.mean(0), raw.std(0) + FLOOR
        features = _standardised(raw, mean, scale)

        def objective(weights: Tensor, features: Tensor) -> Tensor:
            return F.cross_entropy(features @ weights, labels) + self.strength / 2 * weights.square().sum()

        weights, self.solution = argmin(
            objective,
            start.clone(),
            features.detach() if self.first_order else features,
            solver=self.solver,
            adjoint=Implicit(self.linear_solver),
            on_failure=self.on_failure,
            return_solution=True,
        )
        return Fit(weights, mean, scale)

    def forward(self, images: Tensor, fitted: Fit | None = None) -> Tensor:
        """Logits (batch, classes) of the derived cell, or of the mixtures with the classifier given."""
        check_images(images, 1)
        if fitted is None:
            choice, fitted = self.derived(), Fit(self.derived_weights, self.derived_mean, self.derived_scale)
        else:
            choice = self.mixtures()
        return self.logits(images, choice, fitted)

    def logits(self, images: Tensor, choice: Choice, fitted: Fit) -> Tensor:
        """Of a cell with its classifier."""
        return _standardised(self.cell(images, choice), fitted.mean, fitted.scale) @ fitted.weights

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without the last solution, which may hang on a graph."""
        return {**self.__dict__, "solution": None}


DERIVED_FROM = 0.5  # progress of the search from which on cells are derived after each step


def temperature(progress: float, last: float) -> float:
    """At a ``progress`` of the search in [0, 1].

    >>> temperature(0, 0.25), temperature(0.5, 0.25), temperature(1, 0.25)
    (1.0, 0.5, 0.25)
    """
    return last ** min(progress, 1.0)


def _single(chosen: Tensor, scores: Iterable[Tensor]) -> list[Tensor]:
    """For each place 1 for the operation chosen and 0 for the others, (channels, operations)."""
    return [F.one_hot(of_place, of.shape[1]).to(of) for of_place, of in zip(chosen.unbind(1), scores, strict=True)]


def _standardised(raw: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    features = (raw - mean) / scale
    return torch.cat([features, features.new_ones(len(features), 1)], 1)
