"""Solving until an event."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from deqzoo.implicit import NonConvergenceWarning, Status, odeint_event

SPAN = torch.tensor([0.0, 5.0], dtype=torch.float64)


def fall(t, y, g):
    return torch.stack([y[1], -g])


def landing(height, g):
    start = torch.stack([height, torch.zeros_like(height)])
    return odeint_event(fall, start, SPAN, lambda t, y, g: y[0], g)


def test_a_falling_ball():
    height, g = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (2.0, 9.81))
    time, y = landing(height, g)
    assert time.item() == pytest.approx(math.sqrt(2 * 2.0 / 9.81), rel=1e-9)
    torch.testing.assert_close(y[1].item(), -math.sqrt(2 * 9.81 * 2.0))
    of_height, of_g = torch.autograd.grad(time, [height, g])
    assert of_height.item() == pytest.approx(1 / math.sqrt(2 * 9.81 * 2.0), rel=1e-8)
    assert of_g.item() == pytest.approx(-time.item() / (2 * 9.81), rel=1e-8)
    assert gradcheck(lambda h, g: landing(h, g)[1][1], (height, g))
    assert gradgradcheck(lambda h, g: landing(h, g)[0], (height, g))


def test_the_first_of_several_events_is_found():
    turn = torch.tensor([[0.0, 1.0], [-4.0, 0.0]], dtype=torch.float64)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    time, y = odeint_event(lambda t, y: turn @ y, start, SPAN, lambda t, y: y[0])
    assert time.item() == pytest.approx(math.pi / 4, rel=1e-5)
    assert abs(y[0].item()) < 1e-5


def test_no_event():
    with pytest.warns(NonConvergenceWarning, match="event"):
        time, y = odeint_event(lambda t, y: y, torch.ones(1).double(), SPAN, lambda t, y: y[0] + 1)
    assert time == 5.0
    assert y.item() == pytest.approx(math.exp(5), rel=1e-3)
    *_, solution = odeint_event(
        lambda t, y: y, torch.ones(1).double(), SPAN, lambda t, y: y[0] + 1, on_failure="ignore", return_solution=True
    )
    assert solution.status == Status.MAX_STEPS


def test_wrong_input():
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        odeint_event(lambda t, y: y, torch.ones(1), torch.zeros(3), lambda t, y: y)
    with pytest.raises(ValueError, match="one number"):
        odeint_event(lambda t, y: y, torch.ones(3).double(), SPAN, lambda t, y: y)
