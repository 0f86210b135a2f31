"""Cells that contract whatever their weights: their equilibrium exists, is unique, and plain iteration finds it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.compiler import is_exporting
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from ..implicit.modes import in_transform, no_derivatives
from .fourier import Size, spectrum

ROUNDING = 1e-12  # relative, of a norm computed in float64, by which a bound is enlarged
WRITTEN_OUT = 2048  # numbers in a state, up to which a convolution is written out as a matrix


class Bound(NamedTuple):
    """An upper bound of the norm of a linear map, as a linear function of the kernel it was found for.

    Attributes:
        kernel: for which it holds, a copy.
        direction: of the kernel's shape: <direction, kernel> is the bound, and `direction` its derivative.
    """

    kernel: Tensor
    direction: Tensor

    def holds_for(self, kernel: Tensor) -> bool:
        """Whether it was found for this very kernel, in this precision and place."""
        own = self.kernel
        return own.dtype == kernel.dtype and own.device == kernel.device and torch.equal(own, kernel)


class ContractiveCell(nn.Module):
    """A linear map whose norm is below one, with input injection.

        f(z, x) = relu(W z + x),    W = rho_max sigmoid(gain) V / ||V||_2

    ||V||_2 is the largest singular value of the map V, and `gain` a number for each channel. Hence
    |f(z, x) - f(y, x)| <= rho |z - y| for rho = max rho_max sigmoid(gain), in the Euclidean norm of a sample: for
    rho < 1 the equilibrium exists and is unique, the residual falls by rho at least in each plain iteration, and
    I - df/dz is never singular.

    In training ||V||_2 is estimated, from below, by one power iteration per step, which goes on from the last one's
    vector; the estimate is differentiated, its vector held fixed. In eval mode it is an upper bound, found anew
    whenever the kernel or its precision has changed, and differentiated to any order; `torch.export` takes the last
    one found, as a constant. A subclass implements V by `multiply`, `transposed`, `norm_gradient` and `stretch`.

    Args:
        kernel: shape of V's parameters, outputs first.
        state: shape of a sample of z and x; others are refused.
        rho_max: which rho never reaches. At 1 or above nothing is certain.
        rho: with which every channel starts, below `rho_max`.

    Source: Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018.
    """

    vector: Tensor
    stretch: float  # such that ||V||_2 <= stretch |kernel|, the Euclidean norm

    def __init__(
        self, kernel: tuple[int, ...], state: tuple[int, ...], *, rho_max: float = 0.9, rho: float = 0.7
    ) -> None:
        super().__init__()
        if not 0 < rho < rho_max:
            raise ValueError(f"rho={rho} must lie between 0 and rho_max={rho_max}")
        self.state, self.rho_max = state, rho_max
        self.kernel = nn.Parameter(torch.empty(kernel))
        self.gain = nn.Parameter(torch.full((kernel[0], *[1] * (len(kernel) - 1)), math.log(rho / (rho_max - rho))))
        nn.init.kaiming_uniform_(self.kernel, a=math.sqrt(5))
        self.register_buffer("vector", torch.randn(1, *state))
        self._bound: Bound | None = None
        with torch.no_grad():
            for _ in range(30):
                self._estimate(self.kernel, update=True)

    def multiply(self, kernel: Tensor, z: Tensor) -> Tensor:
        """V z."""
        raise TypeError(f"{type(self).__name__} does not define multiply()")

    def transposed(self, kernel: Tensor, u: Tensor) -> Tensor:
        """V^T u."""
        raise TypeError(f"{type(self).__name__} does not define transposed()")

    def norm_gradient(self, kernel: Tensor) -> Tensor:
        """D, float64, of the kernel's shape: <D, kernel> is an upper bound of ||V||_2, and D its derivative."""
        raise TypeError(f"{type(self).__name__} does not define norm_gradient()")

    def forward(self, z: Tensor, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """f(z, x), of z's shape; `weight` saves making W anew."""
        weight = self.weight() if weight is None else weight
        if torch.compiler.is_compiling() or in_transform():
            return torch.relu(self.multiply(weight, z) + x)
        return self.multiply(weight, z).add_(x).relu_()

    def prepare(self, x: Tensor) -> Tensor:
        """W, once per solve; in training after one power iteration."""
        if tuple(x.shape[1:]) != self.state:
            raise ValueError(
                f"the cell is normalised for samples of shape {self.state}, got {tuple(x.shape[1:])}: make one for "
                "those, the norm depends on it"
            )
        return self.weight(update=self.training and torch.is_grad_enabled() and not in_transform())

    def initial_state(self, x: Tensor) -> Tensor:
        """relu(x), which is f(0, x)."""
        return torch.relu(x.to(torch.promote_types(x.dtype, torch.float32)))

    def weight(self, update: bool = False) -> Tensor:
        """W of the parameters of this moment, of the kernel's shape; `update`: after one power iteration."""
        if self.training:
            norm, self._bound = self._estimate(self.kernel, update), None
        else:
            norm = self._constant_bound(self.kernel) if is_exporting() else self._upper_bound(self.kernel)
        return self.rho_max * torch.sigmoid(self.gain) / norm * self.kernel

    @torch.no_grad()
    def lipschitz(self) -> float:
        """An upper bound of the Lipschitz constant of z -> f(z, x), for W as it is, rounded to its precision.

        Its precision is that of the kernel, or under autocast the one that W is multiplied in.
        """
        weight, device = self.weight(), self.kernel.device.type
        if torch.is_autocast_enabled(device):
            weight = weight.to(torch.get_autocast_dtype(device))
        return (1 + ROUNDING) * float((self.norm_gradient(weight) * weight.double()).sum())

    def _estimate(self, kernel: Tensor, update: bool) -> Tensor:
        """||V||_2 from below, |V v| for the unit vector v that V^T makes of the last step's."""
        with torch.no_grad():
            v = self.transposed(kernel, self.vector)
            v = v / v.norm().clamp(min=torch.finfo(v.dtype).tiny)
        image = self.multiply(kernel, v)
        if update:
            self.vector.copy_(image.detach() / image.detach().norm())
        return image.norm()

    def _upper_bound(self, kernel: Tensor) -> Tensor:
        """||V||_2 from above."""
        with torch.inference_mode(False), no_derivatives():  # what is kept must do for gradients later
            if in_transform():
                direction = self.norm_gradient(kernel)
            else:
                if self._bound is None or not self._bound.holds_for(kernel):
                    self._bound = Bound(kernel.clone(), self.norm_gradient(kernel))
                direction = self._bound.direction
        norm: Tensor = _BoundOf.apply(kernel, direction, self.norm_gradient)
        return norm

    def _constant_bound(self, kernel: Tensor) -> Tensor:
        """||V||_2 from above for `torch.export`, which can look at no numbers: by the bound that has been found.

        Should weights be put into the exported program that are others than then, the bound still holds, less sharply:
        ||V||_2 <= ||V'||_2 + ||V - V'||_2 for V' as it was then.
        """
        if (found := self._bound) is None or (found.kernel.dtype, found.kernel.device) != (kernel.dtype, kernel.device):
            raise RuntimeError(
                "the bound of a contractive cell is not known yet: evaluate it in eval mode, then export"
            )
        norm = (found.direction * found.kernel.double()).sum() + self.stretch * (kernel - found.kernel).double().norm()
        return norm.to(kernel.dtype)

    def __getstate__(self) -> dict[str, object]:
        """For copies and pickles: without the bound, which is found again."""
        return {**self.__dict__, "_bound": None}


class _BoundOf(torch.autograd.Function):
    """<D, kernel>, the bound whose derivative D is at hand; for derivatives of D it is found anew."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kernel: Tensor, direction: Tensor, norm_gradient: Callable[[Tensor], Tensor]) -> Tensor:
        return (direction * kernel.double()).sum().to(kernel.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        kernel, direction, ctx.norm_gradient = inputs
        ctx.save_for_backward(kernel, direction)
        ctx.save_for_forward(kernel)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        kernel, direction = ctx.saved_tensors
        if torch.is_grad_enabled():
            direction = ctx.norm_gradient(kernel)
        return (grad * direction).to(kernel.dtype), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:  # type: ignore[override]
        (kernel,) = ctx.saved_tensors
        return (ctx.norm_gradient(kernel) * tangent.double()).sum().to(kernel.dtype)


class DenseContractiveCell(ContractiveCell):
    """A cell of which V is a matrix. Its bound is its norm, by an SVD."""

    stretch = 1.0

    def multiply(self, kernel: Tensor, z: Tensor) -> Tensor:
        """V z."""
        return F.linear(z, kernel)

    def transposed(self, kernel: Tensor, u: Tensor) -> Tensor:
        """V^T u."""
        return F.linear(u, kernel.T)

    def norm_gradient(self, kernel: Tensor) -> Tensor:
        """As `ContractiveCell.norm_gradient`: u v^T of the largest singular value u^T V v."""
        u, _, vh = torch.linalg.svd(kernel.double(), full_matrices=False)
        return u[:, :1] * vh[:1]


class ContractiveLinearCell(DenseContractiveCell):
    """The cell of a dense V, on states (batch, features). Its bound is its norm, by an SVD.

    Args:
        features: width of the state.
        rho_max, rho: see `ContractiveCell`.

    >>> cell = ContractiveLinearCell(5).eval()
    >>> cell(torch.zeros(2, 5), torch.ones(2, 5)).shape, round(cell.lipschitz(), 3)
    (torch.Size([2, 5]), 0.7)
    """

    def __init__(self, features: int, *, rho_max: float = 0.9, rho: float = 0.7) -> None:
        super().__init__((features, features), (features,), rho_max=rho_max, rho=rho)


class ContractiveConvCell(ContractiveCell):
    """The cell of a zero-padded 3x3 convolution V.

    On states of at most 2,048 numbers its bound is ||V||_2 itself, of V written out as a matrix. On larger ones, where
    the border matters less, it is the norm of the circulant convolution on a grid two wider, of which V is a part: on a
    border of one pixel that is held at zero, nothing passes from one side to the other. (Trained kernels: on 15x15
    pixels it is 1 % above ||V||_2, on 7x7 pixels 6 %; on 3x3 it would be 31 %.)

    Args:
        channels: channels of z and x, (batch, channels, *grid).
        grid: height and width of z and x.
        rho_max, rho: see `ContractiveCell`.

    Source: Sedghi, Gupta, Long, "The Singular Values of Convolutional Layers", 2019 (of circulant ones).

    >>> cell = ContractiveConvCell(4, (5, 5)).eval()
    >>> cell(torch.zeros(2, 4, 5, 5), torch.ones(2, 4, 5, 5)).shape, round(cell.lipschitz(), 3)
    (torch.Size([2, 4, 5, 5]), 0.7)
    """

    stretch = 3.0  # nine taps, the root of whose sum of squares is at least a third of their sum

    def __init__(self, channels: int, grid: Size, *, rho_max: float = 0.9, rho: float = 0.7) -> None:
        super().__init__((channels, channels, 3, 3), (channels, grid[0], grid[1]), rho_max=rho_max, rho=rho)

    def multiply(self, kernel: Tensor, z: Tensor) -> Tensor:
        """V z."""
        return F.conv2d(z, kernel, padding=1)

    def transposed(self, kernel: Tensor, u: Tensor) -> Tensor:
        """V^T u."""
        return F.conv_transpose2d(u, kernel, padding=1)

    def norm_gradient(self, kernel: Tensor) -> Tensor:
        """As `ContractiveCell.norm_gradient`."""
        kernel = kernel.double()
        return self._of_matrix(kernel) if math.prod(self.state) <= WRITTEN_OUT else self._of_circulant(kernel)

    def _of_matrix(self, kernel: Tensor) -> Tensor:
        """The derivative u^T dV v of the largest singular value u^T V v of the matrix."""
        n = math.prod(self.state)
        unit = torch.eye(n, dtype=kernel.dtype, device=kernel.device).view(n, *self.state)
        matrix = self.multiply(kernel, unit).reshape(n, n)  # V^T
        _, vectors = torch.linalg.eigh(matrix @ matrix.T)
        v = vectors[:, -1].view(1, *self.state)
        image = self.multiply(kernel, v)
        size = kernel.norm()
        least = torch.finfo(image.dtype).eps * size
        u = image / image.norm().clamp_min(least)
        direction = conv2d_weight(v, list(kernel.shape), u, padding=1)
        return torch.where(image.norm() > least, direction, kernel / size)  # else each tap meets the border, and V = 0

    def _of_circulant(self, kernel: Tensor) -> Tensor:
        """The derivative of the norm of the circulant on a grid two wider.

        That norm is the largest singular value sigma = u^H S(w) v of the spectrum S, over the frequencies w, and S(w)
        is a sum of the kernel's taps times exp(i w t).
        """
        size = self.state[1] + 2, self.state[2] + 2
        responses = spectrum(kernel, size)  # (frequencies, out, in)
        largest = torch.linalg.eigvalsh(responses.mH @ responses)[:, -1]
        frequency = largest.argmax(0, keepdim=True)
        u, _, vh = torch.linalg.svd(responses.index_select(0, frequency)[0])
        outer = u[:, 0].conj().unsqueeze(1) * vh[0].conj()  # d sigma / d S, of the real part: (out, in)
        columns = size[1] // 2 + 1
        row, column = frequency.div(columns, rounding_mode="floor"), frequency % columns
        taps = torch.arange(3, dtype=torch.float64, device=kernel.device) - 1
        phase = torch.exp(2j * math.pi * (row / size[0] * taps.unsqueeze(1) + column / size[1] * taps))
        return (outer[:, :, None, None] * phase).real
