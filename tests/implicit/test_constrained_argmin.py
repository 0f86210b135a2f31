"""Derivatives of `argmin` on sets and with penalties: those along the face on which the minimiser lies."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from deqzoo.implicit import (
    L1,
    Box,
    GroupLasso,
    Implicit,
    L2Ball,
    LInfBall,
    MirrorDescent,
    NonConvergenceWarning,
    NonNegative,
    NuclearNorm,
    ProjectedNewton,
    ProximalGradient,
    SecondOrderCone,
    SemidefiniteCone,
    Simplex,
    Status,
    TotalVariation,
    argmin,
)
from tests.implicit.problems import draw

TIGHT = ProximalGradient(tol=1e-14)
X, B, Q = draw(8, 5), 2 * draw(8, seed=1), 4 * draw(5, seed=2)


def lasso(X, b, strength):
    def f(w, X, b):
        return (X @ w - b).square().sum() / 2

    start = torch.zeros(X.shape[-1], dtype=X.dtype)
    return argmin(f, start, X, b, penalty=L1(strength), solver=ProximalGradient(tol=1e-13), on_failure="raise")


def quadratic_on(constraint, solver=None):
    """(H, q) -> argmin y H y / 2 - q y on a set."""

    def f(y, H, q):
        return y @ H @ y / 2 - q @ y

    start = torch.full((5,), 0.2, dtype=torch.float64)
    solver = ProximalGradient(tol=1e-13) if solver is None else solver
    return lambda H, q: argmin(f, start, H, q, constraint=constraint, solver=solver, on_failure="raise")


def leaves(*tensors):
    return [t.clone().requires_grad_() for t in tensors]


def check(function, *tensors, second=True):
    inputs = leaves(*tensors)
    # In random directions: each evaluation is a solve.
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, atol=1e-6, fast_mode=True)
    if second:
        assert torch.autograd.gradgradcheck(function, inputs, atol=1e-5, fast_mode=True)


def test_lasso():
    strength = torch.tensor(1.5, dtype=torch.float64)
    assert (lasso(X, B, strength) == 0).any()
    check(lambda b, strength: lasso(X, b, strength), B, strength)
    check(lambda X: lasso(X, B, strength), X, second=False)


def test_lasso_by_its_normal_equations():
    """On the support the derivative in the strength is -(X_S^T X_S)^-1 sign(w_S)."""
    strength = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    w = lasso(X, B, strength)
    on = w.detach() != 0
    derivative = torch.func.jacrev(lambda s: lasso(X, B, s))(strength.detach())
    known = torch.zeros(5, dtype=torch.float64)
    known[on] = -torch.linalg.solve(X[:, on].T @ X[:, on], w[on].detach().sign())
    torch.testing.assert_close(derivative, known, rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", [None, MirrorDescent(tol=1e-13)], ids=["proximal gradient", "mirror descent"])
def test_simplex_by_its_kkt_system(solver):
    H = X.T @ X
    solve = quadratic_on(Simplex(), solver)
    y = solve(H, Q)
    on = y > 1e-12
    assert 1 < on.sum() < 5
    n = int(on.sum())
    K = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    K[:n, :n], K[n, :n], K[:n, n] = H[on][:, on], 1, 1
    known = torch.zeros(5, 5, dtype=torch.float64)
    rows = torch.zeros(n, 5, dtype=torch.float64)
    rows[:, on] = torch.linalg.inv(K)[:n, :n]
    known[on] = rows
    torch.testing.assert_close(torch.func.jacrev(solve, 1)(H, Q), known, rtol=0, atol=1e-8)
    torch.testing.assert_close(torch.func.jacfwd(solve, 1)(H, Q), known, rtol=0, atol=1e-8)
    check(lambda q: solve(H, q), Q, second=False)


@pytest.mark.parametrize("solver", [TIGHT, ProjectedNewton(tol=1e-13)], ids=lambda s: type(s).__name__)
def test_bounds_are_parameters(solver):
    def solve(q, lower, upper):
        return quadratic_on(Box(lower, upper), solver)(X.T @ X, q)

    lower, upper = torch.full((5,), -0.2, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    y = solve(Q, lower, upper)
    assert (y == lower).any()
    assert (y == upper).any()
    assert ((y > lower) & (y < upper)).any()
    check(solve, Q, lower, upper, second=solver is not TIGHT)


@pytest.mark.parametrize("make", [Simplex, L2Ball, LInfBall], ids=lambda make: make.__name__)
def test_the_size_of_a_set_is_a_parameter(make):
    size = torch.tensor(0.8, dtype=torch.float64)
    check(lambda q, size: quadratic_on(make(size))(X.T @ X, q), Q, size, second=make is L2Ball)


MATRIX = {
    "semidefinite cone": {"constraint": SemidefiniteCone()},
    "nuclear norm": {"penalty": NuclearNorm(0.7)},
    "second-order cone": {"constraint": SecondOrderCone()},
    "group lasso": {"penalty": GroupLasso(torch.tensor([0, 0, 1]), 0.7)},
    "total variation": {"penalty": TotalVariation(0.7)},
}


@pytest.mark.parametrize("name", MATRIX)
def test_others(name):
    def solve(target):
        f = lambda y, t: (y - t).square().sum() + (y**4).sum() / 4  # noqa: E731
        return argmin(f, torch.zeros_like(target), target, solver=ProximalGradient(tol=1e-13), **MATRIX[name])

    check(solve, 2 * draw(3, 3), second=name == "nuclear norm")


def test_vmap_and_batch_and_one_by_one():
    strength = torch.tensor(1.5, dtype=torch.float64)
    many = torch.stack([B, -2 * B, B.flip(0)])
    alone = torch.stack([lasso(X, b, strength) for b in many])
    torch.testing.assert_close(torch.func.vmap(lasso, (None, 0, None))(X, many, strength), alone)
    batch = argmin(
        lambda w, b: (w @ X.T - b).square().sum(1) / 2,
        torch.zeros(3, 5, dtype=torch.float64),
        many,
        penalty=L1(strength),
        batch_dims=1,
        solver=ProximalGradient(tol=1e-13),
    )
    torch.testing.assert_close(batch, alone, rtol=0, atol=1e-11)
    jacobians = torch.func.vmap(torch.func.jacrev(lasso, 1), (None, 0, None))(X, many, strength)
    known = torch.stack([torch.func.jacfwd(lasso, 1)(X, b, strength) for b in many])
    torch.testing.assert_close(jacobians, known, rtol=0, atol=1e-10)


def test_strengths_of_each_sample():
    strengths = torch.tensor([[0.5], [1.5], [4.0]], dtype=torch.float64, requires_grad=True)
    f = lambda w: (w @ X.T - B).square().sum(1) / 2  # noqa: E731
    start = torch.zeros(3, 5, dtype=torch.float64)
    w = argmin(f, start, penalty=L1(strengths), batch_dims=1, solver=ProximalGradient(tol=1e-13))
    (found,) = torch.autograd.grad(w.sum(), strengths)
    known = [torch.func.grad(lambda s: lasso(X, B, s).sum())(s) for s in strengths.detach().flatten()]
    torch.testing.assert_close(found.flatten(), torch.stack(known), rtol=0, atol=1e-10)


def test_captured_tensors_get_gradients():
    q = Q.clone().requires_grad_()
    y = argmin(lambda y: (y - q).square().sum(), torch.zeros(5).double(), constraint=NonNegative())
    (found,) = torch.autograd.grad(y.sum(), q)
    torch.testing.assert_close(found, (Q > 0).double())


def test_a_black_box_by_slsqp():
    """SciPy finds the minimiser, the condition its derivative."""
    H = X.T @ X

    def slsqp(f, y0, q):
        objective = lambda y: (float(f(torch.from_numpy(y), q)), H.numpy() @ y - q.numpy())  # noqa: E731
        sums = {"type": "eq", "fun": lambda y: y.sum() - 1, "jac": np.ones_like}
        found = minimize(objective, np.full(5, 0.2), jac=True, bounds=[(0, 1)] * 5, constraints=[sums], tol=1e-15)
        return found.x

    solve = lambda q: argmin(  # noqa: E731
        lambda y, q: y @ H @ y / 2 - q @ y, torch.zeros(5).double(), q, constraint=Simplex(), solver=slsqp
    )
    known = torch.func.jacrev(lambda q: quadratic_on(Simplex())(H, q))(Q)
    torch.testing.assert_close(torch.func.jacrev(solve)(Q), known, rtol=0, atol=1e-6)


def test_float32_and_the_solution_report():
    y, solution = argmin(
        lambda y, q: (y - q).square().sum(),
        torch.zeros(5),
        Q.float().requires_grad_(),
        constraint=Simplex(),
        return_solution=True,
    )
    assert y.dtype == torch.float32
    assert solution.converged
    y.square().sum().backward()
    assert solution.backward.converged


def test_entropic_problems_of_tiny_entries():
    """Softmax, with entries of 1e-20: the mirror map's condition is well scaled where the projection's is not."""
    c = torch.tensor([0.0, 1.0, 46.0], dtype=torch.float64)
    solve = lambda c: argmin(  # noqa: E731
        lambda y, c: (c * y + y * y.log()).sum(),
        torch.ones(3).double() / 3,
        c,
        constraint=Simplex(),
        solver=MirrorDescent(tol=1e-14),
        on_failure="raise",
    )
    known = torch.func.jacrev(lambda c: torch.softmax(-c, 0))(c)
    torch.testing.assert_close(torch.func.jacrev(solve)(c), known, rtol=0, atol=1e-10)


def test_unconstrained_problems_are_as_before():
    f = lambda y, q: (y - q).square().sum()  # noqa: E731
    assert torch.equal(argmin(f, torch.zeros(5).double(), Q), argmin(f, torch.zeros(5).double(), Q, constraint=None))
    accelerated = argmin(f, torch.zeros(5).double(), Q, solver="proximal_gradient")
    torch.testing.assert_close(accelerated, Q)


def test_scalars_empty_unknowns_and_auxiliary_outputs():
    zero = torch.zeros((), dtype=torch.float64)
    assert argmin(lambda y: (y - 3) ** 2, zero, constraint=Box(upper=1.0)) == 1
    torch.testing.assert_close(argmin(lambda y: (y - 3) ** 2, zero, penalty=L1(2.0)), zero + 2)
    f = lambda y: (y**2).sum(1)  # noqa: E731
    assert argmin(f, torch.zeros(0, 3), constraint=NonNegative(), batch_dims=1).shape == (0, 3)
    assert argmin(f, torch.zeros(2, 0), constraint=NonNegative(), batch_dims=1).shape == (2, 0)
    both = lambda y: ((y - Q).square().sum(), y.sum())  # noqa: E731
    _, total = argmin(both, torch.zeros(5).double(), constraint=Simplex(2.0), has_aux=True)
    torch.testing.assert_close(total, zero + 2)


def test_inference_mode_and_autocast():
    with torch.inference_mode():
        y = argmin(lambda y: (y - Q).square().sum(), torch.zeros(5).double(), constraint=Simplex())
    torch.testing.assert_close(y, Simplex().project(Q))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = argmin(
            lambda y: (y @ X.T.float() - B.float()).square().sum(), torch.zeros(1, 5), constraint=NonNegative()
        )
    full = argmin(lambda y: (y @ X.T.float() - B.float()).square().sum(), torch.zeros(1, 5), constraint=NonNegative())
    torch.testing.assert_close(half, full, rtol=0, atol=0.05)  # of bfloat16


def test_objectives_that_are_not_finite():
    zero = torch.zeros(2, dtype=torch.float64)
    y, solution = argmin(
        lambda y: y.sum() - y.log().sum(), zero, constraint=NonNegative(), on_failure="ignore", return_solution=True
    )
    assert solution.status == Status.DIVERGED
    assert y.isnan().all()
    # Where only a step is too long, the line search shortens it.
    y = argmin(lambda y: y.sum() - y.log().sum(), zero + 0.01, constraint=Box(1e-3, None))
    torch.testing.assert_close(y, zero + 1)


def test_the_scale_of_the_objective_does_not_matter():
    for scale in (1e-8, 1.0, 1e8):
        y = argmin(
            lambda y, s: s * ((y - Q).square().sum() + (y**4).sum()),
            torch.zeros(5).double(),
            scale,
            constraint=L2Ball(),
        )
        known = argmin(lambda y: (y - Q).square().sum() + (y**4).sum(), torch.zeros(5).double(), constraint=L2Ball())
        torch.testing.assert_close(y, known, rtol=0, atol=1e-10)


def test_names_and_errors():
    f, y = (lambda y: y.square().sum()), torch.ones(3)
    assert torch.equal(argmin(f, y, constraint=Box(0.5), solver="projected_newton"), torch.full((3,), 0.5))
    with pytest.raises(
        TypeError,
        match="LBFGS takes no constraint and no penalty; valid: mirror_descent, projected_newton, proximal_gradient",
    ):
        argmin(f, y, constraint=Simplex(), solver="lbfgs")
    with pytest.raises(TypeError, match="a constraint or a penalty"):
        argmin(f, y, constraint=Simplex(), penalty=L1())
    with pytest.warns(NonConvergenceWarning, match="argmin: 1 of 1 systems did not converge"):
        argmin(
            lambda y: (y @ draw(3, 3)).square().sum(),
            y.double(),
            constraint=L2Ball(),
            solver=ProximalGradient(max_steps=2),
        )


def test_other_linear_solvers():
    solve = quadratic_on(Simplex())
    known = torch.func.jacrev(solve, 1)(X.T @ X, Q)
    f = lambda y, q: (X @ y).square().sum() / 2 - q @ y  # noqa: E731
    for linear_solver in ("dense", "bicgstab"):
        adjoint = Implicit(linear_solver)
        other = lambda q: argmin(  # noqa: E731
            f,
            torch.zeros(5).double(),
            q,
            constraint=Simplex(),
            solver=TIGHT,
            adjoint=adjoint,  # noqa: B023
        )
        torch.testing.assert_close(torch.func.jacrev(other)(Q), known, rtol=0, atol=1e-8)
