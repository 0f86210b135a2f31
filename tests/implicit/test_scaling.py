"""Cotangents from 1e-30 to 1e30: the relative (normwise) error of a gradient does not depend on the loss scale."""

import pytest
import torch

from deqzoo.implicit import CG, GMRES, Dense, Implicit, ImplicitFunction, Neumann, argmin, fixed_point, root
from tests.implicit import problems
from tests.implicit.problems import PROBLEMS, contraction, draw

SCALES = [1e-30, 1e-20, 1e-6, 1e6, 1e20, 1e30]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}
SOLVERS = {"gmres": GMRES(), "gmres restarted": GMRES(restart=2), "dense": Dense(), "neumann": Neumann(k=30)}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


def assert_same_direction(found, exact, scale, dtype):
    """Both lists as one vector each, `found` divided by its scale; in float64, where nothing under- or overflows."""
    found = torch.cat([t.double().flatten() for t in found]) / scale
    exact = torch.cat([t.double().flatten() for t in exact])
    error = torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact)
    assert error < TOLERANCE[dtype]


def layer(linear_solver, dtype):
    """A DEQ-like solve with two gradients, y(W, x), and a cotangent."""
    W, x = contraction(5).to(dtype).requires_grad_(), draw(3, 5).to(dtype).requires_grad_()
    z = fixed_point(
        lambda z, x: torch.tanh(z @ W + x), torch.zeros_like(x), x, batch_dims=1, adjoint=Implicit(linear_solver)
    )
    return z, (W, x), draw(3, 5, seed=9).to(dtype)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SOLVERS)
def test_reverse_mode(name, scale, dtype):
    z, inputs, g = layer(SOLVERS[name], dtype)
    exact = torch.autograd.grad(z, inputs, g, retain_graph=True)
    found = torch.autograd.grad(z, inputs, scale * g)
    assert_same_direction(found, exact, scale, dtype)


@pytest.mark.parametrize("scale", SCALES)
def test_ridge_with_conjugate_gradients(scale, dtype):
    """TorchOpt's float32 CG returns 0 for a cotangent under 1e-23."""
    inputs = PROBLEMS["ridge"].leaves(dtype)
    X, t, s = inputs

    def objective(w, X, t):
        return ((X @ w - t) ** 2).sum() + s.exp() * (w**2).sum()

    w = argmin(objective, torch.zeros(2, dtype=dtype), X, t, adjoint=Implicit(CG()))
    exact = torch.autograd.grad(problems.ridge_exact(X, t, s).sum(), inputs)
    found = torch.autograd.grad(w, inputs, torch.full_like(w, scale))
    tolerance = {torch.float32: 1e-3, torch.float64: 1e-8}[dtype]  # that of the minimiser itself
    for a, b in zip(found, exact, strict=True):
        assert torch.linalg.vector_norm(a.double() / scale - b) < tolerance * torch.linalg.vector_norm(b)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SOLVERS)
def test_forward_mode(name, scale, dtype):
    W, x = contraction(5).to(dtype), draw(5).to(dtype)

    def f(x):
        return fixed_point(lambda z, x: torch.tanh(W @ z + x), torch.zeros_like(x), x, adjoint=Implicit(SOLVERS[name]))

    v = draw(5, seed=9).to(dtype)
    exact = torch.func.jvp(f, (x,), (v,))[1]
    found = torch.func.jvp(f, (x,), (scale * v,))[1]
    assert_same_direction([found], [exact], scale, dtype)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SOLVERS)
def test_torch_func_vjp(name, scale, dtype):
    W, x = contraction(5).to(dtype), draw(5).to(dtype)

    def f(x):
        return fixed_point(lambda z, x: torch.tanh(W @ z + x), torch.zeros_like(x), x, adjoint=Implicit(SOLVERS[name]))

    v = draw(5, seed=9).to(dtype)
    _, pull = torch.func.vjp(f, x)
    assert_same_direction(pull(scale * v), pull(v), scale, dtype)


@pytest.mark.parametrize("scale", SCALES)
def test_second_order(scale, dtype):
    z, inputs, g = layer(GMRES(), dtype)

    def product(scale):
        (slope,) = torch.autograd.grad(z, inputs[1], scale * g, create_graph=True)
        return torch.autograd.grad((slope * g).sum(), inputs, retain_graph=True)

    assert_same_direction(product(scale), product(1.0), scale, dtype)


@pytest.mark.parametrize("name", ["gmres", "dense", "neumann"])
def test_each_system_has_its_own_scale(name, dtype):
    """Samples whose losses differ by 60 orders of magnitude, in one backward."""
    z, (_, x), g = layer(SOLVERS[name], dtype)
    scales = torch.tensor([1e-30, 1.0, 1e30], dtype=dtype)
    (exact,) = torch.autograd.grad(z, x, g, retain_graph=True)
    (found,) = torch.autograd.grad(z, x, scales[:, None] * g)
    for i, scale in enumerate(scales.tolist()):
        assert_same_direction([found[i]], [exact[i]], scale, dtype)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_condition_in_other_units(factor, dtype):
    """y and the condition itself measured in units of `factor`."""
    a = (draw(4).abs() + 1).to(dtype).requires_grad_()
    f = ImplicitFunction(lambda a: factor * a.sqrt(), lambda y, a: (y / factor) ** 2 - a)
    (found,) = torch.autograd.grad(f(a).sum(), a)
    assert_same_direction([found], [0.5 / a.detach().sqrt()], factor, dtype)


def test_zero_cotangent_gives_zero(dtype):
    z, inputs, g = layer(GMRES(), dtype)
    for grad in torch.autograd.grad(z, inputs, torch.zeros_like(g)):
        assert grad.shape
        assert not grad.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_cotangent_that_is_not_finite_is_not_hidden(bad, dtype):
    """One sample's NaN loss: its gradient says so, the others are untouched, and the solve reports it."""
    W, x = contraction(5).to(dtype), draw(3, 5).to(dtype).requires_grad_()
    z, solution = fixed_point(
        lambda z, x: torch.tanh(z @ W + x),
        torch.zeros_like(x),
        x,
        batch_dims=1,
        on_failure="ignore",
        return_solution=True,
    )
    g = draw(3, 5, seed=9).to(dtype)
    (exact,) = torch.autograd.grad(z, x, g, retain_graph=True)
    g[1, 2] = bad
    (found,) = torch.autograd.grad(z, x, g)
    assert not torch.isfinite(found[1]).all()
    assert_same_direction([found[0], found[2]], [exact[0], exact[2]], 1.0, dtype)
    assert solution.backward.converged.tolist() == [True, False, True]


def test_scalar_root_with_a_tiny_gradient(dtype):
    a = torch.tensor(8.0, dtype=dtype, requires_grad=True)
    y = root(lambda y, a: y**3 - a, torch.ones_like(a), a)
    (found,) = torch.autograd.grad(y, a, torch.tensor(1e-30, dtype=dtype))
    assert abs(found.double().item() / 1e-30 - 1 / 12) < 1e-5
