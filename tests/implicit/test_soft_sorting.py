"""Soft sorting and ranking: projections onto the permutahedron, by its vertices and by SciPy's isotonic regression."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from deqzoo.implicit import soft_rank, soft_sort
from tests.implicit.problems import draw

functions = pytest.mark.parametrize("function", [soft_sort, soft_rank], ids=lambda f: f.__name__)
regularizations = pytest.mark.parametrize("regularization", ["quadratic", "entropic"])
PLACES = torch.arange(1, 6, dtype=torch.float64)


def check_projection(x, z, w, regularization):
    """x = P(z, w): in the hull of the orders of w, and no vertex lies nearer to z."""
    vertices = torch.tensor(list(itertools.permutations(w.tolist())), dtype=torch.float64)
    slope = x - z  # of |x - z|^2 / 2, or of the relative entropy of e^x to e^z
    if regularization == "entropic":
        vertices, x, w = vertices.exp(), x.exp(), w.exp()
    most = w.sort(descending=True).values.cumsum(0)
    sums = x.sort(descending=True).values.cumsum(0)
    scale = most.abs().max()
    assert (sums <= most + 1e-12 * scale).all()
    torch.testing.assert_close(sums[-1], most[-1])
    assert ((vertices - x) @ slope >= -1e-10 * scale * (1 + slope.abs().max())).all()


@regularizations
@settings(max_examples=60)
@given(
    values=st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-3, 3)), min_size=1, max_size=5),
    strength=st.sampled_from([0.05, 0.5, 3.0]),
)
def test_projection_by_all_vertices(regularization, values, strength):
    theta = torch.tensor(values, dtype=torch.float64)
    places = PLACES[: len(values)]
    check_projection(
        soft_rank(theta, strength, regularization=regularization), theta / strength, places, regularization
    )
    check_projection(
        soft_sort(theta, strength, regularization=regularization, descending=True),
        places.flip(0) / strength,
        theta,
        regularization,
    )


@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_ranks_by_scipy(n, strength):
    values = draw(n)
    z, order = np.sort(values.numpy() / strength)[::-1], np.argsort(-values.numpy())
    known = np.empty(n)
    known[order] = z - isotonic_regression(z - np.arange(n, 0, -1), increasing=False).x
    np.testing.assert_allclose(soft_rank(values, strength), known, rtol=0, atol=1e-10 * max(1, n / 100))


def pool_one_by_one(z, w):
    """The entropic isotonic regression by pooling adjacent violators, from the left to the right."""
    blocks = []
    for first, second in zip(z, w, strict=True):
        blocks.append([[first], [second]])
        level = lambda block: np.logaddexp.reduce(block[0]) - np.logaddexp.reduce(block[1])  # noqa: E731
        while len(blocks) > 1 and level(blocks[-2]) < level(blocks[-1]):
            last = blocks.pop()
            blocks[-1] = [one + other for one, other in zip(blocks[-1], last, strict=True)]
    return np.concatenate([np.full(len(block[0]), level(block)) for block in blocks])


@pytest.mark.parametrize("n", [7, 64, 300])
@pytest.mark.parametrize("strength", [1e-3, 0.01, 0.1, 10.0])
def test_entropic_ranks_by_pooling(n, strength):
    """Also where e^z spans hundreds of orders of magnitude."""
    values = draw(n)
    z, order = np.sort(values.numpy() / strength)[::-1], np.argsort(-values.numpy())
    known = np.empty(n)
    known[order] = z - pool_one_by_one(z, np.arange(n, 0, -1.0))
    found = soft_rank(values, strength, regularization="entropic")
    np.testing.assert_allclose(found, known, rtol=0, atol=1e-12 * max(n, z.max()))


@functions
@regularizations
def test_a_small_strength_is_exact(function, regularization):
    values = 3 * draw(4, 6)
    found = function(values, 1e-5, regularization=regularization)
    known = values.sort(-1).values if function is soft_sort else values.argsort(-1).argsort(-1) + 1.0
    torch.testing.assert_close(found, known.double(), rtol=0, atol=1e-9)
    down = function(values, 1e-5, regularization=regularization, descending=True)
    torch.testing.assert_close(down, found.flip(-1) if function is soft_sort else 7 - found, rtol=0, atol=1e-9)


def test_numbers_of_the_paper_s_code():
    x = torch.tensor([8.0, 0, 5, 3, 2, 1, 6, 7, 9])
    torch.testing.assert_close(soft_rank(x), torch.tensor([8.0, 1, 5, 4, 3, 2, 6, 7, 9]))
    torch.testing.assert_close(soft_sort(x), torch.arange(9) + 5 / 9)
    torch.testing.assert_close(soft_sort(x, 0.1), x.sort().values)


@functions
@regularizations
@pytest.mark.parametrize("strength", [0.3, 2.0])
def test_derivatives(function, regularization, strength):
    inputs = [draw(2, 5).requires_grad_(), torch.tensor(strength, dtype=torch.float64, requires_grad=True)]
    call = lambda x, strength: function(x, strength, regularization=regularization)  # noqa: E731
    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, inputs, check_fwd_over_rev=True)


@functions
@regularizations
def test_vmap_batch_axes_and_one_by_one(function, regularization):
    x = draw(2, 3, 5)
    call = lambda x: function(x, 0.5, regularization=regularization)  # noqa: E731
    known = call(x)
    torch.testing.assert_close(torch.func.vmap(torch.func.vmap(call))(x), known)
    torch.testing.assert_close(torch.stack([torch.stack([call(v) for v in row]) for row in x]), known)
    moved = function(x.movedim(-1, 0), 0.5, regularization=regularization, dim=0)
    torch.testing.assert_close(moved.movedim(0, -1), known)
    strengths = torch.tensor([[[0.1], [1.0], [5.0]]]).double()
    each = function(x, strengths, regularization=regularization)
    torch.testing.assert_close(each[1, 2], function(x[1, 2], 5.0, regularization=regularization))
    jacobian = torch.func.vmap(torch.func.jacrev(call))(x[0])
    torch.testing.assert_close(jacobian, torch.func.vmap(torch.func.jacfwd(call))(x[0]))


@functions
@regularizations
def test_ties_have_finite_derivatives(function, regularization):
    x = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = function(x, 0.1, regularization=regularization)
    if function is soft_rank:
        torch.testing.assert_close(y[:3], y[0].expand(3))
    (slope,) = torch.autograd.grad((y**2).sum(), x)
    assert torch.isfinite(slope).all()


@functions
@regularizations
def test_wide_values_do_not_overflow(function, regularization):
    x = torch.tensor([-1e4, 0.0, 1e4])
    y = function(x, 1e-6, regularization=regularization)
    known = x if function is soft_sort else torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(y, known, rtol=1e-5, atol=0)


@functions
def test_nan_is_not_hidden(function):
    x = draw(2, 4)
    x[0, 1] = torch.nan
    y = function(x, 0.5)
    assert y[0].isnan().any()
    torch.testing.assert_close(y[1], function(x[1], 0.5))


@functions
def test_small_and_empty_and_half(function):
    assert function(torch.zeros(3, 0)).shape == (3, 0)
    assert function(torch.zeros(0, 3)).shape == (0, 3)
    assert function(torch.ones(2, 1)).tolist() == [[1.0], [1.0]]
    assert function(torch.tensor([3.0, 1.0]), 0.5).dtype == torch.float32


@functions
def test_bad_input(function):
    with pytest.raises(ValueError, match="regularization must be one of quadratic, entropic, got 'l2'"):
        function(torch.zeros(3), regularization="l2")
    with pytest.raises(ValueError, match="strength must be above 0, got 0"):
        function(torch.zeros(3), 0)
    with pytest.raises(ValueError, match="must be a floating-point tensor of one axis or more"):
        function(torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("regularization", ["quadratic", "entropic"])
@pytest.mark.parametrize("function", [soft_rank, soft_sort])
def test_a_value_that_is_not_finite_spoils_its_row_and_no_other(function, regularization, value):
    values = torch.tensor([[3.0, 1.0, value, 2.0], [3.0, 1.0, 4.0, 2.0]], dtype=torch.float64)
    found = function(values, 0.1, regularization=regularization)
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1], function(values[1], 0.1, regularization=regularization))
    turned = function(values.mT, 0.1, regularization=regularization, dim=0)
    torch.testing.assert_close(turned.mT, found, equal_nan=True)
