"""Regularisation that keeps the solves of DEQ layers short."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from deqzoo.models.config import JacobianPenalty, TrainingConfig
from deqzoo.models.module import SolverModule
from deqzoo.nn import DEQ, solver_layers


def jacobian_penalty(deq: DEQ, x: Tensor, z: Tensor, samples: int | None = None) -> Tensor:
    r"""Mean squared Frobenius norm of the cell's Jacobian, a scalar, with a graph to the cell's parameters.

    With J = df/dz at the fixed point z (B, ...) and one draw of v ~ N(0, I), it is Hutchinson's estimate
    ||v^T J||^2 / numel(z) of ||J||_F^2 / numel(z). The smaller it is, the faster plain iteration converges.
    The mean is over the first `samples` of the batch; None: all. On part of it, it is the same in expectation, and
    costs that part.

    Source: Bai, Koltun, Kolter, "Stabilizing Equilibrium Models by Jacobian Regularization", 2021.
    """
    z = z[:samples].detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative, nor has a compiled cell's __call__
        f = deq.cell.forward(z, x[:samples].detach())
    (product,) = torch.autograd.grad(f, z, torch.randn_like(f), create_graph=True)
    return product.float().square().mean()


class JacobianPenalised(SolverModule):
    """A `SolverModule` of DEQ layers, with their `jacobian_penalty`, summed; options: `JacobianPenalty`."""

    Options: ClassVar[type[TrainingConfig]] = JacobianPenalty

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self._jacobians: list[Tensor] = []
        if self.options.jacobian_penalty:
            for layer in solver_layers(network):
                if isinstance(layer, DEQ):
                    layer.register_forward_hook(self._add_jacobian)

    def penalties(self) -> dict[str, tuple[float, Tensor]]:
        """``jacobian``."""
        penalties = super().penalties()
        if self._jacobians:
            penalties["jacobian"] = self.options.jacobian_penalty, torch.stack(self._jacobians).sum()
            self._jacobians.clear()
        return penalties

    def _add_jacobian(self, deq: Any, inputs: tuple[Tensor, ...], z: Tensor) -> None:
        if self.training and torch.is_grad_enabled():
            self._jacobians.append(jacobian_penalty(deq, inputs[0], z, self.options.jacobian_samples))
