"""First order on the tape: `.backward()` and `torch.autograd.grad`."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from deqzoo.implicit import (
    CG,
    GMRES,
    Anderson,
    Broyden,
    Dense,
    Implicit,
    ImplicitFunction,
    NewtonKrylov,
    Picard,
    argmin,
    fixed_point,
    root,
)
from deqzoo.nn import DEQ
from tests.implicit import problems
from tests.implicit.problems import PROBLEMS, Cell, contraction, draw, flat_of, loss, loss_of, unroll


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]


def gradients(function, problem, dtype=torch.float64):
    args = problem.leaves(dtype)
    loss(function(*args)).backward()
    return [t.grad for t in args]


def test_value_and_gradient_equal_the_exact_ones(problem):
    assert_close(problem.implicit(*problem.args), problem.exact(*problem.args), rtol=1e-9, atol=1e-10)
    assert_close(gradients(problem.implicit, problem), gradients(problem.exact, problem), rtol=1e-8, atol=1e-9)


def test_gradcheck(problem):
    torch.autograd.gradcheck(flat_of(problem.implicit), problem.leaves(), fast_mode=True)


@pytest.mark.parametrize("name", ["tanh_captured", "tanh_batch", "cosine", "pair", "cubic", "linear_vectorized"])
def test_float32(name):
    problem = PROBLEMS[name]
    found = gradients(problem.implicit, problem, torch.float32)
    assert all(g.dtype == torch.float32 for g in found)
    exact = [g.float() for g in gradients(problem.exact, problem)]
    assert_close(found, exact, rtol=1e-4, atol=1e-4)


@settings(max_examples=10)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    batch_dims=st.integers(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_shape(shape, batch_dims, dtype):
    x = draw(*shape).to(dtype).requires_grad_()
    z = fixed_point(lambda z, x: 0.5 * torch.sin(z) + x, torch.zeros_like(x), x, batch_dims=batch_dims)
    assert z.shape == x.shape
    assert z.dtype == dtype
    (grad,) = torch.autograd.grad(z.sum(), x)
    assert_close(grad, 1 / (1 - 0.5 * torch.cos(z)).detach(), rtol=1e-4, atol=1e-4)


def test_scalar_cosine_against_the_closed_form():
    theta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    y = problems.cosine(theta)
    assert y.shape == ()
    y.backward()
    s = torch.sin(theta * y).detach()
    assert_close(theta.grad, (-y * s / (1 + theta * s)).detach())


# The graph belongs to the result alone


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_solver_that_returns_one_of_its_inputs(batch_dims):
    y0 = torch.tensor([2.0, 3.0], dtype=torch.float64)
    a = (y0**2).requires_grad_()
    f = ImplicitFunction(lambda y0, a: y0, lambda y, y0, a: y**2 - a, batch_dims=batch_dims)
    y = f(y0, a)
    assert y.requires_grad
    assert not y0.requires_grad
    assert y.data_ptr() != y0.data_ptr()
    y.sum().backward()
    assert_close(a.grad, 0.5 / y0)


def test_solver_that_returns_a_captured_tensor():
    known = torch.tensor([2.0, 3.0], dtype=torch.float64)
    a = (known**2).requires_grad_()
    y = ImplicitFunction(lambda a: known, lambda y, a: y**2 - a)(a)
    assert y is not known
    assert known.grad_fn is None
    assert not known.requires_grad
    y.sum().backward()
    assert_close(a.grad, 0.5 / known)


def test_a_start_at_the_solution_is_not_written_to():
    a = torch.tensor([4.0], dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([2.0], dtype=torch.float64)
    y = root(lambda y, a: y**2 - a, y0, a)
    with torch.no_grad():
        y += 1
    assert y0.item() == 2.0


# Several passes


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_several_forwards_before_one_backward(order):
    W, _ = PROBLEMS["tanh_captured"].leaves()
    xs = [draw(2, 3, seed=i) for i in range(3)]
    total = sum(loss(problems.tanh_captured(W, xs[i])) for i in order)
    exact = sum(loss(problems.tanh_exact(W, x)) for x in xs)
    assert_close(torch.autograd.grad(total, W), torch.autograd.grad(exact, W), rtol=1e-8, atol=1e-9)


def test_stacked_layers():
    """A DEQ on a DEQ: the second one's argument carries the first one's graph."""
    W, x = PROBLEMS["tanh_batch"].leaves()
    found = torch.autograd.grad(loss(problems.tanh_batch(W, problems.tanh_batch(W, x))), (W, x))
    exact = torch.autograd.grad(loss(problems.tanh_exact(W, problems.tanh_exact(W, x))), (W, x))
    assert_close(found, exact, rtol=1e-8, atol=1e-9)


def test_an_implicit_function_inside_a_condition():
    """z = cos(r z) / 2 with r^3 = a: the inner root is differentiated by the outer solve."""
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def outer(z, a, inner):
        return 0.5 * torch.cos(inner(z * a))

    start = torch.tensor(0.4, dtype=torch.float64)
    z = fixed_point(lambda z, a: outer(z, a, problems.cubic), start, a)
    exact = unroll(lambda z: outer(z, a, problems.cubic_exact), start)
    assert_close(torch.autograd.grad(z, a), torch.autograd.grad(exact, a), rtol=1e-8, atol=1e-9)


def test_retain_graph(problem):
    args = problem.leaves()
    value = loss(problem.implicit(*args))
    first = torch.autograd.grad(value, args, retain_graph=True)
    second = torch.autograd.grad(value, args)
    assert_close(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, args)


def test_solution_reports_the_backward_solve():
    W, x = PROBLEMS["tanh_batch"].leaves()
    z, solution = fixed_point(
        problems.tanh_map, torch.zeros_like(x), W, x, return_solution=True, adjoint=Implicit(GMRES(tol=1e-6))
    )
    assert solution.backward is None
    loss(z).backward()
    assert solution.backward.converged
    assert solution.backward.residual <= 1e-6
    assert solution.backward.nfe >= 1
    assert solution.backward.value is None


# Copies


def test_deepcopy_of_a_function():
    f = copy.deepcopy(problems.linear)
    A, b = PROBLEMS["linear"].leaves()
    assert_close(
        torch.autograd.grad(loss(f(A, b)), (A, b)), torch.autograd.grad(loss(torch.linalg.solve(A, b)), (A, b))
    )


def test_deepcopy_of_a_layer_after_weight_norm_and_a_forward():
    cell = Cell()
    nn.utils.parametrizations.weight_norm(cell.state)
    layer, x = DEQ(cell, solver=Anderson()), draw(4, 3)
    layer(x).sum().backward()
    twin = copy.deepcopy(layer)
    found = torch.autograd.grad(loss(twin(x)), list(twin.parameters()))
    exact = torch.autograd.grad(loss(unroll(cell, torch.zeros_like(x), x)), list(cell.parameters()))
    assert_close(found, exact, rtol=1e-8, atol=1e-9)
    assert all(a is not b for a, b in zip(layer.parameters(), twin.parameters(), strict=True))


# Nothing to do


@pytest.mark.parametrize("solver", [Anderson(), Broyden(), NewtonKrylov(), Picard()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("linear_solver", [GMRES(), Dense()], ids=lambda s: type(s).__name__)
def test_empty_batch(solver, linear_solver):
    W, x = contraction(3).requires_grad_(), torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    z, solution = fixed_point(
        lambda z, x: torch.tanh(z @ W + x),
        torch.zeros_like(x),
        x,
        solver=solver,
        adjoint=Implicit(linear_solver),
        batch_dims=1,
        on_failure="raise",
        return_solution=True,
    )
    assert z.shape == (0, 3)
    assert solution.status.shape == (0,)
    dW, dx = torch.autograd.grad(z.sum(), (W, x))
    assert dx.shape == (0, 3)
    assert_close(dW, torch.zeros(3, 3, dtype=torch.float64))


def test_empty_batch_of_minimisers():
    x = torch.zeros(0, 2, requires_grad=True)
    y = argmin(lambda y, x: ((y - x) ** 2).sum(1), torch.zeros(0, 2), x, batch_dims=1, adjoint=Implicit(CG()))
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.shape == (0, 2)


def test_loss_function_is_not_trivial():
    """The comparisons above would pass for wrong factors if the loss were linear in y."""
    y = draw(3).requires_grad_()
    (slope,) = torch.autograd.grad(loss(y), y, create_graph=True)
    assert torch.autograd.grad(slope.sum(), y)[0].abs().min() > 1e-3
    assert loss_of(lambda y: y)(y) == loss(y)
