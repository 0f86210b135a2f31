"""Solving until an event."""

import math

import pytest
import torch
import torchdiffeq
from hypothesis import given, settings
from hypothesis import strategies as st

from deqzoo.implicit import (
    RK4,
    Backsolve,
    Bosh3,
    Direct,
    Discrete,
    Dopri5,
    Dopri8,
    Euler,
    Heun,
    Kvaerno3,
    Midpoint,
    NonConvergenceWarning,
    Rodas5P,
    Status,
    TorchDiffEq,
    Tsit5,
    odeint_event,
)
from tests.implicit.ode.falling import SPAN, TIGHT, double, fall, height, landing, turn


@pytest.mark.parametrize("adjoint", [Discrete(), Direct()])
@pytest.mark.parametrize("solver", [Tsit5(), Dopri8(), Kvaerno3(), Rodas5P(), RK4(step_size=0.1)])
def test_a_falling_ball(solver, adjoint):
    h, g = (double(x).requires_grad_() for x in (3.0, 9.81))
    time, y = landing(h, g, solver=solver, adjoint=adjoint)
    assert time.item() == pytest.approx(math.sqrt(2 * 3.0 / 9.81), rel=1e-9)
    assert y[1].item() == pytest.approx(-math.sqrt(2 * 9.81 * 3.0), rel=1e-9)
    of_height, of_g = torch.autograd.grad(time, [h, g], retain_graph=True)
    assert of_height.item() == pytest.approx(1 / math.sqrt(2 * 9.81 * 3.0), rel=1e-8)
    assert of_g.item() == pytest.approx(-time.item() / (2 * 9.81), rel=1e-8)
    (of_speed,) = torch.autograd.grad(y[1], g)
    assert of_speed.item() == pytest.approx(-math.sqrt(3.0 / (2 * 9.81)), rel=1e-8)


def test_an_event_costs_no_evaluation_of_its_own():
    """Reported and counted alike, and not many more than torchdiffeq takes."""
    van_der_pol = lambda t, y: torch.stack([y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0]])  # noqa: E731
    for f, start, event in (
        (fall, double(2.0, 0.0), height),
        (turn, double(1.0, 0.0), height),
        (turn, double(1.0, 0.1), lambda t, y: t + y[0] - 15.0),
        (van_der_pol, double(2.0, 0.0), height),
    ):
        calls = []

        def counted(t, y, f=f, calls=calls):
            calls.append(1)
            return f(t, y)

        time, _, solution = odeint_event(
            counted, start, [0.0, 20.0], event, solver=Dopri5(rtol=1e-6, atol=1e-6), return_solution=True
        )
        ours = len(calls)
        assert solution.nfe == ours
        calls.clear()
        other, _ = torchdiffeq.odeint_event(counted, start, double(0.0), event_fn=event, rtol=1e-6, atol=1e-6)
        assert time.item() == pytest.approx(other.item(), rel=1e-4)
        assert ours <= 1.5 * len(calls)  # 29 for 20 where there is no error at all: f is looked at between the stages


@settings(max_examples=15)
@given(st.floats(0.3, 0.95), st.floats(0.5, 20.0), st.floats(0.2, 8.0))
def test_a_bouncing_ball(restitution, g, h):
    """t_n = t_1 (1 + 2 (e + ... + e^(n-1))), t_1 = sqrt(2 h / g), with its gradients through the bounces."""
    e, g, h = (double(x).requires_grad_() for x in (restitution, g, h))
    y, t = torch.stack([h, torch.zeros_like(h)]), double(0.0)
    for _ in range(4):
        t, y = odeint_event(fall, y, torch.stack([t, t + 10]), height, g)
        y = torch.stack([y[0], -e * y[1]])
    expected = (2 * h / g).sqrt() * (1 + 2 * (e + e**2 + e**3))
    torch.testing.assert_close(t, expected, rtol=1e-7, atol=1e-9)
    found = torch.autograd.grad(t, [e, g, h])
    torch.testing.assert_close(found, torch.autograd.grad(expected, [e, g, h]), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("solver", [Tsit5(), RK4(step_size=0.05), Dopri8(), Bosh3(rtol=1e-4)])
def test_bounces_in_float32(solver):
    y, t, times = torch.tensor([1.0, 0.0]), torch.tensor(0.0), []
    for _ in range(5):
        t, y = odeint_event(fall, y, torch.stack([t, t + 5]), height, solver=solver)
        y = torch.stack([y[0], -0.8 * y[1]])
        times.append(float(t))
    first = math.sqrt(2 / 9.81)
    expected = [first * (1 + 2 * sum(0.8**k for k in range(1, n + 1))) for n in range(5)]
    assert times == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(
    ("solver", "error"),
    [(Euler(), 0.05), (Midpoint(), 1e-6), (Heun(), 1e-6), (RK4(), 1e-6), (RK4(step_size=0.3), 1e-6)],
)
def test_fixed_steps_in_float32(solver, error):
    start, g = torch.tensor([2.0, 0.0]), torch.tensor(9.81, requires_grad=True)
    time, y = odeint_event(fall, start, torch.tensor([0.0, 5.0]), height, g, solver=solver)
    assert time.dtype == y.dtype == torch.float32
    assert time.item() == pytest.approx(math.sqrt(4 / 9.81), rel=error)
    assert abs(y[0].item()) < 1e-6
    time.backward()
    assert g.grad.item() == pytest.approx(-math.sqrt(4 / 9.81) / (2 * 9.81), rel=10 * error)


@pytest.mark.parametrize("solver", [TIGHT, Dopri8(rtol=1e-10, atol=1e-12), RK4(step_size=0.01)])
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(("direction", "numbers"), [(0, [0, 1, 2, 3]), (1, [1, 3, 5]), (-1, [0, 2, 4])])
def test_a_list_of_times(solver, back, direction, numbers):
    """The zeros of cos(t): signs change from + to - first, in the order in which the solve goes."""
    span = [0.0, -30.0] if back else [0.0, 30.0]
    times, y, solution = odeint_event(
        turn, double(1.0, 0.0), span, height, direction=direction, max_events=len(numbers), solver=solver,
        return_solution=True,
    )  # fmt: skip
    expected = double(*[math.pi * (n + 0.5) for n in numbers])
    torch.testing.assert_close(times, -expected if back else expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(y[:, 1], -torch.sin(times), rtol=1e-7, atol=1e-7)
    assert solution.status == Status.CONVERGED
    assert solution.event.tolist() == [0] * len(numbers)


def test_fewer_events_than_asked_for():
    rate = double(1.3).requires_grad_()
    times, y, solution = odeint_event(
        lambda t, y, rate: rate * turn(t, y), double(1.0, 0.0), SPAN, height, rate, max_events=4, solver=TIGHT,
        return_solution=True,
    )  # fmt: skip
    assert solution.status == Status.CONVERGED
    assert solution.event.tolist() == [0, 0, -1, -1]
    assert times[2:].isnan().all()
    assert y[2:].isnan().all()
    torch.testing.assert_close(times[:2].detach(), math.pi * double(0.5, 1.5) / 1.3)
    times[1].backward()
    assert rate.grad.item() == pytest.approx(-1.5 * math.pi / 1.3**2, rel=1e-7)


@pytest.mark.parametrize("as_list", [False, True])
def test_the_first_of_several_events(as_list):
    """cos(t) and sin(t) - .2 and cos(t) - 2."""
    options = {"return_solution": True, "solver": TIGHT}
    several = [height, lambda t, y: -y[1] - 0.2, lambda t, y: y[0] - 2.0]
    event = several if as_list else lambda t, y: torch.stack([one(t, y) for one in several])
    time, _, solution = odeint_event(turn, double(1.0, 0.0), SPAN, event, **options)
    assert time.item() == pytest.approx(math.asin(0.2), rel=1e-8)
    assert solution.event == 1
    time, _, solution = odeint_event(turn, double(1.0, 0.0), SPAN, event, direction=[0, -1, 0], **options)
    assert time.item() == pytest.approx(math.pi / 2, rel=1e-8)
    assert solution.event == 0
    times, _, solution = odeint_event(turn, double(1.0, 0.0), SPAN, event, max_events=5, **options)
    expected = double(math.asin(0.2), math.pi / 2, math.pi - math.asin(0.2), 1.5 * math.pi)
    torch.testing.assert_close(times[:4], expected, rtol=1e-8, atol=1e-8)
    assert solution.event.tolist() == [1, 0, 1, 0, -1]


@pytest.mark.parametrize("solver", [Tsit5(), Dopri8(), RK4(step_size=10.0), Kvaerno3()])
def test_the_first_of_many_within_one_step(solver):
    """y = t in one step, and sin(9 t - .5)."""
    time, y = odeint_event(
        lambda t, y: torch.ones_like(y), double(0.0).reshape(1), [0.0, 10.0], lambda t, y: torch.sin(9 * y[0] - 0.5),
        solver=solver,
    )  # fmt: skip
    assert time.item() == pytest.approx(0.5 / 9, abs=1e-9)
    assert y.item() == pytest.approx(0.5 / 9, abs=1e-9)
    times, _ = odeint_event(
        lambda t, y: torch.ones_like(y), double(0.0).reshape(1), [0.0, 10.0], lambda t, y: torch.sin(9 * y[0] - 0.5),
        solver=solver, max_events=20,
    )  # fmt: skip
    torch.testing.assert_close(times, (0.5 + math.pi * torch.arange(20).double()) / 9, rtol=1e-9, atol=1e-9)


def test_events_that_land_on_zero():
    """The value reaches zero and stays there; or is zero exactly at a look."""
    with torch.no_grad():
        time, _ = odeint_event(turn, double(0.0, 1.0), [0.0, 2.0], lambda t, y: (0.75 - t).clamp(min=0.0))
    assert time.item() == pytest.approx(0.75, abs=1e-12)
    times, _ = odeint_event(turn, double(0.0, 1.0), [0.0, 2.0], lambda t, y: t - 1.0, max_events=2)
    assert times[0] == 1.0
    assert times[1].isnan()


def test_a_start_at_the_event_is_none():
    """Exactly, or up to rounding; and the side is that of the motion, not of the rounding."""
    for offset in (0.0, 1e-15, -1e-15, 3e-17):
        start = double(offset, 3.0)
        time, _ = odeint_event(fall, start, SPAN, height)
        assert time.item() == pytest.approx(2 * 3.0 / 9.81, rel=1e-9)
        time, _ = odeint_event(fall, double(7.0 + offset, 3.0), SPAN, lambda t, y: y[0] - 7.0)
        assert time.item() == pytest.approx(2 * 3.0 / 9.81, rel=1e-9)
    with pytest.warns(NonConvergenceWarning, match="event"):  # lifted slowly, never to come back
        odeint_event(lambda t, y: torch.stack([y[1], 0.01 + 0 * y[1]]), double(1.0, 0.0), SPAN, lambda t, y: y[0] - 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_start_whose_rounding_has_the_wrong_sign_is_no_event(sign):
    """0.1 * 3 is above 0.3; what leaves it slowly has that sign for a while, and then its own."""

    def accelerated(t, y):
        return torch.stack([y[1], sign + 0 * y[1]])

    level = 0.1 * 3 if sign > 0 else 0.3
    start = double(0.3 if sign > 0 else 0.1 * 3, 0.0)
    for options in ({}, {"direction": sign}, {"solver": RK4(step_size=1e-9)}):
        end = 4e-9 if "solver" in options else 1.0
        with pytest.warns(NonConvergenceWarning, match="event"):
            odeint_event(accelerated, start, [0.0, end], lambda t, y: y[0] - level, **options)


@pytest.mark.parametrize("solver", [Tsit5(), Dopri8(), RK4(step_size=0.05)])
def test_an_event_of_each_sample(solver):
    heights = double(1.0, 3.0, 0.4, 2.0).requires_grad_()
    g = double(9.81).requires_grad_()

    def run(**options):
        start = torch.stack([heights, torch.zeros_like(heights)], dim=1)
        return odeint_event(
            lambda t, y, g: torch.stack([y[:, 1], -g + 0 * t], dim=1), start, [0.0, 0.7], lambda t, y, g: y[:, 0], g,
            solver=solver, batch_dims=1, return_solution=True, **options,
        )  # fmt: skip

    with pytest.warns(NonConvergenceWarning, match="1 of 4 systems"):
        time, y, solution = run()
    expected = (2 * heights / g).sqrt()
    expected = torch.where(expected < 0.7, expected, 0.7)
    torch.testing.assert_close(time, expected, rtol=1e-9, atol=1e-9)
    assert solution.status.tolist() == [0, 3, 0, 0]
    assert solution.event.tolist() == [0, -1, 0, 0]
    torch.testing.assert_close(y[:, 1], -g * expected)
    found = torch.autograd.grad(time.sum() + y[:, 1].sum(), [heights, g])
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum() - (g * expected).sum(), [heights, g]))
    if not isinstance(solver, RK4):
        torch.testing.assert_close(run(compact=True, on_failure="ignore")[0], time)
    times, _, solution = run(max_events=2)
    assert times.shape == (2, 4)
    assert times[1].isnan().all()
    assert solution.status.tolist() == [0] * 4


def test_no_event():
    with pytest.warns(NonConvergenceWarning, match="event"):
        time, y = odeint_event(lambda t, y: y, torch.ones(1).double(), SPAN, lambda t, y: y[0] + 1)
    assert time == 5.0
    assert y.item() == pytest.approx(math.exp(5), rel=1e-3)
    *_, solution = odeint_event(
        lambda t, y: y, torch.ones(1).double(), SPAN, lambda t, y: y[0] + 1, on_failure="ignore", return_solution=True
    )
    assert solution.status == Status.MAX_STEPS
    assert solution.event == -1
    assert solution.residual.item() == pytest.approx(math.exp(5) + 1, rel=1e-3)


@pytest.mark.parametrize(
    ("f", "solver"),
    [
        (lambda t, y: y**2, Tsit5(max_steps=200)),
        (lambda t, y: torch.where(t > 0.5, torch.nan, y), Tsit5()),
        (lambda t, y: y * torch.nan, Tsit5()),
        (lambda t, y: torch.cos(50 * t) * y, Tsit5(max_steps=3)),
    ],
)
def test_a_solve_that_fails_before_the_event_gives_nan(f, solver):
    start = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    time, y, solution = odeint_event(
        f, start[0], SPAN, lambda t, y: y[0] + 1, solver=solver, return_solution=True, on_failure="ignore"
    )
    assert time.isnan()
    assert y.isnan().all()
    assert solution.status != Status.CONVERGED


@pytest.mark.parametrize(
    ("f", "event", "time"),
    [
        (lambda t, y: y**3, lambda t, y: y[0] + 1, 0.5),  # blows up, and the interpolant swings
        (lambda t, y: torch.ones_like(y), lambda t, y: torch.where(y[0] < 1.23, -1.0, 2.0), 0.23),  # a jump
    ],
)
def test_a_sign_that_changes_without_a_zero_is_told_of(f, event, time):
    start = torch.ones(1, dtype=torch.float64)
    with pytest.warns(NonConvergenceWarning, match="event: 1 of 1 systems did not converge .1 stalled"):
        found, _, solution = odeint_event(f, start, SPAN, event, solver=RK4(step_size=0.1), return_solution=True)
    assert found.item() == pytest.approx(time)
    assert solution.status == Status.STALLED
    assert solution.residual >= 1


def test_an_event_after_jumps():
    """y' = 1 up to .3, k = 3 up to .5, then 1 again: y = .8 at t = .3 + .5 / k, and y = 1 at 1.2 - .2 k."""
    slope = double(3.0).requires_grad_()
    rate = lambda t, y, k: torch.where((t > 0.3) & (t < 0.5), k, 1.0) + 0 * y  # noqa: E731
    for solver in (
        Tsit5(jump_times=(0.3, 0.5)),
        RK4(step_size=0.2, jump_times=(0.3, 0.5)),
        Rodas5P(jump_times=(0.5, 0.3)),
    ):
        times, _ = odeint_event(
            rate, torch.zeros(1).double(), [0.0, 2.0], lambda t, y, k: torch.stack([y[0] - 0.8, y[0] - 1.0]), slope,
            solver=solver, max_events=2,
        )  # fmt: skip
        torch.testing.assert_close(times.detach(), double(0.3 + 0.5 / 3, 0.6), rtol=1e-9, atol=1e-9)
        found = [torch.autograd.grad(time, slope, retain_graph=True)[0].item() for time in times]
        assert found == pytest.approx([-0.5 / 9, -0.2], rel=1e-6)


def test_a_failure_does_not_change_the_other_samples():
    start = torch.tensor([[2.0], [0.2]], dtype=torch.float64, requires_grad=True)
    time, _, solution = odeint_event(
        lambda t, y: y**2, start, [0.0, 4.0], lambda t, y: y[:, 0] - torch.tensor([-1.0, 0.5]), batch_dims=1,
        return_solution=True, on_failure="ignore", solver=Tsit5(rtol=1e-9, atol=1e-9, max_steps=400),
    )  # fmt: skip
    assert time[0].isnan()
    assert solution.status[1] == Status.CONVERGED
    assert solution.value[1].isfinite().all()
    assert time[1].item() == pytest.approx(5 - 2, rel=1e-6)
    (of_start,) = torch.autograd.grad(time[1], start)
    torch.testing.assert_close(of_start, torch.tensor([[0.0], [-25.0]]).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("solver", [Tsit5(), RK4()])
def test_no_samples_and_a_sample_that_is_nan(solver):
    def run(start, **options):
        return odeint_event(
            lambda t, y: torch.stack([y[:, 1], -9.81 + 0 * t], dim=1), start, [0.0, 3.0], lambda t, y: y[:, 0],
            solver=solver, batch_dims=1, on_failure="ignore", return_solution=True,
        )  # fmt: skip

    time, y, solution = run(torch.zeros(0, 2).double())
    assert (time.shape, y.shape, solution.status.shape) == ((0,), (0, 2), (0,))
    start = torch.tensor([[1.0, 0.0], [torch.nan, 0.0], [2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    time, y, solution = run(start)
    assert time.isnan().tolist() == [False, True, False]
    assert y[1].isnan().all()
    assert solution.status.tolist() == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    (of_start,) = torch.autograd.grad(time[[0, 2]].sum(), start)
    expected = torch.tensor([[1 / (2 * 9.81) ** 0.5, 1 / 9.81], [0.0, 0.0], [1 / (4 * 9.81) ** 0.5, 1 / 9.81]])
    torch.testing.assert_close(of_start, expected.double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"t": torch.zeros(3)}, ValueError, r"shape \(2,\)"),
        ({"t": [1.0, 1.0]}, ValueError, "strictly increasing"),
        ({"event": lambda t, y: torch.ones(2, 2)}, ValueError, "one number, or a vector"),
        ({"event": lambda t, y: y.sum(), "batch_dims": 1}, ValueError, "for each of the 3 samples"),
        ({"direction": 2}, ValueError, "-1, 0 or 1"),
        ({"direction": [1, 0]}, ValueError, "each of the 1 events"),
        ({"max_events": 0}, ValueError, "at least 1"),
        ({"scan": 0}, ValueError, "at least 1"),
        ({"adjoint": Backsolve()}, ValueError, "Discrete"),
        ({"solver": TorchDiffEq()}, ValueError, "Tsit5"),
    ],
)
def test_wrong_input(options, error, message):
    options = {"t": SPAN, "event": lambda t, y: y[0] - 2} | options
    with pytest.raises(error, match=message):
        odeint_event(lambda t, y: y, torch.ones(3).double(), options.pop("t"), options.pop("event"), **options)


def test_without_a_tape_and_by_number():
    with torch.no_grad():
        time, _ = odeint_event(turn, double(1.0, 0.0), SPAN, height, solver=TIGHT)
    assert time.item() == pytest.approx(math.pi / 2, rel=1e-9)
    with torch.inference_mode():
        time, _ = odeint_event(turn, double(1.0, 0.0), SPAN, height, solver=TIGHT)
    assert time.item() == pytest.approx(math.pi / 2, rel=1e-9)
