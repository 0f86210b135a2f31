"""Continuous flows of images: an ODE of all pixels, or ODEs at several resolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deqzoo.models.common.images import check_images
from deqzoo.models.flow.pixels import Gaussianization, Logit
from deqzoo.nn.flow import FlowODE, standard_normal
from deqzoo.nn.squash import squash_conv_net, squash_mlp
from deqzoo.nn.unet import UNet


class MultiscaleFlow(nn.Module):
    """ODEs at several resolutions: an invertible map of images (B, C, H, W) to (B, D), D = C H W.

    At each of the first resolutions come `blocks` ODEs, a squeeze of 2x2 pixels into channels, `blocks` ODEs; then half
    of the channels are done, and the others go on. At the last one come `blocks` ODEs.

    Args:
        size: (C, H, W).
        scales: resolutions; H and W must be divisible by 2 `scales` - 1 times.
        blocks: see above.
        hidden: channels inside the dynamics, `squash_conv_net`.
        activation: of them.
        options: those of `FlowODE`.

    Source: Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", 2017; Grathwohl et al., "FFJORD", 2019.

    >>> flow = MultiscaleFlow((1, 8, 8), scales=2, blocks=1, hidden=(4,)).eval()
    >>> z, change = flow.to_base(torch.rand(3, 1, 8, 8))
    >>> z.shape, change.shape
    (torch.Size([3, 64]), torch.Size([3]))
    """

    def __init__(
        self,
        size: tuple[int, int, int],
        *,
        scales: int = 3,
        blocks: int = 2,
        hidden: Sequence[int] = (64, 64, 64),
        activation: str = "softplus",
        **options: Any,
    ) -> None:
        super().__init__()
        channels, height, width = size
        if scales < 1 or height % 2 ** (scales - 1) or width % 2 ** (scales - 1):
            raise ValueError(f"scales={scales}: images of {height}x{width} cannot be halved {scales - 1} times")

        def odes(channels: int) -> nn.ModuleList:
            return nn.ModuleList(
                FlowODE(squash_conv_net(channels, hidden, activation), **options) for _ in range(blocks)
            )

        self.before, self.after = nn.ModuleList(), nn.ModuleList()
        self.shapes = []  # of what is done at each scale
        for _ in range(scales - 1):
            self.before.append(odes(channels))
            channels, height, width = 4 * channels, height // 2, width // 2
            self.after.append(odes(channels))
            channels //= 2
            self.shapes.append((channels, height, width))
        self.last = odes(channels)
        self.shapes.append((channels, height, width))

    def to_base(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, D) of images x, and log p(x) - log p(z), (B,)."""
        done, change = [], x.new_zeros(len(x))
        for before, after in zip(self.before, self.after, strict=True):
            x, first = _to_base(before, x)
            x, second = _to_base(after, F.pixel_unshuffle(x, 2))
            part, x = x.chunk(2, 1)
            done.append(part.flatten(1))
            change = change + first + second
        x, rest = _to_base(self.last, x)
        return torch.cat([*done, x.flatten(1)], 1), change + rest

    def from_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Images of z (B, D), and log p(x) - log p(z), (B,)."""
        parts = z.split([math.prod(shape) for shape in self.shapes], 1)
        shaped = [part.reshape(len(z), *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        x, change = _from_base(self.last, shaped.pop())
        for before, after in zip(reversed(self.before), reversed(self.after), strict=True):
            x, second = _from_base(after, torch.cat([shaped.pop(), x], 1))
            x, first = _from_base(before, F.pixel_shuffle(x, 2))
            change = change + first + second
        return x, change


class FlatFlow(nn.Module):
    """One ODE of all pixels, by a perceptron `squash_mlp`, after a linear map: of images (B, C, H, W) to (B, D).

    The linear map is the identity until `whiten` is called. From then on the ODE starts near a Gaussian that has the
    mean and the covariance of the data: what a Gaussian knows of them it need not learn.

    `size`, `hidden`, `activation` and `options` are as `MultiscaleFlow` has them, `input_scale` as `squash_mlp`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        size: tuple[int, int, int],
        *,
        hidden: Sequence[int] = (64, 64, 64),
        activation: str = "softplus",
        input_scale: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.size = size
        dim = math.prod(size)
        dynamics = squash_mlp(dim, hidden, activation, input_scale=input_scale)
        last: Any = dynamics.layers[-1]
        with torch.no_grad():  # slow at first: the density is that of the linear map
            last.weight.mul_(0.1)
            last.bias.zero_()
        self.flow = FlowODE(dynamics, **options)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.eye(dim))  # lower triangular: x = mean + scale y

    @torch.no_grad()
    def whiten(self, x: Tensor) -> None:
        """Take mean and covariance of images x (N, C, H, W), more than D of them."""
        if len(x) <= math.prod(self.size):
            raise ValueError(f"more than {math.prod(self.size)} images are needed for their covariance, got {len(x)}")
        x = x.flatten(1).double()
        self.mean.copy_(x.mean(0))
        self.scale.copy_(torch.linalg.cholesky(x.T.cov()))

    def before_ode(self, x: Tensor) -> Tensor:
        """Where the ODE ends for images x: (B, D)."""
        centred = (x.flatten(1) - self.mean).T
        return torch.linalg.solve_triangular(self.scale, centred, upper=False).T.contiguous()

    def to_base(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, D) of images x, and log p(x) - log p(z), (B,)."""
        z, change = self.flow.to_base(self.before_ode(x))
        return z, change - self.scale.diagonal().log().sum()

    def from_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Images of z (B, D), and log p(x) - log p(z), (B,)."""
        y, change = self.flow.from_base(z)
        x = self.mean + y @ self.scale.T
        return x.view(-1, *self.size), change - self.scale.diagonal().log().sum()


class UNetFlow(nn.Module):
    """One ODE of all pixels, by a `UNet`: of images (B, C, H, W) to (B, D). It starts as the identity.

    `size` and `options` are as `MultiscaleFlow` has them, `widths` and `blocks` as `UNet`.

    >>> flow = UNetFlow((1, 8, 8), widths=(8,), blocks=1).eval()
    >>> flow.to_base(torch.rand(3, 1, 8, 8))[0].shape
    torch.Size([3, 64])
    """

    def __init__(
        self, size: tuple[int, int, int], *, widths: Sequence[int] = (48, 96), blocks: int = 2, **options: Any
    ) -> None:
        super().__init__()
        self.size = size
        self.flow = FlowODE(UNet(size, widths, blocks), **options)

    def before_ode(self, x: Tensor) -> Tensor:
        """Where the ODE ends for images x: x."""
        return x

    def to_base(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, D) of images x, and log p(x) - log p(z), (B,)."""
        z, change = self.flow.to_base(x)
        return z.flatten(1), change

    def from_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Images of z (B, D), and log p(x) - log p(z), (B,)."""
        return self.flow.from_base(z.view(-1, *self.size))


class ImageFlow(nn.Module):
    """A density of images in [0, 1]: their pixels as real numbers, carried to N(0, I) by a continuous flow.

    Args:
        body: a `MultiscaleFlow`, `FlatFlow` or `UNetFlow` for these images.
        size: (C, H, W).
        levels: values that a pixel may have, for bits/dim.
        pixels: how they become real numbers: `Logit` or `Gaussianization`.

    >>> flow = ImageFlow(FlatFlow((1, 4, 4), hidden=(8,)), (1, 4, 4), levels=17, pixels=Logit(0.05)).eval()
    >>> flow.sample(5).shape
    torch.Size([5, 1, 4, 4])
    """

    def __init__(
        self,
        body: MultiscaleFlow | FlatFlow | UNetFlow,
        size: tuple[int, int, int],
        levels: int,
        pixels: Logit | Gaussianization,
    ) -> None:
        super().__init__()
        self.body, self.size, self.levels, self.pixels = body, size, levels, pixels

    @property
    def path(self) -> dict[str, Tensor]:
        """The penalties of `FlowODE`, summed over the ODEs of the last `log_prob` in training mode."""
        paths = [module.path for module in self.modules() if isinstance(module, FlowODE)]
        return {name: torch.stack([path[name] for path in paths]).sum(0) for name in paths[0]}

    def forward(self, x: Tensor) -> Tensor:
        """`log_prob`."""
        return self.log_prob(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (B,), of images x (B, C, H, W) in [0, 1], after `deqzoo.models.flow.pixels.dequantize`."""
        check_images(x, self.size[0])
        if x.shape[1:] != self.size:
            raise ValueError(f"images are {self.size[1]}x{self.size[2]} pixels, got {x.shape[2]}x{x.shape[3]}")
        y, slope = self.pixels(x)
        z, change = self.body.to_base(y)
        return standard_normal(z) + change + slope

    def bits_per_dim(self, x: Tensor) -> Tensor:
        """Bits per value, (B,), of dequantised images: -log2 of the density times the volume of a pixel's interval."""
        return math.log2(self.levels) - self.log_prob(x) / (math.log(2) * math.prod(self.size))

    @torch.no_grad()
    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n images in [0, 1], (n, C, H, W)."""
        parameter = next(self.parameters())
        z = torch.randn(n, math.prod(self.size), generator=generator).to(parameter)
        return self.pixels.inverse(self.body.from_base(z)[0])


def _to_base(odes: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    change = x.new_zeros(len(x))
    for ode in odes:
        x, part = ode.to_base(x)
        change = change + part
    return x, change


def _from_base(odes: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    change = z.new_zeros(len(z))
    for ode in reversed(odes):
        z, part = ode.from_base(z)
        change = change + part
    return z, change
