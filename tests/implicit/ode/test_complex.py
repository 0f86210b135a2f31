"""Complex states, against closed forms; gradients by PyTorch's convention, as `gradcheck` has it."""

import math

import pytest
import torch

from deqzoo.implicit import (
    RK4,
    Backsolve,
    Direct,
    Discrete,
    Kvaerno5,
    Rodas5P,
    Tsit5,
    fixed_point,
    odeint,
    odeint_dense,
    odeint_event,
)
from deqzoo.nn import NeuralODE

FINE = {"rtol": 1e-9, "atol": 1e-11}
METHODS = [
    (Tsit5(**FINE), Discrete()), (Tsit5(**FINE), Discrete(2)), (Tsit5(**FINE), Direct()), (Tsit5(**FINE), Backsolve()),
    (RK4(step_size=0.01), Discrete(3)), (Kvaerno5(**FINE), Discrete(2)), (Kvaerno5(**FINE), Direct()),
    (Rodas5P(**FINE), Discrete(2)), (Rodas5P(**FINE), Direct()),
]  # fmt: skip
LEVELS = torch.tensor(
    [[1.0, 0.3 - 0.2j, 0.1j], [0.3 + 0.2j, -0.5, 0.4], [-0.1j, 0.4, 0.7]], dtype=torch.complex128
)  # a Hermitian matrix: three levels and their couplings


def randn(*shape):
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("solver", "adjoint"), METHODS)
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_a_turning_phase(solver, adjoint, batch_dims):
    """y' = i w y, with w complex: y0 exp(i w t)."""
    y0, w = randn(3, 2).requires_grad_(), torch.tensor(1.2 + 0.3j, dtype=torch.complex128, requires_grad=True)
    weights = randn(3, 2)

    def loss(y):
        return (y * weights).real.sum() + y.abs().square().sum()

    y = odeint(lambda t, y, w: 1j * w * y, y0, [0.0, 0.7], w, solver=solver, adjoint=adjoint, batch_dims=batch_dims)
    right = y0 * torch.exp(0.7j * w)
    torch.testing.assert_close(y[-1], right, rtol=1e-6, atol=1e-7)
    found, expected = (torch.autograd.grad(loss(value), [y0, w]) for value in (y[-1], right))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("solver", "adjoint"), METHODS)
def test_three_levels_keep_their_norm(solver, adjoint):
    """i y' = H y, H captured: exp(-i H t) y0."""
    y0, matrix = randn(3), LEVELS.clone().requires_grad_()
    y = odeint(lambda t, y: -1j * (matrix @ y), y0, [0.0, 1.0, 2.0], solver=solver, adjoint=adjoint)
    right = torch.stack([torch.linalg.matrix_exp(-1j * t * matrix) @ y0 for t in (0.0, 1.0, 2.0)])
    torch.testing.assert_close(y, right, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(y.norm(dim=1), y0.norm().expand(3), rtol=1e-7, atol=0)
    weights = randn(3, 3)
    (found,), (expected,) = (torch.autograd.grad((x * weights).real.sum(), matrix) for x in (y, right))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("adjoint", [Discrete(2), Direct(), pytest.param(Backsolve(), marks=pytest.mark.slow)])
def test_gradcheck(adjoint):
    """A field that is not analytic; fixed steps, so that differences are those of one function."""
    t = torch.tensor([0.0, 0.25, 0.42], dtype=torch.float64, requires_grad=True)

    def solve(y0, w, t):
        # The continuous adjoint has an error of its own, of the size of the steps' error
        solver = RK4(step_size=0.1 if adjoint != Backsolve() else 0.01)
        return odeint(lambda t, y, w: w * y.conj() + t * y.abs(), y0, t, w, solver=solver, adjoint=adjoint)[1:]

    inputs = (randn(2).requires_grad_(), randn(2).requires_grad_(), t)
    assert torch.autograd.gradcheck(solve, inputs, atol=1e-5, rtol=1e-4)
    if adjoint == Direct():
        assert torch.autograd.gradgradcheck(solve, (*inputs[:2], t.detach()), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize("solver", [Tsit5(**FINE), Kvaerno5(**FINE)])
def test_trees_of_real_and_complex_tensors(batch_dims, solver):
    """A real leaf of odd size stands before the complex one; a real value of a complex state has no imaginary part."""
    start = {"r": torch.ones(2, 1).double(), "c": torch.ones(2, 3, dtype=torch.complex128), "s": randn(2, 1)}

    def f(t, y):
        return {"c": 1j * y["c"] * y["r"], "r": torch.zeros_like(y["r"]), "s": y["c"].abs()[:, :1] * 2}

    y = odeint(f, start, [0.0, 1.0], solver=solver, batch_dims=batch_dims)
    assert (y["r"].dtype, y["c"].dtype, y["c"].shape) == (torch.float64, torch.complex128, (2, 2, 3))
    torch.testing.assert_close(y["c"][-1], torch.full((2, 3), complex(math.cos(1), math.sin(1))).to(y["c"]))
    torch.testing.assert_close(y["s"][-1], start["s"] + 2)


def test_transforms():
    def end(y0, w):
        return odeint(lambda t, y: 1j * w * y, y0, [0.0, 1.0], solver=Tsit5(**FINE))[-1]

    y0, w = randn(4), torch.tensor(0.8, dtype=torch.float64)
    right = y0 * torch.exp(1j * w)
    torch.testing.assert_close(torch.func.vmap(end, (0, None))(y0, w), right)
    of_w = torch.func.grad(lambda w: end(y0, w).imag.sum())(w)
    torch.testing.assert_close(of_w, (1j * right).imag.sum())
    _, tangent = torch.func.jvp(end, (y0, w), (torch.zeros_like(y0), torch.ones_like(w)))
    torch.testing.assert_close(tangent, 1j * right)


def test_dense_solutions_events_and_layers():
    def f(t, y):
        return 1j * y

    one = torch.ones(1, dtype=torch.complex128)
    dense = odeint_dense(f, one, [0.0, 2.0], solver=Tsit5(**FINE))
    torch.testing.assert_close(dense(0.5)[0].item(), complex(math.cos(0.5), math.sin(0.5)))
    time, y = odeint_event(f, one, [0.0, 4.0], lambda t, y: y[0].real, solver=Tsit5(**FINE))
    assert time.item() == pytest.approx(math.pi / 2)
    assert y.dtype == torch.complex128
    with pytest.raises(TypeError, match="real"):
        odeint_event(f, one, [0.0, 4.0], lambda t, y: y[0])
    for solver in (None, Kvaerno5()):
        layer = NeuralODE(f, t=(0.0, math.pi), solver=solver)
        assert layer(torch.ones(2, 2, dtype=torch.complex64)).real.mean().item() == pytest.approx(-1, abs=1e-2)
    with pytest.raises(ValueError, match="real states"):
        NeuralODE(f, penalties=["kinetic"])(torch.ones(2, 2, dtype=torch.complex64))


def test_failed_samples_are_not_numbers():
    y0 = torch.tensor([[1.0 + 0j], [complex(math.nan, 0)]])
    y, solution = odeint(lambda t, y: 1j * y, y0, [0.0, 1.0], batch_dims=1, on_failure="ignore", return_solution=True)
    assert y[-1].isfinite().flatten().tolist() == [True, False]
    assert solution.status.tolist() == [0, 2]


def test_tolerances_of_complex_states():
    y0 = torch.ones(2, dtype=torch.complex128)
    rates = torch.tensor([1.0, 30.0])
    counts = []
    for atol in (1e-8, torch.tensor([1e-8, 10.0])):
        solver = Tsit5(rtol=0.0, atol=atol)
        y, solution = odeint(lambda t, y: 1j * rates * y, y0, [0.0, 1.0], solver=solver, return_solution=True)
        assert y[-1, 0].item() == pytest.approx(complex(math.cos(1), math.sin(1)), abs=1e-6)
        counts.append(int(solution.steps))
    assert counts[1] < counts[0]


def test_what_is_refused():
    with pytest.raises(TypeError, match="view_as_real"):
        fixed_point(lambda z: z / 2, torch.ones(2, dtype=torch.complex64))
    with pytest.raises(TypeError, match="complex values for a real state"):
        odeint(lambda t, y: {"a": 1j * y["a"], "b": y["b"]}, {"a": torch.ones(2), "b": randn(2)}, [0.0, 1.0])
    with pytest.raises(ValueError, match="structure and shapes"):
        odeint(lambda t, y: y[:1], randn(2), [0.0, 1.0])
