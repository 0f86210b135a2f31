"""Perturbed optimisers: any argmax, averaged over noise on its scores, is a smooth function of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .black_box import as_tensors, call_black_box
from .modes import no_derivatives

Noise = Literal["gaussian", "gumbel"]
_NOISES = ("gaussian", "gumbel")


@dataclasses.dataclass(frozen=True)
class Perturbed:
    """The mean of an argmax over perturbed scores, with its derivatives, and the loss that goes with it.

        y(theta) = E argmax_y <y, theta + sigma Z>,    dy/dtheta = E argmax_y <y, theta + sigma Z> grad nu(Z)^T / sigma

    with noise Z of the density exp(-nu). Means are over `samples` draws. Derivatives of any order are those of the
    expectation, estimated without bias from the same draws: each is weighted by the ratio of its densities at theta and
    at theta as it is, which is 1, with the mean of the other draws as a control variate.

    Args:
        argmax: a black box, NumPy allowed: scores (instances, *shape) -> the maximisers y, of the same shape, such as
            `best_choice`, `best_ranking`, `best_assignment`, `best_grid_path`.
        samples: draws for each instance.
        sigma: size of the noise, above 0.
        noise: "gaussian", or "gumbel" (with `best_choice` it gives the softmax of theta / sigma).
        batch_dims: 0: all of theta is one instance; 1: each leading index is one.
        seed: None: new noise at each call, by torch's own generator (under `torch.func.vmap` as its option `randomness`
            says); a number: always the same, for each instance of a `vmap` too.

    Called as `perturbed(theta)` it gives y(theta), of the shape of theta.

    Source: Berthet et al., "Learning with Differentiable Perturbed Optimizers", 2020; Abernethy et al., "Perturbation
    techniques in online learning and optimization", 2016.

    >>> from deqzoo.implicit import best_choice
    >>> theta = torch.tensor([1.0, 0.0, -1.0], requires_grad=True)
    >>> y = Perturbed(best_choice, samples=10_000, noise="gumbel", seed=0)(theta)
    >>> (y - torch.softmax(theta, 0)).abs().max() < 0.02
    tensor(True)
    """

    argmax: Callable[[Tensor], Any]
    samples: int = 100
    sigma: float = 1.0
    noise: Noise = "gaussian"
    batch_dims: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.noise not in _NOISES:
            raise ValueError(f"noise must be one of {', '.join(_NOISES)}, got {self.noise!r}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if not self.sigma > 0:
            raise ValueError(f"sigma must be above 0, got {self.sigma}")

    def __call__(self, theta: Tensor) -> Tensor:
        """y(theta)."""
        return self._mean(theta, *self._draw(theta))

    def maximum(self, theta: Tensor) -> Tensor:
        """E max_y <y, theta + sigma Z>, of the shape of the batch; convex, and y(theta) is its gradient."""
        scores, found = self._draw(theta)
        value = _sum_after(scores * found, 1 + self.batch_dims).mean(dim=0)
        slope = self._mean(theta, scores, found)
        return _WithGradient.apply(theta, value, slope, self.batch_dims)  # type: ignore[no-any-return]

    def loss(self, theta: Tensor, target: Tensor) -> Tensor:
        """The Fenchel-Young loss of scores for a target y, of the shape of the batch.

            E max_y <y, theta + sigma Z> - <target, theta>,    its gradient is y(theta) - target

        up to a constant that the target alone has. Convex in theta; it needs no derivative of the argmax, and is
        smallest where y(theta) is the target, which may also be a mean of vertices.
        """
        if target.shape != theta.shape:
            raise ValueError(f"the target must have the shape of theta {tuple(theta.shape)}, got {tuple(target.shape)}")
        return self.maximum(theta) - _sum_after(theta * target, self.batch_dims)

    def _draw(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Perturbed scores and their maximisers, (samples, *theta.shape), without derivatives."""
        if theta.dim() < self.batch_dims:
            raise ValueError(f"batch_dims={self.batch_dims} needs that many leading axes, got {tuple(theta.shape)}")
        with no_derivatives():
            given = ((self.samples, *theta.shape), theta.dtype, theta.device)
            # With a seed it is drawn below all transforms, so that a vmap has nothing against it.
            noise = self._noise(*given) if self.seed is None else call_black_box(self._noise, given)
            scores = theta.detach() + self.sigma * noise
            return scores, call_black_box(self._maximise, (scores,))

    def _noise(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        generator = None if self.seed is None else torch.Generator(device).manual_seed(self.seed)
        options: Any = {"dtype": dtype, "device": device, "generator": generator}
        if self.noise == "gaussian":
            return torch.randn(shape, **options)
        tiny = torch.finfo(dtype).tiny
        return -(-torch.rand(shape, **options).clamp(min=tiny).log()).clamp(min=tiny).log()

    def _maximise(self, scores: Tensor) -> Tensor:
        instance = scores.shape[1 + self.batch_dims :]
        flat = scores.reshape(-1, *instance)
        found = as_tensors(self.argmax(flat), (flat,))
        if not isinstance(found, Tensor) or found.shape != flat.shape:
            shape = tuple(getattr(found, "shape", ()))
            raise ValueError(f"argmax must return a tensor like its scores, of shape {tuple(flat.shape)}, got {shape}")
        return found.to(scores).reshape(scores.shape)

    def _mean(self, theta: Tensor, scores: Tensor, found: Tensor) -> Tensor:
        """The mean of the maximisers, whose derivatives are those of the densities of the scores."""
        z = (scores - theta) / self.sigma
        log_density = -z.square() / 2 if self.noise == "gaussian" else -z - (-z).exp()
        total = _sum_after(log_density, 1 + self.batch_dims)
        ratio = (total - total.detach()).exp()
        ratio = ratio.reshape(*ratio.shape, *[1] * (scores.dim() - ratio.dim()))
        mean = found.mean(dim=0)
        others = max(self.samples - 1, 1) / self.samples  # of the draws, of which a draw's own control variate is made
        return mean + ((found - (mean if self.samples > 1 else 0.0)) * (ratio - 1)).mean(dim=0) / others


class _WithGradient(torch.autograd.Function):
    """`value`, (*batch), as a function of theta (*batch, ...) with the given gradient, itself differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(theta: Tensor, value: Tensor, slope: Tensor, batch_dims: int) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
        ctx.batch_dims = inputs[3]
        ctx.save_for_backward(inputs[2])
        ctx.save_for_forward(inputs[2])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return g.reshape(*g.shape, *[1] * (slope.dim() - g.dim())) * slope, None, None, None

    @staticmethod
    def jvp(ctx: Any, dtheta: Tensor, *_: Any) -> Tensor:
        (slope,) = ctx.saved_tensors
        return _sum_after(slope * dtheta, ctx.batch_dims)


def _sum_after(values: Tensor, leading: int) -> Tensor:
    """The sum over all axes but the `leading` ones."""
    rest = tuple(range(leading, values.dim()))
    return values.sum(dim=rest) if rest else values
