"""First order on the tape: `.backward()` and `torch.autograd.grad`."""

import copy
from typing import NamedTuple

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
from tests.implicit.problems import PROBLEMS, contraction, draw, flat_of, loss, loss_of, unroll


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


@settings(max_examples=10, deadline=None)
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


# Whatever the condition reads


class Cell(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.state, self.input = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.state.weight *= 0.2
        self.double()

    def forward(self, z, x):
        return torch.tanh(self.state(z) + self.input(x))


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_module_parameters(batch_dims):
    cell, x = Cell(), draw(4, 3)
    z = fixed_point(cell, torch.zeros_like(x), x, batch_dims=batch_dims)
    found = torch.autograd.grad(loss(z), list(cell.parameters()))
    exact = torch.autograd.grad(loss(unroll(cell, torch.zeros_like(x), x)), list(cell.parameters()))
    assert_close(found, exact, rtol=1e-8, atol=1e-9)


def test_captured_tensor_reaches_the_leaf_it_was_made_from():
    raw = draw(3).requires_grad_()
    scale = 0.3 * torch.sigmoid(raw)
    z = fixed_point(lambda z: torch.cos(scale * z), torch.zeros(3, dtype=torch.float64))
    exact = unroll(lambda z: torch.cos(scale * z), torch.zeros(3, dtype=torch.float64))
    assert_close(
        torch.autograd.grad(loss(z), raw, retain_graph=True), torch.autograd.grad(loss(exact), raw), rtol=1e-8, atol=1e-9
    )


def test_captured_by_root_argmin_and_implicit_function():
    a = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    start = torch.ones(2, dtype=torch.float64)
    by_root = root(lambda y: y**2 - a, start)
    by_argmin = argmin(lambda y: (y**3 / 3 - a * y).sum(), start)
    black_box = ImplicitFunction(lambda: a.detach().sqrt(), lambda y: y**2 - a)()
    for y in (by_root, by_argmin, black_box):
        assert_close(torch.autograd.grad(y.sum(), a)[0], 0.5 / a.detach().sqrt())


def test_same_tensor_as_argument_and_captured():
    a = torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)
    z0 = torch.zeros(2, dtype=torch.float64)
    z = fixed_point(lambda z, x: torch.cos(x * z) + a, z0, a)
    exact = unroll(lambda z: torch.cos(a * z) + a, z0)
    assert_close(torch.autograd.grad(loss(z), a), torch.autograd.grad(loss(exact), a), rtol=1e-8, atol=1e-9)


def looped(solve, weights, x):
    """Layers in a loop: every lambda reads the loop's variables, which have moved on when backward comes."""
    z = x
    for W in weights:
        below = z
        z = solve(lambda z: torch.tanh(z @ W + below), torch.zeros_like(x))  # noqa: B023
    return z


def test_closures_of_a_loop():
    weights = [contraction(3, seed=i).requires_grad_() for i in range(3)]
    x = draw(2, 3).requires_grad_()
    found = torch.autograd.grad(loss(looped(fixed_point, weights, x)), [*weights, x])
    assert_close(found, torch.autograd.grad(loss(looped(unroll, weights, x)), [*weights, x]), rtol=1e-8, atol=1e-9)


def test_functional_call_of_a_layer():
    """Weights that the module has during the call alone, as in MAML: the adjoint is solved with these."""
    layer, x = DEQ(Cell(), solver=Anderson()), draw(4, 3)
    fast = {name: (0.5 * p.detach()).requires_grad_() for name, p in layer.named_parameters()}
    z = torch.func.functional_call(layer, fast, (x,))
    cell = {name.removeprefix("cell."): p for name, p in fast.items()}
    exact = unroll(lambda z: torch.func.functional_call(layer.cell, cell, (z, x)), torch.zeros_like(x))
    found = torch.autograd.grad(loss(z), list(fast.values()))
    assert_close(found, torch.autograd.grad(loss(exact), list(fast.values())), rtol=1e-8, atol=1e-9)


def test_mode_of_a_module_at_the_forward():
    """`.eval()` between forward and backward does not change the function that is differentiated."""

    class Switching(Cell):
        def forward(self, z, x):
            return super().forward(z, x) * (1.0 if self.training else 0.1)

    cell, x = Switching(), draw(4, 3)
    z = fixed_point(cell, torch.zeros_like(x), x)
    exact = unroll(cell, torch.zeros_like(x), x)
    cell.eval()
    parameters = list(cell.parameters())
    found = torch.autograd.grad(loss(z), parameters)
    assert_close(found, torch.autograd.grad(loss(exact), parameters), rtol=1e-8, atol=1e-9)


def test_function_that_works_in_place():
    def f(z, x):
        y = z.clone()
        y.mul_(0.3).cos_()
        y += x
        return y

    x = draw(3).requires_grad_()
    z = fixed_point(f, torch.zeros_like(x), x)
    exact = unroll(f, torch.zeros_like(x), x)
    assert_close(torch.autograd.grad(loss(z), x), torch.autograd.grad(loss(exact), x), rtol=1e-8, atol=1e-9)


# Structures


class State(NamedTuple):
    u: torch.Tensor
    v: list


def test_structure_is_kept_and_every_leaf_gets_its_gradient():
    x = {"a": draw(2).requires_grad_(), "b": (draw(2, 2, seed=1).requires_grad_(), "a constant")}

    def f(state, x):
        return State(0.5 * torch.cos(state.v[0].sum(0)) + x["a"], [0.2 * torch.sin(state.u) * x["b"][0]])

    z0 = State(torch.zeros(2, dtype=torch.float64), [torch.zeros(2, 2, dtype=torch.float64)])
    z = fixed_point(f, z0, x)
    assert isinstance(z, State)
    leaves = [x["a"], x["b"][0]]
    assert_close(
        torch.autograd.grad(loss(z), leaves), torch.autograd.grad(loss(unroll(f, z0, x)), leaves), rtol=1e-8, atol=1e-9
    )


def test_leaves_of_different_dtypes():
    """The system is solved in float64; each leaf and each gradient has its own dtype."""
    a, b = draw(3).float().requires_grad_(), draw(3, seed=1).requires_grad_()

    def f(z, a, b):
        return {"u": 0.3 * torch.cos(z["v"].float()) + a, "v": 0.3 * torch.sin(z["u"].double()) + b}

    start = {"u": torch.zeros(3), "v": torch.zeros(3, dtype=torch.float64)}
    z = fixed_point(f, start, a, b, solver=Anderson(tol=1e-6))
    assert {name: t.dtype for name, t in z.items()} == {"u": torch.float32, "v": torch.float64}
    found = torch.autograd.grad(z["u"].double().sum() + z["v"].sum(), (a, b))
    exact = unroll(f, start, a, b)
    exact = torch.autograd.grad(exact["u"].double().sum() + exact["v"].sum(), (a, b))
    assert_close(found, exact, rtol=1e-5, atol=1e-6)


def test_channels_last():
    """The memory layout changes neither value nor gradients, and is kept."""
    conv, x = nn.Conv2d(4, 4, 3, padding=1).double(), draw(2, 4, 5, 5)
    with torch.no_grad():
        conv.weight *= 0.3

    def run(memory_format):
        leaf = x.clone(memory_format=memory_format).requires_grad_()
        z = fixed_point(lambda z, x: torch.tanh(conv(z) + x), torch.zeros_like(leaf), leaf, batch_dims=1)
        assert z.is_contiguous(memory_format=memory_format)
        return z.detach(), torch.autograd.grad(z.square().sum(), [leaf, *conv.parameters()])

    assert_close(run(torch.channels_last), run(torch.contiguous_format), rtol=1e-9, atol=1e-10, check_stride=False)


@pytest.mark.parametrize("linear_solver", [GMRES(), Dense()], ids=repr)
def test_blocks_off_the_diagonal_count(linear_solver):
    """u + 2 v = a, 3 u - v = b: a solver that keeps the diagonal blocks alone gives wrong numbers."""
    a, b = (t.requires_grad_() for t in (draw(2), draw(2, seed=1)))

    def conditions(y, a, b):
        return (y[0] + 2 * y[1] - a, 3 * y[0] - y[1] - b)

    def solve(a, b):
        return ((a + 2 * b) / 7, (3 * a - b) / 7)

    u, v = ImplicitFunction(solve, conditions, linear_solver=linear_solver)(a, b)
    one = torch.ones(2, dtype=torch.float64)
    assert_close(torch.autograd.grad(u.sum(), (a, b), retain_graph=True), (one / 7, 2 * one / 7))
    assert_close(torch.autograd.grad(v.sum(), (a, b)), (3 * one / 7, -one / 7))


def test_one_of_several_outputs_is_used():
    a, b = PROBLEMS["pair"].leaves()
    found = torch.autograd.grad(problems.pair(a, b)["v"].pow(2).sum(), (a, b))
    exact = torch.autograd.grad(problems.pair_exact(a, b)["v"].pow(2).sum(), (a, b))
    assert_close(found, exact, rtol=1e-8, atol=1e-9)


# Auxiliary outputs and unusual arguments


def test_aux_is_handed_on_as_it_is():
    def solve(a):
        return a.sqrt(), {"steps": 3, "trace": a * 2}

    a = torch.tensor([4.0, 9.0], dtype=torch.float64, requires_grad=True)
    y, aux = ImplicitFunction(solve, lambda y, a: y**2 - a, has_aux=True)(a)
    assert aux["steps"] == 3
    assert_close(aux["trace"], 2 * a.detach())
    assert not aux["trace"].requires_grad
    y.sum().backward()
    assert_close(a.grad, 0.5 / a.detach().sqrt())


def test_gradient_of_a_subset_of_the_arguments():
    problem = PROBLEMS["ridge"]
    X, t, s = problem.leaves()
    t = t.detach()
    found = torch.autograd.grad(loss(problem.implicit(X, t, s)), (X, s))
    exact = torch.autograd.grad(loss(problem.exact(X, t, s)), (X, s))
    assert_close(found, exact, rtol=1e-8, atol=1e-9)


def test_nothing_to_differentiate_keeps_no_graph(problem):
    assert not flat_of(problem.implicit)(*problem.args).requires_grad


def test_argument_that_is_not_used_has_no_gradient():
    a = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    unused = torch.ones(3, requires_grad=True)
    y = root(lambda y, a, unused: y**2 - a, torch.ones_like(a), a, unused)
    grad, nothing = torch.autograd.grad(y, (a, unused), allow_unused=True)
    assert_close(grad, 0.5 / a.detach().sqrt())
    assert nothing is None or not nothing.any()


def test_integers_and_constants_as_arguments():
    table = draw(4, 3).requires_grad_()

    def f(z, index, scale, name, nothing):
        assert (name, nothing) == ("name", None)
        return scale * torch.cos(z) + table[index]

    index = torch.tensor([2, 0])
    z = fixed_point(f, torch.zeros(2, 3, dtype=torch.float64), index, 0.5, "name", None)
    z.sum().backward()
    expected = torch.zeros_like(table)
    expected[index] = 1 / (1 + 0.5 * torch.sin(z.detach()))
    assert_close(table.grad, expected)


def test_no_gradient_flows_to_the_start():
    z0 = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    x = draw(3).requires_grad_()
    z = fixed_point(lambda z, x: 0.5 * torch.cos(z) + x, z0, x)
    z.sum().backward()
    assert z0.grad is None
    assert not fixed_point(lambda z, x: 0.5 * torch.cos(z) + x, z0, x.detach()).requires_grad


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
        problems.tanh_map, torch.zeros_like(x), W, x, return_solution=True, gradient=Implicit(GMRES(tol=1e-6))
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
        gradient=Implicit(linear_solver),
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
    y = argmin(lambda y, x: ((y - x) ** 2).sum(1), torch.zeros(0, 2), x, batch_dims=1, linear_solver=CG())
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.shape == (0, 2)


def test_loss_function_is_not_trivial():
    """The comparisons above would pass for wrong factors if the loss were linear in y."""
    y = draw(3).requires_grad_()
    (slope,) = torch.autograd.grad(loss(y), y, create_graph=True)
    assert torch.autograd.grad(slope.sum(), y)[0].abs().min() > 1e-3
    assert loss_of(lambda y: y)(y) == loss(y)
