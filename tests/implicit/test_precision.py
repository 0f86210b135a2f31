"""Default tolerances are those of the precision in which f is evaluated; a tolerance that is given stays."""

import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from deqzoo.implicit import (
    CG,
    GMRES,
    LBFGS,
    MINRES,
    Anderson,
    BiCGSTAB,
    Broyden,
    Dense,
    GradientDescent,
    Implicit,
    ImplicitFunction,
    Newton,
    NewtonCG,
    NewtonKrylov,
    NormalCG,
    Picard,
    Status,
    argmin,
    fixed_point,
    root,
)
from deqzoo.implicit.precision import Coarsest
from tests.implicit.problems import contraction, draw

FIXED_POINT = [Anderson(), Broyden(), Picard(), Newton(), NewtonKrylov()]
each_solver = pytest.mark.parametrize("solver", FIXED_POINT, ids=lambda s: type(s).__name__)
MOST = {"bfloat16": 5e-2, "float16": 1e-2}  # of the relative residual: about eps^(3/4), seen in float32


def cell(n=48, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(n, n)


def autocast(dtype=torch.bfloat16):
    return torch.autocast("cpu", dtype=dtype)


def residual(z, image):
    return torch.linalg.vector_norm(image - z, dim=-1) / torch.linalg.vector_norm(image, dim=-1)


@each_solver
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_fixed_points_under_autocast(solver, dtype):
    linear, x = cell(), draw(5, 48).float()

    def f(z):
        return torch.tanh(linear(z) + x)

    with autocast(dtype):
        z, solution = fixed_point(
            f, torch.zeros_like(x), solver=solver, batch_dims=1, on_failure="raise", return_solution=True
        )
    if not isinstance(solver, Newton | NewtonKrylov):  # which count each product
        assert solution.nfe <= 25
    assert (residual(z, f(z)) <= MOST[str(dtype).removeprefix("torch.")]).all()


HALF = {
    "state": lambda linear, x: (lambda z: torch.tanh(linear(z.float()) + x).to(z.dtype), torch.bfloat16),
    "result": lambda linear, x: (lambda z: torch.tanh(linear(z) + x).bfloat16(), torch.float32),
    "inside": lambda linear, x: (lambda z: torch.tanh(linear.bfloat16()(z.bfloat16()).float() + x), torch.float32),
    "with a double state": lambda linear, x: (lambda z: torch.tanh(linear(z.float()).half() + x), torch.float64),
}


@pytest.mark.parametrize("how", HALF)
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_half_precision_of_its_own(how, batch_dims):
    x = draw(5, 48).float()
    f, dtype = HALF[how](cell(), x)
    _, solution = fixed_point(
        lambda z: f(z).to(z.dtype), torch.zeros(5, 48, dtype=dtype), batch_dims=batch_dims, return_solution=True
    )
    assert (solution.status == Status.CONVERGED).all()
    assert solution.nfe <= 25


@each_solver
def test_full_precision_keeps_its_tolerance(solver):
    """Under autocast too, where f does nothing that it rounds, and beside tensors of half precision that f ignores."""
    x = draw(4, 8).float()
    for context in (autocast(), autocast(torch.float16), torch.autocast("cpu", enabled=False)):
        with context:
            z = fixed_point(lambda z, x, other: 0.5 * torch.cos(z) + x, torch.zeros_like(x), x, x.half(), solver=solver)
        assert_close(z, 0.5 * torch.cos(z) + x, rtol=1e-5, atol=1e-5)


def test_a_tolerance_that_is_given_stays():
    linear, x = cell(), draw(5, 48).float()
    with autocast():
        _, loose = fixed_point(
            lambda z: torch.tanh(linear(z) + x), torch.zeros_like(x), batch_dims=1,
            solver=Picard(tol=1e-6, max_steps=60), on_failure="ignore", return_solution=True,
        )  # fmt: skip
    assert loose.nfe > 25


@pytest.mark.parametrize("solver", [Newton(), NewtonKrylov(), Broyden()], ids=lambda s: type(s).__name__)
def test_roots_under_autocast(solver):
    linear, x = cell(12), draw(5, 12).float()

    def f(y):
        return y - torch.tanh(linear(y) + x)

    with autocast():
        y = root(f, torch.zeros_like(x), solver=solver, batch_dims=1, on_failure="raise")
    assert (torch.linalg.vector_norm(f(y), dim=1) <= 0.1 * torch.linalg.vector_norm(f(0 * y), dim=1)).all()


@pytest.mark.parametrize("solver", [LBFGS(), NewtonCG(), GradientDescent()], ids=lambda s: type(s).__name__)
def test_minima_under_autocast(solver):
    linear, x = cell(12), draw(5, 12).float()

    def objective(y):
        return (y - x).square().sum(1) + 0.1 * torch.tanh(linear(y)).square().sum(1)

    with autocast():
        y = argmin(objective, torch.zeros_like(x), solver=solver, batch_dims=1, on_failure="raise")
    exact = argmin(objective, torch.zeros_like(x), batch_dims=1)
    assert (torch.linalg.vector_norm(y - exact, dim=1) <= 5e-2 * torch.linalg.vector_norm(exact, dim=1)).all()


@pytest.mark.parametrize("linear_solver", [GMRES(), BiCGSTAB(), NormalCG(), Dense()], ids=lambda s: type(s).__name__)
def test_adjoint_solves_under_autocast(linear_solver):
    linear, x = cell(), draw(5, 48).float().requires_grad_()

    def gradient(context):
        with context, warnings.catch_warnings():
            warnings.simplefilter("error")
            z, solution = fixed_point(
                lambda z, x: torch.tanh(linear(z) + x), torch.zeros_like(x), x, batch_dims=1,
                adjoint=Implicit(linear_solver), return_solution=True,
            )  # fmt: skip
            (slope,) = torch.autograd.grad(z.square().sum(), x)
        assert solution.backward.converged.all()
        return slope, solution.backward.nfe

    found, nfe = gradient(autocast())
    expected, full = gradient(torch.autocast("cpu", enabled=False))
    assert torch.linalg.vector_norm(found - expected) <= 0.1 * torch.linalg.vector_norm(expected)
    if isinstance(linear_solver, GMRES):
        assert nfe < full


@pytest.mark.parametrize("linear_solver", [CG(), MINRES()], ids=lambda s: type(s).__name__)
def test_symmetric_adjoint_solves_under_autocast(linear_solver):
    matrix, a = contraction(12).float(), draw(12).float().requires_grad_()
    matrix = torch.eye(12) + 0.3 * (matrix + matrix.T)
    with autocast():
        y, solution = argmin(
            lambda y, a: (y * (matrix @ y)).sum() / 2 - (a * y).sum(), torch.zeros(12), a,
            adjoint=Implicit(linear_solver), on_failure="raise", return_solution=True,
        )  # fmt: skip
        (slope,) = torch.autograd.grad(y.sum(), a)
    assert solution.backward.converged
    assert_close(slope, torch.linalg.solve(matrix, torch.ones(12)), rtol=0.1, atol=0.05)


def test_a_black_box_is_looked_at_with_the_precision_of_its_conditions():
    matrix, b = contraction(12).float() + 2 * torch.eye(12), draw(12).float().requires_grad_()
    f = ImplicitFunction(lambda b: torch.linalg.solve(matrix, b), lambda y, b: matrix @ y - b, on_failure="raise")
    with autocast():
        f(b).sum().backward()
    assert_close(b.grad, torch.linalg.solve(matrix.T, torch.ones(12)), rtol=0.1, atol=0.05)


def test_what_is_watched():
    for make, seen in [
        (lambda x: x + 1, torch.float32),
        (lambda x: x.half().bfloat16().float(), torch.bfloat16),
        (lambda x: x.double(), torch.float32),
        (lambda x: torch.split(x.half(), 1)[0].float(), torch.float16),
        (lambda x: x.to(torch.int8).float(), torch.float32),
    ]:
        with Coarsest(torch.float32) as watch:
            make(torch.ones(2))
        assert watch.dtype == seen
