"""The inverse Jacobian that Broyden builds on its way, and the gradients that start from it (SHINE)."""

from itertools import pairwise

import pytest
import torch

from deqzoo.implicit import GMRES, Anderson, Broyden, Implicit, Neumann, Picard, fixed_point
from tests.implicit.solvers.helpers import F64, assert_close, matrix_of_norm, randn

SHARED = Implicit(GMRES(), share_inverse=True)


def problem(n=6, systems=4, norm=0.9):
    """tanh(W z + x), of a batch from easy (x large, tanh flat) to hard."""
    weight = matrix_of_norm(n, norm, seed=1).requires_grad_()
    x = (randn(systems, n, seed=2) * torch.linspace(3, 0.1, systems, dtype=F64)[:, None]).requires_grad_()
    return (lambda z, x: torch.tanh(z @ weight.T + x)), torch.zeros(systems, n, dtype=F64), x, weight


def jacobians(f, z, x):
    """df/dz of each system, (systems, n, n)."""
    return torch.stack([torch.func.jacrev(f)(a, b) for a, b in zip(z.detach(), x.detach(), strict=True)])


def dense_gradients(f, z, x, weight, cotangent):
    a = torch.eye(z.shape[1], dtype=F64) - jacobians(f, z, x)
    adjoint = torch.linalg.solve(a.mT, cotangent.unsqueeze(2)).squeeze(2)
    return torch.autograd.grad(f(z.detach(), x), (x, weight), adjoint)


def dense_inverse(f, points):
    """(I - df/dz)^-1 by the good Broyden updates along the iterates of a system, with a dense matrix."""
    b = -torch.eye(len(points[0]), dtype=F64)  # the Jacobian of g(z) = f(z) - z
    for before, after in pairwise(points):
        s = after - before
        y = (f(after) - after - f(before) + before).detach()
        b = b + torch.outer(y - b @ s, s) / (s @ s)
    return torch.linalg.inv(-b)


def test_inverse_is_that_of_broydens_rank_one_updates():
    """Of each system by itself: one that was frozen early has updates of its own steps only."""
    f, z0, x, _ = problem()
    solver = Broyden(tol=1e-3)
    together, v = solver(f, z0, x, batch_dims=1), randn(4, 6, seed=3)
    assert together.steps[0] < together.steps[-1] == together.steps.max()
    for i, steps in enumerate(together.steps.tolist()):
        # The last step of all is taken with what the steps before it taught.
        count = steps + 1 if steps < together.steps.max() else steps
        alone = Broyden(tol=1e-3, keep=range(count))(f, z0[i : i + 1], x[i : i + 1], batch_dims=1)
        inverse = dense_inverse(lambda z, i=i: f(z, x[i]), [kept[0] for kept in alone.kept])
        assert_close(together.inverse(v)[i], inverse @ v[i], 1e-7)


def test_there_is_none_where_no_step_was_taken_and_of_other_solvers():
    assert Broyden()(lambda z: z, torch.ones(2)).inverse is None  # no step was taken
    assert Anderson()(torch.cos, torch.ones(2)).inverse is None


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_gradient_is_the_exact_one(batch_dims):
    f, z0, x, weight = problem()
    z = fixed_point(f, z0, x, solver=Broyden(), adjoint=SHARED, batch_dims=batch_dims, on_failure="raise")
    cotangent = randn(4, 6, seed=4)
    for ours, exact in zip(
        torch.autograd.grad(z, (x, weight), cotangent), dense_gradients(f, z, x, weight, cotangent), strict=True
    ):
        assert_close(ours, exact, 1e-8)


def test_it_saves_products_and_makes_truncated_solves_better():
    f, z0, x, weight = problem(n=40, norm=0.99)
    cotangent = randn(4, 40, seed=4)
    products, errors = {}, {}
    for share in (False, True):
        for name, linear_solver in {
            "exact": GMRES(tol=1e-6),
            "none": Neumann(k=0),
            "three": GMRES(max_steps=3),
        }.items():
            gradient = Implicit(linear_solver, share_inverse=share)
            options = {"solver": Broyden(tol=1e-8), "adjoint": gradient, "batch_dims": 1, "on_failure": "ignore"}
            z, solution = fixed_point(f, z0, x, return_solution=True, **options)
            assert solution.inverse is None  # it would keep the solver's memory alive
            ours = torch.cat([g.flatten() for g in torch.autograd.grad(z, (x, weight), cotangent)])
            exact = torch.cat([g.flatten() for g in dense_gradients(f, z, x, weight, cotangent)])
            products[name, share] = solution.backward.nfe
            errors[name, share] = ((ours - exact).norm() / exact.norm()).item()
    assert products["exact", True] < 0.8 * products["exact", False]
    assert max(errors["exact", True], errors["exact", False]) < 1e-4
    assert errors["none", True] < 0.8 * errors["none", False]
    assert errors["three", True] < 0.5 * errors["three", False]


def test_without_a_product_it_is_the_transposed_inverse():
    f, z0, x, weight = problem()
    solver = Broyden(tol=1e-6)
    inverse = solver(f, z0, x, batch_dims=1).inverse
    shine = Implicit(Neumann(k=0), share_inverse=True)
    z = fixed_point(f, z0, x, solver=solver, adjoint=shine, batch_dims=1, on_failure="ignore")
    cotangent = randn(4, 6, seed=4)
    v = torch.zeros(4, 6, dtype=F64, requires_grad=True)
    adjoint = torch.autograd.grad(inverse(v), v, cotangent)[0]
    expected = torch.autograd.grad(f(z.detach(), x), (x, weight), adjoint)
    for ours, reference in zip(torch.autograd.grad(z, (x, weight), cotangent), expected, strict=True):
        assert_close(ours, reference, 1e-9)


def test_a_solve_that_ends_at_its_start_has_nothing_to_share():
    x = torch.tensor([2.0], dtype=F64, requires_grad=True)
    z = fixed_point(lambda z, x: 0 * z + x - x.detach(), torch.zeros(1, dtype=F64), x, solver=Broyden(), adjoint=SHARED)
    assert_close(torch.autograd.grad(z, x)[0], torch.ones(1, dtype=F64), 1e-12)


def test_it_needs_a_solver_that_builds_one():
    for solver in (Picard(), Anderson()):
        with pytest.raises(TypeError, match=r"share_inverse needs solver=Broyden"):
            fixed_point(torch.cos, torch.ones(2), solver=solver, adjoint=SHARED)
    with pytest.raises(TypeError, match="and no preconditioner"):
        fixed_point(torch.cos, torch.ones(2), solver=Broyden(), adjoint=SHARED, preconditioner=lambda v, y: v)
