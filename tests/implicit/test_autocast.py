"""bfloat16 autocast: f may run in bfloat16, the solves do not, and the backward restores the forward's state."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from deqzoo.implicit import (
    Anderson,
    Broyden,
    Implicit,
    ImplicitFunction,
    Newton,
    NewtonKrylov,
    OneStep,
    Phantom,
    Picard,
    Unrolled,
    argmin,
    fixed_point,
    root,
    spectral_radius,
)
from deqzoo.nn import DEQ
from tests.implicit.problems import contraction, draw

GRADIENTS = [Implicit(), Phantom(steps=8), OneStep(), Unrolled(), Unrolled(checkpoint=True)]


def autocast(enabled=True):
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)


class Cell(nn.Module):
    """Records in which state and dtype it was evaluated."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        with torch.no_grad():
            self.linear.weight.copy_(contraction(8))
        self.seen = []

    def forward(self, z, x):
        y = self.linear(z)
        self.seen.append((torch.is_autocast_enabled("cpu"), z.dtype, y.dtype))
        return torch.tanh(y + x)


def gradients(cell, x, enabled, gradient, solver):
    cell.zero_grad()
    with autocast(enabled):
        z = fixed_point(
            cell, torch.zeros_like(x), x, solver=solver, adjoint=gradient, batch_dims=1, on_failure="ignore"
        )
        loss = z.square().sum()
    loss.backward()  # outside of autocast, as every training loop does it
    return z.detach(), [p.grad.clone() for p in cell.parameters()]


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
def test_gradient_is_close_to_float32(gradient):
    cell, x = Cell(), draw(4, 8).float()
    solver = Picard(tol=1e-3, max_steps=40)
    z, found = gradients(cell, x, True, gradient, solver)
    exact_z, exact = gradients(cell, x, False, gradient, solver)
    assert z.dtype == torch.float32
    assert_close(z, exact_z, rtol=0, atol=2e-2)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.float32
        assert torch.linalg.vector_norm(a - b) < 0.03 * torch.linalg.vector_norm(b)


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
def test_every_evaluation_runs_under_the_autocast_of_the_forward(gradient):
    cell = Cell()
    gradients(cell, draw(4, 8).float(), True, gradient, Picard(tol=1e-3, max_steps=5))
    assert len(cell.seen) > 1
    assert set(cell.seen) == {(True, torch.float32, torch.bfloat16)}


def test_backward_under_autocast_of_a_float32_forward():
    """The other way round: the adjoint solve of a float32 forward runs in float32, wherever backward is called."""
    cell, x = Cell(), draw(4, 8).float()
    z = fixed_point(cell, torch.zeros_like(x), x, batch_dims=1)
    cell.seen.clear()
    with autocast():
        z.square().sum().backward()
    assert set(cell.seen) <= {(False, torch.float32, torch.float32)}  # if the cell runs again at all, then as before


@pytest.mark.parametrize(
    "solver", [Picard(), Anderson(), Broyden(), Newton(), NewtonKrylov()], ids=lambda s: type(s).__name__
)
def test_solver_algebra_is_float32(solver):
    """f in float32 by its own choice: under autocast the solver must reach a residual that bfloat16 cannot."""
    x = draw(4, 8).float()
    with autocast():
        z = fixed_point(lambda z: 0.5 * torch.cos(z) + x, torch.zeros_like(x), solver=solver, on_failure="raise")
    assert_close(z, 0.5 * torch.cos(z) + x, rtol=1e-5, atol=1e-5)


def test_half_precision_state_is_solved_for_in_float32():
    x = draw(4, 8).bfloat16().requires_grad_()

    def f(z, x):
        return (0.5 * torch.cos(z.float()) + x.float()).to(z.dtype)

    z = fixed_point(f, torch.zeros_like(x), x, solver=Picard(tol=1e-2), batch_dims=1)
    assert z.dtype == torch.bfloat16
    z.float().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert_close(x.grad.float(), 1 / (1 + 0.5 * torch.sin(z.detach().float())), rtol=0.03, atol=0.03)


def test_root_argmin_and_black_box():
    A, b = contraction(4).float() + torch.eye(4), draw(4).float()

    def gradient(solve):
        a, c = A.clone().requires_grad_(), b.clone().requires_grad_()
        solve(a, c).square().sum().backward()
        return [a.grad, c.grad]

    def by_root(a, c):
        return root(lambda y, a, c: a @ y - c, torch.zeros(4), a, c, on_failure="ignore")

    def by_argmin(a, c):
        return argmin(lambda y, a, c: ((a @ y - c) ** 2).sum(), torch.zeros(4), a, c, on_failure="ignore")

    def by_box(a, c):
        solve = ImplicitFunction(
            lambda a, c: torch.linalg.solve(a.float(), c.float()), lambda y, a, c: a @ y - c, on_failure="ignore"
        )
        return solve(a, c)

    exact = gradient(torch.linalg.solve)
    for function in (by_root, by_argmin, by_box):
        with autocast():
            y = function(A, b)
        assert y.dtype == torch.float32, function.__name__

        def under_autocast(a, c, function=function):
            with autocast():
                return function(a, c)

        for found, expected in zip(gradient(under_autocast), exact, strict=True):
            assert torch.linalg.vector_norm(found - expected) < 0.1 * torch.linalg.vector_norm(expected)


def test_second_order_and_torch_func_under_autocast():
    W, x = contraction(8).float(), draw(8).float()

    def solve(x):
        return fixed_point(lambda z, x: torch.tanh(W @ z + x), torch.zeros_like(x), x, on_failure="ignore").sum()

    exact = torch.func.hessian(solve)(x)
    with autocast():
        by_func = torch.func.hessian(solve)(x)
    assert torch.linalg.matrix_norm(by_func - exact) < 0.1 * torch.linalg.matrix_norm(exact)
    v, leaf = draw(8, seed=5).float(), x.clone().requires_grad_()
    with autocast():
        (slope,) = torch.autograd.grad(solve(leaf), leaf, create_graph=True)
    (product,) = torch.autograd.grad(slope @ v, leaf)
    assert torch.linalg.vector_norm(product - exact @ v) < 0.1 * torch.linalg.vector_norm(exact @ v)


def test_layer_trains_under_autocast():
    """torchdeq's implicit gradient crashes here: its backward runs f outside of autocast."""
    cell, x, target = Cell(), draw(16, 8).float(), draw(16, 8, seed=1).float().tanh()
    layer = DEQ(cell, solver=Anderson(tol=1e-2, max_steps=20))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    losses = []
    for _ in range(15):
        with autocast():
            loss = nn.functional.mse_loss(layer(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert layer.solution.backward is not None


def test_spectral_radius_under_autocast():
    W = contraction(8).float()
    with autocast():
        radius = spectral_radius(lambda z: z @ W, torch.zeros(8))
    assert_close(radius, torch.linalg.eigvals(W).abs().max(), rtol=0.05, atol=0.01)
