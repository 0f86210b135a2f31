"""The step size control: what is accepted, and what step follows; for all systems together and for each its own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deqzoo.implicit import Bosh3, Dopri5, odeint
from deqzoo.implicit.ode.plans import Controlled, ControlledEach

ERRORS = st.lists(st.sampled_from([0.0, 1e-6, 0.05, 0.2, 0.95, 1.0, 1.8, 40.0, 1e4, math.inf, math.nan]), max_size=30)


def attempts(errors, solver):
    """Each attempted (start, size) when the attempts have these errors."""
    plan, tried = Controlled(solver, [0.0, 2.0]), []
    for error in errors:
        if (step := plan.next()) is None:
            break
        tried.append(step.shared())
        plan.judge(step, [error])
    return tried, plan.report()


@given(ERRORS)
def test_steps_of_one_system_of_its_own_are_those_for_all(errors):
    solver = Dopri5()
    plan, tried = ControlledEach(solver, [0.0, 2.0], 1, True), []
    for error in errors:
        if (step := plan.next()) is None:
            break
        start, size = step.each()
        tried.append((start.item(), size.item()))
        plan.judge(step, [error])
    expected, (status, accepted, rejected) = attempts(errors, solver)
    assert torch.allclose(torch.tensor(tried), torch.tensor(expected))
    found_status, found_accepted, found_rejected = plan.report()
    assert (found_status.item(), found_accepted.item(), found_rejected.item()) == (status, accepted, rejected)


def test_a_step_rejected_twice_shrinks_by_the_order_that_it_shows():
    tried, _ = attempts([1000.0, 20.0, 0.5], Dopri5(safety=0.9))  # so large that more than four steps are left
    (_, first), (_, second), (_, third) = tried
    assert first == 1.0
    shown = math.log(1000 / 20) / math.log(first / second)
    assert 1 < shown < 5
    assert math.isclose(third, second * 0.9 * 20 ** (-1 / shown))


def test_the_last_steps_are_of_one_length():
    tried, (_, accepted, rejected) = attempts([15.0, 0.3, 0.3], Dopri5())  # .52 is allowed
    assert [size for _, size in tried] == pytest.approx([1.0, 0.5, 0.5])
    assert [start for start, _ in tried] == pytest.approx([0.0, 0.0, 0.5])
    assert (accepted, rejected) == (2, 1)
    tried, _ = attempts([100.0, 0.2, 0.2, 0.2], Dopri5())  # .36 is allowed
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
