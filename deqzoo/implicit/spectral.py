"""The spectral radius of a Jacobian, by Arnoldi's method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .linear_solvers.arnoldi import Arnoldi
from .modes import eager, full_precision, keep_autocast, no_derivatives
from .operator import jacobian
from .pytree import Ravel, map_tensors
from .sending import send


@eager
def spectral_radius(
    f: Callable[..., Any], z: Any, *args: Any, batch_dims: int = 0, steps: int = 20, seed: int = 0
) -> Tensor:
    """Largest absolute eigenvalue of df/dz at (z, args), for each system; a fixed point attracts where it is below 1.

    The largest Ritz value of `steps` products with the transposed Jacobian. Right for complex eigenvalues too, where
    the power iteration fails (a rotation scaled by 0.9 has radius 0.9); works under `inference_mode`.

    Source: Saad, "Numerical Methods for Large Eigenvalue Problems", 2011, ch. 6.

    >>> rotation = 0.9 * torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    >>> spectral_radius(lambda z: rotation @ z, torch.ones(2))
    tensor(0.9000)
    """
    ravel = Ravel(z, batch_dims)
    call = keep_autocast(f, ravel.device.type)
    with no_derivatives(), full_precision(ravel.device.type):
        fixed = map_tensors(torch.Tensor.detach, args)
        point = ravel.flatten(map_tensors(torch.Tensor.detach, z))
        operator = jacobian(lambda m: ravel.flatten(call(ravel.unflatten(m), *fixed)), point)
        generator = torch.Generator().manual_seed(seed)  # of the CPU: the same start on each device
        start = send(torch.randn(point.shape, dtype=point.dtype, generator=generator), point.device)
        arnoldi = Arnoldi(start, min(steps, point.shape[1]))
        assert operator.rmv is not None
        for _ in range(min(steps, point.shape[1])):
            arnoldi.extend(operator.rmv(arnoldi.newest))
        h = arnoldi.h[:, :-1]
        radius = torch.linalg.eigvals(h).abs().amax(dim=1) if h.shape[2] else point.new_zeros(point.shape[0])
    return ravel.per_system(radius)
