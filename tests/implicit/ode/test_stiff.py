"""Stiff problems, solved by the implicit method, with gradients."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from deqzoo.implicit import Discrete, Kvaerno3, Status, odeint


def robertson(t, y, k):
    a, b, c = y.unbind(-1)
    first, second, third = k[0] * a, k[1] * b * b, k[2] * b * c
    return torch.stack([third - first, first - second - third, second], dim=-1)


def van_der_pol(t, y, mu):
    x, v = y.unbind(-1)
    return torch.stack([v, mu * (1 - x**2) * v - x], dim=-1)


def reference(f, y0, times, *args):
    """By SciPy's Radau method, tight."""
    field = lambda t, y: f(None, torch.from_numpy(y), *args).numpy()  # noqa: E731
    return solve_ivp(field, (times[0], times[-1]), y0, "Radau", times, rtol=1e-9, atol=1e-12).y.T


def check(f, y0, times, argument, solver):
    argument = torch.tensor(argument, dtype=torch.float64, requires_grad=True)
    y, solution = odeint(
        f, torch.tensor(y0).double(), times, argument, solver=solver, adjoint=Discrete(10_000), return_solution=True
    )
    assert solution.status == Status.CONVERGED
    expected = reference(f, np.array(y0), times, argument.detach())
    torch.testing.assert_close(y.detach(), torch.from_numpy(expected), rtol=3e-3, atol=1e-6)
    (found,) = torch.autograd.grad(y[-1, 0], argument)
    step = 1e-4 * argument.detach()
    for i, h in enumerate(step.reshape(-1)):
        change = torch.zeros_like(step).reshape(-1)
        change[i] = h
        change = change.reshape(step.shape)
        up, down = (reference(f, np.array(y0), times, argument.detach() + s * change)[-1, 0] for s in (1, -1))
        assert found.reshape(-1)[i].item() == pytest.approx((up - down) / (2 * h.item()), rel=2e-2)


def test_robertson():
    solver = Kvaerno3(rtol=1e-4, atol=1e-8, first_step=1e-5)
    check(robertson, [1.0, 0.0, 0.0], [0.0, 0.4, 40.0], [0.04, 3e7, 1e4], solver)


def test_van_der_pol_along_its_slow_branch():
    check(van_der_pol, [2.0, 0.0], [0.0, 500.0], 1000.0, Kvaerno3(rtol=1e-5, atol=1e-8, first_step=1e-4))


@pytest.mark.slow
def test_van_der_pol_over_a_period():
    check(van_der_pol, [2.0, 0.0], [0.0, 500.0, 2000.0], 1000.0, Kvaerno3(rtol=1e-6, atol=1e-8, first_step=1e-4))


def test_the_shortest_step_is_relative_to_the_time_not_to_the_span():
    """y = exp(-1e4 t) + exp(-t) up to t = 1e11: the first steps are 1e-16 of the span and less."""
    y, solution = odeint(
        lambda t, y: -1e4 * (y - torch.exp(-t)) - torch.exp(-t), torch.tensor([2.0]).double(), [0.0, 1e-3, 1.0, 1e11],
        solver=Kvaerno3(rtol=1e-6, atol=1e-9), return_solution=True,
    )  # fmt: skip
    assert solution.status == Status.CONVERGED
    expected = np.exp(-1e4 * np.array([0.0, 1e-3, 1.0, 1e11])) + np.exp(-np.array([0.0, 1e-3, 1.0, 1e11]))
    torch.testing.assert_close(y[:, 0], torch.from_numpy(expected), rtol=1e-4, atol=1e-6)
