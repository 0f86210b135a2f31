"""A package of a user's own, in one file: a solver, an adjoint, a kind of data, a kind of model, a metric and a plot.

``test_extension.py`` registers them by a line each, and trains.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from deqzoo.data.config import DataConfig
from deqzoo.data.info import PointInfo
from deqzoo.data.module import TensorData
from deqzoo.implicit import EquationAdjoint, FixedPointSolver
from deqzoo.implicit.fixed_point_solvers.base import Method
from deqzoo.models import Classifier
from deqzoo.models.common.config import ClassifierTraining, FixedPointConfig
from deqzoo.models.common.kind import EQUILIBRIA, Kind
from deqzoo.models.common.module import Step
from deqzoo.models.common.options import fixed_point_adjoint, fixed_point_solver
from deqzoo.nn import DEQ
from deqzoo.plots.figure import panels, save


@dataclass(frozen=True)
class Krasnoselskii(FixedPointSolver):
    """z <- (z + f(z)) / 2, which converges for every nonexpansive f with a fixed point."""

    def method(self, g, tol):
        return Halfway()


class Halfway(Method):
    def step(self, z, g, image):
        return (z + image) / 2


@dataclass(frozen=True)
class TwoSteps(EquationAdjoint):
    """Backpropagation through two more steps of f."""

    def apply(self, problem):
        solution = problem.solve()
        z = solution.value
        for _ in range(2):
            z = problem.f(z, *problem.args)
        return z, solution


@dataclass
class RingConfig(DataConfig):
    """Points, labelled by whether they lie within the unit circle."""

    kind: str = "rings"
    name: str = "ring"
    size: int = 600


class RingData(TensorData):
    Config: ClassVar[type[DataConfig]] = RingConfig

    @property
    def info(self):
        return PointInfo(2, ("out", "in"))

    def setup(self, stage=None):
        points = 3 * torch.rand(self.options.size, 2, generator=torch.Generator().manual_seed(0)) - 1.5
        self.tensors = points, (points.norm(dim=1) < 1).long()
        self.parts = dict(zip(("train", "val", "test"), torch.arange(len(points)).split(len(points) // 3), strict=True))


def rows():
    return {"ring": ["A circle", "2", "2", "200 / 200 / 200", "none", "", "", ""]}


@dataclass
class RingNetConfig(FixedPointConfig, ClassifierTraining):
    """Settings of the network."""

    kind: str = "ring_net"
    width: int = 16


class RingNet(nn.Module):
    """Logits of z* = tanh(W z* / 3 + U x + b)."""

    def __init__(self, info, width, solver, adjoint):
        super().__init__()
        self.classes = info.classes
        self.enter, self.again, self.head = nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, 2)
        self.deq = DEQ(lambda z, x: torch.tanh(self.again(z) / 3 + x), solver=solver, adjoint=adjoint)

    def forward(self, points):
        return self.head(self.deq(self.enter(points)))


class RingModule(Classifier):
    """Cross-entropy, and the metric of our own beside the accuracy."""

    def step(self, network, batch, stage):
        found = super().step(network, batch, stage)
        points, labels = batch
        logits = network(points)
        margin = (logits.gather(1, labels[:, None])[:, 0] - logits.mean(1)).mean()
        return Step(found.loss, {**found.metrics, "margin": margin}, found.inputs, found.count)


class RingKind(Kind):
    family, info, metric, takes = EQUILIBRIA, PointInfo, "accuracy", "points of the plane -> logits"

    def network(self, settings, info):
        return RingNet(info, settings.width, fixed_point_solver(settings), fixed_point_adjoint(settings))

    def module(self, network, settings):
        return RingModule.of(network, settings)

    def example(self, info, batch=None):
        return {"points": torch.linspace(-1, 1, 8).view(4, 2)}

    def plots(self, trained, folder):
        points, _ = next(trained.test_batches())
        figure, (axis,) = panels(1, "ring")
        axis.scatter(*points.T, c=trained.network(points).argmax(1))
        save(figure, folder / "ring.png")


KIND = RingKind()
