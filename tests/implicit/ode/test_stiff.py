"""Stiff problems, solved by the implicit methods, with gradients."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from deqzoo.implicit import Direct, Discrete, Kvaerno3, Kvaerno5, Rodas5P, Status, odeint, odeint_dense
from deqzoo.implicit.ode.controllers import RecordedSteps
from deqzoo.implicit.ode.integrate import integrate
from deqzoo.implicit.ode.odeint import Solve
from deqzoo.implicit.ode.steps import Stepper
from deqzoo.implicit.ode.times import Times


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
    """Two jumps: the tolerance is that which the gradient needs."""
    check(van_der_pol, [2.0, 0.0], [0.0, 500.0, 2000.0], 1000.0, Rodas5P(rtol=1e-8, atol=1e-10))


def test_the_shortest_step_is_relative_to_the_time_not_to_the_span():
    """y = exp(-1e4 t) + exp(-t) up to t = 1e11: the first steps are 1e-16 of the span and less."""
    y, solution = odeint(
        lambda t, y: -1e4 * (y - torch.exp(-t)) - torch.exp(-t), torch.tensor([2.0]).double(), [0.0, 1e-3, 1.0, 1e11],
        solver=Kvaerno3(rtol=1e-6, atol=1e-9), return_solution=True,
    )  # fmt: skip
    assert solution.status == Status.CONVERGED
    expected = np.exp(-1e4 * np.array([0.0, 1e-3, 1.0, 1e11])) + np.exp(-np.array([0.0, 1e-3, 1.0, 1e11]))
    torch.testing.assert_close(y[:, 0], torch.from_numpy(expected), rtol=1e-4, atol=1e-6)


def test_a_jacobian_is_kept_while_it_serves_and_no_longer():
    """About two evaluations for each of three stages, and one Jacobian in five steps."""
    calls = 0

    def counted(t, y):
        nonlocal calls
        calls += 1
        return van_der_pol(t, y, 5.0)

    y0, solver = torch.tensor([2.0, 0.0], dtype=torch.float64), Kvaerno3(rtol=1e-4, atol=1e-7)
    _, solution = odeint(counted, y0, [0.0, 5.0], solver=solver, return_solution=True)
    attempts, jacobians = int(solution.steps + solution.rejected), (int(solution.nfe) - calls) / 2
    assert calls <= 7 * attempts
    assert jacobians <= attempts / 4


@pytest.mark.parametrize("dense_up_to", [1000, 0])
@pytest.mark.parametrize("method", [Kvaerno3, Kvaerno5])
def test_copies_of_the_unknowns_change_nothing(method, dense_up_to):
    """All tolerances are of mean squares, those of the stages too: 25 copies take the same steps to the same states."""
    solver, times = method(rtol=1e-4, atol=1e-6, dense_up_to=dense_up_to), [0.0, 0.5, 2.0]
    y0 = torch.tensor([2.0, 0.0], dtype=torch.float64)
    found = []
    for copies in (1, 25):
        y, solution = odeint(van_der_pol, y0.expand(copies, 2), times, 20.0, solver=solver, return_solution=True)
        assert solution.status == Status.CONVERGED
        found.append((y[:, 0], solution.steps, solution.rejected))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)


METHODS = [Rodas5P, Kvaerno5, Kvaerno3]
ROBERTSON = [0.04, 3e7, 1e4]


def hires(t, y):
    """The high irradiance response, eight reactants."""
    a, b, c, d, e, f, g, h = y.unbind(-1)
    growth = 280 * f * h
    rates = [
        -1.71 * a + 0.43 * b + 8.32 * c + 0.0007, 1.71 * a - 8.75 * b, -10.03 * c + 0.43 * d + 0.035 * e,
        8.32 * b + 1.71 * c - 1.12 * d, -1.745 * e + 0.43 * f + 0.43 * g,
        -growth + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g, growth - 1.81 * g, -growth + 1.81 * g,
    ]  # fmt: skip
    return torch.stack(rates, dim=-1)


HIRES = [1.0, 0, 0, 0, 0, 0, 0, 0.0057]


def scipy_calls(f, y0, end, rtol, atol):
    """Of f, by Radau; a Jacobian counts as one call for each unknown."""
    field = lambda t, y: f(None, torch.from_numpy(y)).numpy()  # noqa: E731
    solution = solve_ivp(field, (0.0, end), y0, "Radau", rtol=rtol, atol=atol)
    return solution.nfev + len(y0) * solution.njev


def test_calls_of_f_against_radau():
    radau = scipy_calls(hires, HIRES, 321.8122, 1e-4, 1e-7)
    calls = 0

    def counted(t, y):
        nonlocal calls
        calls += 1
        return hires(t, y)

    y0 = torch.tensor(HIRES, dtype=torch.float64)
    solver = Rodas5P(rtol=1e-4, atol=1e-7)
    y, solution = odeint(counted, y0, [0.0, 321.8122], solver=solver, return_solution=True)
    assert solution.nfe <= 1.2 * radau  # 2 is the promise, at equal error
    jacobians = (solution.nfe - calls) / len(HIRES)  # their products run f's backward, not f
    assert jacobians == solution.steps
    assert y[-1, 0].item() == pytest.approx(0.7371312573325668e-3, rel=1e-4)
    assert y[-1, 7].item() == pytest.approx(0.2850001604814231e-2, rel=1e-3)


@pytest.mark.parametrize(("method", "most"), [(Kvaerno5, 2.0), (Kvaerno3, 4.0)])
def test_jacobians_are_kept(method, most):
    """Newton's method with a Jacobian of its own for each iteration took 7,100 calls for this."""
    solver = method(rtol=1e-4, atol=1e-7)
    y0 = torch.tensor(HIRES, dtype=torch.float64)
    y, solution = odeint(hires, y0, [0.0, 321.8122], solver=solver, return_solution=True)
    assert solution.nfe <= most * scipy_calls(hires, HIRES, 321.8122, 1e-4, 1e-7)
    assert y[-1, 0].item() == pytest.approx(0.7371312573325668e-3, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_robertson_over_eleven_powers_of_ten(method):
    rates, y0 = torch.tensor(ROBERTSON, dtype=torch.float64), torch.tensor([1.0, 0, 0], dtype=torch.float64)
    times = torch.tensor([0.0, 40.0, 1e11], dtype=torch.float64)
    solver = method(rtol=1e-4, atol=1e-12)
    y, solution = odeint(robertson, y0, times, rates, solver=solver, return_solution=True)
    assert solution.status == Status.CONVERGED
    assert y[1, 0].item() == pytest.approx(0.7158270687193941, rel=1e-4)
    assert y[2, 0].item() == pytest.approx(0.2083340149701255e-7, rel=5e-3)
    torch.testing.assert_close(y.sum(dim=1), torch.ones(3).double(), rtol=0, atol=1e-8)  # mass is kept


@pytest.mark.parametrize("method", [Rodas5P, Kvaerno5])
def test_gradients_on_a_slow_manifold(method):
    """Where f of a state that is right within the tolerance is far from the derivative of the solution."""
    rates = torch.tensor(ROBERTSON, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    y = odeint(robertson, y0, [0.0, 1e4], rates, solver=method(rtol=1e-5, atol=1e-9), adjoint=Discrete(4))
    (found,) = torch.autograd.grad(y[-1, 0], rates)
    ends = []
    for sign in (1, -1):
        moved = rates.detach() * (1 + sign * 1e-3 * torch.tensor([1.0, 0.0, -0.5]))
        ends.append(reference(robertson, [1.0, 0.0, 0.0], [0.0, 1e4], moved)[-1, 0])
    directional = (found[0] * ROBERTSON[0] - 0.5 * found[2] * ROBERTSON[2]).item()
    assert directional == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rate", [3e3, 2e5, 1e7])
def test_single_precision(method, rate):
    """f has a round-off of rate eps: stages and error estimate must not drown in it."""

    def f(t, y):
        return -rate * (y - torch.sin(2 * t))

    y, solution = odeint(f, torch.ones(1), [0.0, 6.0], solver=method(max_steps=500), return_solution=True)
    assert solution.status == Status.CONVERGED
    assert y[-1, 0].item() == pytest.approx(math.sin(12.0), abs=2 / rate + 2e-4)


@pytest.mark.parametrize("method", [Rodas5P, Kvaerno5])
def test_stiff_beside_mild_systems(method):
    mu = torch.tensor([1.0, 500.0, 20.0], dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([2.0, 0.0], dtype=torch.float64).repeat(3, 1)
    options = {"solver": method(rtol=1e-6, atol=1e-8), "batch_dims": 1, "return_solution": True}
    y, solution = odeint(van_der_pol, y0, [0.0, 3.0], mu, compact=True, **options)
    (gradient,) = torch.autograd.grad(y[-1, :, 0].sum(), mu)
    assert (solution.status == Status.CONVERGED).all()
    assert len(set(solution.steps.tolist())) > 1
    together = odeint(van_der_pol, y0, [0.0, 3.0], mu.detach(), **options)[0]
    torch.testing.assert_close(y.detach(), together, rtol=1e-7, atol=1e-8)
    for i in range(3):
        alone = mu[i : i + 1].detach().requires_grad_()
        own = odeint(van_der_pol, y0[:1], [0.0, 3.0], alone, **options)[0]
        torch.testing.assert_close(y[-1, i], own[-1, 0], rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(gradient[i], torch.autograd.grad(own[-1, 0, 0], alone)[0][0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("method", [Rodas5P, Kvaerno5])
def test_dense_output(method):
    """The solution of y' = -rate (y - cos t) + start: two scales, and output times inside steps."""
    rate, times = 50.0, torch.linspace(0, 3, 40, dtype=torch.float64)

    def f(t, y):
        return -rate * (y - torch.cos(t))

    y = odeint(f, torch.zeros(1, dtype=torch.float64), times, solver=method(rtol=1e-7, atol=1e-7))
    slow = (rate**2 * torch.cos(times) + rate * torch.sin(times)) / (1 + rate**2)
    expected = slow - slow[0] * torch.exp(-rate * times)
    torch.testing.assert_close(y[:, 0], expected, rtol=0, atol=2e-5)


def test_many_unknowns():
    """Heat in a rod: Kvaerno5 without a Jacobian, Rodas5P says what to use."""
    size = 120
    y0 = torch.sin(torch.linspace(0, torch.pi, size + 2, dtype=torch.float64))[1:-1]

    def f(t, y):
        padded = torch.nn.functional.pad(y, (1, 1))
        return (padded[2:] - 2 * y + padded[:-2]) * (size + 1) ** 2 / torch.pi**2

    y, solution = odeint(f, y0, [0.0, 0.5], solver=Kvaerno5(rtol=1e-4, atol=1e-6), return_solution=True)
    torch.testing.assert_close(y[-1], y0 * torch.exp(torch.tensor(-0.5)), rtol=1e-3, atol=1e-5)
    assert solution.nfe < 2000  # an explicit method takes some 5,000
    with pytest.raises(ValueError, match="use Kvaerno5"):
        odeint(f, y0, [0.0, 0.5], solver=Rodas5P(most_unknowns=100))


def test_rosenbrock_gradients_contain_the_derivatives_of_the_jacobian():
    """One step, of which finite differences are those of the same step."""
    k = torch.tensor([0.7, 30.0], dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([1.0, 0.2], dtype=torch.float64, requires_grad=True)

    def step(y0, k, adjoint):
        f = lambda t, y, k: torch.stack([-k[0] * y[0] * y[1], -k[1] * (y[1] ** 2 - torch.cos(t) * y[0])])  # noqa: E731
        return odeint(f, y0, [0.0, 0.3], k, solver=Rodas5P(rtol=1e6, atol=1e6), adjoint=adjoint)[-1]

    for adjoint in (Discrete(), Direct()):
        assert torch.autograd.gradcheck(lambda y0, k, adjoint=adjoint: step(y0, k, adjoint), (y0, k), atol=1e-7)


@pytest.mark.parametrize(
    ("method", "stage_tol"), [(Rodas5P, {}), pytest.param(Kvaerno5, {"stage_tol": 1e-8}, marks=pytest.mark.slow)]
)
def test_gradients_through_a_jump_are_those_of_the_steps_taken(method, stage_tol):
    """Differences of solves with the same steps: the discrete adjoint is exact, whatever these steps are worth."""
    solver = method(rtol=1e-5, atol=1e-6, **stage_tol)
    y0, t = torch.tensor([[2.0, 0.0]], dtype=torch.float64), torch.tensor([0.0, 25.0], dtype=torch.float64)
    mu = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)

    def solve(mu, steps=None):
        made = Solve(van_der_pol, y0[0], (mu,), solver, Discrete(), 0, compact=False)
        if steps is None:
            return made.run(y0, t)
        return integrate(Stepper(solver, made.field, taped=False), y0, Times(t, y0), RecordedSteps(steps))

    with torch.no_grad():
        steps = solve(mu).steps
        ends = [solve(mu + s * 1e-6, steps).last[0, 0].item() for s in (1, -1)]
    y = odeint(van_der_pol, y0[0], t, mu, solver=solver)
    (found,) = torch.autograd.grad(y[-1, 0], mu)
    assert len(steps) > 30
    assert found.item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-3)


def forced(rate, times):
    """The solution of y' = -rate (y - cos t), y(0) = 0."""
    slow = (rate**2 * torch.cos(times) + rate * torch.sin(times)) / (1 + rate**2)
    return slow - slow[0] * torch.exp(-rate * times)


@pytest.mark.parametrize("rate", [1e2, 1e6])
@pytest.mark.parametrize("method", METHODS)
def test_outputs_within_steps_that_follow_a_forcing(method, rate):
    """The ends of long steps are right by themselves; what lies between them because it is looked at."""
    f = lambda t, y: -rate * (y - torch.cos(t))  # noqa: E731
    few, many = torch.tensor([0.0, 9.0, 10.0]).double(), torch.linspace(0, 10, 51, dtype=torch.float64)
    for times in (few, many):
        y, solution = odeint(f, torch.zeros(1).double(), times, solver=method(), return_solution=True)
        torch.testing.assert_close(y[:, 0], forced(rate, times), rtol=1e-5, atol=1e-5)
        assert solution.nfe < (800 if method is Rodas5P else 3000)


def test_outputs_of_each_sample_within_steps_that_follow_a_forcing():
    """Steps of each sample's own, shared steps, and dense solutions, of which one sample is not stiff."""
    rates, times = torch.tensor([[1.0], [1e5]]).double(), torch.linspace(0, 6, 9, dtype=torch.float64)
    f = lambda t, y: -rates * (y - torch.cos(t).reshape(-1, 1))  # noqa: E731
    expected = torch.stack([forced(rate, times) for rate in rates], dim=1).unsqueeze(2)
    y0 = torch.zeros(2, 1).double()
    for options in ({}, {"shared_steps": True}):
        y = odeint(f, y0, times, solver=Rodas5P(), batch_dims=1, **options)
        torch.testing.assert_close(y, expected, rtol=0, atol=3e-5)
    dense = odeint_dense(f, y0, times[[0, -1]], solver=Rodas5P(), batch_dims=1)
    torch.testing.assert_close(dense(times), expected, rtol=0, atol=3e-5)


def test_outputs_of_large_systems_within_steps_that_follow_a_forcing():
    """More unknowns than a Jacobian is written out for."""
    times, rates = torch.linspace(0, 3, 6, dtype=torch.float64), torch.linspace(10, 1e4, 8, dtype=torch.float64)
    f = lambda t, y: -rates * (y - torch.cos(t))  # noqa: E731
    y = odeint(f, torch.zeros(8).double(), times, solver=Kvaerno5(dense_up_to=4))
    torch.testing.assert_close(y, forced(rates, times.unsqueeze(1)), rtol=0, atol=3e-5)


@pytest.mark.slow
def test_bumps_after_a_rest_are_seen_where_radau_sees_them():
    """y' = -y + bump(t) from rest, against quadrature."""
    seen = 0
    for centre, width in [(1.0, 0.1), (3.0, 0.1), (3.0, 0.2), (4.0, 0.5), (7.0, 0.3)]:
        times = torch.linspace(0, 9, 20001, dtype=torch.float64)
        bump = lambda t, c=centre, w=width: 50 * torch.exp(-(((torch.as_tensor(t) - c) / w) ** 2))  # noqa: E731
        exact = torch.trapezoid(torch.exp(times - 9) * bump(times), times).item()
        field = lambda t, y, bump=bump: -y + bump(t).numpy()  # noqa: E731
        radau = solve_ivp(field, (0.0, 9.0), [0.0], "Radau", rtol=1e-5, atol=1e-8).y[0, -1]
        if abs(radau - exact) > 1e-3 * exact:
            continue
        seen += 1
        for method in METHODS:
            solver = method(rtol=1e-5, atol=1e-8)
            y = odeint(lambda t, y, bump=bump: -y + bump(t), torch.zeros(1).double(), [0.0, 9.0], solver=solver)
            assert y[-1].item() == pytest.approx(exact, rel=1e-3)
    assert seen >= 4
