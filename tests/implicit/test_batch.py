"""`batch_dims=1`: each system is solved as if it were alone, whatever happens to the others."""

import pytest
import torch
from torch.testing import assert_close

from deqzoo.implicit import (
    GMRES,
    LBFGS,
    Anderson,
    Broyden,
    Dense,
    GradientDescent,
    Implicit,
    Newton,
    NewtonCG,
    NewtonKrylov,
    NonConvergenceError,
    Picard,
    Status,
    argmin,
    fixed_point,
    root,
)
from tests.implicit.problems import contraction, draw, loss

L = 0.8  # the largest Lipschitz constant of the systems
SYSTEMS = 5
FACTORS = torch.linspace(0.1, L, SYSTEMS, dtype=torch.float64)  # easy systems beside hard ones
FIXED_POINT_SOLVERS = [Picard, Anderson, Broyden, Newton, NewtonKrylov]


def named(cls):
    return cls.__name__


def system(W):
    """z_i = factor_i tanh(z_i W) + x_i, one system per row; W has norm 1."""
    return lambda z, x, factor: factor.unsqueeze(-1) * torch.tanh(z @ W) + x


def inputs():
    x = draw(SYSTEMS, 4) * torch.logspace(-2, 2, SYSTEMS, dtype=torch.float64).unsqueeze(1)  # of very different sizes
    return contraction(4, 1.0), x


@pytest.mark.parametrize("tol", [1e-3, 1e-8])
@pytest.mark.parametrize("solver", FIXED_POINT_SOLVERS, ids=named)
def test_alone_equals_in_the_batch(solver, tol):
    """Two answers with |f(z) - z| <= tol |f(z)| differ by at most 2 tol |f(z)| / (1 - L)."""
    W, x = inputs()
    # With more differences than unknowns their weights are not unique, but those that the processor's rounding leaves.
    depth = {"depth": 3} if solver is Anderson else {}
    options = {"solver": solver(tol=tol, max_steps=400, **depth), "on_failure": "raise", "return_solution": True}
    z, together = fixed_point(system(W), torch.zeros_like(x), x, FACTORS, batch_dims=1, **options)
    for i in range(SYSTEMS):
        alone, solution = fixed_point(system(W), torch.zeros_like(x[i]), x[i], FACTORS[i], **options)
        size = torch.linalg.vector_norm(alone)
        assert torch.linalg.vector_norm(z[i] - alone) <= 2 * tol / (1 - L) * size * (1 + tol)
        assert solution.steps == together.steps[i]  # frozen where it stops alone
        assert_close(solution.residual, together.residual[i], rtol=1e-2, atol=1e-14)
    assert together.steps.unique().numel() > 1


@pytest.mark.parametrize("linear_solver", [GMRES(), GMRES(restart=2), Dense()], ids=repr)
def test_gradient_alone_equals_in_the_batch(linear_solver):
    W, x = inputs()
    x.requires_grad_()
    tol = 1e-9

    def gradient(x, factor, batch_dims):
        z = fixed_point(
            system(W),
            torch.zeros_like(x),
            x,
            factor,
            solver=Anderson(tol=1e-12),
            adjoint=Implicit(linear_solver),
            batch_dims=batch_dims,
            on_failure="raise",
        )
        return torch.autograd.grad(loss(z) if batch_dims == 0 else sum(map(loss, z)), x)[0]

    together = gradient(x, FACTORS, 1)
    for i in range(SYSTEMS):
        alone = gradient(x[i].detach().requires_grad_(), FACTORS[i], 0)
        error = torch.linalg.vector_norm(together[i] - alone)
        assert error <= 2 * tol / (1 - L) * torch.linalg.vector_norm(alone)


@pytest.mark.parametrize("solver", [Newton, NewtonKrylov, Broyden], ids=named)
def test_roots(solver):
    a = torch.tensor([0.3, 1.0, 4.0, 30.0], dtype=torch.float64)

    def f(y, a):
        return y + 0.1 * y**3 - a.unsqueeze(-1)

    def of(a, batch_dims):
        y0 = torch.zeros(*a.shape, 1, dtype=torch.float64)
        return root(f, y0, a, solver=solver(tol=1e-10), batch_dims=batch_dims, on_failure="raise")

    together = of(a, 1)
    assert_close(together, torch.stack([of(value, 0) for value in a]), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("solver", [LBFGS, NewtonCG, GradientDescent], ids=named)
def test_minimisers(solver):
    a = draw(4, 3).exp().requires_grad_()

    def objective(y, a):
        return (y.exp() - a * y).sum(-1)  # y = log a

    y, solution = argmin(
        objective,
        torch.zeros_like(a),
        a,
        solver=solver(tol=1e-9),
        batch_dims=1,
        on_failure="raise",
        return_solution=True,
    )
    assert solution.steps.shape == (4,)
    assert_close(y.detach(), a.detach().log(), rtol=1e-7, atol=1e-7)
    assert_close(torch.autograd.grad(y.sum(), a)[0], 1 / a.detach(), rtol=1e-6, atol=1e-6)
    for i in range(4):
        alone = argmin(objective, torch.zeros(3, dtype=torch.float64), a[i], solver=solver(tol=1e-9))
        assert_close(alone, y[i], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("solver", FIXED_POINT_SOLVERS, ids=named)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_sample_that_is_not_finite_touches_no_other(solver, bad):
    W, x = inputs()
    good = [0, 1, 3, 4]

    def solve(x, factor):
        x = x.clone().requires_grad_()
        z, solution = fixed_point(
            system(W),
            torch.zeros_like(x),
            x,
            factor,
            solver=solver(tol=1e-10, max_steps=400),
            batch_dims=1,
            on_failure="ignore",
            return_solution=True,
        )
        (grad,) = torch.autograd.grad(z.sum(), x)
        return z.detach(), grad, solution

    z, grad, solution = solve(x[good], FACTORS[good])
    assert solution.converged.all()
    spoilt = x.clone()
    spoilt[2, 1] = bad
    spoilt_z, spoilt_grad, report = solve(spoilt, FACTORS)
    assert report.converged.tolist() == [True, True, False, True, True]
    assert_close(spoilt_z[good], z, rtol=1e-9, atol=1e-10)
    assert_close(spoilt_grad[good], grad, rtol=1e-9, atol=1e-10)
    assert report.steps[good].tolist() == solution.steps.tolist()


def runaway(z, x, diverges):
    """exp(z) + 1 has no fixed point: that sample runs to infinity; the others contract."""
    return torch.where(diverges.unsqueeze(1), torch.exp(z) + 1, 0.5 * torch.cos(z) + x)


@pytest.mark.parametrize("solver", [Picard, Anderson, Broyden, NewtonKrylov], ids=named)
def test_sample_that_diverges_touches_no_other(solver):
    x, weight = draw(4, 3), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    diverges = torch.tensor([False, True, False, False])
    good = ~diverges

    def solve(x, diverges):
        z, solution = fixed_point(
            lambda z, x, diverges: runaway(z, weight * x, diverges),
            torch.zeros_like(x),
            x,
            diverges,
            solver=solver(tol=1e-10),
            batch_dims=1,
            on_failure="ignore",
            return_solution=True,
        )
        return z, solution

    z, solution = solve(x, diverges)
    alone, alone_solution = solve(x[good], diverges[good])
    assert solution.converged.tolist() == good.tolist()
    assert torch.equal(z.isnan().all(1), solution.status == Status.DIVERGED)
    assert torch.isfinite(solution.value).all()  # the best finite iterate is kept
    assert_close(z[good], alone, rtol=1e-9, atol=1e-10)
    assert solution.steps[good].tolist() == alone_solution.steps.tolist()
    # The loss leaves the failed sample out: its place in the batch changes no shared parameter's gradient.
    found = torch.autograd.grad(loss(z[good]), weight)
    assert_close(found, torch.autograd.grad(loss(alone), weight), rtol=1e-8, atol=1e-9)


def test_one_infinite_iterate_is_not_the_end():
    """Plain iteration of a sample passes through infinity (1/0) and comes back to 1: the best iterate is no NaN."""
    z, solution = fixed_point(
        lambda z: torch.where(torch.isinf(z), torch.ones_like(z), 1 / z),
        torch.tensor([[0.0], [1.0]]),
        solver=Picard(max_steps=10),
        batch_dims=1,
        on_failure="ignore",
        return_solution=True,
    )
    assert z.isnan().tolist() == [[True], [False]]
    assert torch.isfinite(solution.value).all()
    assert solution.status.tolist() == [Status.DIVERGED, Status.CONVERGED]


def test_status_of_each_sample():
    """One batch with a solution at the start, a cycle, a divergence and one that needs more steps."""
    slope = torch.tensor([0.0, -1.0, 1e30, 0.99], dtype=torch.float64).unsqueeze(1)
    z, solution = fixed_point(
        lambda z: slope * (z - 1) + 1,
        torch.tensor([[1.0], [2.0], [3.0], [0.0]], dtype=torch.float64),
        solver=Picard(max_steps=60, patience=20),
        batch_dims=1,
        on_failure="ignore",
        return_solution=True,
    )
    expected = [Status.CONVERGED, Status.STALLED, Status.DIVERGED, Status.MAX_STEPS]
    assert solution.status.tolist() == expected
    assert solution.steps[0] == 0
    assert solution.steps[3] == 60
    assert z.isnan().squeeze(1).tolist() == [False, False, True, False]
    assert torch.isfinite(solution.value).all()
    with pytest.raises(NonConvergenceError, match="3 of 4"):
        solution.check("raise", "fixed point")


def test_failed_adjoint_of_one_sample_is_its_own():
    """A singular Jacobian in one sample: its gradient is lost, the others' is exact, and the report says which."""
    x = torch.tensor([[1.0], [0.0], [4.0]], dtype=torch.float64, requires_grad=True)
    y, solution = root(
        lambda y, x: y**2 - x,
        torch.tensor([[1.0], [0.0], [2.0]], dtype=torch.float64),
        x,
        batch_dims=1,
        on_failure="ignore",
        return_solution=True,
    )
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert_close(grad[[0, 2], 0], torch.tensor([0.5, 0.25], dtype=torch.float64))
    assert solution.backward.converged.tolist() == [True, False, True]


def test_pytree_with_a_batch_axis():
    """Each sample's unknowns of all leaves are one system."""
    a, b = draw(4, 3), draw(4, 2, 2, seed=1)

    def f(z, a, b):
        total = z["v"].flatten(-2).sum(-1, keepdim=True)
        return {"u": 0.3 * torch.cos(total + a), "v": 0.3 * torch.sin(z["u"][..., :2].unsqueeze(-1) + b)}

    def solve(a, b, batch_dims):
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        start = {"u": torch.zeros_like(a), "v": torch.zeros_like(b)}
        z = fixed_point(f, start, a, b, batch_dims=batch_dims, on_failure="raise")
        return [t.detach() for t in z.values()], torch.autograd.grad(z["u"].square().sum() + z["v"].sum(), (a, b))

    together = solve(a, b, 1)
    for i in range(4):
        assert_close(solve(a[i], b[i], 0), [[t[i] for t in part] for part in together], rtol=1e-9, atol=1e-10)


def test_two_batch_axes():
    W, x = contraction(3, 0.7), draw(2, 3, 3)
    z, solution = fixed_point(
        lambda z, x: torch.tanh(z @ W) + x, torch.zeros_like(x), x, batch_dims=2, return_solution=True
    )
    assert solution.status.shape == solution.steps.shape == solution.residual.shape == (2, 3)
    for i in range(2):
        row = fixed_point(lambda z, x: torch.tanh(z @ W) + x, torch.zeros_like(x[i]), x[i], batch_dims=1)
        assert_close(z[i], row, rtol=1e-9, atol=1e-10)


def test_a_coupled_system_is_one_system():
    """z mixes its rows: as one system it is solved; its axis is not a batch."""
    W, x = contraction(6, 0.9), draw(6, 2)
    z, solution = fixed_point(lambda z: W @ torch.tanh(z) + x, torch.zeros_like(x), return_solution=True)
    assert solution.status.shape == ()
    assert solution.converged
    assert_close(z, W @ torch.tanh(z) + x, rtol=1e-10, atol=1e-10)
