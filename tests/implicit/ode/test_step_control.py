"""The step size control: what is accepted, and what step follows; for all systems together and for each its own."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqzoo.implicit import Bosh3, Dopri5, Dopri8, Kvaerno3, Kvaerno5, Rodas5P, Tsit5, odeint
from deqzoo.implicit.ode.initial_step import expected_shares
from deqzoo.implicit.ode.integrate import errors
from deqzoo.implicit.ode.norms import Norm
from deqzoo.implicit.ode.step_control import ControllerPerSystem, SharedController
from deqzoo.implicit.ode.steps import Stepper

ERRORS = st.lists(st.sampled_from([0.0, 1e-6, 0.05, 0.2, 0.95, 1.0, 1.8, 40.0, 1e4, math.inf, math.nan]), max_size=30)
JUMPS = st.lists(st.sampled_from([-1.0, 0.0, 1e-3, 0.5, 0.501, 1.3, 2.0, 7.0]), max_size=4)


def attempts(errors, solver, each=False, end=2.0):
    """Each (begin, length) that is tried, when the attempts find these errors; and the report."""
    points, tried = [0.0, end, *solver.jump_times], []
    controller = ControllerPerSystem(solver, [0.0, end], 1, True) if each else SharedController(solver, [0.0, end])
    for error in errors:
        if (step := controller.next_step()) is None:
            break
        start, size = map(float, step.each() if each else step.shared())
        a, b = (points[int(point)] for point in (step.a, step.b))
        tried.append((a + start * (b - a), size * abs(b - a)))
        controller.judge(step, [error])
    return tried, tuple(map(int, controller.report()))


@pytest.mark.parametrize("each", [True, False])
def test_steps_end_at_jumps_beyond_the_second_output_time_and_are_not_stretched_beyond_the_longest(each):
    """2 / 0.33 is a little above 6: six equal steps would be too long."""
    for times, jumps, max_step in (([0.0, 1.0, 2.0], (1.5,), None), ([0.0, 2.0], (), 0.33)):
        solver, points = Dopri5(jump_times=jumps, max_step=max_step), [*times, *jumps]
        controller = ControllerPerSystem(solver, times, 1, True) if each else SharedController(solver, times)
        ends, lengths = [], []
        while (step := controller.next_step()) is not None:
            start, size = map(float, step.each() if each else step.shared())
            a, b = (points[int(point)] for point in (step.a, step.b))
            ends.append(a + (start + size) * (b - a))
            lengths.append(size * abs(b - a))
            controller.judge(step, [1e-6])
        assert not jumps or any(end == pytest.approx(1.5, abs=1e-12) for end in ends)
        assert ends[-1] == pytest.approx(2.0)
        assert max_step is None or max(lengths) <= max_step * (1 + 1e-9)


@settings(deadline=None)
@given(ERRORS, JUMPS, st.sampled_from([None, 0.3]), st.sampled_from([2.0, -2.0]), st.sampled_from([Dopri5, Kvaerno5]))
def test_steps_of_one_system_of_its_own_are_those_for_all(errors, jumps, max_step, end, method):
    solver = method(jump_times=jumps, max_step=max_step)
    tried, report = attempts(errors, solver, each=True, end=end)
    expected, expected_report = attempts(errors, solver, end=end)
    assert torch.allclose(torch.tensor(tried), torch.tensor(expected))
    assert report == expected_report
    if max_step is not None:
        assert all(length <= max_step * (1 + 1e-9) for _, length in tried)


def test_steps_end_at_jumps():
    tried, report = attempts([0.0] * 9, Dopri5(jump_times=(1.5, 0.5, 0.5, 3.0, 0.0)))
    assert tried == [(0.0, 0.5), (0.5, 1.0), (1.5, 0.5)]
    assert report == (0, 3, 0)
    tried, _ = attempts([0.0] * 9, Dopri5(jump_times=(-1.5, -0.5)), end=-2.0)
    assert tried == [(0.0, 0.5), (-0.5, 1.0), (-1.5, 0.5)]


def test_a_short_piece_between_jumps_does_not_shorten_the_steps_after_it():
    tried, _ = attempts([0.0] * 9, Dopri5(jump_times=(1.0, 1.0 + 1e-6)))
    assert tried[-1] == pytest.approx((1.0 + 1e-6, 1.0 - 1e-6))


def test_a_first_step_that_promises_too_little_is_begun_anew():
    """y' = -15 y over 0 ... 2: the span promises a tenth or less, which is what is tried first."""
    for batch_dims in (0, 1):
        seen = []

        def f(t, y, seen=seen):
            seen.append(float(t.max()))
            return -15 * y

        options = Dopri5(first_step="span")
        odeint(f, torch.ones(1, 1).double(), [0.0, 2.0], solver=options, batch_dims=batch_dims)
        assert seen[:2] == pytest.approx([0.0, 0.4])  # c_2 = .2 of the whole span
        assert 0 < seen[2] < 0.2 * 2.0 / 4
        seen.clear()
        odeint(f, torch.ones(1, 1).double(), [0.0, 2.0], solver=Dopri5(first_step=2.0), batch_dims=batch_dims)
        assert seen[:3] == pytest.approx([0.0, 0.4, 0.6])  # the user's own choice


def fields():
    """Name -> (f, start, span), smooth ones."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(16, 16, generator=generator, dtype=torch.float64) / 2 for _ in range(2)]
    start = torch.randn(16, generator=generator, dtype=torch.float64)
    return {
        "decay": (lambda t, y: -y, torch.ones(2, dtype=torch.float64), 10.0),
        "oscillator": (lambda t, y: torch.stack([y[1], -y[0]]), torch.tensor([1.0, 0.0], dtype=torch.float64), 20.0),
        "logistic": (lambda t, y: y * (1 - y), torch.tensor([0.01], dtype=torch.float64), 20.0),
        "pendulum": (lambda t, y: torch.stack([y[1], -y[0].sin()]), torch.tensor([2.0, 0.0], dtype=torch.float64), 9.0),
        "network": (lambda t, y: weights[0] @ (weights[1] @ y).tanh(), start, 5.0),
    }


@pytest.mark.parametrize("solver", [Bosh3, Dopri5, Tsit5, Dopri8])
@pytest.mark.parametrize("name", fields())
def test_first_step_is_near_to_the_one_that_the_tolerance_allows(solver, name):
    """From its two stages, against the largest step whose whole error is within the tolerance."""
    f, y, span = fields()[name]
    options = solver(rtol=1e-5, atol=1e-5)
    stepper, first = Stepper(options, lambda t, y, rows: f(t, y[0]).unsqueeze(0), taped=False), f(torch.zeros(()), y)

    def error(h):
        new, stages = stepper.step(torch.zeros(()), h, y.unsqueeze(0), first.unsqueeze(0))
        return errors(stepper, stages, h, y.unsqueeze(0), new, None, Norm()).item()

    allowed = next(h for h in (span * 0.95**i for i in range(200)) if error(h) <= 1)
    begun = stepper.begin(torch.zeros(()), allowed, y.unsqueeze(0), first.unsqueeze(0))
    (share,) = expected_shares(stepper, begun, allowed, y.unsqueeze(0), None, Norm())
    assert 0.4 < share < 2


@pytest.mark.parametrize("solver", [Bosh3, Dopri5, Tsit5, Dopri8])
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_looking_at_the_first_step_costs_less_than_trying_all_of_it(solver, batch_dims):
    f, start, span = fields()["network"]
    y, found = start.repeat(3, 1), []
    for first_step in ("span", span):
        options = solver(rtol=1e-5, atol=1e-5, first_step=first_step)
        end, solution = odeint(
            lambda t, y: f(t, y.mT).mT, y, [0.0, span], solver=options, batch_dims=batch_dims, return_solution=True
        )
        found.append((end[-1], solution))
    (looked, cheaper), (tried, dearer) = found
    assert cheaper.nfe < dearer.nfe
    assert torch.allclose(looked, tried, rtol=0, atol=1e-3)


@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize("first_step", [None, "span"])
def test_the_start_inside_transforms(batch_dims, first_step):
    """Gradients of a solve whose first step is estimated, or begins anew, under torch.func and on the tape."""
    f, start, span = fields()["network"]
    scale, starts = torch.tensor(1.0, dtype=torch.float64), torch.stack([start, 0.5 * start])

    def loss(scale, y):
        y = y.unsqueeze(0)
        options = Dopri5(rtol=1e-8, atol=1e-8, first_step=first_step)
        end = odeint(lambda t, y, s: f(t, (s * y).mT).mT, y, [0.0, span], scale, solver=options, batch_dims=batch_dims)
        return end[-1].square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(scale, starts)
    leaf = scale.clone().requires_grad_()
    expected = [torch.autograd.grad(loss(leaf, y), leaf)[0] for y in starts]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_a_start_from_rest_and_a_field_that_ends_are_tried():
    y = torch.zeros((), dtype=torch.float64)
    end, solution = odeint(lambda t, y: t, y, [0.0, 1.0], solver=Dopri5(first_step="span"), return_solution=True)
    assert (end[-1].item(), solution.nfe) == (pytest.approx(0.5), 7)  # f is 0 at first, which says nothing
    y0 = torch.ones((), dtype=torch.float64)
    span = Dopri5(first_step="span")
    end, solution = odeint(lambda t, y: -10 * y * y.sqrt(), y0, [0.0, 1.0], solver=span, return_solution=True)
    assert end[-1].item() == pytest.approx(1 / 36, rel=1e-3)  # y = (1 + 5 t)^-2; a step of all of it ends below zero
    assert bool(solution.converged)
    assert int(solution.rejected) <= 1


def test_a_step_rejected_twice_shrinks_by_the_order_that_it_shows():
    tried, _ = attempts([1000.0, 20.0, 0.5], Dopri5(safety=0.9), end=1.0)  # so large that more than four steps are left
    (_, first), (_, second), (_, third) = tried
    assert first == 1.0
    shown = math.log(1000 / 20) / math.log(first / second)
    assert 1 < shown < 5
    assert math.isclose(third, second * 0.9 * 20 ** (-1 / shown))


@pytest.mark.parametrize("method", [Kvaerno3, Kvaerno5, Rodas5P])
def test_implicit_methods_foresee_that_errors_grow(method):
    """Lengths by hand: the error alone asks for the first; for the second it has grown from step to step."""
    order = method.tableau.error_order + 1
    tried, _ = attempts([0.1, 0.9, 0.1], method(first_step=0.01))
    lengths = [length for _, length in tried]
    assert lengths[1] / lengths[0] == pytest.approx(0.9 * 0.1 ** (-1 / order))
    trend = lengths[1] / lengths[0] * (0.1 / 0.9) ** (1 / order)
    assert lengths[2] / lengths[1] == pytest.approx(0.9 * 0.9 ** (-1 / order) * trend)
    assert trend < 1


def test_the_last_steps_are_of_one_length():
    tried, (_, accepted, rejected) = attempts([15.0, 0.3, 0.3], Dopri5(), end=1.0)  # .52 is allowed
    assert [size for _, size in tried] == pytest.approx([1.0, 0.5, 0.5])
    assert [start for start, _ in tried] == pytest.approx([0.0, 0.0, 0.5])
    assert (accepted, rejected) == (2, 1)
    tried, _ = attempts([100.0, 0.2, 0.2, 0.2], Dopri5(), end=1.0)  # .36 is allowed
    assert [size for _, size in tried] == pytest.approx([1.0, 1 / 3, 1 / 3, 1 / 3])


def test_an_error_that_does_not_fall_is_accepted_only_far_below_the_tolerance():
    assert attempts([1.8, 0.96], Dopri5())[1][1:] == (0, 2)  # half the step and half the error: no estimate
    assert attempts([1.8, 0.06], Dopri5())[1][1:] == (1, 1)
    assert attempts([1.8, 0.96, 0.09], Dopri5())[1][1:] == (1, 2)


def test_a_kink_inside_a_long_step_is_seen():
    """The start falls fast to a kink (ReLU), where the error estimate of a long step is small by accident."""
    generator = torch.Generator().manual_seed(0)
    inner, outer = (torch.randn(64, 64, generator=generator, dtype=torch.float64) / 8 for _ in range(2))
    shift = torch.randn(64, generator=generator, dtype=torch.float64)

    def f(t, y):
        h = torch.relu(torch.nn.functional.layer_norm(y, (64,)) @ inner + shift)
        return torch.relu(torch.nn.functional.layer_norm(h @ outer + shift, (64,))) - y

    y0 = torch.zeros(4, 64, dtype=torch.float64)
    exact = odeint(f, y0, [0.0, 1.0], solver=Dopri5(rtol=1e-9, atol=1e-9))[-1]
    for solver in (Bosh3(rtol=1e-3, atol=1e-3), Dopri5(rtol=1e-3, atol=1e-3)):
        y = odeint(f, y0, [0.0, 1.0], solver=solver)[-1]
        assert (y - exact).abs().max() < 5e-3
