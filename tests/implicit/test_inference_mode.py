"""`inference_mode` and `no_grad`: solving, and the Jacobian's spectral radius, without a tape."""

import pytest
import torch
from torch.testing import assert_close

from deqzoo.implicit import (
    Anderson,
    Broyden,
    Implicit,
    Newton,
    NewtonKrylov,
    OneStep,
    Phantom,
    Picard,
    Unrolled,
    fixed_point,
    spectral_radius,
)
from deqzoo.nn import DEQ
from tests.implicit.problems import PROBLEMS, Cell, contraction, draw, flat


@pytest.fixture(params=[torch.inference_mode, torch.no_grad], ids=lambda mode: mode.__name__)
def mode(request):
    return request.param


@pytest.mark.parametrize("name", PROBLEMS)
def test_value_without_a_graph(name, mode):
    problem = PROBLEMS[name]
    args = problem.leaves()
    with mode():
        y = flat(problem.implicit(*args))
        exact = flat(problem.exact(*args))
    assert not y.requires_grad
    assert_close(y, exact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "solver", [Picard(), Anderson(), Broyden(), Newton(), NewtonKrylov()], ids=lambda s: type(s).__name__
)
def test_every_solver(solver, mode):
    """Newton needs Jacobian products where `enable_grad` does not help."""
    cell, x = Cell(), draw(4, 3)
    with mode():
        z = fixed_point(cell, torch.zeros_like(x), x, solver=solver, batch_dims=1, on_failure="raise")
        assert_close(z, cell(z, x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("gradient", [Implicit(), Phantom(), OneStep(), Unrolled()], ids=repr)
def test_no_evaluation_is_spent_on_a_gradient(gradient, mode):
    cell, x, calls = Cell(), draw(4, 3), []

    def counted(z, x):
        calls.append(1)
        return cell(z, x)

    with mode():
        _, solution = fixed_point(
            counted, torch.zeros_like(x), x, solver=Picard(), adjoint=gradient, return_solution=True
        )
    assert len(calls) == solution.nfe


def test_layer_validates_after_training(mode):
    """Train, validate without a tape, train again: as Lightning does."""
    layer, x = DEQ(Cell(), solver=Anderson()), draw(4, 3)
    layer(x).sum().backward()
    first = [p.grad.clone() for p in layer.parameters()]
    with mode():
        z = layer(x)
        radius = layer.spectral_radius(x, z)
    assert radius.shape == (4,)
    assert not z.requires_grad
    layer.zero_grad()
    layer(x).sum().backward()
    assert_close([p.grad for p in layer.parameters()], first)


def test_warm_start_from_an_inference_tensor():
    cell, x = Cell(), draw(4, 3)
    with torch.inference_mode():
        z0 = fixed_point(cell, torch.zeros_like(x), x)
    z = fixed_point(cell, z0, x)
    found = torch.autograd.grad(z.sum(), list(cell.parameters()))
    exact = torch.autograd.grad(fixed_point(cell, torch.zeros_like(x), x).sum(), list(cell.parameters()))
    assert_close(found, exact, rtol=1e-9, atol=1e-10)


def test_gradient_is_off_but_torch_func_is_on():
    """Under inference_mode torch.func still differentiates."""
    theta = PROBLEMS["cosine"].args[0]
    exact = torch.func.grad(PROBLEMS["cosine"].exact)(theta)
    with torch.inference_mode():
        found = torch.func.grad(PROBLEMS["cosine"].implicit)(theta)
    assert_close(found, exact, rtol=1e-8, atol=1e-9)


# The spectral radius


def test_radius_of_a_rotation(mode):
    """Complex eigenvalues: the power iteration says 0.33 for 0.9 here, or oscillates."""
    angle = torch.tensor(0.7, dtype=torch.float64)
    c, s = 0.9 * torch.cos(angle), 0.9 * torch.sin(angle)
    rotation = torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
    with mode():
        radius = spectral_radius(lambda z: z @ rotation, torch.ones(2, dtype=torch.float64))
    assert_close(radius, torch.tensor(0.9, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(3))
def test_radius_of_non_normal_matrices(mode, seed):
    matrix = draw(12, 12, seed=seed).triu(1) * 2 + torch.diag(torch.linspace(-0.8, 0.5, 12, dtype=torch.float64))
    with mode():
        radius = spectral_radius(lambda z: matrix @ z, torch.zeros(12, dtype=torch.float64))
    assert torch.linalg.matrix_norm(matrix, 2) > 3  # far from normal: the norm says nothing
    assert_close(radius, torch.tensor(0.8, dtype=torch.float64), rtol=1e-3, atol=0)


def test_radius_of_each_system(mode):
    matrices = torch.stack([0.3 * contraction(5, 1.0, seed=1), contraction(5, 1.0, seed=2), torch.zeros(5, 5).double()])
    with mode():
        radius = spectral_radius(
            lambda z: (matrices @ z.unsqueeze(2)).squeeze(2), torch.ones(3, 5).double(), batch_dims=1
        )
    assert_close(radius, torch.linalg.eigvals(matrices).abs().amax(1), rtol=1e-6, atol=1e-8)


def test_radius_at_a_point_of_a_nonlinear_cell(mode):
    cell, x = Cell(), draw(3)
    z = draw(3, seed=1)
    jacobian = torch.autograd.functional.jacobian(lambda z: cell(z, x), z)
    with mode():
        radius = spectral_radius(cell, z, x)
    assert_close(radius, torch.linalg.eigvals(jacobian).abs().max(), rtol=1e-8, atol=1e-10)


def test_radius_of_a_pytree():
    coupling = torch.tensor([[0.0, 0.8], [0.5, 0.0]], dtype=torch.float64)

    def f(z):
        return {"u": coupling[0, 1] * z["v"].sum(), "v": (coupling[1, 0] * z["u"]).reshape(1, 1)}

    radius = spectral_radius(f, {"u": torch.zeros((), dtype=torch.float64), "v": torch.zeros(1, 1).double()})
    assert_close(radius, torch.tensor(0.4**0.5, dtype=torch.float64))
