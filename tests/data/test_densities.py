"""The exact densities: they integrate to one, and are those that their samples are drawn from."""

import math

import pytest
import torch

from deqzoo.data.densities import DENSITIES

F64 = torch.float64


def grid(limit, count):
    """Midpoints of the cells of a grid, and a cell's area."""
    edge = 2 * limit / count
    axis = (torch.arange(count, dtype=F64) + 0.5) * edge - limit
    return torch.cartesian_prod(axis, axis), edge**2


@pytest.mark.parametrize("name", sorted(DENSITIES))
def test_integrates_to_one_within_its_limit(name):
    density = DENSITIES[name]
    points, area = grid(density.limit, 90)
    total = density.log_prob(points).exp().sum().item() * area
    assert total == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", sorted(DENSITIES))
def test_samples_are_drawn_from_it(name):
    """Shares of samples in 8x8 cells against the integral of the density over each: chi-squared."""
    density, n = DENSITIES[name], 10_000
    x = density.sample(n, torch.Generator().manual_seed(0))
    assert x.shape == (n, 2)
    assert torch.equal(x, density.sample(n, torch.Generator().manual_seed(0)))
    assert (x.abs() <= density.limit).double().mean() > 0.9999
    points, area = grid(density.limit, 96)
    share = (density.log_prob(points).exp() * area).view(8, 12, 8, 12).sum((1, 3))
    cell = ((x + density.limit) / (2 * density.limit) * 8).long().clamp(0, 7)
    found = torch.zeros(8, 8, dtype=F64)
    found.index_put_((cell[:, 0], cell[:, 1]), torch.ones(n, dtype=F64), accumulate=True)
    counted = share * n > 5
    statistic = ((found - share * n)[counted].square() / (share * n)[counted]).sum().item()
    degrees = int(counted.sum()) - 1
    assert abs(statistic - degrees) < 5 * math.sqrt(2 * degrees)


def test_entropies():
    """That of the eight Gaussians is log 8 and that of one of them, but for their small overlap."""
    gaussians = DENSITIES["8gaussians"]
    x = gaussians.sample(50_000, torch.Generator().manual_seed(1))
    entropy = -gaussians.log_prob(x).mean().item()
    assert entropy == pytest.approx(math.log(8) + 1 + math.log(2 * math.pi * gaussians.std**2), abs=0.02)
    board = DENSITIES["checkerboard"]
    assert (board.log_prob(board.sample(1000)) == torch.tensor(-math.log(32))).all()


def test_pinwheel_by_its_change_of_variables():
    """At the image of f, the density is that of f over the determinant of the turn's Jacobian, by autograd."""
    pinwheel = DENSITIES["pinwheel"]
    f = torch.tensor([[1.3, 0.15], [0.6, -0.2], [1.0, 0.0]], dtype=F64)

    def turned(f):
        angle = pinwheel.rate * f[0].exp()
        return 2 * torch.stack([angle.cos() * f[0] - angle.sin() * f[1], angle.sin() * f[0] + angle.cos() * f[1]])

    determinant = torch.func.vmap(torch.func.jacrev(turned))(f).det().abs()
    normal = torch.distributions.Normal(torch.tensor([1.0, 0.0], dtype=F64), torch.tensor(pinwheel.std, dtype=F64))
    expected = normal.log_prob(f).sum(1) - determinant.log() - math.log(5)
    x = torch.func.vmap(turned)(f)
    torch.testing.assert_close(pinwheel.log_prob(x), expected, atol=1e-6, rtol=0)  # other arms add less than that


def test_moons_converge_in_the_nodes():
    """Beside a quadrature of another kind: the mean over 20,000 equidistant angles."""
    moons = DENSITIES["moons"]
    x = torch.tensor([[1.0, 0.0], [-2.5, 0.4], [0.3, 1.7]], dtype=F64)
    angle = (torch.arange(20_000, dtype=F64) + 0.5) * (math.pi / 20_000)
    centers = torch.cat([moons._arc(angle, 0), moons._arc(angle, 1)]) * 2 + torch.tensor([-1.0, -0.2], dtype=F64)
    away = (x[:, None] - centers).square().sum(-1) / (2 * 0.2**2)
    expected = (-away).logsumexp(1) - math.log(len(centers)) - math.log(2 * math.pi * 0.2**2)
    torch.testing.assert_close(moons.log_prob(x), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", sorted(DENSITIES))
def test_shapes_and_dtypes(name):
    density = DENSITIES[name]
    x = density.sample(6).view(2, 3, 2)
    assert density.log_prob(x).shape == (2, 3)
    assert density.log_prob(x).dtype == torch.float32
    assert density.log_prob(x[0, 0].double()).shape == ()
