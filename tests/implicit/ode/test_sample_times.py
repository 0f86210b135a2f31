"""Output times of each sample's own."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from deqzoo.implicit import RK4, Backsolve, Direct, Discrete, Dopri8, Kvaerno5, Tsit5, odeint

F64 = torch.float64
TIMES = torch.tensor(
    [[0.0, 1.0, 0.5], [0.7, 0.0, 2.5], [1.5, -2.0, 2.75]], dtype=F64
)  # (times, batch), the second back
RATES = torch.tensor([0.5, -1.2, 2.0], dtype=F64)
TIGHT = Tsit5(rtol=1e-9, atol=1e-11)


def exact(y0, rates, t):
    """Of dy/dt = rate t y."""
    return y0 * torch.exp(rates[:, None] * (t**2 - t[:1] ** 2)[..., None] / 2)


def field(t, y, rates):
    return (rates * t)[:, None] * y


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize(
    "solver",
    [TIGHT, Dopri8(rtol=1e-9, atol=1e-11), Kvaerno5(rtol=1e-7, atol=1e-9), RK4(step_size=0.01)],
    ids=lambda s: type(s).__name__,
)
def test_each_sample_at_its_own_times(solver, compact):
    if compact and isinstance(solver, RK4):
        return
    y0 = torch.tensor([[1.0, 2.0], [0.5, -1.0], [1.0, 0.1]], dtype=F64)
    y = odeint(field, y0, TIMES, RATES, solver=solver, batch_dims=1, compact=compact)
    torch.testing.assert_close(y, exact(y0, RATES, TIMES), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("adjoint", [Discrete(), Backsolve(), Direct()], ids=str)
def test_gradients_in_start_rates_and_times(adjoint):
    given = [torch.rand(3, 2, dtype=F64) + 0.5, RATES.clone(), TIMES.clone()]
    found, known = ([x.clone().requires_grad_() for x in given] for _ in range(2))
    y = odeint(field, found[0], found[2], found[1], solver=TIGHT, adjoint=adjoint, batch_dims=1)
    weights = torch.randn_like(y)
    for one, other in zip(
        torch.autograd.grad((y * weights).sum(), found),
        torch.autograd.grad((exact(*known) * weights).sum(), known),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_gradcheck_of_a_network():
    torch.manual_seed(0)
    f = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    y0 = torch.randn(3, 2, dtype=F64, requires_grad=True)
    times = TIMES.clone().requires_grad_()

    def solve(y0, times):
        return odeint(
            lambda t, y: f(torch.cat([t[:, None], y], 1)), y0, times, solver=RK4(step_size=0.45), batch_dims=1
        )

    assert gradcheck(solve, (y0, times))


def test_as_one_by_one():
    y0 = torch.rand(3, 2, dtype=F64)
    together = odeint(field, y0, TIMES, RATES, solver=TIGHT, batch_dims=1)
    for i in range(3):
        alone = odeint(field, y0[i : i + 1], TIMES[:, i], RATES[i : i + 1], solver=TIGHT, batch_dims=1)
        torch.testing.assert_close(together[:, i], alone[:, 0], rtol=1e-7, atol=1e-9)


def test_steps_are_no_longer_than_asked_for():
    """A bump that only short steps see: the longest interval sets the length of all."""
    t = torch.tensor([[0.0, 0.0], [10.0, 1.0]], dtype=F64)
    y = odeint(
        lambda t, y: torch.exp(-(((t - 5) / 0.1) ** 2))[:, None], torch.zeros(2, 1, dtype=F64), t,
        solver=Tsit5(rtol=1e-8, atol=1e-10, first_step="span", max_step=0.05), batch_dims=1,
    )  # fmt: skip
    torch.testing.assert_close(y[-1, 0, 0], torch.tensor(0.1 * math.sqrt(math.pi), dtype=F64), rtol=1e-6, atol=0)


def test_times_that_cannot_be_are_errors_that_name_the_sample():
    y0 = torch.ones(3, 2, dtype=F64)
    bad = TIMES.clone()
    bad[1, 2] = bad[0, 2]
    with pytest.raises(ValueError, match="output times of sample 2"):
        odeint(field, y0, bad, RATES, batch_dims=1)
    with pytest.raises(ValueError, match="output times of sample 1"):
        odeint(field, y0, torch.where(torch.arange(3) == 1, torch.nan, TIMES), RATES, batch_dims=1)
    with pytest.raises(ValueError, match=r"shape \(n, batch\), here \(n, 3\)"):
        odeint(field, y0, TIMES[:, :2], RATES, batch_dims=1)
    with pytest.raises(ValueError, match="batch_dims=1"):
        odeint(field, y0, TIMES, RATES)
    with pytest.raises(ValueError, match="jump_times"):
        odeint(field, y0, TIMES, RATES, batch_dims=1, solver=Tsit5(jump_times=(0.5,)))


def test_keyword_arguments_of_f():
    y0, rates = torch.rand(3, 2, dtype=F64), RATES.clone().requires_grad_()
    by_name = odeint(lambda t, y, *, rates: field(t, y, rates), y0, TIMES, rates=rates, solver=TIGHT, batch_dims=1)
    gradient = torch.autograd.grad(by_name.sum(), rates)[0]
    known = torch.autograd.grad(exact(y0, rates, TIMES).sum(), rates)[0]
    torch.testing.assert_close(gradient, known, rtol=1e-6, atol=1e-8)
    with pytest.raises(TypeError, match="takes 'rtol'; the options of odeint are solver"):
        odeint(field, y0, TIMES, RATES, batch_dims=1, rtol=1e-3)
