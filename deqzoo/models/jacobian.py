"""Regularisation that keeps the solves of DEQ layers short."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from deqzoo.implicit.pytree import map_tensors, tensor_leaves
from deqzoo.nn import DEQ


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
