"""How many equal steps an interval takes: as many where its times are rounded as where they are not."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deqzoo.implicit import RK4, Backsolve, Euler, Heun, Leapfrog, odeint, odeint_dense, odeint_event
from deqzoo.implicit.ode.controllers import rounding_of, step_count
from deqzoo.nn import HamiltonianODE, NeuralODE

F32, F64 = torch.float32, torch.float64
EPS32 = torch.finfo(F32).eps
SPACING = 0.4  # 7 x 0.4 to 8 x 0.4 is longer than 0.4 in float32


def counts(times, step_size, eps):
    times = times.tolist()
    return {step_count(a, b, step_size, eps) for a, b in itertools.pairwise(times)}


@settings(deadline=None)
@given(st.floats(1e-4, 1e4), st.integers(1, 7), st.integers(1, 4000), st.sampled_from([1, -1]))
def test_rounded_multiples_of_a_length_take_as_many_steps_as_exact_ones(h, steps, n, sign):
    """Whichever way the times are made."""
    number = torch.arange(n + 1)
    for times in (h * number, torch.tensor(h) * number, torch.linspace(0, n * h, n + 1), (h * number.double()).float()):
        assert times.dtype == F32
        assert counts(sign * times, h / steps, EPS32) == {steps}
    assert counts(sign * h * number.double(), h / steps, torch.finfo(F64).eps) == {steps}


@settings(deadline=None)
@given(st.floats(1e-4, 1e4), st.integers(1, 7), st.integers(0, 4000))
def test_an_interval_that_is_longer_takes_a_step_more(h, steps, k):
    """By more than the times are rounded."""
    longer = 10 * EPS32 * (k + 1)
    times = h * torch.tensor([k, k + 1 + longer], dtype=F64).float()
    assert counts(times, h / steps, EPS32) == {steps + 1}
    times = h * torch.tensor([k, k + 1 + 1e-6], dtype=F64)
    assert counts(times, h / steps, torch.finfo(F64).eps) == {steps + 1}


@given(st.floats(allow_nan=False, allow_infinity=False, width=64), st.floats(allow_nan=False, width=32))
def test_numbers_of_float32_are_known(x, y):
    assume(all(z == 0 or 1e-30 < abs(z) < 1e30 for z in (x, y)))  # where float32 has all of its digits
    assert (rounding_of([x]) == EPS32) == (torch.tensor(x, dtype=F64).float().double().item() == x)
    assert rounding_of([y]) == EPS32
    assert rounding_of([0.1, y]) == torch.finfo(F64).eps
    assert rounding_of([y], 1e-3) == 1e-3


def test_times_that_are_coarse_make_steps_a_tenth_longer_at_most():
    ulp = 2.0**-3  # of float32 at 2^20
    start = 2.0**20
    for count in range(1, 40):
        end, step_size = start + count * ulp, 0.1
        steps = step_count(start, end, step_size, EPS32)
        assert count * ulp / steps <= step_size / 0.9 + 1e-12


def spring(t, y):
    return y[1], -y[0]


def rotation(t, y):
    return torch.stack([y[..., 1], -y[..., 0]], -1)


def start(dtype=F32):
    return torch.tensor([[1.0, 0.0], [0.5, 0.2]], dtype=dtype)


TIMES = SPACING * torch.arange(100)
STEPS = 3 * 99


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    "times", [TIMES, TIMES.flip(0), 50 + TIMES, TIMES.double()], ids=["there", "back", "late", "double"]
)
@pytest.mark.parametrize("solver", [Euler, Heun, RK4])
def test_all_methods_with_fixed_steps(solver, times, dtype):
    for batch_dims in (0, 1):
        options = {"solver": solver(step_size=SPACING / 3), "batch_dims": batch_dims, "return_solution": True}
        solution = odeint(rotation, start(dtype), times, **options)[1]
        assert (solution.steps == STEPS).all()
    with_times = times.clone().requires_grad_()
    _, solution = odeint(rotation, start(dtype), with_times, solver=solver(step_size=SPACING / 3), return_solution=True)
    assert solution.steps == STEPS


def test_dense_output_events_and_times_of_each_sample():
    solver = RK4(step_size=SPACING / 3)
    ends = TIMES[[7, 8]]
    _, solution = odeint_dense(rotation, start(), ends, solver=solver, batch_dims=1, return_solution=True)
    assert (solution.steps == 3).all()
    options = {"solver": solver, "on_failure": "ignore", "return_solution": True}
    found = odeint_event(rotation, start(), ends, lambda t, y: y.sum() + 100, **options)
    assert found[-1].steps == 3
    each = torch.stack([TIMES, 50 + TIMES], 1)
    assert (odeint(rotation, start(), each, solver=solver, batch_dims=1, return_solution=True)[1].steps == STEPS).all()
    longer = torch.stack([TIMES, 1.01 * TIMES], 1)
    solution = odeint(rotation, start(), longer, solver=solver, batch_dims=1, return_solution=True)[1]
    assert (solution.steps == 4 * 99).all()


def test_the_adjoint_that_solves_backwards_takes_as_many_steps():
    y0 = start().requires_grad_()
    solver = RK4(step_size=SPACING / 3)
    y, solution = odeint(rotation, y0, TIMES[:20], solver=solver, adjoint=Backsolve(), return_solution=True)
    y.sum().backward()
    assert solution.steps == 3 * 19
    assert solution.backward.nfe == 4 * 3 * 19


def test_rounded_times_do_not_spoil_the_energy():
    """Over 3,000 steps; a step more in some intervals loses energy at random."""
    y0 = torch.tensor([2.0], dtype=F64), torch.tensor([0.0], dtype=F64)
    errors = []
    for times in (SPACING * torch.arange(3001), SPACING * torch.arange(3001, dtype=F64)):
        q, p = odeint(lambda t, y: (y[1], -y[0].sin()), y0, times, solver=Leapfrog(step_size=SPACING))
        energy = p.square() / 2 - q.cos()
        errors.append((energy - energy[0]).abs().max().item())
    assert errors[0] == pytest.approx(errors[1], rel=0.01)


def test_layers_keep_the_digits_of_their_times_and_give_the_dynamics_those_of_the_state():
    seen = set()

    def dynamics(t, y):
        seen.add(t.dtype)
        return rotation(t, y)

    layer = NeuralODE(dynamics, solver=RK4(step_size=1e-3))
    late = [1e5 + 1e-3 * k for k in range(4)]  # which are 1e5 in float32
    for times in (late, torch.tensor(late, dtype=F64)):
        y = layer(start(), times)
        angle = torch.tensor(3e-3)
        expected = torch.stack([angle.cos(), -angle.sin()])
        torch.testing.assert_close(y[-1, 0], expected, rtol=1e-5, atol=1e-6)
        assert layer.solution.steps.tolist() == [3, 3]
    assert seen == {F32}
    with pytest.raises(ValueError, match="strictly increasing"):
        layer(start(), torch.tensor(late))
    moving = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    layer(start(), moving)[-1, 0, 0].backward()
    assert moving.grad[1].item() == pytest.approx(-math.sin(1.0), abs=1e-5)


def test_a_hamiltonian_layer_takes_equal_steps_at_rounded_times():
    layer = HamiltonianODE(spring, solver=Leapfrog(step_size=SPACING / 3))
    for times in (TIMES, TIMES.tolist(), TIMES.double()):
        layer(start(), times)
        assert (layer.solution.steps == STEPS).all()
