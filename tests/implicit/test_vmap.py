"""`torch.func.vmap` of the function and of its derivatives, against a loop."""

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.testing import assert_close

from deqzoo.implicit import (
    GMRES,
    LBFGS,
    Anderson,
    Broyden,
    Dense,
    GradientDescent,
    ImplicitFunction,
    Newton,
    NewtonCG,
    NewtonKrylov,
    Picard,
    argmin,
    fixed_point,
    root,
)
from tests.implicit import problems
from tests.implicit.problems import PROBLEMS, Cell, contraction, draw, flat_of, loss, loss_of, unroll

B = 3


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]


def batched(problem):
    """B variants of the arguments, stacked at the front."""
    return tuple(torch.stack([t * (1 - 0.1 * i) for i in range(B)]) for t in problem.args)


def loop(function, *args):
    """What vmap means: one call for each index, the results stacked, leaf by leaf."""
    results = [torch.utils._pytree.tree_flatten(function(*rows)) for rows in zip(*args, strict=True)]
    stacked = [torch.stack(parts) for parts in zip(*[leaves for leaves, _ in results], strict=True)]
    return torch.utils._pytree.tree_unflatten(stacked, results[0][1])


def test_vmap(problem):
    args = batched(problem)
    assert_close(vmap(problem.implicit)(*args), loop(problem.exact, *args), rtol=1e-8, atol=1e-9)


TRANSFORMS = {
    "grad": lambda f: grad(loss_of(f)),
    "jacrev": lambda f: jacrev(flat_of(f)),
    "jacfwd": lambda f: jacfwd(flat_of(f)),
    "hessian": lambda f: hessian(loss_of(f)),
    "vjp": lambda f: lambda *args: vjp(loss_of(f), *args)[1](torch.ones((), dtype=torch.float64)),
    "jvp": lambda f: lambda *args: jvp(loss_of(f), args, tuple(torch.ones_like(t) for t in args)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_vmap_of_a_transform(problem, name):
    transform, args = TRANSFORMS[name], batched(problem)
    found = vmap(transform(problem.implicit))(*args)
    assert_close(found, loop(transform(problem.exact), *args), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["grad", "jacfwd"])
def test_transform_of_vmap(problem, name):
    def total(function):
        return lambda *args: sum(leaf.pow(2).sum() for leaf in torch.utils._pytree.tree_leaves(vmap(function)(*args)))

    transform = {"grad": grad, "jacfwd": jacfwd}[name]
    args = batched(problem)
    assert_close(
        transform(total(problem.implicit))(*args), transform(total(problem.exact))(*args), rtol=1e-7, atol=1e-8
    )


def test_hessian_of_vmap():
    theta = batched(PROBLEMS["cosine"])[0]
    found = hessian(lambda theta: loss(vmap(problems.cosine)(theta)))(theta)
    exact = hessian(lambda theta: loss(problems.cosine_exact(theta)))(theta)
    assert_close(found, exact, rtol=1e-7, atol=1e-8)


def test_backward_through_vmap(problem):
    """The ordinary tape outside of a vmap."""

    def gradients(function):
        args = [t.requires_grad_() for t in batched(problem)]
        return torch.autograd.grad(sum(map(torch.sum, torch.utils._pytree.tree_leaves(vmap(function)(*args)))), args)

    assert_close(gradients(problem.implicit), gradients(problem.exact), rtol=1e-8, atol=1e-9)


def test_forward_mode_through_vmap():
    """The dual level outside of a vmap."""
    theta = batched(PROBLEMS["cosine"])[0]

    def tangent(function):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(theta, torch.ones_like(theta))
            return torch.autograd.forward_ad.unpack_dual(vmap(function)(dual)).tangent

    assert_close(tangent(problems.cosine), tangent(problems.cosine_exact), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("in_dims", [(None, 0), (0, None), (1, 1), (-1, None)])
@pytest.mark.parametrize("name", ["tanh_by_arguments", "tanh_captured", "tanh_batch", "linear", "linear_vectorized"])
def test_in_dims(name, in_dims):
    problem = PROBLEMS[name]
    args = [
        t if d is None else torch.stack([t, 0.9 * t, 0.8 * t], d) for t, d in zip(problem.args, in_dims, strict=True)
    ]

    def run(function):
        return vmap(lambda *args: (function(*args), grad(loss_of(function))(*args)), in_dims=in_dims, out_dims=-1)(
            *args
        )

    assert_close(run(problem.implicit), run(problem.exact), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("transform", [lambda f: f, jacfwd, jacrev], ids=["value", "jacfwd", "jacrev"])
def test_nested_vmap(transform):
    a, b = draw(2, 1, seed=1).abs() * 0.2, draw(1, 3, seed=2) * 0.3

    def run(solve):
        def inner(a, b):
            return solve(lambda z, b: torch.cos(a * z) + b, torch.zeros_like(a + b), b)

        inner = transform(inner)
        return vmap(vmap(inner, in_dims=(None, 0)), in_dims=(0, None))(a[:, 0], b[0])

    assert_close(run(fixed_point), run(unroll), rtol=1e-8, atol=1e-9)


def test_captured_batched_tensor():
    """The condition reads a tensor that only the surrounding function knows to be batched."""
    scale, x = torch.linspace(0.05, 0.3, B, dtype=torch.float64), draw(4)

    def run(solve):
        def of(scale):
            return solve(lambda z: torch.cos(scale * z) + x, torch.zeros(4, dtype=torch.float64))

        return vmap(of)(scale), vmap(grad(lambda s: loss(of(s))))(scale)

    assert_close(run(fixed_point), run(unroll), rtol=1e-8, atol=1e-9)


def test_ensemble_of_modules():
    cells, x = [Cell() for _ in range(B)], draw(4, 3)
    with torch.no_grad():
        for i, cell in enumerate(cells):
            for p in cell.parameters():
                p *= 1 - 0.2 * i
    parameters, _ = torch.func.stack_module_state(cells)
    parameters = {name: p.detach() for name, p in parameters.items()}

    def run(solve):
        def of(parameters):
            return loss(solve(lambda z, x: functional_call(cells[0], parameters, (z, x)), torch.zeros_like(x), x))

        return vmap(grad(of))(parameters)

    assert_close(run(fixed_point), run(unroll), rtol=1e-8, atol=1e-9)


def test_gradient_of_each_sample():
    cell, x = Cell(), draw(4, 3)
    parameters = {name: p.detach() for name, p in cell.named_parameters()}

    def run(solve):
        def of(parameters, x):
            return loss(solve(lambda z, x: functional_call(cell, parameters, (z, x)), torch.zeros_like(x), x))

        return vmap(grad(of), in_dims=(None, 0))(parameters, x)

    assert_close(run(fixed_point), run(unroll), rtol=1e-8, atol=1e-9)


# Black boxes


def test_numpy_solve_is_called_once_for_each_index():
    shapes = []

    def solve(a, offset):
        shapes.append((a.shape, offset))
        return torch.as_tensor(np.sqrt(a.numpy() + offset))

    f = ImplicitFunction(solve, lambda y, a, offset: y**2 - a - offset, linear_solver=Dense())
    a = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(3, 2)
    assert_close(vmap(f, in_dims=(0, None))(a, 1.0), (a + 1).sqrt())
    assert shapes == [((2,), 1.0)] * 3
    assert_close(vmap(grad(lambda a: f(a, 1.0).sum()))(a), 0.5 / (a + 1).sqrt())
    assert_close(vmap(vmap(f, in_dims=(0, None)), in_dims=(1, None), out_dims=1)(a, 1.0), (a + 1).sqrt())


def test_vectorized_solve_is_called_once_for_all():
    calls = []

    def solve(a):
        calls.append(a.shape)
        return a.sqrt()

    f = ImplicitFunction(solve, lambda y, a: y**2 - a, vectorized=True)
    a = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(3, 2)
    assert_close(vmap(jacfwd(f))(a), torch.diag_embed(0.5 / a.sqrt()))
    assert calls == [(2,)]


def test_black_box_with_aux_and_a_pytree():
    def solve(x):
        return {"p": x["a"].sqrt(), "q": x["b"] * 2}, {"sum": x["a"].sum()}

    def conditions(y, x):
        return {"p": y["p"] ** 2 - x["a"], "q": y["q"] - 2 * x["b"]}

    f = ImplicitFunction(solve, conditions, has_aux=True)
    x = {"a": draw(B, 2).abs() + 1, "b": draw(B)}
    y, aux = vmap(f)(x)
    assert_close(y, {"p": x["a"].sqrt(), "q": 2 * x["b"]})
    assert_close(aux["sum"], x["a"].sum(1))


def test_solver_of_the_user_under_vmap():
    def bisection(f, y0, a):
        low, high = np.zeros(y0.shape), np.full(y0.shape, 10.0)
        for _ in range(60):
            middle = (low + high) / 2
            above = f(torch.as_tensor(middle), a).numpy() > 0
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return torch.as_tensor(middle)

    a = torch.tensor([2.0, 5.0, 9.0], dtype=torch.float64)

    def cube_root(a):
        return root(lambda y, a: y**3 - a, torch.ones_like(a), a, solver=bisection)

    assert_close(vmap(cube_root)(a), a ** (1 / 3), rtol=1e-9, atol=1e-9)
    assert_close(vmap(grad(cube_root))(a), a ** (-2 / 3) / 3, rtol=1e-8, atol=1e-8)


# Solvers


@pytest.mark.parametrize(
    "solver", [Picard(), Anderson(), Broyden(), Newton(), NewtonKrylov()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_fixed_point_solvers_freeze_each_index(solver, batch_dims):
    """Indices need very different numbers of steps; each must end where it ends alone."""
    factors, x = torch.tensor([0.0, 0.3, 0.8], dtype=torch.float64), draw(2, 3)

    def of(factor):
        return fixed_point(
            lambda z, x: factor * torch.sin(z) + x, torch.zeros_like(x), x, solver=solver, batch_dims=batch_dims
        )

    alone = torch.stack([of(factor) for factor in factors])
    assert_close(vmap(of)(factors), alone, rtol=1e-10, atol=1e-10)
    assert_close(vmap(jacfwd(of))(factors), torch.sin(alone) / (1 - factors[:, None, None] * torch.cos(alone)))


@pytest.mark.parametrize("solver", [LBFGS(), NewtonCG(), GradientDescent()], ids=lambda s: type(s).__name__)
def test_minimizers_freeze_each_index(solver):
    a = draw(B, 2).exp()

    def log(a):
        return argmin(lambda y, a: (y.exp() - a * y).sum(), torch.zeros_like(a), a, solver=solver)

    assert_close(vmap(log)(a), a.log(), rtol=1e-7, atol=1e-7)
    assert_close(vmap(jacrev(log))(a), torch.diag_embed(1 / a), rtol=1e-6, atol=1e-6)


def test_solution_of_each_index_is_not_lost_to_failure_of_another():
    """One index has no real root; the others are right all the same."""
    a = torch.tensor([4.0, -1.0, 9.0], dtype=torch.float64)
    y = vmap(lambda a: root(lambda y, a: y**2 - a, torch.ones_like(a), a, on_failure="ignore"))(a)
    assert_close(y[[0, 2]], torch.tensor([2.0, 3.0], dtype=torch.float64))


def test_chunks_and_empty_results():
    theta = torch.linspace(0.1, 0.6, 5, dtype=torch.float64)
    assert_close(vmap(problems.cosine, chunk_size=2)(theta), problems.cosine_exact(theta))


# The older vmap of torch.autograd


def test_is_grads_batched(problem):
    """`torch.autograd.grad(..., is_grads_batched=True)`: many cotangents in one backward."""

    def jacobian(function):
        args = problem.leaves()
        y = flat_of(function)(*args)
        basis = torch.eye(y.numel(), dtype=y.dtype)
        return torch.autograd.grad(y, args, basis, is_grads_batched=True)

    assert_close(jacobian(problem.implicit), jacobian(problem.exact), rtol=1e-8, atol=1e-9)


def test_is_grads_batched_says_that_it_cannot_be_differentiated_again():
    W, x = PROBLEMS["tanh_batch"].leaves()
    y = problems.tanh_batch(W, x).flatten()
    basis = torch.eye(y.numel(), dtype=y.dtype)
    with pytest.raises(RuntimeError, match=r"torch\.func"):
        torch.autograd.grad(y, x, basis, is_grads_batched=True, create_graph=True)


def test_vectorized_jacobian_and_hessian_of_autograd():
    theta, W = draw(3) * 0.3, contraction(3)

    def of(solve):
        return lambda t: solve(lambda z: torch.tanh(z @ W + t), torch.zeros(3, dtype=torch.float64))

    jacobian = torch.autograd.functional.jacobian
    assert_close(jacobian(of(fixed_point), theta, vectorize=True), jacobian(of(unroll), theta), rtol=1e-8, atol=1e-9)
    second = torch.autograd.functional.hessian
    assert_close(
        second(loss_of(of(fixed_point)), theta, vectorize=True),
        second(loss_of(of(unroll)), theta),
        rtol=1e-7,
        atol=1e-8,
    )


@pytest.mark.parametrize("linear_solver", [GMRES(), Dense()], ids=lambda s: type(s).__name__)
def test_gradcheck_with_batched_gradients(linear_solver):
    a = draw(3).exp().requires_grad_()
    f = ImplicitFunction(lambda a: a.sqrt(), lambda y, a: y**2 - a, linear_solver=linear_solver)
    torch.autograd.gradcheck(f, (a,), check_batched_grad=True, check_forward_ad=True, check_batched_forward_grad=True)
