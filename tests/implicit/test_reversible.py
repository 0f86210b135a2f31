"""The reversible iteration: its gradient is that of the steps, to the bit back to the start, in constant memory."""

import pytest
import torch
from torch import nn

from deqzoo.implicit import (
    Anderson,
    NonConvergenceError,
    NonConvergenceWarning,
    Picard,
    ReversibleIteration,
    Status,
    fixed_point,
    make_adjoint,
)
from deqzoo.nn import DEQ
from tests.implicit.test_memory import LiveBytes

F64 = torch.float64


def solver(damping=0.8, steps=30, **options):
    return Picard(damping=damping, max_steps=steps, stop="never", **options)


def pair_on_tape(f, z0, damping, steps):
    """The same steps in floating point, all of them on the tape."""
    y = z = z0
    for _ in range(steps):
        y = (1 - damping) * y + damping * f(z)
        z = (1 - damping) * z + damping * f(y)
    return z


class Cell(nn.Module):
    """tanh(W z + x), of a symmetric W with eigenvalues up to `radius`."""

    def __init__(self, radius, width=12, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        q, _ = torch.linalg.qr(torch.randn(width, width, dtype=F64))
        values = torch.linspace(-radius, radius, width, dtype=F64)
        self.weight = nn.Parameter((q * values @ q.T).to(dtype))

    def forward(self, z, x):
        return torch.tanh(z @ self.weight + x)


@pytest.mark.parametrize("radius", [0.5, 0.95])
@pytest.mark.parametrize("damping", [0.3, 0.5, 0.8])
def test_the_gradient_is_that_of_backpropagation_through_the_same_steps(damping, radius):
    cell = Cell(radius)
    exact = Cell(radius, dtype=F64)
    exact.weight.data = cell.weight.data.double()
    x = (0.1 * torch.randn(5, 12)).requires_grad_()
    own = x.detach().double().requires_grad_()
    # With "raise" a way back that did not lead to the start would be an error; the fixed point itself may be far.
    options = {
        "solver": solver(damping, tol=1.0),
        "adjoint": ReversibleIteration(),
        "batch_dims": 1,
        "on_failure": "raise",
    }
    z = fixed_point(cell, torch.zeros(5, 12), x, **options)
    same = pair_on_tape(lambda z: exact(z, own), torch.zeros(5, 12, dtype=F64), damping, 30)
    torch.testing.assert_close(z.double(), same, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(z.sin().sum(), (x, cell.weight))
    wanted = torch.autograd.grad(same.sin().sum(), (own, exact.weight))
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_with_states_of_floats_the_start_is_lost_and_here_it_is_found_to_the_bit():
    cell, x = Cell(0.95), 0.1 * torch.randn(5, 12)
    for dtype, steps in ((torch.float32, 8), (F64, 30)):
        y = z = torch.zeros(5, 12, dtype=dtype)
        with torch.no_grad():
            for _ in range(steps):
                y = 0.2 * y + 0.8 * cell(z.float(), x).to(dtype)
                z = 0.2 * z + 0.8 * cell(y.float(), x).to(dtype)
            for _ in range(steps):
                z = (z - 0.8 * cell(y.float(), x).to(dtype)) / 0.2
                y = (y - 0.8 * cell(z.float(), x).to(dtype)) / 0.2
        assert y.abs().max() > 0.01  # of a start at 0
    x.requires_grad_()
    options = {"solver": solver(), "adjoint": ReversibleIteration(), "batch_dims": 1, "return_solution": True}
    z, solution = fixed_point(cell, torch.zeros(5, 12), x, **options)
    z.sum().backward()
    assert (solution.backward.residual == 0).all()
    assert solution.backward.converged.all()
    assert (solution.nfe, solution.backward.nfe) == (2 * 30 + 2, 2 * 30)  # one finds captured tensors, one the residual


def test_the_layer_its_status_and_a_second_backward():
    layer = DEQ(Cell(0.5), solver=solver(steps=15, tol=1e-4), adjoint="reversible_iteration")
    x = torch.randn(3, 12, requires_grad=True)
    z = layer(x)
    assert layer.solution.converged.all()
    first = torch.autograd.grad(z.sum(), x, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(z.sum(), x)[0], first, rtol=0, atol=0)
    exact = DEQ(layer.cell, solver=Anderson(tol=1e-6, max_steps=100))
    torch.testing.assert_close(first, torch.autograd.grad(exact(x).sum(), x)[0], rtol=1e-3, atol=1e-3)
    layer.solver = solver(steps=1, tol=1e-4)
    layer(x)
    assert (layer.solution.status == Status.MAX_STEPS).all()
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), layer.train()(x))


def test_states_of_several_tensors_captured_ones_and_dropout():
    torch.manual_seed(0)
    scale = torch.tensor(0.5, requires_grad=True)
    drop = nn.Dropout(0.3)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = drop

        def forward(self, z, x):
            return {"a": torch.cos(scale * z["b"]) + x, "b": 0.5 * self.drop(torch.sin(z["a"][:, :2]))}

    layer = DEQ(Two(), solver=solver(0.5, 20), adjoint=ReversibleIteration())
    layer.cell.initial_state = lambda x: {"a": torch.zeros(4, 2), "b": torch.zeros(4, 2)}
    z = layer(torch.zeros(4, 2))
    z["a"].sum().backward()
    assert layer.solution.backward.converged.all()
    assert scale.grad.abs() > 0


def test_a_function_that_changes_before_the_backward_is_told():
    held = {"shift": 0.0}
    x = torch.ones(2, 3, requires_grad=True)
    options = {"solver": solver(), "adjoint": ReversibleIteration(), "batch_dims": 1, "return_solution": True}

    def f(z, x):
        return 0.3 * torch.cos(z) + x + held["shift"]

    z, solution = fixed_point(f, torch.zeros(2, 3), x, **options)
    held["shift"] = 0.1
    with pytest.warns(NonConvergenceWarning, match="reversed iteration"):
        z.sum().backward()
    assert (solution.backward.status == Status.STALLED).all()
    assert (solution.backward.residual > 0.01).all()
    z, _ = fixed_point(f, torch.zeros(2, 3), x, **options | {"on_failure": "ignore"})
    held["shift"] = 0.2
    z.sum().backward()  # no warning
    strict = options | {"on_failure": "raise", "solver": solver(tol=1e-3)}
    z, _ = fixed_point(f, torch.zeros(2, 3), x, **strict)
    held["shift"] = 0.3
    with pytest.raises(NonConvergenceError, match="other values in the backward"):
        z.sum().backward()


def test_one_that_diverges_or_is_not_finite_leaves_the_others_alone():
    x = torch.tensor([[0.1], [torch.nan], [0.3], [1.0]], requires_grad=True)
    rate = torch.tensor([[0.5], [0.5], [0.5], [9.0]])
    z, solution = fixed_point(
        lambda z, x, rate: rate * z + x,
        torch.zeros(4, 1),
        x,
        rate,
        solver=solver(),
        adjoint=ReversibleIteration(),
        batch_dims=1,
        return_solution=True,
        on_failure="ignore",
    )
    assert z.isnan().flatten().tolist() == [False, True, False, True]
    assert solution.status.eq(Status.DIVERGED).tolist() == [False, True, False, True]
    torch.testing.assert_close(z[[0, 2]], 2 * x[[0, 2]])
    z[[0, 2]].sum().backward()
    torch.testing.assert_close(x.grad[[0, 2]], torch.full((2, 1), 2.0), rtol=1e-5, atol=1e-5)


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 512), nn.Tanh(), nn.Linear(512, 8), nn.Tanh())

    def forward(self, z, x):
        return 0.5 * self.net(z) + x


def test_memory_does_not_grow_with_the_steps():
    def peak(steps, adjoint=None):
        layer, x = DEQ(Wide(), solver=solver(steps=steps), adjoint=adjoint or ReversibleIteration()), torch.randn(64, 8)
        with LiveBytes() as live:
            layer(x).square().sum().backward()
        return live.peak

    few, more = peak(8), peak(32)
    assert abs(more - few) < 0.05 * few
    assert peak(32, make_adjoint("unrolled")) > 3 * peak(8, make_adjoint("unrolled"))  # else it could not fail


@pytest.mark.parametrize(
    "other",
    [
        Anderson(),
        Picard(max_steps=5, stop="never"),
        Picard(damping=0.5),
        Picard(damping=0.5, stop="never", trace=True),
    ],
    ids=repr,
)
def test_other_solvers_are_refused_with_one_that_will_do(other):
    with pytest.raises(TypeError, match=r"Picard\(damping=0.8, max_steps=15"):
        fixed_point(torch.cos, torch.ones(2), solver=other, adjoint=ReversibleIteration())


def test_what_it_cannot_do_says_what_can():
    x = torch.ones(2, requires_grad=True)

    def solve(x):
        return fixed_point(
            lambda z, x: torch.cos(z) * x / 2, torch.zeros(2), x, solver=solver(), adjoint=ReversibleIteration()
        )

    with pytest.raises(RuntimeError, match=r"Implicit\(\)"):
        torch.autograd.grad(solve(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="forward mode"):
        torch.func.grad(lambda x: solve(x).sum())(x)
    with pytest.raises(ValueError, match="too near"):
        fixed_point(torch.cos, torch.ones(2), solver=solver(0.999), adjoint=ReversibleIteration())
    assert not fixed_point(torch.cos, torch.ones(2), solver=solver(), adjoint=ReversibleIteration()).requires_grad
