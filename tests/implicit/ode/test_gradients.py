"""Gradients of each adjoint: closed forms, finite differences, and each other."""

import gc
import math
import weakref

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from deqzoo.implicit import RK4, Backsolve, Direct, Discrete, Dopri5, Kvaerno3, Kvaerno5, Rodas5P, Tsit5, odeint
from deqzoo.implicit.ode import ODE_ADJOINTS, Dopri8
from tests.implicit.ode.problems import net, randn, relative

EVERY = [Discrete(), Discrete(checkpoints=2), Direct(), Backsolve(), Backsolve(seminorm=False)]
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("adjoint", EVERY)
@pytest.mark.parametrize("solver", [Dopri5(**TIGHT), Tsit5(**TIGHT), Dopri8(**TIGHT), RK4(step_size=0.01)])
def test_exponential(adjoint, solver):
    """y' = a y: dy(T)/da = T y(T), dy(T)/dy0 = exp(a T), dy(T)/dT = a y(T), dy(T)/dt0 = -a y(T)."""
    a = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = odeint(lambda t, y, a: a * y, y0, t, a, solver=solver, adjoint=adjoint)[-1]
    of_a, of_y0, of_t = torch.autograd.grad(y, [a, y0, t])
    assert y.item() == pytest.approx(1.3 * math.exp(-0.7 * 1.5), rel=1e-8)
    assert of_a.item() == pytest.approx(1.5 * y.item(), rel=1e-7)
    assert of_y0.item() == pytest.approx(math.exp(-0.7 * 1.5), rel=1e-7)
    assert of_t.tolist() == pytest.approx([0.7 * y.item(), 0.0, -0.7 * y.item()], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("adjoint", EVERY)
def test_harmonic_oscillator(adjoint):
    """x'' = -w^2 x: x(T) = cos(w T), dx(T)/dw = -T sin(w T)."""
    w = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    times = torch.linspace(0, 3, 13, dtype=torch.float64)

    def f(t, y):
        return torch.stack([y[1], -(w**2) * y[0]])

    x = odeint(f, torch.tensor([1.0, 0.0]).double(), times, solver=Tsit5(**TIGHT), adjoint=adjoint)[:, 0]
    weights = randn(13)
    (gradient,) = torch.autograd.grad(weights @ x, w)
    torch.testing.assert_close(x.detach(), torch.cos(w.detach() * times), rtol=0, atol=1e-7)
    expected = -(weights * times * torch.sin(w.detach() * times)).sum()
    assert gradient.item() == pytest.approx(expected.item(), rel=1e-6)


def run(adjoint, solver, batch_dims=0, compact=False, end=2.0, outputs=7):
    """Gradients in y0, t, an argument and parameters, with captured tensors."""
    field, b = net(), randn(3, seed=1).requires_grad_()
    y0, t = randn(4, 3, seed=2).requires_grad_(), torch.linspace(0, end, outputs).double().requires_grad_()
    shift = 2 * b  # a captured tensor that depends on an argument

    def f(t, y, b):
        return field(y) * torch.sin(2 * t.reshape(-1, 1)) + b + 0.1 * shift * y

    y, solution = odeint(
        f, y0, t, b, solver=solver, adjoint=adjoint, batch_dims=batch_dims, compact=compact, return_solution=True
    )
    loss = (y * randn(outputs, 4, 3, seed=3)).sum()
    return torch.autograd.grad(loss, [y0, t, b, *field.parameters()]), solution


@pytest.mark.parametrize("solver", [RK4(step_size=0.3), Tsit5(), Dopri8(), Rodas5P()])
@pytest.mark.parametrize("batch", [{}, {"batch_dims": 1}, {"batch_dims": 1, "compact": True}])
@pytest.mark.parametrize("end", [2.0, -1.0])
def test_discrete_is_direct(solver, batch, end):
    if batch.get("compact") and isinstance(solver, RK4):
        pytest.skip("all samples take the same steps")
    expected, forward = run(Direct(), solver, **batch, end=end)
    for checkpoints in (1, 2, 16):
        found, solution = run(Discrete(checkpoints), solver, **batch, end=end)
        assert relative(found, expected) < 1e-12
        # On the tape, a step that some samples reject is taken once more, by the others alone.
        retaken = forward.nfe - solution.nfe
        assert retaken >= 0 if batch and forward.rejected.any() else retaken == 0
        assert solution.backward.nfe > 0


@pytest.mark.parametrize("batch", [{}, {"batch_dims": 1}, {"batch_dims": 1, "compact": True}])
@pytest.mark.parametrize("method", [Kvaerno3, Kvaerno5])
def test_discrete_is_direct_through_implicit_stages(batch, method):
    solver = method(rtol=1e-3, atol=1e-3, stage_tol=1e-7)
    expected, _ = run(Direct(), solver, **batch)
    found, _ = run(Discrete(2), solver, **batch)
    assert relative(found, expected) < 1e-7  # the stages' equations are solved to 1e-10


@pytest.mark.parametrize("adjoint", [Discrete(), Backsolve(), Backsolve(seminorm=False)])
@pytest.mark.parametrize("outputs", [2, 40])
def test_loose_gradients_agree_with_a_tight_reference(adjoint, outputs):
    expected, _ = run(Direct(), Dopri8(rtol=1e-12, atol=1e-12), outputs=outputs)
    found, _ = run(adjoint, Tsit5(rtol=1e-6, atol=1e-6), outputs=outputs)
    assert relative(found, expected) < 3e-4


def test_one_backward_sweep_serves_all_output_times():
    nfe = [run(Discrete(), Tsit5(), outputs=n)[1].backward.nfe for n in (2, 200)]
    assert nfe[1] <= 8 / 6 * nfe[0]  # a step with outputs in it has one stage more


@pytest.mark.parametrize("adjoint", [Discrete(2), Direct()])
@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (RK4(step_size=0.35), {}),
        (Tsit5(rtol=1e-8, atol=1e-8), {"atol": 1e-5}),  # frozen steps: finite differences move them
        # Tolerances that accept anything make it one step, whatever the input.
        (Kvaerno3(rtol=1e6, atol=1e6, first_step="span", stage_tol=1e-16), {}),
        pytest.param(Kvaerno5(rtol=1e6, atol=1e6, first_step="span", stage_tol=1e-16), {}, marks=pytest.mark.slow),
        (Rodas5P(rtol=1e6, atol=1e6, first_step="span"), {}),
    ],
)
def test_gradcheck_and_gradgradcheck(adjoint, solver, options):
    weight, y0 = randn(2, 2).requires_grad_(), randn(2, 2, seed=1).requires_grad_()
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64, requires_grad=True)

    def solve(y0, t, weight):
        return odeint(lambda t, y, w: torch.tanh(y @ w) * (1 + t), y0, t, weight, solver=solver, adjoint=adjoint)

    assert gradcheck(solve, (y0, t, weight), **options)
    assert gradgradcheck(solve, (y0, t, weight), **options)


def test_double_backward_of_backsolve_is_that_of_the_steps():
    w = randn(2, 2).requires_grad_()

    def solve(adjoint):
        y = odeint(
            lambda t, y: torch.tanh(y @ w), randn(3, 2, seed=1), [0.0, 1.0], adjoint=adjoint, solver=Tsit5(**TIGHT)
        )
        (gradient,) = torch.autograd.grad(y[-1].square().sum(), w, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), w)

    torch.testing.assert_close(solve(Backsolve()), solve(Discrete()))


def test_captured_tensors_and_arguments_that_depend_on_each_other():
    a = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    b = a**2
    for adjoint in EVERY:
        y = odeint(
            lambda t, y, c: (c + b) * y, torch.ones(()).double(), [0.0, 1.0], a, solver=Tsit5(**TIGHT), adjoint=adjoint
        )
        (gradient,) = torch.autograd.grad(y[-1], a, retain_graph=True)
        assert gradient.item() == pytest.approx((1 + 2 * 0.5) * math.exp(0.75), rel=1e-7)


def test_parameters_changed_before_the_backward_are_an_error():
    field = net()
    y = odeint(lambda t, y: field(y), randn(2, 3), [0.0, 1.0])
    with torch.no_grad():
        field[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


# `Reversible` is for pairs alone: tests/implicit/ode/test_leapfrog.py
@pytest.mark.parametrize("adjoint", [each for name, each in ODE_ADJOINTS.items() if name != "reversible"])
def test_without_anything_to_differentiate_there_is_no_tape(adjoint):
    y = odeint(lambda t, y: -y, torch.ones(2), [0.0, 1.0], adjoint=adjoint())
    assert not y.requires_grad
    field = net()
    with torch.no_grad():
        assert not odeint(lambda t, y: field(y), randn(2, 3), [0.0, 1.0], adjoint=adjoint()).requires_grad


def test_held_bytes_do_not_grow_with_the_steps_or_with_the_parameters():
    def held(steps, width):
        layer = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Tanh(), torch.nn.Linear(width, 8))
        y0 = torch.randn(32, 8, requires_grad=True)
        y = odeint(lambda t, y: layer(y), y0, [0.0, 1.0], solver=RK4(step_size=1 / steps))
        return sum(x.numel() for s in _trajectory(y).checkpoints.values() for x in s if x is not None) / y0.numel()

    assert held(8, 16) == 8
    assert held(1000, 16) <= 16
    assert held(1000, 512) <= 16


def _trajectory(y):
    """The recorded trajectory at the root of a solution's graph."""
    nodes = [y.grad_fn]
    while nodes:
        node = nodes.pop()
        if hasattr(node, "trajectory"):
            return node.trajectory
        nodes += [following for following, _ in node.next_functions if following is not None]
    raise AssertionError("no solve on the tape")


@pytest.mark.parametrize("adjoint", EVERY[::2])
def test_a_solution_dies_with_its_last_reference(adjoint):
    field = net()
    gc.disable()
    try:
        y, solution = odeint(lambda t, y: field(y), randn(2, 3), [0.0, 1.0], adjoint=adjoint, return_solution=True)
        y.sum().backward()
        dies = weakref.ref(solution)
        del y, solution
        assert dies() is None  # without the garbage collector: no reference cycle through the graph
    finally:
        gc.enable()


def test_is_grads_batched():
    w = randn(2, 2).requires_grad_()
    y = odeint(lambda t, y: torch.tanh(y @ w), randn(2, seed=1), [0.0, 1.0])[-1]
    expected = torch.stack([torch.autograd.grad(y[i], w, retain_graph=True)[0] for i in range(2)])
    (found,) = torch.autograd.grad(y, w, torch.eye(2).double(), is_grads_batched=True)
    torch.testing.assert_close(found, expected)
