"""`torch.func`: grad, vjp, jacrev, jacfwd, hessian and their compositions to third order."""

import itertools

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, grad_and_value, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.testing import assert_close

from deqzoo.implicit import Anderson, Broyden, ImplicitFunction, Newton, NewtonKrylov, Picard, argmin, fixed_point, root
from deqzoo.nn import DEQ
from tests.implicit import problems
from tests.implicit.problems import PROBLEMS, Cell, draw, flat_of, loss, loss_of, unroll


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]


def every_argument(problem):
    return tuple(range(len(problem.args)))


def test_grad_and_value(problem):
    transform = grad_and_value(loss_of(problem.implicit), argnums=every_argument(problem))
    exact = grad_and_value(loss_of(problem.exact), argnums=every_argument(problem))
    assert_close(transform(*problem.args), exact(*problem.args), rtol=1e-8, atol=1e-9)


def test_vjp(problem):
    value, pull = vjp(flat_of(problem.implicit), *problem.args)
    exact, exact_pull = vjp(flat_of(problem.exact), *problem.args)
    cotangent = draw(*value.shape, seed=3)
    assert_close((value, pull(cotangent)), (exact, exact_pull(cotangent)), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("transform", [jacrev, jacfwd])
def test_jacobian(problem, transform):
    found = transform(flat_of(problem.implicit), argnums=every_argument(problem))(*problem.args)
    exact = transform(flat_of(problem.exact), argnums=every_argument(problem))(*problem.args)
    assert_close(found, exact, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("outer", [jacrev, jacfwd])
@pytest.mark.parametrize("inner", [jacrev, jacfwd])
def test_second_order(problem, outer, inner):
    """All four ways to a Hessian; `torch.func.hessian` is jacfwd of jacrev."""
    last = len(problem.args) - 1

    def second(function):
        return outer(inner(loss_of(function), argnums=last), argnums=0)(*problem.args)

    assert_close(second(problem.implicit), second(problem.exact), rtol=1e-7, atol=1e-8)


def test_hessian_of_a_pytree_of_outputs():
    a, b = PROBLEMS["pair"].args
    found = hessian(lambda a: problems.pair(a, b))(a)
    assert_close(found, hessian(lambda a: problems.pair_exact(a, b))(a), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "transforms",
    list(itertools.product([jacrev, jacfwd], repeat=3)),
    ids=lambda three: "-".join(t.__name__ for t in three),
)
def test_third_order_of_a_scalar(transforms):
    found, exact = problems.cosine, problems.cosine_exact
    for transform in transforms:
        found, exact = transform(found), transform(exact)
    theta = PROBLEMS["cosine"].args[0]
    assert exact(theta).abs() > 1e-3
    assert_close(found(theta), exact(theta), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("transform", [jacrev, jacfwd])
@pytest.mark.parametrize("name", ["tanh_captured", "cubic", "ridge", "linear_vectorized"])
def test_third_order(name, transform):
    problem = PROBLEMS[name]
    args = problem.args[:-1]

    def third(function):
        return transform(hessian(lambda last: loss(function(*args, last))))(problem.args[-1])

    assert_close(third(problem.implicit), third(problem.exact), rtol=1e-6, atol=1e-7)


def test_grad_of_grad_of_grad():
    theta = PROBLEMS["cosine"].args[0]
    assert_close(
        grad(grad(grad(problems.cosine)))(theta), grad(grad(grad(problems.cosine_exact)))(theta), rtol=1e-7, atol=1e-8
    )


@pytest.mark.parametrize("transform", [jacrev, jacfwd])
def test_closure_over_a_traced_value(transform):
    """The question most asked of jaxopt: the outer function's tracer is read by the condition, not passed to it."""

    def outer(function):
        return lambda theta: sum(function(theta * k) ** 2 for k in (1.0, 0.5))

    def captured(theta):
        return fixed_point(lambda y: torch.cos(theta * y), torch.ones_like(theta))

    theta = PROBLEMS["cosine"].args[0]
    assert_close(transform(outer(captured))(theta), transform(outer(problems.cosine_exact))(theta))
    assert_close(
        transform(grad(outer(captured)))(theta),
        transform(grad(outer(problems.cosine_exact)))(theta),
        rtol=1e-7,
        atol=1e-8,
    )


def test_closure_over_tensors_of_two_levels():
    """d/da of (d/db y(a, b)) with a captured at the outer and b at the inner level."""

    def mixed(solve):
        def inner(a):
            return grad(lambda b: solve(lambda y: torch.cos(a * y) + b * 0.1, torch.zeros_like(a)) ** 2)(a * 2)

        return grad(inner)(torch.tensor(0.5, dtype=torch.float64))

    assert_close(mixed(fixed_point), mixed(unroll), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "transform",
    [grad, jacrev, jacfwd, hessian, lambda f: grad(grad(f)), lambda f: jacfwd(hessian(f))],
    ids=["grad", "jacrev", "jacfwd", "hessian", "grad of grad", "third order"],
)
def test_condition_written_with_torch_func(transform):
    """Stationarity as the user would write it, grad(objective)(y, a): y^3 = a."""

    def objective(y, a):
        return y**4 / 4 - a * y

    found = transform(ImplicitFunction(lambda a: a ** (1 / 3), lambda y, a: grad(objective)(y, a)))
    exact = transform(lambda a: a ** (1 / 3))
    a = torch.tensor([2.0, 5.0], dtype=torch.float64)
    assert_close(found(a[0]), exact(a[0]), rtol=1e-7, atol=1e-9)
    assert_close(vmap(found)(a), vmap(exact)(a), rtol=1e-7, atol=1e-9)


def test_functional_call_of_a_module():
    cell, x = Cell(), draw(4, 3)
    parameters = {name: p.detach() for name, p in cell.named_parameters()}

    def train_loss(solve):
        def of(parameters):
            def f(z, x):
                return functional_call(cell, parameters, (z, x))

            return loss(solve(f, torch.zeros_like(x), x))

        return of

    assert_close(grad(train_loss(fixed_point))(parameters), grad(train_loss(unroll))(parameters), rtol=1e-8, atol=1e-9)

    def hvp(function):
        direction = {name: draw(*p.shape, seed=i) for i, (name, p) in enumerate(parameters.items())}
        return jvp(grad(function), (parameters,), (direction,))[1]

    assert_close(hvp(train_loss(fixed_point)), hvp(train_loss(unroll)), rtol=1e-7, atol=1e-8)


def layer_and_reference():
    """A network around a DEQ as a function of parameters and one sample, by torch.func, and the same unrolled."""
    net = nn.Sequential(nn.Linear(3, 3).double(), DEQ(Cell(), solver=Anderson()), nn.Linear(3, 1).double())
    parameters = {name: 0.8 * p.detach() for name, p in net.named_parameters()}  # not what the module itself holds

    def by_layer(parameters, x):
        return functional_call(net, parameters, (x[None],)).sum()

    def by_unrolling(parameters, x):
        below = net[0]
        h = functional_call(below, {n: parameters[f"0.{n}"] for n in ("weight", "bias")}, (x[None],))
        cell = {n.removeprefix("1.cell."): p for n, p in parameters.items() if n.startswith("1.cell.")}
        z = unroll(lambda z: functional_call(net[1].cell, cell, (z, h)), torch.zeros_like(h))
        return functional_call(net[2], {n: parameters[f"2.{n}"] for n in ("weight", "bias")}, (z,)).sum()

    return by_layer, by_unrolling, parameters


def test_layer_in_torch_func():
    found, exact, parameters = layer_and_reference()
    x = draw(4, 3)
    assert_close(grad(found)(parameters, x[0]), grad(exact)(parameters, x[0]), rtol=1e-8, atol=1e-9)
    each = [vmap(grad(f), in_dims=(None, 0))(parameters, x) for f in (found, exact)]
    assert_close(*each, rtol=1e-8, atol=1e-9)
    assert_close(hessian(found, argnums=1)(parameters, x[0]), hessian(exact, argnums=1)(parameters, x[0]))
    direction = {name: torch.ones_like(p) for name, p in parameters.items()}
    products = [jvp(grad(lambda p, f=f: f(p, x[0])), (parameters,), (direction,))[1] for f in (found, exact)]
    assert_close(*products, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "solver", [Picard(), Anderson(), Broyden(), Newton(), NewtonKrylov()], ids=lambda s: type(s).__name__
)
def test_every_solver_under_a_transform(solver):
    W, x = PROBLEMS["tanh_captured"].args

    def run(W):
        return loss(fixed_point(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x), solver=solver))

    exact = jacfwd(grad(lambda W: loss(problems.tanh_exact(W, x))))(W)
    assert_close(jacfwd(grad(run))(W), exact, rtol=1e-7, atol=1e-8)


def test_two_implicit_functions_in_a_bilevel_problem():
    """The outer condition is a gradient through the inner fixed point: d/dt (y(t)^2 + t^2) = c, solved for t."""

    def outer_slope(inner):
        return grad(lambda t: inner(t) ** 2 + t**2)

    def stationary(inner):
        return lambda c: root(lambda t, c: outer_slope(inner)(t) - c, 0.2 + 0 * c, c)

    c = torch.tensor(0.1, dtype=torch.float64)
    found, exact = stationary(problems.cosine), stationary(problems.cosine_exact)
    assert_close(found(c), exact(c), rtol=1e-7, atol=1e-8)
    assert_close(grad(found)(c), 1 / grad(outer_slope(problems.cosine_exact))(exact(c)), rtol=1e-6, atol=1e-8)


def test_has_aux_of_torch_func():
    (slope, y) = grad(lambda t: (problems.cosine(t) ** 2, problems.cosine(t)), has_aux=True)(PROBLEMS["cosine"].args[0])
    exact = grad(lambda t: problems.cosine_exact(t) ** 2)(PROBLEMS["cosine"].args[0])
    assert_close((slope, y), (exact, problems.cosine_exact(PROBLEMS["cosine"].args[0])))


def test_transforms_and_the_tape_together():
    """torch.func.grad inside, .backward() outside."""

    def slope(function):
        theta = PROBLEMS["cosine"].leaves()[0]
        grad(function)(theta).backward()
        return theta.grad

    assert_close(slope(problems.cosine), slope(problems.cosine_exact), rtol=1e-7, atol=1e-8)


def test_pull_after_its_transform_has_ended():
    """`vjp` hands out a function that runs later: on the outer level, batched, and on the tape."""

    def later(function):
        def of(theta):
            _, pull = vjp(function, theta)
            return pull(theta**2)[0] + vmap(lambda v: pull(v)[0])(torch.stack([theta, theta**3])).sum()

        theta = PROBLEMS["cosine"].leaves()[0]
        return grad(of)(theta.detach()), jacfwd(of)(theta.detach()), torch.autograd.grad(of(theta), theta)

    assert_close(later(problems.cosine), later(problems.cosine_exact), rtol=1e-7, atol=1e-8)


def test_transforms_inside_a_dual_level():
    def tangents(function):
        theta = PROBLEMS["cosine"].args[0]
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(theta, torch.ones_like(theta))
            slopes = grad(function)(dual), vmap(jacrev(function))(torch.stack([dual, 0.5 * dual]))
            return [forward_ad.unpack_dual(slope).tangent for slope in slopes]

    assert_close(tangents(problems.cosine), tangents(problems.cosine_exact), rtol=1e-7, atol=1e-8)


def test_what_is_held_constant():
    """`no_grad` and `detach` inside a transform mean here what they mean for any function."""
    theta = PROBLEMS["cosine"].args[0]

    def without_grad(function, x):
        with torch.no_grad():
            return x * function(x)

    for of in (lambda f: lambda x: x * f(x.detach()), lambda f: lambda x: without_grad(f, x) + x):
        found, exact = of(problems.cosine), of(problems.cosine_exact)
        for transform in (grad, jacfwd, hessian):
            assert_close(transform(found)(theta), transform(exact)(theta), rtol=1e-8, atol=1e-9)


def test_hessian_by_hand_over_argmin():
    """hessian = vmap of jvp of grad: the Hessian of the optimal value of min |X w - t|^2 + e^s |w|^2 in t."""
    X, t, s = PROBLEMS["ridge"].args

    def optimal_value(t):
        def objective(w):
            return ((X @ w - t) ** 2).sum() + s.exp() * (w**2).sum()

        return objective(argmin(objective, torch.zeros(2, dtype=torch.float64)))

    H = torch.linalg.inv(X.mT @ X + s.exp() * torch.eye(2, dtype=torch.float64))
    exact = 2 * (torch.eye(4, dtype=torch.float64) - X @ H @ X.mT)
    assert_close(hessian(optimal_value)(t), exact, rtol=1e-7, atol=1e-8)
    by_hand = vmap(lambda v: jvp(grad(optimal_value), (t,), (v,))[1])(torch.eye(4, dtype=torch.float64))
    assert_close(by_hand, exact, rtol=1e-7, atol=1e-8)
