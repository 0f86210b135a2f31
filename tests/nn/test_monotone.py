"""Monotone cells: FFT against convolutions written out, the margin, and the inverse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from deqzoo.nn import MonotoneConv2d, MonotoneLinear
from deqzoo.nn.fourier import downsample, from_frequencies, spectrum, to_frequencies, upsample

F64 = torch.float64


def build(widths, size, margin=0.5, seed=0, border=True):
    """A cell of random parameters, and an injection for it; no width but one number: fully connected."""
    torch.manual_seed(seed)
    if isinstance(widths, int):
        cell, x = MonotoneLinear(widths, margin), torch.randn(3, widths)
    else:
        cell, x = MonotoneConv2d(widths, margin, border=border), torch.randn(3, widths[0], *size)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return cell.double(), x.double()


CELLS = {"fc": (5, None), "conv": ([3], (5, 6)), "tiers": ([2, 3, 2], (12, 16))}
every_cell = pytest.mark.parametrize(("widths", "size"), CELLS.values(), ids=CELLS.keys())


def flat(z):
    return torch.cat([t.flatten(1) for t in ((z,) if isinstance(z, torch.Tensor) else z)], dim=1)


def unflat(rows, like):
    if isinstance(like, torch.Tensor):
        return rows.reshape(len(rows), *like.shape[1:])
    parts = rows.split([t[0].numel() for t in like], dim=1)
    return tuple(part.reshape(len(rows), *t.shape[1:]) for part, t in zip(parts, like, strict=True))


def state(cell, x):
    return cell.initial_state(x) if isinstance(cell, MonotoneConv2d) else torch.zeros_like(x)


def dense(cell, x):
    """W written out, by products with unit vectors."""
    like, weight = state(cell, x[:1]), cell.weight(x)
    units = torch.eye(flat(like).shape[1], dtype=F64)
    return flat(cell.multiply(weight, unflat(units, like))).T


def circular(z, kernel, stride=1):
    return F.conv2d(F.pad(z, 4 * [kernel.shape[2] // 2], mode="circular"), kernel, stride=stride)


def matrix_of(linear, shape):
    """A linear map on images, written out."""
    units = torch.eye(torch.Size(shape).numel(), dtype=F64).reshape(-1, *shape)
    return linear(units).flatten(1).T


@given(
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.sampled_from([1, 3, 5]),
    size=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    batch=st.integers(0, 2),
)
@settings(max_examples=25)
def test_fft_equals_the_circular_convolution_and_its_transpose(channels, kernel, size, batch):
    before, after = channels
    weights = torch.randn(after, before, kernel, kernel, dtype=F64)
    response = spectrum(weights, size)
    z = torch.randn(batch, before, *size, dtype=F64)
    torch.testing.assert_close(from_frequencies(response @ to_frequencies(z), size), circular(z, weights))
    written_out = matrix_of(lambda u: circular(u, weights), (before, *size))
    adjoint = matrix_of(lambda u: from_frequencies(response.mH @ to_frequencies(u), size), (after, *size))
    torch.testing.assert_close(adjoint, written_out.T)


def test_upsample_is_the_transpose_of_downsample():
    down = matrix_of(downsample, (2, 4, 6))
    up = matrix_of(upsample, (2, 2, 3))
    assert torch.equal(up, down.T)


@pytest.mark.parametrize("size", [(6, 6), (8, 6)])
def test_w_of_two_tiers_is_that_of_the_convolutions(size):
    cell, x = build([2, 3], size, margin=0.3)
    with torch.no_grad():
        a = [matrix_of(lambda u, k=k: circular(u, k()), (c, *s)) for k, c, s in tiers(cell.symmetric, cell, x)]
        b = [matrix_of(lambda u, k=k: circular(u, k()), (c, *s)) for k, c, s in tiers(cell.skew, cell, x)]
        (t,) = [matrix_of(lambda u, k=k: circular(u, k(), 2), (c, *s)) for k, c, s in tiers(cell.down, cell, x)]
        first = 0.7 * torch.eye(len(a[0]), dtype=F64) - a[0].T @ a[0] - t.T @ t + b[0] - b[0].T
        second = 0.7 * torch.eye(len(a[1]), dtype=F64) - a[1].T @ a[1] + b[1] - b[1].T
        corner = torch.zeros(len(first), len(second), dtype=F64)
        expected = torch.cat([torch.cat([first, corner], 1), torch.cat([-2 * a[1].T @ t, second], 1)])
        torch.testing.assert_close(dense(cell, x), expected)


def tiers(kernels, cell, x):
    return zip(kernels, cell.widths, cell.sizes(x), strict=False)


@every_cell
@pytest.mark.parametrize("margin", [0.01, 1.0])
def test_w_has_the_margin_for_any_parameters(widths, size, margin):
    for seed in range(3):
        W = dense(*build(widths, size, margin, seed)).detach()
        eye = torch.eye(len(W), dtype=F64)
        assert torch.linalg.eigvalsh(eye - (W + W.T) / 2).min() >= margin - 1e-9


@every_cell
@pytest.mark.parametrize("alpha", [0.1, 2.0])
def test_the_inverse_is_exact(widths, size, alpha):
    cell, x = build(widths, size)
    W = dense(cell, x).detach()
    like = state(cell, x)
    v = unflat(torch.randn(3, len(W), dtype=F64), like)
    expected = torch.linalg.solve((1 + alpha) * torch.eye(len(W), dtype=F64) - alpha * W, flat(v).T).T
    weight = cell.weight(x)
    torch.testing.assert_close(flat(cell.inverse(alpha, x, weight)(v)), expected)
    injected = flat(cell.inject(unflat(torch.zeros_like(flat(v)), like), x))
    resolved = flat(cell.resolvent(alpha, x, weight)(v))
    torch.testing.assert_close((1 + alpha) * resolved - alpha * (resolved @ W.T + injected), flat(v))


def test_nothing_passes_from_one_side_of_the_image_to_the_other():
    for widths in ([3], [2, 3]):
        cell, x = build(widths, (8, 8))
        v = tuple(torch.randn_like(z) for z in cell.initial_state(x))
        for z, v_i, border in zip(cell.prox(v), v, cell.borders, strict=True):
            inside = (..., slice(border, -border), slice(border, -border))
            assert torch.equal(z[inside], v_i[inside].relu())
            assert z.count_nonzero() == z[inside].count_nonzero()
    torus, x = build([3], (8, 8), border=False)
    assert torch.equal(torus.prox((x,))[0], x.relu())


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan")])
def test_the_margin_must_be_positive(margin):
    for make in (lambda: MonotoneLinear(3, margin), lambda: MonotoneConv2d([3], margin)):
        with pytest.raises(ValueError, match=r"margin=.* must be above 0"):
            make()


def test_sizes_and_widths_that_cannot_be_are_errors():
    with pytest.raises(ValueError, match="must name a tier"):
        MonotoneConv2d([])
    with pytest.raises(ValueError, match="must name a tier, and kernel_size=2 be odd"):
        MonotoneConv2d([3], kernel_size=2)
    cell = MonotoneConv2d([2, 2, 2])
    with pytest.raises(ValueError, match="10x12 pixels cannot be halved 2 times"):
        cell.initial_state(torch.zeros(1, 2, 10, 12))
    with pytest.raises(ValueError, match="3x3 kernel does not fit on 2x2 pixels"):
        cell.weight(torch.zeros(1, 2, 8, 8))
