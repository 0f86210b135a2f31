"""Proximal operators: x = prox(y) if and only if for all z

h(z) + ||z - y||^2 / 2 >= h(x) + ||x - y||^2 / 2 + ||z - x||^2 / 2.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from deqzoo.implicit import projections, proximal
from deqzoo.implicit.constraints import L1, ElasticNet, GroupLasso, L2Norm, NuclearNorm, TotalVariation
from tests.implicit.problems import draw

GROUPS = torch.tensor([0, 1, 0, 1, 1, 2])
PENALTIES = {
    "l1": (L1(0.7), (6,)),
    "elastic net": (ElasticNet(0.7, 0.4), (6,)),
    "l2": (L2Norm(0.7), (6,)),
    "group lasso": (GroupLasso(GROUPS, 0.7), (6,)),
    "nuclear norm": (NuclearNorm(0.7), (3, 4)),
    "total variation": (TotalVariation(0.7), (6,)),
}
each_penalty = pytest.mark.parametrize("name", PENALTIES)


@each_penalty
def test_the_step_is_1_unless_given(name):
    penalty, shape = PENALTIES[name]
    y = draw(*shape)
    assert torch.equal(penalty.prox(y), penalty.prox(y, 1.0))
    assert not torch.equal(penalty.prox(y), penalty.prox(y, 0.1))


@each_penalty
@given(
    seed=st.integers(0, 2**31),
    batch=st.sampled_from([(), (3,), (2, 3), (0,)]),
    step=st.sampled_from([0.01, 1.0, 10.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_it_is_the_minimiser(name, seed, batch, step, dtype):
    penalty, shape = PENALTIES[name]
    y, direction = draw(2, *batch, *shape, seed=seed).to(dtype)
    x = penalty.prox(y, step)
    assert x.dtype == dtype
    assert x.shape == y.shape
    dims = tuple(range(-len(shape), 0))

    def objective(z):
        return step * penalty.value(z, len(batch)) + (z - y).square().sum(dims) / 2

    allowed = 500 * torch.finfo(dtype).eps * (1 + step)
    for length in (-1.0, 1e-2, 1.0):
        z = x + length * direction
        assert (objective(z) + allowed >= objective(x) + (z - x).square().sum(dims) / 2).all()


@each_penalty
def test_derivatives(name):
    penalty, shape = PENALTIES[name]
    y = (2 * draw(3, *shape, seed=7)).requires_grad_()
    assert torch.autograd.gradcheck(penalty.prox, (y,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(penalty.prox, (y,), check_fwd_over_rev=True)


@each_penalty
def test_derivative_in_the_strength(name):
    penalty, shape = PENALTIES[name]
    options = {k: v for k, v in vars(penalty).items() if k != "strength"}
    y = (2 * draw(*shape, seed=7)).requires_grad_()
    strength = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def prox(y, strength):
        return type(penalty)(**options, strength=strength).prox(y, 0.8)

    assert torch.autograd.gradcheck(prox, (y, strength), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(prox, (y, strength))


@each_penalty
def test_vmap_and_one_by_one(name):
    penalty, shape = PENALTIES[name]
    y = 2 * draw(2, 3, *shape, seed=8)
    x = penalty.prox(y)
    for mapped in (torch.func.vmap(penalty.prox), torch.func.vmap(torch.func.vmap(penalty.prox))):
        torch.testing.assert_close(mapped(y), x, rtol=1e-12, atol=1e-13)
    alone = torch.stack([torch.stack([penalty.prox(v) for v in row]) for row in y])
    torch.testing.assert_close(alone, x, rtol=1e-12, atol=1e-13)


@each_penalty
def test_nan_is_not_hidden(name):
    penalty, shape = PENALTIES[name]
    y = draw(2, *shape)
    y[0].view(-1)[1] = torch.nan
    x = penalty.prox(y)
    assert x[0].isnan().any()
    torch.testing.assert_close(x[1], penalty.prox(y[1]), rtol=1e-12, atol=1e-13)


@each_penalty
def test_zero_and_no_strength(name):
    penalty, shape = PENALTIES[name]
    zero = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    x = penalty.prox(zero)
    assert x.abs().max() < 1e-15
    (first,) = torch.autograd.grad((x + x**2).sum(), zero)
    assert torch.isfinite(first).all()
    options = {k: v for k, v in vars(penalty).items() if k not in ("strength", "ridge")}
    free = type(penalty)(**options, strength=0.0, **({"ridge": 0.0} if name == "elastic net" else {}))
    torch.testing.assert_close(free.prox(draw(*shape)), draw(*shape))


def test_moreau_decomposition():
    """y = prox_h(y) + P(y), P the projection onto the ball of the dual norm."""
    y = draw(4, 6)
    torch.testing.assert_close(proximal.l1(y, 0.7) + projections.linf_ball(y, 0.7), y)
    torch.testing.assert_close(proximal.l2(y, 0.7) + projections.l2_ball(y, 0.7), y)


def test_nuclear_norm_by_singular_values():
    y = draw(3, 5)
    U, S, Vh = torch.linalg.svd(y, full_matrices=False)
    torch.testing.assert_close(proximal.nuclear_norm(y, 0.8), U @ torch.diag((S - 0.8).clamp(min=0)) @ Vh)


def test_equal_singular_values_have_derivatives():
    y = torch.diag(torch.tensor([2.0, 2.0, 0.3]).double()).requires_grad_()
    assert torch.autograd.gradcheck(proximal.nuclear_norm, (y,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(proximal.nuclear_norm, (y,))


def dual_total_variation(y, strength):
    """By the dual problem, a box-constrained quadratic, with L-BFGS-B."""
    D = np.diff(np.eye(len(y)), axis=0)

    def objective(u):
        x = y - D.T @ u
        return (x @ x) / 2, -D @ x

    bounds = [(-strength, strength)] * (len(y) - 1)
    options = {"ftol": 1e-16, "gtol": 1e-12, "maxiter": 10_000, "maxfun": 100_000}
    found = minimize(objective, np.zeros(len(y) - 1), jac=True, bounds=bounds, method="L-BFGS-B", options=options)
    return y - D.T @ found.x


@pytest.mark.parametrize("n", [2, 3, 5, 17, 40])
@pytest.mark.parametrize("strength", [0.0, 0.1, 0.5, 2.0, 50.0])
def test_total_variation_by_its_dual(n, strength):
    y = draw(2, n, seed=n)
    x = proximal.total_variation(y, strength)
    for found, given_y in zip(x, y, strict=True):
        known = dual_total_variation(given_y.numpy(), strength)
        np.testing.assert_allclose(found, known, atol=1e-6)  # what L-BFGS-B comes to


def test_total_variation_of_ties_steps_and_many_scales():
    flat = torch.full((5,), 2.0, dtype=torch.float64)
    torch.testing.assert_close(proximal.total_variation(flat, 1.0), flat)
    step = torch.tensor([0.0, 0.0, 1.0, 1.0]).double()
    torch.testing.assert_close(proximal.total_variation(step, 0.2), torch.tensor([0.1, 0.1, 0.9, 0.9]).double())
    wide = 2.0 ** torch.arange(60, dtype=torch.float64)  # one element splits off a round
    known = wide.clone()
    known[0] += 0.25
    known[-1] -= 0.25
    torch.testing.assert_close(proximal.total_variation(wide, 0.25), known)
    assert proximal.total_variation(torch.ones(3, 1)).eq(1).all()


def test_negative_strength_is_an_error():
    for make in (L1, L2Norm, NuclearNorm, TotalVariation):
        with pytest.raises(ValueError, match=r"strength of a penalty must not be negative, got 0.0 and -1.0"):
            make(-1.0)
