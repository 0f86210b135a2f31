"""Entropic transport: closed forms, assignments in the limit, marginals, derivatives in every mode."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from deqzoo.implicit import Dense, NonConvergenceWarning, Picard, Status, Transport, sinkhorn
from tests.implicit.problems import draw


def problem(m, n, *batch, seed=0, dtype=torch.float64):
    """Random points in the plane, with weights."""
    x, z = (draw(*batch, k, 2, seed=seed + i) for i, k in enumerate((m, n)))
    a, b = (draw(*batch, k, seed=seed + 2 + i).abs() + 0.1 for i, k in enumerate((m, n)))
    return [t.to(dtype) for t in (torch.cdist(x, z), a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True))]


def normalised(cost, a, b, epsilon):
    return sinkhorn(cost, a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), epsilon=epsilon)


@settings(max_examples=40)
@example(m=4, n=2, batch=(), epsilon=3.0, dtype=torch.float32, seed=2)
@given(
    m=st.integers(1, 6),
    n=st.integers(1, 6),
    batch=st.sampled_from([(), (2,), (2, 3), (0,)]),
    epsilon=st.sampled_from([0.03, 0.3, 3.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_marginals_potentials_and_value(m, n, batch, epsilon, dtype, seed):
    cost, a, b = problem(m, n, *batch, seed=seed, dtype=dtype)
    (plan, f, g, value), solution = sinkhorn(cost, a, b, epsilon=epsilon, return_solution=True)
    assert solution.status.shape == batch
    assert solution.converged.all()
    allowed = {"rtol": 0, "atol": 100 * torch.finfo(dtype).eps ** 0.75 / epsilon}  # the tolerance, of potentials
    torch.testing.assert_close(plan.sum(-1), a, **allowed)
    torch.testing.assert_close(plan.sum(-2), b, **allowed)
    torch.testing.assert_close((a * f).sum(-1), (b * g).sum(-1), **allowed)
    product = a.unsqueeze(-1) * b.unsqueeze(-2)
    entropy = (torch.special.xlogy(plan, plan / product)).sum((-2, -1))
    torch.testing.assert_close(value, (plan * cost).sum((-2, -1)) + epsilon * entropy, **allowed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [0.03, 3.0, 30.0])
@pytest.mark.parametrize("level", [0.0, 10.0, -30.0])
def test_a_thousand_problems_converge_whatever_all_costs_have_in_common(level, epsilon, dtype):
    """Most start so near the solution that the dual objective cannot tell how near."""
    for shape in ((3, 2), (5, 6)):
        cost, a, b = problem(*shape, 500, seed=1, dtype=dtype)
        transport, solution = sinkhorn(cost + level, a, b, epsilon=epsilon, return_solution=True)
        assert solution.converged.all()
        known = sinkhorn(cost, a, b, epsilon=epsilon).value + level
        allowed = 100 * torch.finfo(dtype).eps * (abs(level) + epsilon)
        torch.testing.assert_close(transport.value, known, rtol=0, atol=allowed)
        torch.testing.assert_close((a * transport.f).sum(-1), (b * transport.g).sum(-1), rtol=0, atol=10 * allowed)


def test_two_points_by_hand():
    """P = [[p, q], [q, p]] with p / q = exp(c / epsilon)."""
    half = torch.tensor([0.5, 0.5]).double()
    for epsilon in (0.05, 1.0, 20.0):
        plan = sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double(), half, half, epsilon=epsilon).plan
        p = 0.5 / (1 + np.exp(-1 / epsilon))
        known = torch.tensor([[p, 0.5 - p], [0.5 - p, p]], dtype=torch.float64)
        torch.testing.assert_close(plan, known, rtol=0, atol=1e-12)


def test_a_small_epsilon_comes_near_the_linear_program():
    cost, a, b = problem(5, 7)
    rows = np.kron(np.eye(5), np.ones(7))
    columns = np.kron(np.ones(5), np.eye(7))
    known = linprog(cost.numpy().ravel(), A_eq=np.r_[rows, columns], b_eq=np.r_[a, b], method="highs").fun
    for epsilon in (0.1, 0.01, 0.001):
        transport = sinkhorn(cost, a, b, epsilon=epsilon)
        found = (transport.plan * cost).sum()
        assert known - 1e-9 <= found <= known + epsilon * np.log(5)  # the largest entropy of a plan


def test_plain_iteration_finds_the_same():
    cost, a, b = problem(4, 6)
    for x, y in zip(sinkhorn(cost, a, b), sinkhorn(cost, a, b, solver=Picard(max_steps=5000)), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-9)


def test_sides_can_change_places():
    cost, a, b = problem(4, 6)
    x, y = sinkhorn(cost, a, b), sinkhorn(cost.mT, b, a)
    for one, other in zip(x, (y.plan.mT, y.g, y.f, y.value), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def leaves(*tensors):
    return [torch.as_tensor(t, dtype=torch.float64).clone().requires_grad_() for t in tensors]


@pytest.mark.parametrize("shape", [(3, 4), (4, 3)])
def test_derivatives(shape):
    inputs = leaves(*problem(*shape), 0.2)
    assert torch.autograd.gradcheck(normalised, inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(normalised, inputs, fast_mode=True)


def test_derivatives_of_unbalanced_problems():
    def unbalanced(cost, a, b, epsilon, penalty):
        return sinkhorn(cost, a, 2 * b, epsilon=epsilon, marginal_penalty=penalty)

    inputs = leaves(*problem(3, 4), 0.2, 0.7)
    assert torch.autograd.gradcheck(unbalanced, inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(unbalanced, inputs, fast_mode=True)


def test_the_value_has_the_plan_and_the_potential_as_derivatives():
    inputs = leaves(*problem(4, 5))
    transport = sinkhorn(*inputs)
    in_cost, in_a, in_b = torch.autograd.grad(transport.value, inputs)
    torch.testing.assert_close(in_cost, transport.plan, rtol=0, atol=1e-12)
    torch.testing.assert_close(in_a - in_a[0], transport.f - transport.f[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(in_b - in_b[0], transport.g - transport.g[0], rtol=0, atol=1e-12)


def test_marginals_have_the_identity_as_derivative():
    """So they do to the accuracy of the adjoint solve: the gauge of the potentials makes no direction singular."""
    cost, a, b = problem(4, 5)
    jacobian = torch.func.jacrev(lambda a: sinkhorn(cost, a / a.sum(), b).plan.sum(1))(a)
    torch.testing.assert_close(jacobian, torch.eye(4).double() - a.unsqueeze(1), rtol=0, atol=1e-10)


def test_unbalanced_potentials_meet_their_conditions():
    """Row sums are a exp(-f / rho), and a large penalty comes near to the marginals."""
    cost, a, b = problem(4, 5)
    plan, f, g, _ = sinkhorn(cost, 2 * a, b, marginal_penalty=0.5)
    torch.testing.assert_close(plan.sum(1), 2 * a * (-f / 0.5).exp(), rtol=1e-10, atol=0)
    torch.testing.assert_close(plan.sum(0), b * (-g / 0.5).exp(), rtol=1e-10, atol=0)
    near = sinkhorn(cost, a, b, marginal_penalty=1e4)
    torch.testing.assert_close(near.plan, sinkhorn(cost, a, b).plan, rtol=0, atol=1e-4)


def test_unbalanced_value_is_the_minimum():
    cost, a, b = problem(3, 4)
    rho, epsilon = 0.5, 0.1

    def divergence(p, q):
        return (torch.special.xlogy(p, p / q) - p + q).sum()

    def primal(plan):
        marginals = divergence(plan.sum(1), a) + divergence(plan.sum(0), b)
        return (plan * cost).sum() + epsilon * divergence(plan, a.unsqueeze(1) * b) + rho * marginals

    plan, _, _, value = sinkhorn(cost, a, b, epsilon=epsilon, marginal_penalty=rho)
    torch.testing.assert_close(primal(plan), value, rtol=0, atol=1e-11)
    slope = torch.func.grad(primal)(plan)
    assert slope.abs().max() < 1e-9


def test_batch_vmap_and_one_by_one():
    cost, a, b = problem(4, 5, 3)
    batch = sinkhorn(cost, a, b)
    mapped = torch.func.vmap(sinkhorn)(cost, a, b)
    for i in range(3):
        alone = sinkhorn(cost[i], a[i], b[i])
        for x, y, z in zip(batch, mapped, alone, strict=True):
            torch.testing.assert_close(x[i], z, rtol=0, atol=1e-11)
            torch.testing.assert_close(y[i], z, rtol=0, atol=1e-11)
    shared = sinkhorn(cost, a[0], b[0])  # weights without batch axes
    torch.testing.assert_close(shared.plan[1], sinkhorn(cost[1], a[0], b[0]).plan, rtol=0, atol=1e-11)


def test_weights_of_zero():
    cost, _, b = problem(4, 5)
    a = torch.tensor([0.0, 0.5, 0.5, 0.0], dtype=torch.float64, requires_grad=True)
    transport = sinkhorn(cost, a, b)
    assert (transport.plan[[0, 3]] == 0).all()
    (in_a,) = torch.autograd.grad(transport.value, a)
    torch.testing.assert_close(in_a - in_a[1], (transport.f - transport.f[1]).detach(), rtol=0, atol=1e-10)


def test_one_bad_sample_changes_no_other():
    cost, a, b = problem(4, 5, 3)
    good = sinkhorn(cost, a, b)
    cost[1, 0, 0] = torch.nan
    transport, solution = sinkhorn(cost, a, b, return_solution=True, on_failure="ignore")
    assert solution.status.tolist() == [0, Status.DIVERGED, 0]
    assert transport.plan[1].isnan().all()
    for i in (0, 2):
        torch.testing.assert_close(transport.plan[i], good.plan[i], rtol=0, atol=1e-12)


def test_too_few_steps_warn():
    with pytest.warns(NonConvergenceWarning, match="fixed point: 1 of 1 systems did not converge"):
        assert isinstance(sinkhorn(*problem(4, 5), epsilon=0.01, solver=Picard(max_steps=3)), Transport)


def test_another_linear_solver():
    cost, a, b = problem(4, 5)
    known, found = (
        torch.func.jacrev(lambda c: sinkhorn(c, a, b, linear_solver=solver).plan)(cost)  # noqa: B023
        for solver in (None, Dense())
    )
    torch.testing.assert_close(found, known, rtol=0, atol=1e-10)


def test_bad_input():
    cost, a, b = problem(3, 4)
    with pytest.raises(
        ValueError, match=r"needs cost \(\.\.\., m, n\), a \(\.\.\., m\) and b \(\.\.\., n\), got \(3, 4\)"
    ):
        sinkhorn(cost, b, a)
    with pytest.raises(ValueError, match="must have the same sum: divide each by its own"):
        sinkhorn(cost, 2 * a, b)
    with pytest.raises(ValueError, match="must not be negative"):
        sinkhorn(cost, torch.tensor([-0.1, 0.6, 0.5]).double(), b)
    with pytest.raises(ValueError, match="epsilon must be above 0, got 0"):
        sinkhorn(cost, a, b, epsilon=0)
    with pytest.raises(ValueError, match="marginal_penalty must be above 0, got -1"):
        sinkhorn(cost, a, b, marginal_penalty=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [0.1, 0.02])
def test_costs_of_a_point_cloud_and_its_projection_converge(epsilon, dtype):
    """The start is so good that a gradient relative to that at the start would lie below round-off."""
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.full((64,), 1 / 64, dtype=dtype)
    cost = torch.cdist(x, x.clamp(max=0)).to(dtype)
    transport, solution = sinkhorn(cost, weights, weights, epsilon=epsilon, return_solution=True)
    assert solution.converged.all()
    tol = torch.finfo(dtype).eps ** 0.75
    for axis in (0, 1):
        # The other marginal is exact but for the round-off of exp(C / epsilon).
        assert (64 * transport.plan.sum(axis) - 1).abs().max() <= 200 * tol
