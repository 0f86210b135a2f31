"""Second and third order on the tape, by `create_graph`."""

import pytest
import torch
from torch.testing import assert_close

from deqzoo.implicit import CG, GMRES, Dense, Implicit, ImplicitFunction, Neumann, argmin, fixed_point, root
from tests.implicit import problems
from tests.implicit.problems import PROBLEMS, Cell, contraction, draw, flat_of, looped, loss, unroll


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]


def directional(function, args, order):
    """The derivative of the given order of loss(y) along fixed directions, then the gradient of that."""
    value = loss(function(*args))
    for k in range(order - 1):
        grads = torch.autograd.grad(value, args, create_graph=True)
        value = sum((g * draw(*g.shape, seed=10 + k)).sum() for g in grads)
    return torch.autograd.grad(value, args)


def test_gradgradcheck(problem):
    torch.autograd.gradgradcheck(flat_of(problem.implicit), problem.leaves(), fast_mode=True)


@pytest.mark.parametrize("order", [2, 3])
def test_derivatives_equal_the_exact_ones(problem, order):
    found = directional(problem.implicit, problem.leaves(), order)
    assert_close(found, directional(problem.exact, problem.leaves(), order), rtol=1e-7, atol=1e-7)


def test_scalar_cosine_against_the_closed_form_to_third_order():
    """With y = cos(t y): all derivatives of y(t) by hand, from g(t, y) = -y sin(t y) / (1 + t sin(t y))."""
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    found = [problems.cosine(t)]
    for _ in range(3):
        found.append(torch.autograd.grad(found[-1], t, create_graph=True)[0])

    y = found[0].detach().requires_grad_()
    exact = [-y * torch.sin(t * y) / (1 + t * torch.sin(t * y))]  # D = d/dt + g d/dy gives the next order
    for _ in range(2):
        by_t, by_y = torch.autograd.grad(exact[-1], (t, y), create_graph=True)
        exact.append(by_t + exact[0] * by_y)
    assert_close([d.detach() for d in found[1:]], [d.detach() for d in exact], rtol=1e-8, atol=1e-9)


def test_hessian_vector_product_of_ridge_against_the_closed_form():
    """w(t) is linear in t, so the Hessian of |w|^2 / 2 is S^T S with S = dw/dt."""
    X, t, s = PROBLEMS["ridge"].leaves()
    S = torch.linalg.solve(X.mT @ X + s.exp() * torch.eye(2, dtype=torch.float64), X.mT).detach()
    (slope,) = torch.autograd.grad(0.5 * problems.ridge(X, t, s).pow(2).sum(), t, create_graph=True)
    v = draw(4, seed=9)
    assert_close(torch.autograd.grad(slope @ v, t)[0], S.mT @ (S @ v), rtol=1e-9, atol=1e-10)


def gradient_penalty(solve, cell, x):
    """A training loss with a gradient inside: |d loss / d x|^2, differentiated by all parameters."""
    (slope,) = torch.autograd.grad(loss(solve(cell, torch.zeros_like(x), x)), x, create_graph=True)
    return torch.autograd.grad(slope.pow(2).sum(), list(cell.parameters()))


@pytest.mark.parametrize("linear_solver", [GMRES(), Dense(), Neumann(k=80)], ids=lambda solver: type(solver).__name__)
def test_gradient_penalty_on_module_parameters(linear_solver):
    cell, x = Cell(), draw(4, 3).requires_grad_()

    def solve(cell, z0, x):
        return fixed_point(cell, z0, x, batch_dims=1, adjoint=Implicit(linear_solver))

    assert_close(gradient_penalty(solve, cell, x), gradient_penalty(unroll, cell, x), rtol=1e-7, atol=1e-8)


def test_backward_with_create_graph_accumulates_differentiable_gradients():
    W, x = PROBLEMS["tanh_captured"].leaves()
    with pytest.warns(UserWarning, match="create_graph=True"):
        loss(problems.tanh_captured(W, x)).backward(create_graph=True)
    found = torch.autograd.grad(W.grad.pow(2).sum(), x)
    W.grad = None  # breaks the cycle
    (slope,) = torch.autograd.grad(loss(problems.tanh_exact(W, x)), W, create_graph=True)
    assert_close(found, torch.autograd.grad(slope.pow(2).sum(), x), rtol=1e-7, atol=1e-8)


def test_second_order_between_two_captured_tensors():
    """Both tensors are read by the closure alone, one through a view and one through a property."""
    a, b = draw(2, 3).requires_grad_(), draw(3, 2, seed=1).requires_grad_()

    def f(z):
        return 0.3 * torch.sin(z + a[0]) + 0.1 * b.T[1]

    def mixed(z):
        (slope,) = torch.autograd.grad(loss(z), a, create_graph=True)
        return torch.autograd.grad(slope.pow(2).sum(), (a, b))

    z0 = torch.zeros(3, dtype=torch.float64)
    assert_close(mixed(fixed_point(f, z0)), mixed(unroll(f, z0)), rtol=1e-7, atol=1e-8)


def test_second_order_of_a_captured_tensor_that_depends_on_an_argument():
    """y = a c with c = 2 a: the tape of the condition ends in the argument alone, and c is captured all the same."""
    a = torch.tensor([0.5, 3.0], dtype=torch.float64, requires_grad=True)
    c = 2 * a
    y = root(lambda y, a: y - a * c, torch.zeros(2, dtype=torch.float64), a)
    (slope,) = torch.autograd.grad(y.sum(), a, create_graph=True)
    assert_close(slope, 4 * a, rtol=1e-10, atol=1e-10)
    assert_close(torch.autograd.grad(slope.sum(), a)[0], torch.full_like(a, 4.0), rtol=1e-10, atol=1e-10)


def test_second_order_of_a_captured_tensor_made_together_with_an_argument():
    """y = sin(b) c, where the argument b and the captured c are the two outputs of one split."""
    both = torch.tensor([0.5, 3.0], dtype=torch.float64, requires_grad=True)
    b, c = (2 * both).split(1)
    y = root(lambda y, b: y - torch.sin(b) * c, torch.zeros(1, dtype=torch.float64), b)
    expected = torch.sin(2 * both[:1]) * 2 * both[1:]
    found, exact = (
        torch.autograd.grad(torch.autograd.grad(value.sum(), both, create_graph=True)[0].sum(), both)[0]
        for value in (y, expected)
    )
    assert_close(found, exact, rtol=1e-9, atol=1e-9)


def test_second_order_of_a_captured_leaf():
    p = torch.tensor([0.5, 3.0], dtype=torch.float64, requires_grad=True)
    y = root(lambda y: y**3 - p, torch.ones(2, dtype=torch.float64))
    (slope,) = torch.autograd.grad(y.sum(), p, create_graph=True)
    assert_close(torch.autograd.grad(slope.sum(), p)[0], -2 / 9 * p.detach() ** (-5 / 3), rtol=1e-7, atol=1e-7)


def test_second_order_of_a_tensor_in_a_list_that_is_emptied_later():
    """The condition's own list has changed by the time that anyone could look at it again."""
    p = torch.tensor([0.5, 3.0], dtype=torch.float64, requires_grad=True)
    q = p**2

    def condition(y):
        parts = [y**3, q]
        stacked = torch.stack(parts)
        parts.clear()
        return stacked[0] - stacked[1]

    y = root(condition, torch.ones(2, dtype=torch.float64))
    (slope,) = torch.autograd.grad(y.sum(), p, create_graph=True)
    assert_close(torch.autograd.grad(slope.sum(), p)[0], -2 / 9 * p.detach() ** (-4 / 3), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "inside",
    [lambda p: torch.func.vmap(lambda q: (q * q).sum())(p), lambda p: torch.func.grad(lambda q: (q**4 / 4).sum())(p)],
    ids=["vmap", "grad"],
)
def test_a_captured_tensor_that_is_handed_to_a_transform_is_right_or_an_error(inside):
    p = torch.tensor([0.5, 3.0], dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(inside(p).sum(), p)[0]
    y = root(lambda y: y - inside(p), torch.zeros(2, dtype=torch.float64))
    assert_close(torch.autograd.grad(y.sum(), p, retain_graph=True)[0], expected)
    with pytest.raises(RuntimeError, match="pass that tensor as one of the arguments"):
        torch.autograd.grad(y.sum(), p, create_graph=True)


def test_second_order_of_a_complex_tensor():
    """A real state with a complex weight inside: a circular convolution by FFT."""
    w = (0.1 * torch.fft.rfft(draw(8))).requires_grad_()
    x = draw(8, seed=1).requires_grad_()

    def f(z):
        return torch.tanh(torch.fft.irfft(torch.fft.rfft(z) * w, n=8) + x)

    def second(solve):
        slopes = torch.autograd.grad(loss(solve(f, torch.zeros_like(x))), (w, x), create_graph=True)
        return torch.autograd.grad(sum(s.abs().square().sum() for s in slopes), (w, x))

    assert_close(second(fixed_point), second(unroll), rtol=1e-7, atol=1e-8)


def test_closures_of_a_loop_to_second_order():
    """Late binding: what the lambdas read has changed when backward comes. Right or refused, never wrong."""
    weights = [contraction(3, seed=i).requires_grad_() for i in range(3)]
    x = draw(2, 3).requires_grad_()

    def penalty(solve):
        (slope,) = torch.autograd.grad(loss(looped(solve, weights, x)), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weights)

    try:
        found, refusal = penalty(fixed_point), ""
    except RuntimeError as error:
        found, refusal = None, str(error)
    if found is None:
        assert "the condition reads" in refusal
    else:
        assert_close(found, penalty(unroll), rtol=1e-7, atol=1e-8)


def test_second_order_with_aux_and_several_outputs():
    def solve(a, b):
        return {"p": torch.sqrt(a), "q": torch.sqrt(a) * b}, "aux"

    def conditions(y, a, b):
        return {"p": y["p"] ** 2 - a, "q": y["q"] - y["p"] * b}

    args = (draw(3).abs() + 0.5).requires_grad_(), draw(3, seed=1).requires_grad_()
    f = ImplicitFunction(solve, conditions, has_aux=True, linear_solver=Dense())
    assert_close(
        directional(lambda a, b: f(a, b)[0], args, 3),
        directional(lambda a, b: solve(a, b)[0], args, 3),
        rtol=1e-7,
        atol=1e-7,
    )


def test_second_order_through_the_residual_of_an_objective():
    """argmin's condition is itself a gradient: its HVP is a third derivative of the objective."""
    a = draw(3).exp().requires_grad_()
    y = argmin(
        lambda y, a: (y.exp() - a * y).sum(), torch.zeros(3, dtype=torch.float64), a, adjoint=Implicit(CG(tol=1e-13))
    )  # y = log a
    (slope,) = torch.autograd.grad(y.sum(), a, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), a, create_graph=True)
    (third,) = torch.autograd.grad(curvature.sum(), a)
    a = a.detach()
    assert_close([slope.detach(), curvature.detach(), third], [1 / a, -1 / a**2, 2 / a**3], rtol=1e-7, atol=1e-8)


def test_reverse_over_a_gradient_taken_inside_the_condition():
    """A bilevel condition that calls autograd.grad itself (stationarity by hand) serves to any order too."""
    a = torch.tensor([2.0, 5.0], dtype=torch.float64, requires_grad=True)

    def stationarity(y, a):
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            return torch.autograd.grad((y**4 / 4 - a * y).sum(), y, create_graph=True)[0]  # y^3 = a

    y = ImplicitFunction(lambda a: a ** (1 / 3), stationarity)(a)
    (slope,) = torch.autograd.grad(y.sum(), a, create_graph=True)
    assert_close(slope.detach(), a.detach() ** (-2 / 3) / 3)
    (curvature,) = torch.autograd.grad(slope.sum(), a)
    assert_close(curvature, -2 / 9 * a.detach() ** (-5 / 3))


def test_first_order_graph_is_not_silently_first_order():
    """The trap of `once_differentiable`: a gradient of a gradient must be right, not zero or None."""
    a = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    y = root(lambda y, a: y**3 - a, torch.ones_like(a), a)
    (slope,) = torch.autograd.grad(y, a, create_graph=True)
    assert slope.requires_grad
    assert_close(torch.autograd.grad(slope, a)[0], torch.tensor(-2 / 9 * 8 ** (-5 / 3), dtype=torch.float64))
