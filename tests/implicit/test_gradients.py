"""The choices of `adjoint=` for a fixed point: exact where they say so, and within their bounds where they do not."""

import pytest
import torch
from torch.func import hessian, jacfwd, jacrev, vmap
from torch.testing import assert_close

from deqzoo.implicit import (
    CG,
    GMRES,
    Anderson,
    Dense,
    Implicit,
    Neumann,
    NonConvergenceWarning,
    OneStep,
    Phantom,
    Picard,
    Unrolled,
    fixed_point,
)
from tests.implicit import problems
from tests.implicit.problems import PROBLEMS, contraction, draw, loss, unroll


def gradients(gradient, factor=0.5, solver=None, batch_dims=0, on_failure="raise"):
    """Gradients of loss(z) in W and x for z = tanh(z W + x), and the exact ones."""
    W, x = contraction(4, factor).requires_grad_(), draw(3, 4).requires_grad_()
    z = fixed_point(
        problems.tanh_map,
        torch.zeros_like(x),
        W,
        x,
        solver=solver,
        adjoint=gradient,
        batch_dims=batch_dims,
        on_failure=on_failure,
    )
    return torch.autograd.grad(loss(z), (W, x)), exact_gradients(factor)


def exact_gradients(factor):
    """By the dense adjoint system at the solution, A = I - df/dz."""
    W, x = contraction(4, factor).requires_grad_(), draw(3, 4).requires_grad_()
    with torch.no_grad():
        z = torch.zeros_like(x)
        for _ in range(2000):
            z = problems.tanh_map(z, W, x)
    z.requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda z: problems.tanh_map(z, W.detach(), x.detach()), z)
    A = torch.eye(12, dtype=torch.float64) - jacobian.reshape(12, 12)
    (g,) = torch.autograd.grad(loss(z), z)
    u = torch.linalg.solve(A.T, g.flatten()).reshape(3, 4)
    return torch.autograd.grad(problems.tanh_map(z.detach(), W, x), (W, x), u)


def error(found, exact):
    return max(
        (torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b)).item()
        for a, b in zip(found, exact, strict=True)
    )


@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize("factor", [0.5, 0.95])
@pytest.mark.parametrize("linear_solver", [GMRES(), GMRES(restart=3), Dense()], ids=repr)
def test_implicit_is_exact(linear_solver, factor, batch_dims):
    found, exact = gradients(Implicit(linear_solver), factor, batch_dims=batch_dims)
    assert_close(found, exact, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("k", [0, 1, 3, 6, 20])
def test_neumann_is_within_its_bound(k):
    """The adjoint's relative error is at most L^(k+1) / (1 - L); here the gradient in x is u tanh'."""
    factor = 0.5
    found, exact = gradients(Implicit(Neumann(k=k)), factor)
    bound = factor ** (k + 1) / (1 - factor)
    slope_condition = 3  # of tanh' between adjoint and gradient
    assert error(found, exact) <= slope_condition * bound
    if k < 6:
        assert error(found, exact) > 1e-6  # it does truncate


def test_neumann_converges_to_the_exact_gradient():
    found, exact = gradients(Implicit(Neumann(k=60)))
    assert_close(found, exact, rtol=1e-9, atol=1e-11)


def test_neumann_does_not_warn_that_it_truncates():
    gradients(Implicit(Neumann(k=2)), on_failure="raise")


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_phantom_is_the_truncated_series(steps):
    """Backpropagation through k steps at the fixed point is Neumann's series of k - 1 products."""
    found, _ = gradients(Phantom(steps=steps))
    series, _ = gradients(Implicit(Neumann(k=steps - 1)))
    assert_close(found, series, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("damping", [1.0, 0.5])
def test_phantom_against_its_own_definition(damping):
    W, x = PROBLEMS["tanh_batch"].leaves()
    z = fixed_point(
        problems.tanh_map, torch.zeros_like(x), W, x, adjoint=Phantom(steps=4, damping=damping), solver=Picard()
    )
    state = problems.tanh_exact(W, x).detach()
    for _ in range(4):
        state = (1 - damping) * state + damping * problems.tanh_map(state, W, x)
    assert_close(torch.autograd.grad(loss(z), (W, x)), torch.autograd.grad(loss(state), (W, x)), rtol=1e-9, atol=1e-11)


def test_phantom_improves_with_steps():
    errors = [error(*gradients(Phantom(steps=steps), 0.9)) for steps in (1, 3, 10, 100)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.02
    assert errors[-1] < 1e-4


def test_one_step_is_the_jacobian_free_gradient():
    W, x = PROBLEMS["tanh_batch"].leaves()
    z = fixed_point(problems.tanh_map, torch.zeros_like(x), W, x, adjoint=OneStep())
    once = problems.tanh_map(problems.tanh_exact(W, x).detach(), W, x)
    assert_close(torch.autograd.grad(loss(z), (W, x)), torch.autograd.grad(loss(once), (W, x)), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("damping", [1.0, 0.7])
def test_unrolled_is_exact_for_the_iterate(checkpoint, damping):
    """After 5 steps, far from converged: the gradient of that iterate, not of the fixed point."""
    solver = Picard(max_steps=5, tol=0, damping=damping)
    W, x = PROBLEMS["tanh_batch"].leaves()
    z = fixed_point(
        problems.tanh_map,
        torch.zeros_like(x),
        W,
        x,
        solver=solver,
        adjoint=Unrolled(checkpoint=checkpoint),
        on_failure="ignore",
    )
    state = torch.zeros_like(x)
    for _ in range(5):
        state = state + damping * (problems.tanh_map(state, W, x) - state)
    assert_close(z, state, rtol=1e-12, atol=1e-13)
    assert_close(torch.autograd.grad(loss(z), (W, x)), torch.autograd.grad(loss(state), (W, x)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_unrolled_to_convergence_is_the_implicit_gradient(checkpoint):
    found, exact = gradients(Unrolled(checkpoint=checkpoint), solver=Picard(max_steps=200), batch_dims=1)
    assert_close(found, exact, rtol=1e-8, atol=1e-9)


def test_checkpoint_saves_less():
    def saved(checkpoint):
        total = 0

        def pack(t):
            nonlocal total
            total += t.numel()
            return t

        def f(z, W, x):
            for _ in range(6):
                z = torch.tanh(z @ W + x)
            return z

        W, x = PROBLEMS["tanh_batch"].leaves()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            z = fixed_point(
                f,
                torch.zeros_like(x),
                W,
                x,
                solver=Picard(max_steps=20, tol=0),
                adjoint=Unrolled(checkpoint),
                on_failure="ignore",
            )
        return total, torch.autograd.grad(loss(z), W)

    kept, slope = saved(False)
    kept_less, same = saved(True)
    assert kept_less < kept / 3
    assert_close(slope, same)


def test_unrolled_needs_plain_iteration():
    with pytest.raises(TypeError, match="Picard"):
        gradients(Unrolled(), solver=Anderson())


@pytest.mark.parametrize("gradient", [Implicit(), Phantom(), OneStep(), Unrolled()], ids=repr)
def test_value_is_the_fixed_point_whatever_the_gradient(gradient):
    W, x = PROBLEMS["tanh_batch"].leaves()
    z, solution = fixed_point(
        problems.tanh_map,
        torch.zeros_like(x),
        W,
        x,
        solver=Picard(),
        adjoint=gradient,
        batch_dims=1,
        return_solution=True,
        on_failure="raise",
    )
    assert_close(z, problems.tanh_exact(W, x), rtol=1e-9, atol=1e-10)
    assert solution.value is z
    assert solution.converged.all()


@pytest.mark.parametrize("gradient", [Phantom(steps=3), OneStep(), Unrolled()], ids=repr)
def test_pytree_states(gradient):
    a, b = PROBLEMS["pair"].leaves()

    def run(gradient):
        return fixed_point(
            problems.pair_map, problems.pair_start(a), a, b, adjoint=gradient, solver=Picard(), on_failure="raise"
        )

    exact = torch.autograd.grad(loss(problems.pair_exact(a, b)), (a, b))
    found = torch.autograd.grad(loss(run(gradient)), (a, b))
    # Three steps of a factor near 0.3, one step, or all of them.
    assert error(found, exact) < {Phantom: 0.1, OneStep: 0.6, Unrolled: 1e-8}[type(gradient)]


@pytest.mark.parametrize("gradient", [Phantom(steps=60), Unrolled()], ids=repr)
def test_unrolled_gradients_to_second_order(gradient):
    """On the tape all the way, so higher orders come by themselves where the steps are enough."""
    theta = PROBLEMS["cosine"].leaves()[0]
    y = fixed_point(
        lambda y, theta: torch.cos(theta * y), torch.ones_like(theta), theta, solver=Picard(), adjoint=gradient
    )
    (slope,) = torch.autograd.grad(y, theta, create_graph=True)
    (exact,) = torch.autograd.grad(problems.cosine_exact(theta), theta, create_graph=True)
    assert_close(slope, exact, rtol=1e-8, atol=1e-9)
    if isinstance(gradient, Unrolled):
        assert_close(torch.autograd.grad(slope, theta), torch.autograd.grad(exact, theta), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("gradient", [Phantom(steps=20), Unrolled(), Unrolled(checkpoint=True)], ids=repr)
@pytest.mark.parametrize("transform", ["vmap of jacrev", "jacfwd", "hessian"])
def test_transforms_of_unrolled_gradients(gradient, transform):
    transforms = {"vmap of jacrev": lambda f: vmap(jacrev(f)), "jacfwd": jacfwd, "hessian": hessian}

    def f(theta):
        start = torch.ones_like(theta)
        return fixed_point(lambda y: torch.cos(theta * y), start, solver=Picard(), adjoint=gradient)

    theta = torch.tensor([0.4, 0.2], dtype=torch.float64)
    theta = theta if transform == "vmap of jacrev" else theta[0]
    found, exact = (transforms[transform](function)(theta) for function in (f, problems.cosine_exact))
    assert_close(found, exact, rtol=1e-7, atol=1e-8)


def test_preconditioner_changes_the_cost_alone():
    """A = I - df/dz near a known matrix: with its inverse as preconditioner one product is enough."""
    W, b = contraction(6, 0.9, seed=3), draw(6).requires_grad_()
    inverse = torch.linalg.inv(torch.eye(6, dtype=torch.float64) - W)

    def run(preconditioner):
        z, solution = fixed_point(
            lambda z, b: W @ z + b,
            torch.zeros_like(b),
            b,
            solver=Anderson(),
            preconditioner=preconditioner,
            return_solution=True,
        )
        (grad,) = torch.autograd.grad(loss(z), b)
        return grad, solution.backward.nfe

    plain, cost = run(None)
    found, less = run(lambda v, z, b: inverse @ v)
    assert_close(found, plain, rtol=1e-8, atol=1e-9)
    assert less <= 2 < cost


def test_preconditioner_to_second_order_and_in_forward_mode():
    W, b = contraction(6, 0.5, seed=3), draw(6)
    inverse = torch.linalg.inv(torch.eye(6, dtype=torch.float64) - W) + 0.01 * draw(6, 6)

    def f(z, b):
        return W @ torch.sin(z) + b

    def run(b):
        return fixed_point(f, torch.zeros_like(b), b, preconditioner=lambda v, z, b: inverse @ v)

    def exact(b):
        return unroll(lambda z, b: f(f(z, b), b), torch.zeros_like(b), b)

    def hvp(function):
        leaf = b.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(function(leaf)), leaf, create_graph=True)
        return torch.autograd.grad(slope @ draw(6, seed=4), leaf)

    assert_close(hvp(run), hvp(exact), rtol=1e-7, atol=1e-8)
    assert_close(jacfwd(run)(b), jacfwd(exact)(b), rtol=1e-7, atol=1e-8)


def test_adjoint_that_does_not_converge_is_reported():
    W, x = contraction(8, 0.99).requires_grad_(), draw(8)
    z, solution = fixed_point(
        problems.tanh_map,
        torch.zeros_like(x),
        W,
        0.01 * x,
        solver=Anderson(max_steps=300),
        adjoint=Implicit(GMRES(tol=1e-12, max_steps=2)),
        return_solution=True,
    )
    with pytest.warns(NonConvergenceWarning, match="adjoint solve"):
        loss(z).backward()
    assert not solution.backward.converged
    assert solution.backward.residual > 1e-12


def test_cg_needs_its_tag():
    with pytest.raises(ValueError, match="positive_definite"):
        gradients(Implicit(CG()))
