"""The 35 test functions of Moré, Garbow, Hillstrom, "Testing Unconstrained Optimization Software", 1981.

Each is a vector of residuals r(x), (m,), whose sum of squares is to be minimised. The numbers are the paper's; a
`Problem` has the dimensions, the start and the minima that the paper publishes.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.implicit.solvers.more_garbow_hillstrom_data import BARD, GAUSSIAN, KOWALIK, MEYER, OSBORNE_1, OSBORNE_2


def count(first: int, last: int) -> Tensor:
    """first, ..., last in float64."""
    return torch.arange(first, last + 1, dtype=torch.float64)


def rosenbrock(x):  # also the extended one
    a, b = x[0::2], x[1::2]
    return torch.cat([10 * (b - a**2), 1 - a])


def freudenstein_roth(x):
    a, b = x
    return torch.stack([-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b])


def powell_badly_scaled(x):
    return torch.stack([1e4 * x[0] * x[1] - 1, torch.exp(-x[0]) + torch.exp(-x[1]) - 1.0001])


def brown_badly_scaled(x):
    return torch.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def beale(x):
    return torch.tensor([1.5, 2.25, 2.625], dtype=x.dtype) - x[0] * (1 - x[1] ** count(1, 3))


def jennrich_sampson(x):
    i = count(1, 10)
    return 2 + 2 * i - (torch.exp(i * x[0]) + torch.exp(i * x[1]))


def helical_valley(x):
    angle = torch.atan(x[1] / x[0]) / (2 * math.pi) + torch.where(x[0] < 0, 0.5, 0.0)
    return torch.stack([10 * (x[2] - 10 * angle), 10 * (torch.sqrt(x[0] ** 2 + x[1] ** 2) - 1), x[2]])


def bard(x):
    u = count(1, 15)
    v = 16 - u
    return BARD - (x[0] + u / (v * x[1] + torch.minimum(u, v) * x[2]))


def gaussian(x):
    t = (8 - count(1, 15)) / 2
    return x[0] * torch.exp(-x[1] * (t - x[2]) ** 2 / 2) - GAUSSIAN


def meyer(x):
    return x[0] * torch.exp(x[1] / (45 + 5 * count(1, 16) + x[2])) - MEYER


def gulf(x):
    t = count(1, 99) / 100
    y = 25 + (-50 * torch.log(t)) ** (2 / 3)
    return torch.exp(-(torch.abs(y - x[1]) ** x[2]) / x[0]) - t


def box(x):
    t = 0.1 * count(1, 10)
    return torch.exp(-t * x[0]) - torch.exp(-t * x[1]) - x[2] * (torch.exp(-t) - torch.exp(-10 * t))


def powell_singular(x):  # also the extended one
    a, b, c, d = x[0::4], x[1::4], x[2::4], x[3::4]
    return torch.cat([a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2])


def wood(x):
    a, b, c, d = x
    return torch.stack([10 * (b - a**2), 1 - a, 90**0.5 * (d - c**2), 1 - c, 10**0.5 * (b + d - 2), (b - d) / 10**0.5])


def kowalik_osborne(x):
    y, u = KOWALIK
    return y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def brown_dennis(x):
    t = count(1, 20) / 5
    return (x[0] + t * x[1] - torch.exp(t)) ** 2 + (x[2] + x[3] * torch.sin(t) - torch.cos(t)) ** 2


def osborne_1(x):
    t = 10 * count(0, 32)
    return OSBORNE_1 - (x[0] + x[1] * torch.exp(-t * x[3]) + x[2] * torch.exp(-t * x[4]))


def biggs(x):
    t = 0.1 * count(1, 13)
    y = torch.exp(-t) - 5 * torch.exp(-10 * t) + 3 * torch.exp(-4 * t)
    return x[2] * torch.exp(-t * x[0]) - x[3] * torch.exp(-t * x[1]) + x[5] * torch.exp(-t * x[4]) - y


def osborne_2(x):
    t = count(0, 64) / 10
    peaks = [x[k] * torch.exp(-((t - x[k + 7]) ** 2) * x[k + 4]) for k in (1, 2, 3)]
    return OSBORNE_2 - (x[0] * torch.exp(-t * x[4]) + peaks[0] + peaks[1] + peaks[2])


def watson(x):
    n, t = len(x), (count(1, 29) / 29).unsqueeze(1)
    powers = t ** count(0, n - 1)
    slope = (powers[:, : n - 1] * count(1, n - 1)) @ x[1:]
    return torch.cat([slope - (powers @ x) ** 2 - 1, x[:1], x[1:2] - x[:1] ** 2 - 1])


def penalty_1(x):
    return torch.cat([1e-5**0.5 * (x - 1), (x**2).sum().reshape(1) - 0.25])


def penalty_2(x):
    n, root = len(x), 1e-5**0.5
    e, y = torch.exp(x / 10), torch.exp(count(2, n) / 10) + torch.exp(count(1, n - 1) / 10)
    last = (count(1, n).flip(0) * x**2).sum().reshape(1) - 1
    return torch.cat([x[:1] - 0.2, root * (e[1:] + e[:-1] - y), root * (e[1:] - math.exp(-0.1)), last])


def variably_dimensioned(x):
    total = (count(1, len(x)) * (x - 1)).sum().reshape(1)
    return torch.cat([x - 1, total, total**2])


def trigonometric(x):
    n, c = len(x), torch.cos(x)
    return n - c.sum() + count(1, n) * (1 - c) - torch.sin(x)


def brown_almost_linear(x):
    return torch.cat([x[:-1] + x.sum() - (len(x) + 1), x.prod().reshape(1) - 1])


def _grid(x):
    h = 1 / (len(x) + 1)
    t = h * count(1, len(x))
    return h, t, (x + t + 1) ** 3


def discrete_boundary_value(x):
    h, _, cube = _grid(x)
    padded = torch.nn.functional.pad(x, (1, 1))
    return 2 * x - padded[:-2] - padded[2:] + h**2 * cube / 2


def discrete_integral_equation(x):
    h, t, cube = _grid(x)
    before, after = (t * cube).cumsum(0), ((1 - t) * cube).sum() - ((1 - t) * cube).cumsum(0)
    return x + h * ((1 - t) * before + t * after) / 2


def broyden_tridiagonal(x):
    padded = torch.nn.functional.pad(x, (1, 1))
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1


def broyden_banded(x):
    i = torch.arange(len(x))
    band = (i.unsqueeze(0) >= i.unsqueeze(1) - 5) & (i.unsqueeze(0) <= i.unsqueeze(1) + 1)
    band = band & (i.unsqueeze(0) != i.unsqueeze(1))
    return x * (2 + 5 * x**2) + 1 - band.to(x) @ (x * (1 + x))


def linear_full_rank(x, m=20):
    shift = 2 / m * x.sum() + 1
    return torch.cat([x - shift, -shift.expand(m - len(x))])


def linear_rank_1(x, m=20):
    return count(1, m) * (count(1, len(x)) * x).sum() - 1


def linear_rank_1_zeros(x, m=20):
    inner = (count(2, len(x) - 1) * x[1:-1]).sum()
    weights = count(0, m - 1)
    weights[-1] = 0
    return weights * inner - 1


def chebyquad(x):
    shifted = 2 * x - 1
    before, now, rows = torch.ones_like(x), shifted, []
    for i in range(1, len(x) + 1):
        rows.append(now.mean() + (1 / (i**2 - 1) if i % 2 == 0 else 0.0))
        before, now = now, 2 * shifted * now - before
    return torch.stack(rows)


def wood_system(x):
    """The gradient of Wood's function, up to a factor."""
    return torch.func.grad(lambda x: 0.5 * (wood(x) ** 2).sum())(x)


def watson_system(x):
    """The gradient of Watson's function, up to a factor."""
    return torch.func.grad(lambda x: 0.5 * (watson(x) ** 2).sum())(x)


def variably_dimensioned_system(x):
    """The gradient of the variably dimensioned function, up to a factor."""
    j = count(1, len(x))
    total = (j * (x - 1)).sum()
    return x - 1 + j * total * (1 + 2 * total**2)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A function at dimensions of the paper, with its start.

    Args:
        at_start: the sum of squares there.
        minima: values of the sum of squares that the paper publishes, global and local, with more of their digits
            (found with `scipy.optimize.least_squares` from the same start).
    """

    residuals: Callable[[Tensor], Tensor]
    start: tuple[float, ...]
    at_start: float
    minima: tuple[float, ...] = (0.0,)

    def objective(self, x: Tensor) -> Tensor:
        """The sum of squares."""
        return (self.residuals(x) ** 2).sum()

    @property
    def x0(self) -> Tensor:
        """The start as a tensor."""
        return torch.tensor(self.start, dtype=torch.float64)


def _bowl(n: int) -> tuple[float, ...]:
    return tuple(j / (n + 1) * (j / (n + 1) - 1) for j in range(1, n + 1))


def _even(n: int) -> tuple[float, ...]:
    return tuple(j / (n + 1) for j in range(1, n + 1))


PROBLEMS = {
    "Rosenbrock": Problem(rosenbrock, (-1.2, 1.0), 24.2),
    "Freudenstein and Roth": Problem(freudenstein_roth, (0.5, -2.0), 400.5, (0.0, 48.98425367924)),
    "Powell badly scaled": Problem(powell_badly_scaled, (0.0, 1.0), 1.13526171735),
    "Brown badly scaled": Problem(brown_badly_scaled, (1.0, 1.0), 999998000003.0),
    "Beale": Problem(beale, (1.0, 1.0), 14.203125),
    "Jennrich and Sampson": Problem(jennrich_sampson, (0.3, 0.4), 4171.30616196, (124.36218235561,)),
    "helical valley": Problem(helical_valley, (-1.0, 0.0, 0.0), 2500.0),
    "Bard": Problem(bard, (1.0, 1.0, 1.0), 41.6816958617, (0.008214877306579,)),
    "Gaussian": Problem(gaussian, (0.4, 1.0, 0.0), 3.88810699117e-6, (1.1279327696185e-8,)),
    "Meyer": Problem(meyer, (0.02, 4000.0, 250.0), 1693607809.44, (87.945855170513,)),
    "Gulf research and development": Problem(gulf, (5.0, 2.5, 0.15), 12.1107058256),
    "box three-dimensional": Problem(box, (0.0, 10.0, 20.0), 1031.15381061),
    "Powell singular": Problem(powell_singular, (3.0, -1.0, 0.0, 1.0), 215.0),
    "Wood": Problem(wood, (-3.0, -1.0, -3.0, -1.0), 19192.0),
    "Kowalik and Osborne": Problem(kowalik_osborne, (0.25, 0.39, 0.415, 0.39), 5.31317227211e-3, (3.0750560384924e-4,)),
    "Brown and Dennis": Problem(brown_dennis, (25.0, 5.0, -5.0, -1.0), 7926693.337, (85822.201626357,)),
    "Osborne 1": Problem(osborne_1, (0.5, 1.5, -1.0, 0.01, 0.02), 0.879026293545, (5.4648946974827e-5,)),
    "Biggs EXP6": Problem(biggs, (1.0, 2.0, 1.0, 1.0, 1.0, 1.0), 0.779070075656, (0.0, 5.65564992e-3)),
    "Osborne 2": Problem(
        osborne_2,
        (1.3, 0.65, 0.65, 0.7, 0.6, 3.0, 5.0, 7.0, 2.0, 4.5, 5.5),
        2.09341951421,
        (0.040137736293548,),
    ),
    "Watson, 6": Problem(watson, (0.0,) * 6, 30.0, (2.2876700535524e-3,)),
    "Watson, 9": Problem(watson, (0.0,) * 9, 30.0, (1.3997601380925e-6,)),
    "Watson, 12": Problem(watson, (0.0,) * 12, 30.0, (4.7223810991882e-10,)),
    "extended Rosenbrock": Problem(rosenbrock, (-1.2, 1.0) * 5, 121.0),
    "extended Powell singular": Problem(powell_singular, (3.0, -1.0, 0.0, 1.0) * 3, 645.0),
    "penalty I, 4": Problem(penalty_1, (1.0, 2.0, 3.0, 4.0), 885.06264, (2.2499775008999e-5,)),
    "penalty I, 10": Problem(penalty_1, tuple(float(j) for j in range(1, 11)), 148032.56535, (7.0876514670904e-5,)),
    "penalty II, 4": Problem(penalty_2, (0.5,) * 4, 2.34000880546, (9.3762930073554e-6,)),
    "penalty II, 10": Problem(penalty_2, (0.5,) * 10, 162.652776566, (2.9366053745675e-4,)),
    "variably dimensioned": Problem(variably_dimensioned, tuple(1 - j / 10 for j in range(1, 11)), 2198551.1625),
    "trigonometric": Problem(trigonometric, (0.1,) * 10, 7.07575946622e-3, (0.0, 2.7950561218785e-5)),
    "Brown almost-linear": Problem(brown_almost_linear, (0.5,) * 10, 273.248047829, (0.0, 1.0)),
    "discrete boundary value": Problem(discrete_boundary_value, _bowl(10), 7.88519101265e-4),
    "discrete integral equation": Problem(discrete_integral_equation, _bowl(10), 0.0634168415795),
    "Broyden tridiagonal": Problem(broyden_tridiagonal, (-1.0,) * 10, 21.0),
    "Broyden banded": Problem(broyden_banded, (-1.0,) * 10, 360.0),
    "linear, full rank": Problem(linear_full_rank, (1.0,) * 10, 50.0, (10.0,)),
    "linear, rank 1": Problem(linear_rank_1, (1.0,) * 10, 8658670.0, (20 * 19 / (2 * 41),)),
    "linear, rank 1, zeros": Problem(linear_rank_1_zeros, (1.0,) * 10, 4067996.0, ((20**2 + 3 * 20 - 6) / (2 * 37),)),
    "Chebyquad, 8": Problem(chebyquad, _even(8), 0.0386176982859, (3.5168737256779e-3,)),
    "Chebyquad, 9": Problem(chebyquad, _even(9), 0.0288829802882),
    "Chebyquad, 10": Problem(chebyquad, _even(10), 0.0337632654629, (6.5039548008824e-3, 4.7727136920e-3)),
}

# The 14 systems of MINPACK, and others with equal numbers of equations and unknowns.
SYSTEMS = {
    name: PROBLEMS[name]
    for name in (
        "Rosenbrock",
        "Powell singular",
        "Powell badly scaled",
        "helical valley",
        "trigonometric",
        "Brown almost-linear",
        "discrete boundary value",
        "discrete integral equation",
        "Broyden tridiagonal",
        "Broyden banded",
        "extended Rosenbrock",
        "extended Powell singular",
        "Chebyquad, 9",
    )
} | {
    "Wood": Problem(wood_system, (-3.0, -1.0, -3.0, -1.0), 0.0),
    "Watson, 6": Problem(watson_system, (0.0,) * 6, 0.0),
    "Watson, 9": Problem(watson_system, (0.0,) * 9, 0.0),
    "variably dimensioned": Problem(variably_dimensioned_system, tuple(1 - j / 10 for j in range(1, 11)), 0.0),
    "linear, full rank": Problem(lambda x: linear_full_rank(x, m=10), (1.0,) * 10, 0.0),
    "Chebyquad, 5": Problem(chebyquad, _even(5), 0.0),
    "Chebyquad, 6": Problem(chebyquad, _even(6), 0.0),
    "Chebyquad, 7": Problem(chebyquad, _even(7), 0.0),
    "Brown almost-linear, 30": Problem(brown_almost_linear, (0.5,) * 30, 0.0),
    "Brown almost-linear, 40": Problem(brown_almost_linear, (0.5,) * 40, 0.0),
}
