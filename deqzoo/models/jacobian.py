"""Regularisation that keeps the solves of DEQ layers short."""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from deqzoo.nn import DEQ


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
