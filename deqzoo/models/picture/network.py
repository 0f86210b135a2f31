"""Pictures as functions of the place, (row, column) -> colour: as equilibria, and as networks of several layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.data.pictures import coordinates
from deqzoo.implicit import EquationAdjoint, FixedPointSolver
from deqzoo.nn import DEQ
from deqzoo.nn.tensors import check_tensor


class SineCell(nn.Module):
    """f(z, x) = sin(W z + x), W = V min(1, bound / ||V||_2), on states (batch, width).

    Its Jacobian is diag(cos(W z + x)) W, and its Lipschitz constant in z is at most ||W||_2 <= bound. With a bound
    below 1 the equilibrium exists, is unique, and is found by plain iteration. Cosines are smaller than 1 on average,
    so that the iteration may converge for a larger one, too: then nothing is certain, and the solver tells.

    Args:
        width: of the state.
        bound: of ||W||_2.
        gain: V has independent normal entries of standard deviation gain / sqrt(width) at the start, and a norm of
            about twice the gain.

    >>> cell = SineCell(5)
    >>> cell(torch.zeros(2, 5), torch.zeros(2, 5)).abs().max().item()
    0.0
    """

    def __init__(self, width: int, *, bound: float = 1.4, gain: float = 0.5) -> None:
        super().__init__()
        self.bound = bound
        self.kernel = nn.Parameter(gain / math.sqrt(width) * torch.randn(width, width))

    def prepare(self, x: Tensor) -> Tensor:
        """W, once per solve."""
        kernel = self.kernel.to(torch.promote_types(self.kernel.dtype, torch.float32))  # in half no norm can be taken
        norm = torch.linalg.matrix_norm(kernel, 2)
        return (self.bound / norm.clamp(min=self.bound)).to(self.kernel) * self.kernel

    def forward(self, z: Tensor, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """f(z, x), of z's shape; `weight` saves making W anew."""
        return torch.sin(F.linear(z, self.prepare(x) if weight is None else weight) + x)

    def initial_state(self, x: Tensor) -> Tensor:
        """sin(x), which is f(0, x)."""
        return torch.sin(x.to(torch.promote_types(x.dtype, torch.float32)))


class EquilibriumField(nn.Module):
    """A picture as an equilibrium at each place p: z* = sin(W z* + U p + b), colour = V z* + c.

    Args:
        width, frequency, bound, gain, solver, adjoint: see `ImplicitPictures`.

    >>> EquilibriumField(8)(torch.zeros(4, 2)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        width: int,
        *,
        frequency: float = 30.0,
        bound: float = 1.4,
        gain: float = 0.5,
        solver: FixedPointSolver | None = None,
        adjoint: EquationAdjoint | None = None,
    ) -> None:
        super().__init__()
        self.inject = first_layer(width, frequency)
        self.deq = DEQ(SineCell(width, bound=bound, gain=gain), solver=solver, adjoint=adjoint)
        self.head = nn.Linear(width, 3)

    def forward(self, places: Tensor) -> Tensor:
        """Colours (N, 3) at places (N, 2) in [-1, 1]."""
        return 0.5 + self.head(self.deq(self.inject(places)))


class SineNetwork(nn.Module):
    """A picture as a network of several layers, h <- sin(W h + b), and a linear one.

    Args:
        width, layers, frequency: see `SirenPictures`.

    >>> SineNetwork(8, 2)(torch.zeros(4, 2)).shape
    torch.Size([4, 3])
    """

    def __init__(self, width: int, layers: int, *, frequency: float = 30.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList([first_layer(width, frequency)])
        for _ in range(layers - 1):
            layer = nn.Linear(width, width)
            # The paper writes sin(w W h) with a w-th of these weights: the same function, and steps of Adam a w-th as
            # large do the same to it.
            nn.init.uniform_(layer.weight, -math.sqrt(6 / width), math.sqrt(6 / width))
            self.layers.append(layer)
        self.head = nn.Linear(width, 3)

    def forward(self, places: Tensor) -> Tensor:
        """Colours (N, 3) at places (N, 2) in [-1, 1]."""
        h = places
        for layer in self.layers:
            h = torch.sin(layer(h))
        return 0.5 + self.head(h)


def first_layer(width: int, frequency: float) -> nn.Linear:
    """U p + b with the entries of U uniform in [-frequency / 2, frequency / 2], as SIREN has it, and b in [-pi, pi]."""
    layer = nn.Linear(2, width)
    nn.init.uniform_(layer.weight, -frequency / 2, frequency / 2)
    nn.init.uniform_(layer.bias, -math.pi, math.pi)
    return layer


class Pictures(nn.Module):
    """Several pictures, of each a network for every width.

    Args:
        pictures: their names.
        widths: of the networks, ascending.
        make: a width -> a module, places (N, 2) -> colours (N, 3).
    """

    def __init__(self, pictures: Sequence[str], widths: Sequence[int], make: Callable[[int], nn.Module]) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or list(widths) != sorted(set(widths)):
            raise ValueError(f"widths={list(widths)} must be one or more, each at least 1, ascending")
        self.pictures, self.widths = tuple(pictures), tuple(widths)
        self.fields = nn.ModuleList(nn.ModuleList(make(width) for _ in pictures) for width in widths)

    def forward(self, places: Tensor) -> Tensor:
        """Colours (N, widths, pictures, 3), of about [0, 1], at places (N, 2): rows and columns from -1 to 1.

        Raises:
            ValueError: places of another shape.
        """
        check_tensor("places", places)
        if places.dim() != 2 or places.shape[1] != 2:
            raise ValueError(f"places must be (N, 2), rows and columns from -1 to 1, got {tuple(places.shape)}")
        of_widths = [torch.stack([field(places) for field in row], dim=1) for row in self._rows()]
        return torch.stack(of_widths, dim=1)

    def parameters_of(self, width: int) -> int:
        """Parameters of the network of one picture."""
        return sum(parameter.numel() for parameter in self._field(self.pictures[0], width).parameters())

    @torch.no_grad()
    def picture(self, name: str, side: int = 64, width: int | None = None) -> Tensor:
        """One of the pictures, drawn with `side` x `side` pixels: (3, side, side) in [0, 1].

        Args:
            name: of the picture.
            side: pixels of a side; the network was trained on those of the data set, and others lie between them.
            width: of the network; None: the largest.

        Raises:
            ValueError: another name or width, or a side below 1.
        """
        field = self._field(name, self.widths[-1] if width is None else width)
        if side < 1:
            raise ValueError(f"side must be at least 1, got {side}")
        places = coordinates(side).to(next(self.parameters()))
        colours: Tensor = field(places)
        return colours.T.unflatten(1, (side, side)).clamp(0, 1)

    def _rows(self) -> list[nn.ModuleList]:
        return list(self.fields)  # type: ignore[arg-type]

    def _field(self, name: str, width: int) -> nn.Module:
        if name not in self.pictures:
            raise ValueError(f"there is no picture {name!r}; valid are {', '.join(self.pictures)}")
        if width not in self.widths:
            raise ValueError(f"there is no network of width {width}; valid are {', '.join(map(str, self.widths))}")
        return self.fields[self.widths.index(width)][self.pictures.index(name)]  # type: ignore[index, return-value]


class ImplicitPictures(Pictures):
    """Pictures of which each is an equilibrium network, of one layer that is applied until nothing changes:

        z* = sin(W z* + U p + b),    colour = V z* + c + 1/2

    Args:
        pictures: their names.
        widths: of the states, ascending; of each picture there is a network for every one.
        frequency: the entries of U are uniform in [-frequency / 2, frequency / 2] at the start, as in the first layer
            of a SIREN.
        bound, gain: see `SineCell`.
        solver, adjoint: see `deqzoo.nn.DEQ`; each place is a system of its own.

    Source: Huang, Bai, Kolter, "(Implicit)^2: Implicit Layers for Implicit Representations", 2021.

    >>> network = ImplicitPictures(["a", "b"], [8, 16]).eval()
    >>> network(torch.zeros(5, 2)).shape, network.picture("b", 4).shape
    (torch.Size([5, 2, 2, 3]), torch.Size([3, 4, 4]))
    """

    def __init__(
        self,
        pictures: Sequence[str],
        widths: Sequence[int] = (32, 45, 64),
        *,
        frequency: float = 30.0,
        bound: float = 1.4,
        gain: float = 0.5,
        solver: FixedPointSolver | None = None,
        adjoint: EquationAdjoint | None = None,
    ) -> None:
        if bound <= 0 or gain <= 0:
            raise ValueError(f"bound={bound} and gain={gain} must be positive")

        def make(width: int) -> nn.Module:
            options = {"frequency": frequency, "bound": bound, "gain": gain}
            return EquilibriumField(width, **options, solver=solver, adjoint=adjoint)

        super().__init__(pictures, widths, make)

    @property
    def equilibria(self) -> list[DEQ]:
        """The equilibrium layers, one for each picture and width."""
        return [module for module in self.modules() if isinstance(module, DEQ)]


class SirenPictures(Pictures):
    """Pictures of which each is a network of several layers of sines, a SIREN.

    Args:
        pictures: their names.
        widths: ascending; of each picture there is a network for every one.
        layers: of sines, at least 1.
        frequency: by which the places are multiplied.

    Source: Sitzmann et al., "Implicit Neural Representations with Periodic Activation Functions", 2020.

    >>> SirenPictures(["a", "b"], [8])(torch.zeros(5, 2)).shape
    torch.Size([5, 1, 2, 3])
    """

    def __init__(
        self,
        pictures: Sequence[str],
        widths: Sequence[int] = (23, 32, 46),
        *,
        layers: int = 3,
        frequency: float = 30.0,
    ) -> None:
        if layers < 1:
            raise ValueError(f"layers={layers} must be at least 1")
        super().__init__(pictures, widths, lambda width: SineNetwork(width, layers, frequency=frequency))
