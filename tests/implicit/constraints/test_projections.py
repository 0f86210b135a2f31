"""Projections onto convex sets: x = P(y) if and only if x is in the set and <z - x, y - x> <= 0 for every z in it."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from deqzoo.implicit import projections
from deqzoo.implicit.constraints import (
    AffineSet,
    Box,
    HalfSpace,
    Hyperplane,
    L1Ball,
    L2Ball,
    LInfBall,
    NonNegative,
    SecondOrderCone,
    SemidefiniteCone,
    Simplex,
    TransportPolytope,
)
from tests.implicit.problems import draw

NORMAL, MATRIX = draw(5, seed=1), draw(2, 5, seed=2)
ROWS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
COLUMNS = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def symmetric_semidefinite(x):
    values = torch.linalg.eigvalsh(x)
    return torch.maximum((x - x.mT).abs().amax((-2, -1)), -values.amin(-1))


# name: (set, shape of y, how far x is from the set)
SETS = {
    "box": (Box(-0.5, draw(5).abs()), (5,), lambda x: torch.maximum(-0.5 - x, x - draw(5).abs().to(x)).amax(-1)),
    "non-negative": (NonNegative(), (5,), lambda x: (-x).amax(-1)),
    "simplex": (Simplex(2.0), (5,), lambda x: torch.maximum((-x).amax(-1), (x.sum(-1) - 2).abs())),
    "l1 ball": (L1Ball(1.5), (5,), lambda x: x.abs().sum(-1) - 1.5),
    "l2 ball": (L2Ball(1.5), (5,), lambda x: x.norm(dim=-1) - 1.5),
    "linf ball": (LInfBall(0.5), (5,), lambda x: x.abs().amax(-1) - 0.5),
    "hyperplane": (Hyperplane(NORMAL, 0.3), (5,), lambda x: (x @ NORMAL.to(x) - 0.3).abs()),
    "half-space": (HalfSpace(NORMAL, -0.3), (5,), lambda x: x @ NORMAL.to(x) + 0.3),
    "affine set": (AffineSet(MATRIX, draw(2)), (5,), lambda x: (x @ MATRIX.T.to(x) - draw(2).to(x)).abs().amax(-1)),
    "second-order cone": (SecondOrderCone(), (5,), lambda x: x[..., 1:].norm(dim=-1) - x[..., 0]),
    "semidefinite cone": (SemidefiniteCone(), (4, 4), symmetric_semidefinite),
    "transport polytope": (
        TransportPolytope(ROWS, COLUMNS),
        (3, 4),
        lambda x: torch.maximum((x.sum(-1) - ROWS.to(x)).abs().amax(-1), (x.sum(-2) - COLUMNS.to(x)).abs().amax(-1)),
    ),
}
each_set = pytest.mark.parametrize("name", SETS)


def cast(constraint, dtype):
    """The set with its tensors in another dtype."""
    fields = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in vars(constraint).items()}
    return type(constraint)(**fields)


@each_set
@given(
    seed=st.integers(0, 2**31),
    batch=st.sampled_from([(), (3,), (2, 3), (0,)]),
    size=st.sampled_from([0.1, 1.0, 30.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_variational_inequality(name, seed, batch, size, dtype):
    constraint, shape, distance = SETS[name]
    constraint = cast(constraint, dtype)
    y, other = (size * draw(2, *batch, *shape, seed=seed)).to(dtype)
    x, z = constraint.project(y), constraint.project(other)
    assert x.dtype == dtype
    assert x.shape == y.shape
    allowed = 200 * torch.finfo(dtype).eps * max(size, 1)  # rounding of sums of a few terms of this size
    assert (distance(x) <= allowed).all()
    dims = tuple(range(-len(shape), 0))
    assert (((z - x) * (y - x)).sum(dims) <= 100 * allowed * max(size, 1)).all()
    torch.testing.assert_close(constraint.project(x), x, rtol=0, atol=allowed)


@each_set
def test_derivatives(name):
    constraint, shape, _ = SETS[name]
    y = (2 * draw(2, *shape, seed=7)).requires_grad_()
    assert torch.autograd.gradcheck(constraint.project, (y,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(constraint.project, (y,), check_fwd_over_rev=True)


@each_set
def test_vmap_and_one_by_one(name):
    constraint, shape, _ = SETS[name]
    y = 2 * draw(2, 3, *shape, seed=8)
    x = constraint.project(y)
    for mapped in (torch.func.vmap(constraint.project), torch.func.vmap(torch.func.vmap(constraint.project))):
        torch.testing.assert_close(mapped(y), x, rtol=1e-12, atol=1e-13)
    alone = torch.stack([torch.stack([constraint.project(v) for v in row]) for row in y])
    torch.testing.assert_close(alone, x, rtol=1e-12, atol=1e-13)
    jacobians = torch.func.vmap(torch.func.jacrev(constraint.project))(y[0])
    torch.testing.assert_close(jacobians, torch.func.vmap(torch.func.jacfwd(constraint.project))(y[0]))


@each_set
def test_nan_is_not_hidden(name):
    constraint, shape, _ = SETS[name]
    y = draw(2, *shape)
    y[0].view(-1)[1] = torch.nan
    x = constraint.project(y)
    assert x[0].isnan().any()
    torch.testing.assert_close(x[1], constraint.project(y[1]), rtol=1e-12, atol=1e-13)


PARAMETERS = {
    "box": (projections.box, (5,), (torch.full((5,), -0.3).double(), torch.tensor(0.4).double())),
    "simplex": (projections.simplex, (2, 5), (torch.tensor([[0.5], [2.0]]).double(),)),
    "l1 ball": (projections.l1_ball, (2, 5), (torch.tensor([[0.5], [50.0]]).double(),)),
    "l2 ball": (projections.l2_ball, (2, 5), (torch.tensor([[0.5], [50.0]]).double(),)),
    "linf ball": (projections.linf_ball, (5,), (torch.tensor(0.4).double(),)),
    "hyperplane": (projections.hyperplane, (5,), (NORMAL, torch.tensor(0.3).double())),
    "half-space": (projections.half_space, (3, 5), (NORMAL, torch.tensor(-0.3).double())),
    "affine set": (projections.affine_set, (3, 5), (MATRIX, draw(2))),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_derivatives_in_the_parameters(name):
    project, shape, parameters = PARAMETERS[name]
    inputs = [t.clone().requires_grad_() for t in (draw(*shape, seed=3), *parameters)]
    assert torch.autograd.gradcheck(project, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(project, inputs)


def test_derivatives_in_the_marginals():
    def project(y, rows, columns):
        return projections.transport_polytope(y, rows / rows.sum(), columns / columns.sum())

    inputs = [t.clone().requires_grad_() for t in (draw(3, 4, seed=3), ROWS, COLUMNS)]
    assert torch.autograd.gradcheck(project, inputs, check_forward_ad=True)


def test_simplex_by_all_supports():
    """The nearest of the points of equal excess, over all supports."""
    for y in draw(20, 4, seed=5):
        found = []
        for size in range(1, 5):
            for support in map(list, itertools.combinations(range(4), size)):
                x = torch.zeros_like(y)
                x[support] = y[support] - (y[support].sum() - 1) / size
                if (x >= 0).all():
                    found.append(x)
        nearest = min(found, key=lambda x: (x - y).norm().item())
        torch.testing.assert_close(projections.simplex(y), nearest)


def test_transport_polytope_by_slsqp():
    y = draw(2, 3, seed=9).numpy()
    rows, columns = np.array([0.4, 0.6]), np.array([0.5, 0.3, 0.2])
    equations = {
        "type": "eq",
        "fun": lambda x: np.r_[x.reshape(2, 3).sum(1) - rows, x.reshape(2, 3).sum(0)[:-1] - columns[:-1]],
    }
    x0 = np.outer(rows, columns).ravel()
    objective = lambda x: ((x - y.ravel()) ** 2).sum()  # noqa: E731
    known = minimize(objective, x0, bounds=[(0, 1)] * 6, constraints=[equations], tol=1e-14).x.reshape(2, 3)
    x = projections.transport_polytope(*map(torch.from_numpy, (y, rows, columns)))
    np.testing.assert_allclose(x, known, atol=1e-6)  # what SLSQP comes to


def test_empty_transport_polytope_is_nan():
    rows = torch.tensor([[0.5, 0.5], [0.5, 0.6]])
    x = projections.transport_polytope(torch.zeros(2, 2, 2), rows, torch.tensor([0.5, 0.5]))
    assert torch.isfinite(x[0]).all()
    assert x[1].isnan().all()


def test_large_and_shifted_vectors_keep_their_digits():
    y = draw(6).float()
    shifted = projections.simplex(y.double() + 1e6)
    torch.testing.assert_close(shifted, projections.simplex(y.double()), rtol=0, atol=1e-9)  # eps times the shift


@pytest.mark.parametrize("name", ["l1 ball", "l2 ball", "second-order cone", "semidefinite cone"])
def test_zero_has_finite_derivatives(name):
    constraint, shape, _ = SETS[name]
    y = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    x = constraint.project(y)
    (first,) = torch.autograd.grad((x + x**2).sum(), y, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), y)
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()


def test_equal_eigenvalues_have_derivatives():
    y = torch.diag(torch.tensor([1.0, 1.0, -2.0, -2.0, -2.0]).double()).requires_grad_()
    assert torch.autograd.gradcheck(projections.semidefinite_cone, (y,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(projections.semidefinite_cone, (y,), check_fwd_over_rev=True)


def test_a_set_of_one_point():
    y = draw(2, 4)
    for x in (projections.simplex(y, 0.0), projections.l1_ball(y, 0.0), projections.l2_ball(y, 0.0)):
        assert (x == 0).all()
    assert (projections.box(y, 1.0, 1.0) == 1).all()


@pytest.mark.parametrize("make", [lambda: Simplex(-1.0), lambda: L2Ball(-1.0), lambda: LInfBall(-0.1)])
def test_negative_sizes_are_errors(make):
    with pytest.raises(ValueError, match="must not be negative"):
        make()


def test_an_empty_box_is_an_error():
    with pytest.raises(ValueError, match="lower bounds of a box must not lie above the upper ones"):
        Box(1.0, 0.5)
