"""Paths through series: splines of SciPy, the formulas of the papers, missing values, gradients, bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline
from torch.func import jacrev, vmap

from deqzoo.nn import INTERPOLATIONS, PiecewisePolynomial, hermite_cubic, natural_cubic, piecewise_linear, rectilinear

F64, NAN = torch.float64, torch.nan
ALL = sorted(INTERPOLATIONS)


def series(batch=(3,), length=9, channels=2, missing=0.0, seed=0):
    """Values (*batch, length, channels), some of them NaN, at irregular times; each channel has an observation."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, length, channels, dtype=F64, generator=random)
    kept = torch.rand(x.shape, generator=random) >= missing
    kept[..., length // 2, :] = True
    t = (torch.rand(length, dtype=F64, generator=random) + 0.2).cumsum(0)
    return torch.where(kept, x, NAN), t


def between(t, count=41):
    return torch.linspace(t[0], t[-1], count, dtype=F64)


@given(
    batch=st.sampled_from([(), (2,), (2, 3)]),
    length=st.integers(2, 12),
    channels=st.integers(1, 3),
    missing=st.sampled_from([0.0, 0.4, 0.9]),
    seed=st.integers(0, 1000),
    name=st.sampled_from(ALL),
)
@settings(max_examples=60, deadline=None)
def test_every_path_goes_through_what_was_observed(batch, length, channels, missing, seed, name):
    x, t = series(batch, length, channels, missing, seed)
    path = INTERPOLATIONS[name](x, t)
    assert path.coefficients.shape[:1] + path.coefficients.shape[2:] == (length - 1, *batch, channels)
    found = path(t).movedim(0, -2)
    seen = ~x.isnan()
    torch.testing.assert_close(found[seen], x[seen], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(path.interval, t[[0, -1]])
    # Before the first and after the last observation of a channel: that one. (A Hermite spline, whose slope at a knot
    # is that before it, comes to rest in the first of these intervals.)
    first = torch.where(seen, x, 0.0).gather(-2, seen.to(torch.uint8).argmax(-2, keepdim=True))
    start = found[..., :1, :]
    torch.testing.assert_close(start, first, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_natural_cubic_is_scipys_of_each_channels_own_observations(missing):
    x, t = series((4,), 12, 3, missing)
    path = natural_cubic(x, t)
    s = between(t)
    for i in range(4):
        for c in range(3):
            seen = ~x[i, :, c].isnan()
            first, last = seen.nonzero()[0].item(), seen.nonzero()[-1].item()
            values = x[i, :, c].clone()
            values[:first], values[last:] = values[first].item(), values[last].item()
            known = ~values.isnan()
            spline = CubicSpline(t[known].numpy(), values[known].numpy(), bc_type="natural")
            np.testing.assert_allclose(path(s)[:, i, c], spline(s.numpy()), atol=1e-10)
            np.testing.assert_allclose(path.derivative(s)[:, i, c], spline(s.numpy(), 1), atol=1e-9)


def test_hermite_cubic_has_backward_differences_for_slopes_and_a_continuous_derivative():
    x, t = series((2,), 7)
    path = hermite_cubic(x, t)
    slope = x.diff(dim=1) / t.diff()[:, None]
    wanted = torch.cat([slope[:, :1], slope], 1)
    torch.testing.assert_close(path.derivative(t).movedim(0, 1), wanted)
    before = path.derivative(t[1:-1] - 1e-9).movedim(0, 1)
    torch.testing.assert_close(before, wanted[:, 1:-1], rtol=1e-6, atol=1e-6)
    # The next observation but one does not change the path up to a knot.
    later = x.clone()
    later[:, 5:] += 1
    s = between(t[:5])
    torch.testing.assert_close(hermite_cubic(later, t)(s), path(s))


def test_piecewise_linear_is_numpys():
    x, t = series((), 10, 2, 0.5)
    path, s = piecewise_linear(x, t), between(t)
    for c in range(2):
        seen = ~x[:, c].isnan()
        np.testing.assert_allclose(path(s)[:, c], np.interp(s, t[seen], x[seen, c]), atol=1e-12)


def test_rectilinear_lets_the_time_go_on_and_then_the_values_change():
    x = torch.tensor([[5.0, 0.0], [NAN, 1.0], [7.0, 3.0]], dtype=F64)
    path = rectilinear(x, time_channel=1)
    wanted = torch.tensor([[5.0, 0.0], [5.0, 1.0], [5.0, 1.0], [5.0, 3.0], [7.0, 3.0]], dtype=F64)
    torch.testing.assert_close(path(torch.arange(5.0, dtype=F64)), wanted)
    torch.testing.assert_close(rectilinear(x, time_channel=-1).coefficients, path.coefficients)
    late = torch.tensor([[NAN, 0.0], [4.0, 1.0]], dtype=F64)
    torch.testing.assert_close(rectilinear(late, 1)(path.knots[:3])[:, 0], torch.full((3,), 4.0, dtype=F64))


@pytest.mark.parametrize("name", ALL)
def test_a_channel_without_observations_is_zero_and_changes_no_other(name):
    x, t = series((2,), 6, 2)
    x[0, :, 1] = NAN
    path = INTERPOLATIONS[name](x, t)
    assert not path(between(t))[:, 0, 1].any()
    torch.testing.assert_close(
        path.coefficients[..., 0, 0], INTERPOLATIONS[name](x[:1, :, :1], t).coefficients[..., 0, 0]
    )


@pytest.mark.parametrize("name", ALL)
def test_derivative_is_that_of_finite_differences(name):
    path = INTERPOLATIONS[name](*series(missing=0.4))
    s, eps = between(path.knots)[1:-1] + 1e-3, 1e-6
    torch.testing.assert_close(path.derivative(s), (path(s + eps) - path(s - eps)) / (2 * eps), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(path.differentiate()(s), path.derivative(s))
    second = path.differentiate().differentiate()
    slopes = (path.derivative(s + eps) - path.derivative(s - eps)) / (2 * eps)
    torch.testing.assert_close(second(s), slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_gradients_in_the_observations_and_times(name):
    x, t = series((2,), 5, 2, 0.3)
    seen = ~x.isnan()
    s = torch.tensor([t[0] + 0.1, t[2] + 0.05], dtype=F64)

    def value(observed, times, s):
        whole = torch.full_like(x, NAN).masked_scatter(seen, observed)
        path = INTERPOLATIONS[name](whole, times)
        return path(s), path.derivative(s)

    inputs = [part.clone().requires_grad_() for part in (x[seen], t, s)]
    assert torch.autograd.gradcheck(value, inputs)
    whole = x.clone().requires_grad_()
    INTERPOLATIONS[name](whole, t)(s).sum().backward()
    assert whole.grad.isfinite().all()
    assert not whole.grad[~seen].any()


@pytest.mark.parametrize("name", ALL)
def test_transforms(name):
    x, t = series((3,), 6, 2)
    interpolate = INTERPOLATIONS[name]
    of_each = vmap(lambda x: interpolate(x, t)(t[2] + 0.1))(x)
    torch.testing.assert_close(of_each, interpolate(x, t)(t[2] + 0.1))
    slope = jacrev(lambda s: interpolate(x, t)(s))(t[2] + 0.1)
    torch.testing.assert_close(slope, interpolate(x, t).derivative(t[2] + 0.1))


def test_default_times_and_precision():
    x = torch.randn(2, 4, 1)
    path = natural_cubic(x)
    assert path.knots.tolist() == [0, 1, 2, 3]
    assert path.coefficients.dtype == path(1.5).dtype == torch.float32
    assert natural_cubic(x, torch.arange(4, dtype=F64)).coefficients.dtype == torch.float32
    assert (path.degree, piecewise_linear(x).degree) == (3, 1)
    assert isinstance(path, PiecewisePolynomial)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.long), None, "floating-point tensor"),
        (torch.zeros(3), None, "floating-point tensor"),
        ([[0.0], [1.0]], None, "got a list"),
        (torch.zeros(1, 2), None, "two times or more"),
        (torch.zeros(3, 2), [0.0, 1.0], r"one time for each row of the series, \(3,\), got \(2,\)"),
        (torch.zeros(3, 2), [0.0, 2.0, 1.0], "strictly increasing"),
        (torch.zeros(3, 2), [0.0, 1.0, 1.0], "strictly increasing"),
        (torch.zeros(3, 2), [0.0, 1.0, torch.inf], "finite"),
        (torch.zeros(3, 2), [0.0, torch.nan, 1.0], "finite"),
        (torch.full((3, 2), torch.inf), None, "infinite values: use NaN"),
        (torch.stack([torch.zeros(3, 2), torch.full((3, 2), NAN)]), None, "series 1 has no observation"),
        (torch.full((3, 2), NAN), None, "the series has no observation"),
    ],
)
def test_bad_input_has_an_error_that_names_the_mend(name, x, t, message):
    with pytest.raises(ValueError, match=message):
        INTERPOLATIONS[name](x, t)


def test_a_rectilinear_path_needs_its_times():
    with pytest.raises(ValueError, match="channel of time has NaN"):
        rectilinear(torch.tensor([[0.0, 1.0], [NAN, 1.0]]))
    with pytest.raises(ValueError, match="channels 0 to 1"):
        rectilinear(torch.zeros(2, 2), time_channel=2)
