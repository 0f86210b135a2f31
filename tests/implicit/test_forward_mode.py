"""Forward mode: `torch.autograd.forward_ad` and `torch.func.jvp`."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import jacfwd, jvp
from torch.testing import assert_close

from deqzoo.implicit import CG, GMRES, Dense, Implicit, ImplicitFunction, Neumann, argmin, fixed_point, root
from tests.implicit import problems
from tests.implicit.problems import PROBLEMS, Cell, draw, flat, flat_of, loss, loss_of, unroll


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]


def tangents(args, seed=20):
    return tuple(draw(*t.shape, seed=seed + i) for i, t in enumerate(args))


def exact_tangent(problem, direction):
    """J v from the whole Jacobian of the exact function."""
    jacobians = jacfwd(flat_of(problem.exact), argnums=tuple(range(len(problem.args))))(*problem.args)
    return sum(J.reshape(J.shape[0], -1) @ v.reshape(-1) for J, v in zip(jacobians, direction, strict=True))


def test_jvp_equals_the_exact_jacobian(problem):
    direction = tangents(problem.args)
    value, tangent = jvp(flat_of(problem.implicit), problem.args, direction)
    assert_close(value, flat(problem.exact(*problem.args)), rtol=1e-9, atol=1e-10)
    assert_close(tangent, exact_tangent(problem, direction), rtol=1e-8, atol=1e-9)


def test_dual_level_equals_the_exact_jacobian(problem):
    direction = tangents(problem.args)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, v) for t, v in zip(problem.args, direction, strict=True)]
        tangent = forward_ad.unpack_dual(flat(problem.implicit(*duals))).tangent
    assert_close(tangent, exact_tangent(problem, direction), rtol=1e-8, atol=1e-9)


def test_gradcheck_in_forward_mode(problem):
    torch.autograd.gradcheck(
        flat_of(problem.implicit), problem.leaves(), check_forward_ad=True, check_backward_ad=False, fast_mode=True
    )


def test_tangent_of_one_argument_alone(problem):
    direction = tangents(problem.args)[0]
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(problem.args[0], direction)
        tangent = forward_ad.unpack_dual(flat(problem.implicit(dual, *problem.args[1:]))).tangent
    others = [torch.zeros_like(t) for t in problem.args[1:]]
    assert_close(tangent, exact_tangent(problem, (direction, *others)), rtol=1e-8, atol=1e-9)


def test_no_tangent_in_no_tangent_out(problem):
    with forward_ad.dual_level():
        assert forward_ad.unpack_dual(flat(problem.implicit(*problem.args))).tangent is None


def test_captured_dual_tensors_through_each_function():
    a, da = torch.tensor([2.0, 3.0], dtype=torch.float64), torch.tensor([1.0, -2.0], dtype=torch.float64)
    start = torch.ones(2, dtype=torch.float64)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(a, da)
        results = {
            "root": root(lambda y: y**2 - dual, start),
            "argmin": argmin(lambda y: (y**3 / 3 - dual * y).sum(), start),
            "fixed_point": fixed_point(lambda y: y + 0.3 * (dual - y**2), start),
            "black box": ImplicitFunction(lambda: a.sqrt(), lambda y: y**2 - dual)(),
        }
        for name, y in results.items():
            assert_close(forward_ad.unpack_dual(y).tangent, da / (2 * a.sqrt()), msg=name)


def test_module_parameters_as_duals():
    cell, x = Cell(), draw(4, 3)
    parameters = dict(cell.named_parameters())
    direction = {name: draw(*p.shape, seed=i) for i, (name, p) in enumerate(parameters.items())}

    def run(solve):
        with forward_ad.dual_level():
            duals = {name: forward_ad.make_dual(p.detach(), direction[name]) for name, p in parameters.items()}
            z = solve(lambda z, x: torch.func.functional_call(cell, duals, (z, x)), torch.zeros_like(x), x)
            return forward_ad.unpack_dual(z).tangent

    assert_close(run(fixed_point), run(unroll), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("linear_solver", [GMRES(), Dense(), Neumann(k=80)], ids=lambda s: type(s).__name__)
def test_linear_solvers_with_the_matrix_not_transposed(linear_solver):
    W, x = PROBLEMS["tanh_batch"].args
    direction = tangents((W, x))

    def f(W, x):
        return fixed_point(
            lambda z, x: problems.tanh_map(z, W, x),
            torch.zeros_like(x),
            x,
            batch_dims=1,
            adjoint=Implicit(linear_solver),
        )

    found = jvp(f, (W, x), direction)
    assert_close(found, jvp(problems.tanh_exact, (W, x), direction), rtol=1e-8, atol=1e-9)


def test_dual_and_tape_together(problem):
    """Inside a dual level a tensor can also be on the tape: forward over reverse by hand."""

    def hvp(function):
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, v) for t, v in zip(problem.leaves(), tangents(problem.args), strict=True)]
            grads = torch.autograd.grad(loss(function(*duals)), duals)
            return [forward_ad.unpack_dual(g).tangent for g in grads]

    assert_close(hvp(problem.implicit), hvp(problem.exact), rtol=1e-7, atol=1e-8)


def test_gradient_of_a_tangent(problem):
    """Reverse over forward: the tangent is on the tape of the primal."""

    def slope(function):
        args = problem.leaves()
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, v) for t, v in zip(args, tangents(args), strict=True)]
            tangent = forward_ad.unpack_dual(loss(function(*duals))).tangent
            return torch.autograd.grad(tangent, args)

    assert_close(slope(problem.implicit), slope(problem.exact), rtol=1e-7, atol=1e-8)


def nested_jvp(function, args, order):
    for k in range(order):
        function = _directional(function, tangents(args, seed=30 + 10 * k))
    return function(*args)


def _directional(function, direction):
    return lambda *args: jvp(function, args, direction)[1]


@pytest.mark.parametrize(
    ("name", "order"),
    [*((name, 2) for name in PROBLEMS), ("tanh_captured", 3), ("cosine", 3), ("cubic", 3), ("ridge", 3), ("linear", 3)],
)
def test_forward_over_forward(name, order):
    problem = PROBLEMS[name]
    found = nested_jvp(loss_of(problem.implicit), problem.args, order)
    exact = nested_jvp(loss_of(problem.exact), problem.args, order)
    assert exact.abs() > 1e-6  # a silent zero would be seen
    assert_close(found, exact, rtol=1e-7, atol=1e-8)


def test_tangent_of_argmin_uses_its_symmetry():
    a = draw(3).exp()
    y, tangent = jvp(
        lambda a: argmin(lambda y, a: (y.exp() - a * y).sum(), torch.zeros_like(a), a, adjoint=Implicit(CG(tol=1e-13))),
        (a,),
        (torch.ones_like(a),),
    )
    assert_close([y, tangent], [a.log(), 1 / a], rtol=1e-9, atol=1e-10)
