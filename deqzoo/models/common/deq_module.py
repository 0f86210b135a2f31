"""Training of any network of DEQ layers: the penalty of their Jacobians, and other solves in training."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from deqzoo.implicit import Picard, Unrolled
from deqzoo.implicit.pytree import map_tensors, tensor_leaves
from deqzoo.models.common.config import FixedPointTraining, TrainingConfig
from deqzoo.models.common.module import Batch, SolverModule
from deqzoo.nn import DEQ, solver_layers


class DEQModule(SolverModule):
    """A `SolverModule` of DEQ layers, with their `jacobian_penalty`, summed; options: `FixedPointTraining`.

    In its first ``unrolled_steps`` training steps each layer is an explicit network of ``unrolled_depth`` iterations,
    as in the training of the first DEQs: the solves that follow find a cell that converges.
    """

    Options: ClassVar[type[TrainingConfig]] = FixedPointTraining

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self._layers = [layer for layer in solver_layers(network) if isinstance(layer, DEQ)]
        self._jacobians: list[Tensor] = []
        if self.options.jacobian_penalty:
            for layer in self._layers:
                layer.register_forward_hook(self._add_jacobian)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """As `SolverModule.training_step`, with ``train_max_steps``; the first ``unrolled_steps`` on the tape."""
        self._jacobians.clear()  # of a forward outside of a training step
        with self._solved_for_training():
            return super().training_step(batch, batch_idx)

    def penalties(self) -> dict[str, tuple[float | Tensor, Tensor]]:
        """``jacobian``."""
        penalties = super().penalties()
        if self._jacobians:
            penalties["jacobian"] = self.options.jacobian_penalty, torch.stack(self._jacobians).sum()
            self._jacobians.clear()
        return penalties

    @contextmanager
    def _solved_for_training(self) -> Iterator[None]:
        options = self.options
        limits = {"max_steps": options.train_max_steps, "tol": options.train_tol}
        changes = {name: limit for name, limit in limits.items() if limit is not None}
        own = [(layer.solver, layer.adjoint) for layer in self._layers]
        try:
            for layer in self._layers:
                if self.global_step < options.unrolled_steps:
                    keep = layer.solver.keep
                    layer.solver = Picard(max_steps=options.unrolled_depth, stop="never", keep=keep)
                    layer.adjoint = Unrolled()
                else:
                    layer.solver = dataclasses.replace(layer.solver, **changes)
            yield
        finally:
            for layer, (solver, adjoint) in zip(self._layers, own, strict=True):
                layer.solver, layer.adjoint = solver, adjoint

    def _add_jacobian(self, deq: Any, inputs: tuple[Tensor, ...], z: Any) -> None:
        if self.training and torch.is_grad_enabled():
            self._jacobians.append(jacobian_penalty(deq, inputs[0], z, self.options.jacobian_samples))


def jacobian_penalty(deq: DEQ, x: Any, z: Any, samples: int | None = None) -> Tensor:
    r"""Mean squared Frobenius norm of the cell's Jacobian, a scalar, with a graph to the cell's parameters.

    With J = df/dz at the fixed point z (B, ...) and one draw of v ~ N(0, I), it is Hutchinson's estimate
    ||v^T J||^2 / numel(z) of ||J||_F^2 / numel(z). The smaller it is, the faster plain iteration converges.
    The mean is over the first `samples` of the batch; None: all. On part of it, it is the same in expectation, and
    costs that part. A z of several tensors is one unknown; x may be several, too.

    Source: Bai, Koltun, Kolter, "Stabilizing Equilibrium Models by Jacobian Regularization", 2021.
    """
    z = map_tensors(lambda t: t[:samples].detach().requires_grad_(), z)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative, nor has a compiled cell's __call__
        f = deq.cell.forward(z, map_tensors(lambda t: t[:samples].detach(), x))
    images, unknowns = tensor_leaves(f), tensor_leaves(z)
    noise = [torch.randn_like(image) for image in images]
    products = torch.autograd.grad(images, unknowns, noise, create_graph=True)
    squares = torch.stack([product.float().square().sum() for product in products])
    return squares.sum() / sum(product.numel() for product in products)
