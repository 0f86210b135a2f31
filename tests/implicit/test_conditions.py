"""The catalogue of conditions around black boxes: SciPy's SLSQP, HiGHS's linear programs and plain NumPy."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from deqzoo.implicit import CG, L1, Dense, ImplicitFunction, NonNegative, Simplex, conditions
from tests.implicit.problems import draw

H = draw(6, 4).T @ draw(6, 4)
A, G = draw(2, 4, seed=1), draw(3, 4, seed=2)
Q, B, K = 2 * draw(4, seed=3), draw(2, seed=4), 0.3 * draw(3, seed=5).abs()


def objective(x, q, b, h):
    return x @ H @ x / 2 - q @ x


def slsqp(q, b, h):
    """A quadratic program by SLSQP, which tells its multipliers: minus those of the conditions, equations first."""
    found = minimize(
        lambda x: (float(x @ H.numpy() @ x / 2 - q.numpy() @ x), H.numpy() @ x - q.numpy()),
        np.zeros(4),
        jac=True,
        method="SLSQP",
        constraints=[
            {"type": "eq", "fun": lambda x: A.numpy() @ x - b.numpy(), "jac": lambda x: A.numpy()},
            {"type": "ineq", "fun": lambda x: h.numpy() - G.numpy() @ x, "jac": lambda x: -G.numpy()},
        ],
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return found.x, -found.multipliers[:2], found.multipliers[2:]


def dense_derivative(x, v, which):
    """d x / d (q, b, h) by the KKT system written out, with the active inequalities as equations."""
    on = v > 1e-8
    C = torch.cat([A, G[on]])
    n, m = 4, len(C)
    K = torch.zeros(n + m, n + m, dtype=torch.float64)
    K[:n, :n], K[n:, :n], K[:n, n:] = H, C, C.T
    inverse = torch.linalg.inv(K)[:n]
    if which == "q":
        return inverse[:, :n]
    if which == "b":
        return inverse[:, n : n + 2]
    full = torch.zeros(n, 3, dtype=torch.float64)
    full[:, on] = inverse[:, n + 2 :]
    return full


kkt = conditions.kkt(objective, equality=lambda x, q, b, h: A @ x - b, inequality=lambda x, q, b, h: G @ x - h)


@pytest.mark.parametrize("linear_solver", [None, Dense()], ids=["gmres", "dense"])
def test_slsqp_by_its_kkt_conditions(linear_solver):
    program = ImplicitFunction(slsqp, kkt, linear_solver=linear_solver, on_failure="raise")
    x, u, v = program(Q, B, K)
    residual = torch.cat([r.reshape(-1) for r in kkt((x, u, v), Q, B, K)])
    assert residual.abs().max() < 1e-6  # what SLSQP comes to
    assert 0 < (v > 1e-8).sum() < 3
    for i, name in enumerate("qbh"):
        for jacobian in (torch.func.jacrev, torch.func.jacfwd):
            found = jacobian(lambda *args: program(*args)[0], i)(Q, B, K)
            torch.testing.assert_close(found, dense_derivative(x, v, name), rtol=0, atol=1e-6)


def test_kkt_of_an_equation_alone_to_second_order():
    """x = H^-1 (q - A^T u): the projection onto a plane in the metric of H."""

    def solve(q):
        K = torch.zeros(6, 6, dtype=torch.float64)
        K[:4, :4], K[4:, :4], K[:4, 4:] = H, A, A.T
        found = torch.linalg.solve(K, torch.cat([q + (q**2).sum() * q, B]))
        return found[:4], found[4:]

    f = lambda x, q: x @ H @ x / 2 - (q + (q**2).sum() * q) @ x  # noqa: E731
    function = ImplicitFunction(solve, conditions.kkt(f, equality=lambda x, q: A @ x - B), on_failure="raise")
    loss = lambda solve: lambda q: (solve(q)[0] ** 3).sum()  # noqa: E731
    torch.testing.assert_close(torch.func.hessian(loss(function))(Q), torch.func.hessian(loss(solve))(Q))


def test_kkt_in_a_batch():
    many = torch.stack([Q, -Q, 0.1 * Q])

    def f(x, q):
        return ((x @ H) * x).sum(1) / 2 - (x * q).sum(1)

    def solve(q):
        found = [slsqp(one, B, K) for one in q]
        return tuple(np.stack(parts) for parts in zip(*found, strict=True))

    batch = ImplicitFunction(
        solve,
        conditions.kkt(f, lambda x, q: x @ A.T - B, lambda x, q: x @ G.T - K, batch_dims=1),
        batch_dims=1,
        on_failure="raise",
    )
    one = ImplicitFunction(slsqp, kkt)
    found = torch.func.jacrev(lambda q: batch(q)[0])(many)
    for i in range(3):
        known = torch.func.jacrev(lambda q: one(q, B, K)[0])(many[i])
        torch.testing.assert_close(found[i, :, i], known, rtol=0, atol=1e-6)
        assert found[i, :, [j for j in range(3) if j != i]].abs().max() == 0


def test_linear_program_by_highs():
    """The vertex x = C^-1 (b, h_active): its derivative in the costs is zero, that in the bounds C^-1."""
    cost, rows = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    G, h = -torch.eye(3, dtype=torch.float64), torch.tensor([-0.1, -0.2, -0.15], dtype=torch.float64)
    cut, edge = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
    G, h = torch.cat([G, cut]), torch.cat([h, edge])

    def highs(cost, total, h):
        c, A_ub, b_ub, A_eq, b_eq = (t.numpy() for t in (cost, G, h, rows, total))
        found = linprog(c, A_ub, b_ub, A_eq, b_eq, bounds=(None, None), method="highs")
        return found.x, -found.eqlin.marginals, -found.ineqlin.marginals

    condition = conditions.kkt(
        lambda x, cost, total, h: cost @ x,
        equality=lambda x, cost, total, h: rows @ x - total,
        inequality=lambda x, cost, total, h: G @ x - h,
    )
    program = ImplicitFunction(highs, condition, linear_solver=Dense(), on_failure="raise")
    args = (cost, torch.ones(1, dtype=torch.float64), h)
    torch.testing.assert_close(program(*args)[0], torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64))
    in_cost, in_total, in_h = torch.func.jacrev(lambda *args: program(*args)[0], (0, 1, 2))(*args)
    assert in_cost.abs().max() < 1e-12
    torch.testing.assert_close(in_total, torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64), rtol=0, atol=1e-6)
    known = torch.tensor([[0.0, 1, 0, -1], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(in_h, known, rtol=0, atol=1e-6)


def test_stationarity():
    solve = ImplicitFunction(
        lambda q: np.linalg.solve(H.numpy(), q.numpy()),
        conditions.stationarity(lambda x, q: x @ H @ x / 2 - q @ x),
        linear_solver=CG(),
        tags=("positive_definite",),
    )
    torch.testing.assert_close(torch.func.jacrev(solve)(Q), torch.linalg.inv(H))


def test_projected_gradient_of_non_negative_least_squares():
    def active_sets(q):
        found = minimize(
            lambda x: (float(x @ H.numpy() @ x / 2 - q.numpy() @ x), H.numpy() @ x - q.numpy()),
            np.ones(4),
            jac=True,
            bounds=[(0, None)] * 4,
            method="L-BFGS-B",
            options={"ftol": 1e-16, "gtol": 1e-12},
        )
        return found.x

    condition = conditions.projected_gradient(lambda x, q: x @ H @ x / 2 - q @ x, NonNegative(), step=0.1)
    solve = ImplicitFunction(active_sets, condition, on_failure="raise")
    x = solve(Q)
    free = x > 0
    assert 0 < free.sum() < 4
    known = torch.zeros(4, 4, dtype=torch.float64)
    block = torch.zeros(int(free.sum()), 4, dtype=torch.float64)
    block[:, free] = torch.linalg.inv(H[free][:, free])
    known[free] = block
    torch.testing.assert_close(torch.func.jacrev(solve)(Q), known, rtol=0, atol=1e-6)


def test_proximal_gradient_of_a_soft_threshold():
    strength = torch.tensor(0.8, dtype=torch.float64)

    def threshold(c, strength):
        return c.sign() * (c.abs() - strength).clamp(min=0)

    def condition(y, c, strength):
        return conditions.proximal_gradient(lambda y, c: ((y - c) ** 2).sum() / 2, L1(strength), step=0.5)(y, c)

    solve = ImplicitFunction(threshold, condition)
    for i in (0, 1):
        known = torch.func.jacrev(threshold, i)(Q, strength)
        torch.testing.assert_close(torch.func.jacrev(solve, i)(Q, strength), known)


@pytest.mark.parametrize("total", [1.0, 3.0])
def test_mirror_descent_of_a_softmax(total):
    condition = conditions.mirror_descent(lambda y, c: (c * y + y * y.log()).sum(), Simplex(total))
    solve = ImplicitFunction(lambda c: total * torch.softmax(-c, -1), condition, on_failure="raise")
    known = torch.func.jacrev(lambda c: total * torch.softmax(-c, -1))(Q)
    torch.testing.assert_close(torch.func.jacrev(solve)(Q), known)
    torch.testing.assert_close(torch.func.jacfwd(solve)(Q), known)


def test_the_step_of_the_projected_and_the_proximal_gradient_is_1_unless_given():
    """y - prox(y - step grad f(y), step), away from a solution, where it depends on the step."""
    y, c = torch.tensor([3.0, -1.0, 0.2]).double(), torch.tensor([1.0, 1.0, 1.0]).double()

    def distance(y, c):
        return (y - c).square().sum() / 2

    for step in (None, 1.0, 0.25):
        options = {} if step is None else {"step": step}
        moved = y - (step or 1.0) * (y - c)
        shrunk = moved.sign() * (moved.abs() - 0.5 * (step or 1.0)).clamp(min=0)
        torch.testing.assert_close(conditions.proximal_gradient(distance, L1(0.5), **options)(y, c), y - shrunk)
        projected = conditions.projected_gradient(distance, NonNegative(), **options)(y, c)
        torch.testing.assert_close(projected, y - moved.clamp(min=0))


def test_wrong_numbers_of_multipliers_are_an_error():
    with pytest.raises(ValueError, match="the unknown must be a tuple of x and 2 multipliers"):
        kkt((Q, B), Q, B, K)
    with pytest.raises(TypeError, match="mirror descent needs a Simplex for each tensor"):
        conditions.mirror_descent(lambda y: y.sum(), NonNegative())(Q)
