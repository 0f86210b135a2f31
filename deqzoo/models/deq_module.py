"""Training of any network of DEQ layers: the penalty of their Jacobians, and other solves in training."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deqzoo.implicit import Picard, Unrolled
from deqzoo.models.config import FixedPointTraining, TrainingConfig
from deqzoo.models.jacobian import jacobian_penalty
from deqzoo.models.module import Batch, SolverModule
from deqzoo.models.solves import unconverged
from deqzoo.nn import DEQ, solver_layers

INTEGRAL = 0.02  # change of the penalty's log factor in a step in which no sample converges
PROPORTIONAL = 1.0  # its change when the violation goes from 0 to 1
SMOOTHING = 0.9  # of the violation over the steps: a batch is a small sample
RANGE = 1e3  # how far it strays from the first factor, either way: from further off it would be too long in returning


class DEQModule(SolverModule):
    """A `SolverModule` of DEQ layers, with their `jacobian_penalty`, summed; options: `FixedPointTraining`.

    With ``unconverged_at_most`` the penalty is as weak as the solves allow: it is the multiplier of the constraint that
    at most this fraction of a batch misses the solver's tolerance. With the violation v, the fraction that missed it
    less the one allowed, smoothed over some ten steps, it is

        factor = jacobian_penalty exp(v + .02 (sum of v over the steps)),

    within a factor of 1,000 of ``jacobian_penalty``. The sum alone (Platt, Barr, "Constrained Differential
    Optimization", 1987) swings about the constraint, because a network follows its penalty late; the first term damps
    that (Stooke, Achiam, Abbeel, "Responsive Safety in Reinforcement Learning by PID Lagrangian Methods", 2020).

    In its first ``unrolled_steps`` training steps each layer is an explicit network of ``unrolled_depth`` iterations,
    as in the training of the first DEQs: the solves that follow find a cell that converges.
    """

    penalty_factor: Tensor
    violation: Tensor
    Options: ClassVar[type[TrainingConfig]] = FixedPointTraining

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self._layers = [layer for layer in solver_layers(network) if isinstance(layer, DEQ)]
        self._jacobians: list[Tensor] = []
        if self.options.unconverged_at_most is not None:
            self.register_buffer("penalty_factor", torch.tensor(float(self.options.jacobian_penalty)))
            self.register_buffer("violation", torch.zeros(()))
        if self.options.jacobian_penalty:
            for layer in self._layers:
                layer.register_forward_hook(self._add_jacobian)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """As `SolverModule.training_step`, with ``train_max_steps``; the first ``unrolled_steps`` on the tape."""
        self._jacobians.clear()  # of a forward outside of a training step
        with self._solved_for_training():
            loss = super().training_step(batch, batch_idx)
        adapts = self.options.unconverged_at_most is not None and self.global_step >= self.options.unrolled_steps
        if adapts and loss is not None:
            self._adapt_penalty(self.options.unconverged_at_most)
        return loss

    def penalties(self) -> dict[str, tuple[float | Tensor, Tensor]]:
        """``jacobian``."""
        penalties = super().penalties()
        if self._jacobians:
            penalties["jacobian"] = self._factor, torch.stack(self._jacobians).sum()
            self._jacobians.clear()
        return penalties

    @property
    def _factor(self) -> float | Tensor:
        if self.options.unconverged_at_most is None:
            return self.options.jacobian_penalty
        return self.penalty_factor.clone()  # the graph of the loss keeps it, and it is about to change

    def _adapt_penalty(self, limit: float) -> None:
        missed = unconverged(self._layers)
        if self.trainer.world_size > 1:
            missed = self.sum_over_processes(missed) / self.trainer.world_size  # the same factor everywhere
        first = float(self.options.jacobian_penalty)
        now = self.violation.lerp(missed.to(self.violation) - limit, 1 - SMOOTHING)
        change = INTEGRAL * now + PROPORTIONAL * (now - self.violation)
        self.violation.copy_(now)
        self.penalty_factor.mul_(change.exp()).clamp_(first / RANGE, first * RANGE)
        self.log("train/penalty_factor", self.penalty_factor)

    @contextmanager
    def _solved_for_training(self) -> Iterator[None]:
        options = self.options
        limits = {"max_steps": options.train_max_steps, "tol": options.train_tol}
        changes = {name: limit for name, limit in limits.items() if limit is not None}
        own = [(layer.solver, layer.gradient) for layer in self._layers]
        try:
            for layer in self._layers:
                if self.global_step < options.unrolled_steps:
                    keep = layer.solver.keep
                    layer.solver = Picard(max_steps=options.unrolled_depth, stop="never", keep=keep)
                    layer.gradient = Unrolled()
                else:
                    layer.solver = dataclasses.replace(layer.solver, **changes)
            yield
        finally:
            for layer, (solver, gradient) in zip(self._layers, own, strict=True):
                layer.solver, layer.gradient = solver, gradient

    def _add_jacobian(self, deq: Any, inputs: tuple[Tensor, ...], z: Any) -> None:
        if self.training and torch.is_grad_enabled():
            self._jacobians.append(jacobian_penalty(deq, inputs[0], z, self.options.jacobian_samples))
