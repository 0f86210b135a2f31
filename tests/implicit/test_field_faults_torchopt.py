"""The faults of TorchOpt (0.7.3), jaxopt and lineax, each a test that passes here."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from deqzoo.implicit import (
    CG,
    GMRES,
    LBFGS,
    Dense,
    GradientDescent,
    Implicit,
    ImplicitFunction,
    Newton,
    NonConvergenceError,
    NonConvergenceWarning,
    Picard,
    Status,
    argmin,
    fixed_point,
    root,
)
from tests.implicit.solvers.helpers import (
    F64,
    assert_close,
    randn,
    symmetric_matrix,
)


@pytest.mark.parametrize("linear_solver", [Dense(), GMRES()], ids=["dense", "gmres"])
def test_torchopt_keeps_only_the_diagonal_blocks_of_a_jacobian_of_several_tensors(linear_solver):
    """Two coupled unknowns: 2 u + v.sum() = a, 3 v + u = b."""
    a, b = randn(2, seed=1).requires_grad_(), randn(3, seed=2).requires_grad_()
    coupling = randn(3, 2, seed=3)

    def f(y, a, b):
        u, v = y
        return 2 * u + u**3 + coupling.T @ v - a, 3 * v + torch.sin(v) + coupling @ u - b

    def solution(a, b):
        start = (torch.zeros(2, dtype=F64), torch.zeros(3, dtype=F64))
        return torch.cat(root(f, start, a, b, adjoint=Implicit(linear_solver)))

    y = solution(a, b).detach()
    u, v = y[:2], y[2:]
    jacobian = torch.cat(
        [
            torch.cat([torch.diag(2 + 3 * u**2), coupling.T], dim=1),
            torch.cat([coupling, torch.diag(3 + torch.cos(v))], dim=1),
        ]
    )
    inverse = torch.linalg.inv(jacobian)
    to_a, to_b = torch.autograd.functional.jacobian(solution, (a, b))
    assert_close(to_a, inverse[:, :2], 1e-9)
    assert_close(to_b, inverse[:, 2:], 1e-9)


def test_torchopt_double_backward_is_wrong():
    """y^3 = a: y' = a^(-2/3) / 3, y'' = -2/9 a^(-5/3), y''' = 10/27 a^(-8/3)."""
    a = torch.tensor(8.0, dtype=F64, requires_grad=True)
    y = root(lambda y, a: y**3 - a, torch.ones((), dtype=F64), a)
    (first,) = torch.autograd.grad(y, a, create_graph=True)
    (second,) = torch.autograd.grad(first, a, create_graph=True)
    (third,) = torch.autograd.grad(second, a)
    for found, known in ((first, 1 / 12), (second, -2 / 9 / 32), (third, 10 / 27 / 256)):
        assert_close(found, torch.tensor(known, dtype=F64), 1e-9)


@pytest.mark.parametrize("linear_solver", [Dense(), GMRES()], ids=["dense", "gmres"])
def test_torchopt_gives_a_scalar_root_the_gradient_zero(linear_solver):
    a = torch.tensor(4.0, dtype=F64, requires_grad=True)
    y = root(lambda y, a: y**2 - a, torch.ones((), dtype=F64), a, adjoint=Implicit(linear_solver))
    y.backward()
    assert y.shape == ()
    assert_close(a.grad, torch.tensor(0.25), 1e-10)


def test_torchopt_gives_captured_tensors_no_gradient():
    captured = torch.tensor([2.0, 3.0], dtype=F64, requires_grad=True)
    layer = nn.Linear(2, 2).double()

    def objective(y):
        return ((y - captured**2) ** 2).sum() + layer(y).pow(2).sum()

    answer = argmin(objective, torch.zeros(2, dtype=F64), solver=LBFGS(tol=1e-11))
    found = torch.autograd.grad(answer.sum(), [captured, layer.weight, layer.bias])

    hessian = 2 * (torch.eye(2, dtype=F64) + layer.weight.T @ layer.weight)
    closed = torch.linalg.solve(hessian, 2 * (captured**2 - layer.weight.T @ layer.bias))
    known = torch.autograd.grad(closed.sum(), [captured, layer.weight, layer.bias])
    for ours, reference in zip(found, known, strict=True):
        assert_close(ours, reference, 1e-7)


@pytest.mark.parametrize("scale", [1e-24, 1e-30, 1e-36])
def test_torchopt_cg_in_float32_returns_zero_for_a_small_cotangent(scale):
    matrix = symmetric_matrix(torch.linspace(1, 9, 6, dtype=F64)).float()
    b = randn(6, seed=1, dtype=torch.float32).requires_grad_()
    y = argmin(lambda y, b: 0.5 * y @ matrix @ y - b @ y, torch.zeros(6), b, adjoint=Implicit(CG()))
    cotangent = randn(6, seed=2, dtype=torch.float32)
    (grad,) = torch.autograd.grad(y, b, scale * cotangent)
    assert_close(grad.double() / scale, torch.linalg.solve(matrix.double(), cotangent.double()), 1e-3)


@pytest.mark.parametrize(
    "solve",
    [
        lambda **o: fixed_point(lambda z: 1 - z, torch.zeros(2), solver=Picard(max_steps=5), **o),
        lambda **o: root(lambda y: y**2 + 1, torch.ones(2), solver=Newton(max_steps=5), **o),
        lambda **o: argmin(lambda y: -y.sum(), torch.ones(2), solver=GradientDescent(max_steps=5), **o),
    ],
    ids=["fixed_point", "root", "argmin"],
)
def test_torchopt_and_jaxopt_do_not_report_non_convergence(solve):
    with pytest.warns(NonConvergenceWarning, match="did not converge"):
        solve()
    with pytest.raises(NonConvergenceError):
        solve(on_failure="raise")
    _, solution = solve(on_failure="ignore", return_solution=True)
    assert not solution.converged


def test_torchopt_does_not_report_an_adjoint_solve_that_fails():
    a = torch.ones(30, dtype=F64, requires_grad=True)
    matrix = randn(30, 30, seed=1)
    y, solution = root(
        lambda y, a: matrix @ y - a,
        torch.zeros(30, dtype=F64),
        a,
        adjoint=Implicit(GMRES(max_steps=3)),
        return_solution=True,
    )
    with pytest.warns(NonConvergenceWarning, match="adjoint"):
        y.sum().backward()
    assert solution.backward.status == Status.MAX_STEPS
    assert solution.backward.residual > 1e-3


def test_jaxopt_forward_mode_and_hessians_raise():
    a, v = torch.tensor([2.0, 5.0], dtype=F64), torch.tensor([1.0, -1.0], dtype=F64)

    def cube_root(a):
        return root(lambda y, a: y**3 - a, torch.ones_like(a), a)

    slope, curvature = a ** (-2 / 3) / 3, -2 / 9 * a ** (-5 / 3)
    assert_close(torch.func.jvp(cube_root, (a,), (v,))[1], slope * v, 1e-9)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(cube_root(forward_ad.make_dual(a, v))).tangent
    assert_close(tangent, slope * v, 1e-9)
    assert_close(torch.func.jacfwd(cube_root)(a), torch.diag(slope), 1e-9)
    assert_close(torch.func.hessian(lambda a: cube_root(a).sum())(a), torch.diag(curvature), 1e-9)


@pytest.mark.parametrize("transform", ["grad", "jacfwd", "vmap of grad", "hessian"])
def test_jaxopt_closures_over_traced_values_raise(transform):
    """The condition reads `a` from the scope around it, in place of taking it as an argument."""

    def cube_root(a):
        return root(lambda y: y**3 - a, torch.ones((), dtype=F64))

    a = torch.tensor(8.0, dtype=F64)
    if transform == "grad":
        assert_close(torch.func.grad(cube_root)(a), torch.tensor(1 / 12, dtype=F64), 1e-9)
    elif transform == "jacfwd":
        assert_close(torch.func.jacfwd(cube_root)(a), torch.tensor(1 / 12, dtype=F64), 1e-9)
    elif transform == "hessian":
        assert_close(torch.func.hessian(cube_root)(a), torch.tensor(-2 / 9 / 32, dtype=F64), 1e-9)
    else:
        many = torch.tensor([1.0, 8.0, 27.0], dtype=F64)
        assert_close(torch.func.vmap(torch.func.grad(cube_root))(many), many ** (-2 / 3) / 3, 1e-9)


def test_lineax_loses_the_preconditioner_in_the_transpose():
    """The exact inverse of a non-symmetric Jacobian: transposed, it solves the adjoint at once."""
    matrix = torch.eye(20, dtype=F64) + torch.triu(randn(20, 20, seed=1), 1)
    inverse = torch.linalg.inv(matrix)
    a = randn(20, seed=2).requires_grad_()

    def solve(preconditioner=None):
        y, solution = root(
            lambda y, a: matrix @ y - a,
            torch.zeros(20, dtype=F64),
            a,
            preconditioner=preconditioner,
            return_solution=True,
        )
        cotangent = randn(20, seed=3)
        (grad,) = torch.autograd.grad(y, a, cotangent)
        assert_close(grad, torch.linalg.solve(matrix.T, cotangent), 1e-7)
        return solution.backward.nfe

    assert solve(lambda v, y, a: inverse @ v) <= 2
    assert solve() > 10


def test_a_solver_that_returns_a_captured_tensor_leaves_it_alone():
    """Otherwise the graph would be attached to the user's own tensor."""
    held = torch.tensor([2.0], dtype=F64)
    a = torch.tensor([4.0], dtype=F64, requires_grad=True)
    y = ImplicitFunction(lambda a: held, lambda y, a: y**2 - a)(a)
    assert held.grad_fn is None
    assert not held.requires_grad
    with torch.no_grad():
        quiet = ImplicitFunction(lambda a: held, lambda y, a: y**2 - a)(a)
        quiet += 1
    assert held.item() == 2
    y.backward()
    assert_close(a.grad, torch.tensor([0.25]), 1e-12)
