"""Derivatives of the time of an event, and of the state there."""

import math
import warnings

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from deqzoo.implicit import (
    NonConvergenceError,
    NonConvergenceWarning,
    odeint_event,
)
from tests.implicit.ode.falling import TIGHT, double, fall, height, landing
from tests.implicit.ode.problems import net, randn


def test_orders_of_derivatives():
    h, g = (double(x).requires_grad_() for x in (2.0, 9.81))
    assert gradcheck(lambda h, g: landing(h, g)[1][1], (h, g))
    assert gradgradcheck(lambda h, g: landing(h, g)[0], (h, g))
    assert gradgradcheck(lambda h, g: landing(h, g)[1][1], (h, g))


def implicit_time(field, start, captured, scale, weight):
    """An event that reads an argument, a captured tensor and a module's parameters, in a state that is a tree."""
    return odeint_event(
        lambda t, y, scale: {"a": scale * torch.tanh(field(y["a"])) + 1, "b": torch.cos(t) + 0 * y["b"]},
        {"a": start, "b": torch.zeros(()).double()}, [0.0, 4.0],
        lambda t, y, scale: (y["a"] * weight).sum() + scale * captured * y["b"] - field(y["a"]).sum() - 1.5,
        scale, solver=TIGHT,
    )  # fmt: skip


def test_gradients_of_everything():
    field = net(size=3)
    leaves = [0.2 * randn(3, seed=1), double(0.8), double(0.5), 1 + 0.1 * randn(3, seed=2)]
    leaves = [x.requires_grad_() for x in leaves]

    def loss():
        time, y = implicit_time(field, *leaves)
        return time + y["a"].square().sum() - y["b"]

    tensors = [*leaves, *field.parameters()]
    found = torch.autograd.grad(loss(), tensors)
    for i, x in enumerate(tensors):
        direction, ends, step = randn(*x.shape, 1, seed=20 + i).squeeze(-1), [], 1e-5
        for sign in (1, -1):
            with torch.no_grad():
                x += sign * step * direction
                ends.append(loss())
                x -= sign * step * direction
        torch.testing.assert_close((found[i] * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-7)


def test_gradients_in_the_span():
    """Of y' = -y t from t_0 to y = c: t* = sqrt(t_0^2 + 2 log(1 / c)); without an event t* is the end."""
    begin, end = double(0.5).requires_grad_(), double(4.0).requires_grad_()
    one = torch.ones(1).double()
    time, y = odeint_event(lambda t, y: -y * t, one, torch.stack([begin, end]), lambda t, y: y[0] - 0.2, solver=TIGHT)
    expected = (begin**2 + 2 * math.log(5)).sqrt()
    torch.testing.assert_close(time, expected, rtol=1e-8, atol=0)
    found = torch.autograd.grad(time, [begin, end])
    torch.testing.assert_close(found[0], torch.autograd.grad(expected, begin)[0], rtol=1e-6, atol=0)
    assert abs(found[1].item()) < 1e-6
    time, y = odeint_event(
        lambda t, y: -y * t, one, torch.stack([begin, end]), lambda t, y: y[0] + 1, solver=TIGHT, on_failure="ignore"
    )
    assert time == 4.0
    of_time = torch.autograd.grad(time, [begin, end], retain_graph=True, allow_unused=True)
    assert of_time[1].item() == pytest.approx(1.0)
    of_y = torch.autograd.grad(y.sum(), [begin, end])
    assert of_y[1].item() == pytest.approx(-4 * math.exp((0.25 - 16) / 2), rel=1e-4)
    assert of_y[0].item() == pytest.approx(0.5 * math.exp((0.25 - 16) / 2), rel=1e-4)


def test_transforms():
    def time(start, g):
        return odeint_event(fall, start, [0.0, 5.0], height, g)[0]

    starts, g = torch.stack([double(2.0, 0.0), double(1.0, 1.0), double(4.0, -1.0)]), double(9.81)
    exact = (starts[:, 1] + (starts[:, 1] ** 2 + 2 * g * starts[:, 0]).sqrt()) / g
    torch.testing.assert_close(vmap(time, (0, None))(starts, g), exact, rtol=1e-9, atol=1e-9)
    of_g = jacrev(lambda g: (starts[:, 1] + (starts[:, 1] ** 2 + 2 * g * starts[:, 0]).sqrt()) / g)(g)
    torch.testing.assert_close(vmap(grad(time, argnums=1), (0, None))(starts, g), of_g, rtol=1e-7, atol=1e-9)
    expected = 1 / (2 * 9.81 * 2.0) ** 0.5
    assert grad(time)(starts[0], g)[0].item() == pytest.approx(expected, rel=1e-8)
    assert jacfwd(time)(starts[0], g)[0].item() == pytest.approx(expected, rel=1e-8)
    second = hessian(time, argnums=1)(starts[0], g)
    assert second.item() == pytest.approx(0.75 * 2.0 * 2**0.5 * 9.81**-2.5 * 2.0**-0.5, rel=1e-7)

    def each(starts, g):
        return odeint_event(
            lambda t, y: torch.stack([y[:, 1], -g + 0 * y[:, 1]], dim=1), starts, [0.0, 5.0], lambda t, y: y[:, 0],
            batch_dims=1,
        )[0]  # fmt: skip

    torch.testing.assert_close(vmap(each, (None, 0))(starts, g.repeat(2)), exact.expand(2, 3), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(jacrev(each, argnums=1)(starts, g), of_g, rtol=1e-7, atol=1e-9)

    def none(start):
        t, y, solution = odeint_event(fall, start, [0.0, 0.5], height, return_solution=True, on_failure="ignore")
        return t, y, solution.status

    t, y, status = vmap(none)(starts)
    assert status.tolist() == [3, 3, 3]
    torch.testing.assert_close(t, torch.full_like(t, 0.5))
    torch.testing.assert_close(y[:, 1], starts[:, 1] - 9.81 * 0.5)


def test_a_grazing_event_has_no_derivative():
    """(t - 1)^3 - c at c = 0: t* = 1 + c^(1/3)."""
    rest = lambda t, y, c: torch.zeros_like(y)  # noqa: E731
    c = double(0.0).requires_grad_()
    with pytest.warns(NonConvergenceWarning, match="grazes"):
        time, _ = odeint_event(rest, double(1.0, 0.0), [0.0, 2.0], lambda t, y, c: (t - 1.0) ** 3 - c, c)
    assert time.item() == pytest.approx(1.0, abs=1e-4)
    time.backward()
    assert not c.grad.isfinite()
    # Beside one that grazes, another is what it is alone.
    c, start = double(0.0, 0.125), double(1.0, 0.0).expand(2, 2)
    with pytest.warns(NonConvergenceWarning, match="grazes"):
        times, _ = odeint_event(
            lambda t, y, c: 0 * y, start, [0.0, 2.0], lambda t, y, c: (t - 1.0) ** 3 - c, c, batch_dims=1
        )
    assert times.tolist() == pytest.approx([1.0, 1.5], abs=1e-4)
    c = double(0.0).requires_grad_()
    with pytest.raises(NonConvergenceError, match="grazes"):
        odeint_event(rest, double(1.0, 0.0), [0.0, 2.0], lambda t, y, c: (t - 1.0) ** 3 - c, c, on_failure="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        time, _ = odeint_event(rest, double(1.0, 0.0), [0.0, 2.0], lambda t, y, c: (t - 1.0) - c, c)
    assert torch.autograd.grad(time, c)[0].item() == pytest.approx(1.0)
