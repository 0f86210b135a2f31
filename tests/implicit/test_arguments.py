"""What a function may read and return: captured tensors, parameters, pytrees, auxiliary outputs, unusual arguments."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from deqzoo.implicit import (
    GMRES,
    Anderson,
    Dense,
    Implicit,
    ImplicitFunction,
    OneStep,
    Phantom,
    Picard,
    ReversibleIteration,
    Unrolled,
    argmin,
    fixed_point,
    root,
)
from deqzoo.nn import DEQ
from tests.implicit import problems
from tests.implicit.problems import PROBLEMS, Cell, contraction, draw, flat_of, looped, loss, unroll


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]


# Whatever the condition reads


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
        torch.autograd.grad(loss(z), raw, retain_graph=True),
        torch.autograd.grad(loss(exact), raw),
        rtol=1e-8,
        atol=1e-9,
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


@pytest.mark.parametrize(
    ("adjoint", "damping"),
    [(Unrolled(), 0.5), (Unrolled(checkpoint=True), 1.0), (ReversibleIteration(), 0.5)],
    ids=["unrolled", "checkpointed", "reversible"],
)
def test_a_gradient_that_is_of_the_steps_reaches_a_start_that_depends_on_the_inputs(adjoint, damping):
    x = draw(3).requires_grad_()

    def f(z, x):
        return 0.5 * torch.cos(z) + x

    def solve(start, x):
        solver = Picard(damping=damping, max_steps=4, stop="never")
        return fixed_point(f, start, x, solver=solver, adjoint=adjoint, on_failure="ignore")

    y = z = x.square()
    for _ in range(4):
        if isinstance(adjoint, ReversibleIteration):
            y = torch.lerp(y, f(z, x), damping)
            z = torch.lerp(z, f(y, x), damping)
        else:
            z = torch.lerp(z, f(z, x), damping)
    found = torch.autograd.grad(solve(x.square(), x).sin().sum(), x)
    assert_close(found, torch.autograd.grad(z.sin().sum(), x), rtol=1e-8, atol=1e-9)
    start = draw(3).requires_grad_()
    assert torch.autograd.grad(solve(start, x.detach()).sum(), start)[0].abs().min() > 0  # of the start alone


@pytest.mark.parametrize("gradient", [Implicit(), Phantom(steps=30), OneStep(), Unrolled()], ids=repr)
def test_dictionaries_are_matched_by_key_in_any_order(gradient):
    """Leaves of one shape in another order, nested too, would else be taken for each other without an error."""
    a = torch.tensor([0.3, 0.5], dtype=torch.float64, requires_grad=True)

    def f(z, a):
        inner = {"w": 0.2 * z["v"]["w"] + 2 * a, "s": 0.1 * z["v"]["s"]}
        return {"v": inner, "u": 0.5 * z["u"] + a}

    zero = torch.zeros(2, dtype=torch.float64)
    start = {"u": zero, "v": {"s": zero, "w": zero}}
    z = fixed_point(f, start, a, solver=Picard(), adjoint=gradient)
    assert list(z) == ["u", "v"]
    torch.testing.assert_close(z["u"], 2 * a, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(z["v"]["w"], 2.5 * a, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(z["v"]["s"], zero, rtol=0, atol=1e-8)
    (slope,) = torch.autograd.grad(z["u"].sum() - z["v"]["w"].sum(), a)
    expected = 1.0 - 2.0 if isinstance(gradient, OneStep) else 2.0 - 2.5
    torch.testing.assert_close(slope, torch.full_like(a, expected), rtol=1e-4, atol=1e-5)


def test_a_result_with_other_keys_is_an_error():
    with pytest.raises(ValueError, match="structure and shapes"):
        fixed_point(lambda z: {"u": z["u"], "w": z["v"]}, {"u": torch.zeros(2), "v": torch.zeros(2)})
