"""Solutions of each solver against exact ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqzoo.implicit import (
    RK4,
    Bosh3,
    Dopri5,
    Euler,
    Heun,
    Kvaerno3,
    Kvaerno5,
    Midpoint,
    Rodas5P,
    Status,
    Tsit5,
    odeint,
)
from deqzoo.implicit.ode import ODE_SOLVERS, Adaptive, DiagonallyImplicit, Dopri8
from tests.implicit.ode.problems import START, A, exact, linear, randn

ADAPTIVE = [Bosh3, Dopri5, Dopri8, Kvaerno3, Kvaerno5, Rodas5P, Tsit5]


@pytest.mark.parametrize("solver", [Euler, Midpoint, Heun, RK4])
def test_order_with_fixed_steps(solver):
    errors = []
    for count in (32, 64):
        y = odeint(linear, START, [0.0, 2.0], solver=solver(step_size=2 / count))
        errors.append((y[-1] - exact([2.0])[0]).norm().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.tableau.order, abs=0.15)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_order_of_the_adaptive_methods(solver):
    """With a tolerance that accepts anything, the first step is the whole span: one step of known length."""
    errors = []
    first = 2.0 if solver is Dopri8 else 0.4  # else its error is round-off
    for h in (first, first / 2):
        y = odeint(linear, START, [0.0, h], solver=solver(rtol=1e9, atol=1e9, first_step="span", **tight(solver)))
        errors.append((y[-1] - exact([h])[0]).norm().item())
    # At these lengths the leading error terms of some methods nearly cancel: then it falls faster.
    assert math.log2(errors[0] / errors[1]) > solver.tableau.order + 0.6


def tight(solver):
    return (
        {"stage_tol": 1e-22} if issubclass(solver, DiagonallyImplicit) else {}
    )  # relative to the tolerance of the step


@pytest.mark.parametrize("solver", ADAPTIVE)
@pytest.mark.parametrize("end", [5.0, -2.0])
def test_error_follows_the_tolerance_at_all_output_times(solver, end):
    times = torch.linspace(0, end, 31, dtype=torch.float64)
    nfe = []
    for tol in (1e-3, 1e-5 if issubclass(solver, DiagonallyImplicit) else 1e-6):  # their dense output is of order 3
        y, solution = odeint(linear, START, times, solver=solver(rtol=tol, atol=tol), return_solution=True)
        assert (y - exact(times)).abs().max() < 60 * tol
        assert solution.status == Status.CONVERGED
        nfe.append(solution.nfe)
    assert nfe[0] < nfe[1]


def test_output_times_inside_steps_cost_nothing():
    counts = []
    for n in (2, 101):
        _, solution = odeint(linear, START, torch.linspace(0, 5, n).double(), return_solution=True)
        counts.append((solution.nfe, solution.steps.item(), solution.rejected.item()))
    assert counts[0] == counts[1]


def test_the_last_step_ends_at_the_last_time():
    seen = []

    def f(t, y):
        seen.append(t.item())
        return linear(t, y)

    odeint(f, START, [0.0, 3.0], solver=Dopri5(rtol=1e-3))
    assert max(seen) <= 3.0


def test_an_easy_problem_takes_one_step():
    solver = Tsit5(first_step="span")
    y, solution = odeint(lambda t, y: 0.01 * y, START, [0.0, 1.0], solver=solver, return_solution=True)
    assert (solution.steps, solution.rejected, solution.nfe) == (1, 0, 7)
    torch.testing.assert_close(y[-1], START * math.exp(0.01), rtol=1e-9, atol=0)


@settings(max_examples=25)
@given(
    shape=st.lists(st.integers(0, 3), max_size=3),
    name=st.sampled_from(sorted(ODE_SOLVERS.keys() - {"leapfrog"})),  # which wants a pair
    dtype=st.sampled_from([torch.float32, torch.float64]),
    times=st.integers(1, 4),
)
def test_shapes_and_dtypes(shape, name, dtype, times):
    y0, t = torch.ones(shape, dtype=dtype), torch.linspace(0, 0.5, times)
    y = odeint(lambda t, y: -y, y0, t, solver=ODE_SOLVERS[name]())
    assert y.shape == (times, *shape)
    assert y.dtype == dtype
    expected = torch.exp(-t).reshape(-1, *[1] * len(shape)).expand(y.shape)
    rtol = {"euler": 0.25, "heun": 0.05, "midpoint": 0.05}.get(name, 1e-2)  # one step between output times
    torch.testing.assert_close(y, expected.to(dtype), rtol=rtol, atol=1e-4)


def test_a_scalar_state_and_a_tree_of_states():
    y0 = {"a": torch.tensor(1.0), "b": (torch.ones(2, 3), torch.zeros(2))}
    y = odeint(
        lambda t, y: {"a": -y["a"], "b": (y["b"][1].unsqueeze(1) - y["b"][0], t + 0 * y["b"][1])}, y0, [0.0, 1.0]
    )
    assert y["a"].shape == (2,)
    torch.testing.assert_close(y["a"][-1].item(), math.exp(-1), rtol=1e-4, atol=0)
    torch.testing.assert_close(y["b"][1][-1], torch.full((2,), 0.5), rtol=1e-5, atol=0)
    assert y["b"][0].shape == (2, 2, 3)


def test_channels_last_states_keep_their_layout():
    y0 = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    y = odeint(lambda t, y: -y, y0, [0.0, 1.0])
    torch.testing.assert_close(y[-1], y0 * math.exp(-1), rtol=1e-4, atol=1e-5)
    y = odeint(lambda t, y: -y, y0, [0.0, 1.0], batch_dims=1)
    assert y[-1].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y[-1], y0 * math.exp(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", [Dopri5, Kvaerno3, Kvaerno5, Rodas5P])
@pytest.mark.parametrize("compact", [False, True])
def test_each_system_alone_equals_that_system_in_the_batch(solver, compact):
    rates = torch.tensor([0.1, 1.0, 8.0, 30.0], dtype=torch.float64)
    y0, times = randn(4, 2), torch.linspace(0, 1, 5, dtype=torch.float64)

    def f(t, y, rates):
        return -rates.unsqueeze(1) * (y - torch.cos(t).unsqueeze(1))

    options = {"solver": solver(rtol=1e-3, atol=1e-4), "batch_dims": 1, "return_solution": True}
    y, solution = odeint(f, y0, times, rates, compact=compact, **options)
    assert solution.steps[0] < solution.steps[3]
    for i in range(4):
        alone, own = odeint(f, y0[i : i + 1], times, rates[i : i + 1], **options)
        torch.testing.assert_close(y[:, i], alone[:, 0], rtol=1e-9, atol=1e-9)
        assert own.steps[0] == solution.steps[i]


def test_compaction_calls_f_with_the_unfinished_alone():
    rates, sizes = torch.logspace(-1, 2, 16, dtype=torch.float64), []

    def f(t, y, rates):
        sizes.append(len(y))
        return -rates.unsqueeze(1) * y

    _, solution = odeint(
        f, torch.ones(16, 1).double(), [0.0, 1.0], rates, batch_dims=1, compact=True, return_solution=True
    )
    own = 6 * (solution.steps + solution.rejected) + 1
    assert sum(sizes) <= 1.1 * own.sum()


def test_a_bad_sample_does_not_change_the_others():
    y0 = torch.ones(3, 1).double()
    y0[1] = torch.nan
    y, solution = odeint(
        lambda t, y: -y, y0, [0.0, 1.0], batch_dims=1, on_failure="ignore", return_solution=True
    )  # fmt: skip
    assert solution.status.tolist() == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    torch.testing.assert_close(y[-1, [0, 2]], torch.full((2, 1), math.exp(-1)).double(), rtol=1e-4, atol=0)


def test_empty_batch():
    for batch_dims in (0, 1):
        y0 = torch.zeros(0, 3, requires_grad=True)
        y, solution = odeint(linear3, y0, [0.0, 1.0], batch_dims=batch_dims, return_solution=True)
        assert y.shape == (2, 0, 3)
        assert solution.converged.all()
        y.sum().backward()


def linear3(t, y):
    return -y


def test_bfloat16_states_are_solved_in_float32_and_autocast_reaches_f():
    y = odeint(lambda t, y: -y, torch.ones(3, dtype=torch.bfloat16), [0.0, 1.0])
    assert y.dtype == torch.bfloat16
    layer, seen = torch.nn.Linear(3, 3), []

    def f(t, y):
        value = layer(y)
        seen.append(value.dtype)
        return value

    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = odeint(f, torch.ones(2, 3), [0.0, 1.0], solver=RK4(step_size=0.5))
    assert y.dtype == torch.float32
    y.sum().backward()  # outside of autocast: f must run under it again
    assert set(seen) == {torch.bfloat16}
    assert layer.weight.grad.dtype == torch.float32


def test_inference_mode():
    with torch.inference_mode():
        y = odeint(linear, START, [0.0, 1.0])
    torch.testing.assert_close(y[-1], exact([1.0])[0], rtol=1e-4, atol=1e-4)


def test_matrix_of_arguments():
    y = odeint(linear, START, [0.0, 1.0], A * 0.5, solver=Tsit5(rtol=1e-9, atol=1e-9))
    torch.testing.assert_close(y, exact([0.0, 1.0], matrix=A * 0.5), rtol=1e-7, atol=1e-8)


def test_every_adaptive_solver_is_tested():
    assert {s for s in ODE_SOLVERS.values() if issubclass(s, Adaptive)} == set(ADAPTIVE)
