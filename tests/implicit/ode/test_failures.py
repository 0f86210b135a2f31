"""What cannot be solved ends with a status and the last state; wrong input with an error that names the mend."""

import math

import pytest
import torch

from deqzoo.implicit import (
    RK4,
    Backsolve,
    Direct,
    Discrete,
    Dopri5,
    Euler,
    Heun,
    Kvaerno3,
    Kvaerno5,
    NonConvergenceError,
    NonConvergenceWarning,
    Rodas5P,
    Status,
    Tsit5,
    make_adjoint,
    make_ode_solver,
    odeint,
)
from deqzoo.implicit.ode import Dopri8

ONE = torch.ones(1, dtype=torch.float64)


def solve(f, t=(0.0, 2.0), **options):
    return odeint(f, ONE, t, on_failure="ignore", return_solution=True, **options)


def test_step_size_underflow():
    """y' = y^2 from 1 is infinite at t = 1."""
    y, solution = solve(lambda t, y: y**2, [0.0, 0.5, 2.0])
    assert solution.status in (Status.STALLED, Status.DIVERGED)
    assert y[1].item() == pytest.approx(2.0, rel=1e-3)
    assert y[2].isnan()  # not reached; the last state, near the pole, stands in the solution
    assert 100 < solution.value[2] < torch.inf
    torch.testing.assert_close(solution.value[:2], y[:2])


def test_max_steps():
    y, solution = solve(lambda t, y: -y, solver=Tsit5(rtol=1e-10, atol=1e-12, max_steps=5))
    assert solution.status == Status.MAX_STEPS
    assert solution.steps + solution.rejected == 5
    assert y[-1].isnan()
    assert math.exp(-2) < solution.value[-1].item() < 1.0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite(bad):
    y, solution = solve(lambda t, y: torch.where(t > 1, bad, -y))
    assert solution.status == Status.DIVERGED
    assert y[-1].isnan()
    assert solution.value[-1].item() == pytest.approx(math.exp(-1), rel=1e-3)
    y, solution = solve(lambda t, y: y * bad)
    assert solution.status == Status.DIVERGED
    assert (y[0].item(), solution.value[-1].item()) == (1.0, 1.0)


@pytest.mark.parametrize("solver", [Tsit5(), RK4(step_size=0.05)])
@pytest.mark.parametrize("adjoint", [Discrete(), Discrete(checkpoints=2), Backsolve()])
def test_gradients_of_what_was_reached_are_right_and_those_of_the_rest_zero(solver, adjoint):
    """A NaN that comes after the outputs that count, which the loss of all outputs hands back for the others."""
    y0, a = ONE.clone().requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def solve(factor):
        y = odeint(
            lambda t, y: torch.where(t > 1, torch.nan, -a * y), y0, [0.0, 0.5, 2.0], solver=solver, adjoint=adjoint,
            on_failure="ignore",
        )  # fmt: skip
        return torch.autograd.grad((y[:2] if factor else y).square().sum(), [y0, a])

    for factor in (0, 1):
        of_y0, of_a = solve(factor)
        assert of_y0.item() == pytest.approx(2 + 2 * math.exp(-0.7), rel=1e-3)
        assert of_a.item() == pytest.approx(-math.exp(-0.7), rel=1e-3)


@pytest.mark.parametrize("options", [{"batch_dims": 1}, {"batch_dims": 1, "shared_steps": True}])
def test_fixed_steps_of_samples_that_blow_up(options):
    y0 = torch.tensor([[-1.0], [2.0], [math.inf]], dtype=torch.float64, requires_grad=True)
    w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y, solution = odeint(
        lambda t, y: w * y**2, y0, [0.0, 0.3, 4.0], solver=RK4(step_size=0.01), on_failure="ignore",
        return_solution=True, **options,
    )  # fmt: skip
    assert solution.status.tolist() == [Status.CONVERGED, Status.DIVERGED, Status.DIVERGED]
    assert y[:, 0, 0].tolist() == pytest.approx([-1.0, -1 / 1.3, -0.2], rel=1e-4)
    assert y[1, 1].item() == pytest.approx(5.0, rel=1e-4)
    assert y[2, 1].isnan()
    assert y[:, 2].isnan().all()
    assert solution.value[2, 1] == solution.value[1, 1] == y[1, 1]
    of_y0, of_w = torch.autograd.grad(y[:2, :2].sum() + y[2, 0].sum(), [y0, w])
    assert of_y0[:2, 0].tolist() == pytest.approx([1 + 1 / 1.3**2 + 1 / 25, 1 + 1 / 0.4**2], rel=1e-3)
    assert of_w.item() == pytest.approx(0.3 / 1.3**2 + 4 / 25 + 1.2 / 0.4**2, rel=1e-3)


@pytest.mark.parametrize("solver", [RK4(step_size=0.1), Euler(step_size=0.1), Heun(step_size=0.1)])
@pytest.mark.parametrize("f", [lambda t, y: y * y, lambda t, y: -1e3 * y**3], ids=["pole", "unstable"])
def test_fixed_steps_that_blow_up(solver, f):
    y, solution = solve(f, [0.0, 0.05, 50.0], solver=solver)
    assert solution.status == Status.DIVERGED
    assert y[2].isnan()
    assert y[:2].isfinite().all()
    torch.testing.assert_close(solution.value, torch.stack([y[0], y[1], y[1]]))
    with pytest.warns(NonConvergenceWarning, match="diverged"):
        odeint(f, ONE, [0.0, 50.0], solver=solver)


def test_shared_steps_are_those_of_one_system():
    rates = torch.tensor([[0.5], [30.0]], dtype=torch.float64)
    seen = []

    def f(t, y):
        seen.append(t.shape)
        return -rates * y

    start, found = torch.ones(2, 1, dtype=torch.float64), []
    for options in ({}, {"batch_dims": 1, "shared_steps": True}):
        for solver in (Dopri8(), Tsit5(first_step="span"), Heun(step_size=0.01)):
            y, solution = odeint(f, start, [0.0, 0.3, 1.0], solver=solver, return_solution=True, **options)
            torch.testing.assert_close(y[-1], torch.exp(-rates), rtol=1e-2, atol=1e-3)
            found.append((y, int(solution.steps.max()), int(solution.rejected.max())))
    assert set(seen) == {()}
    for one, shared in zip(found[:3], found[3:], strict=True):
        torch.testing.assert_close(one[0], shared[0], rtol=1e-6, atol=1e-9)
        assert one[1:] == shared[1:]
    with pytest.raises(ValueError, match="shared_steps"):
        odeint(f, start, [0.0, 1.0], shared_steps=True)
    with pytest.raises(ValueError, match="compact"):
        odeint(f, start, [0.0, 1.0], batch_dims=1, shared_steps=True, compact=True)


@pytest.mark.parametrize("solver", [Kvaerno5, Rodas5P])
@pytest.mark.parametrize("adjoint", [Discrete(2), Direct()])
def test_implicit_methods_share_steps(solver, adjoint):
    """y' = -r (y - t): t - 1/r + exp(-r t) / r from 0; one time for all, but the slopes df/dt = r differ."""
    rates = torch.tensor([[3.0], [500.0]], dtype=torch.float64, requires_grad=True)
    seen = []

    def f(t, y):
        seen.append(t.shape)
        return -rates * (y - t)

    start = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    y, solution = odeint(
        f, start, [0.0, 0.4, 1.0], solver=solver(rtol=1e-7, atol=1e-9), adjoint=adjoint, batch_dims=1,
        shared_steps=True, return_solution=True,
    )  # fmt: skip
    right = 1 - (1 - torch.exp(-rates)) / rates
    torch.testing.assert_close(y[-1], right, rtol=1e-5, atol=1e-6)
    assert set(seen) == {()}
    assert solution.steps[0] == solution.steps[1]
    found, expected = (torch.autograd.grad(x.sum(), rates)[0] for x in (y[-1], right))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("solver", [Tsit5(max_steps=60), Kvaerno5(max_steps=60), Rodas5P(max_steps=60)])
def test_a_sample_that_uses_up_the_steps_that_are_shared_is_left_behind(solver):
    """y' = r (1 + y^2): tan(r t), whose pole one sample comes near to; or is too stiff for an explicit method."""
    rates = torch.tensor([[0.5], [1.0], [1.7]], dtype=torch.float64)
    stiff = torch.tensor([[1.0], [1e7], [2.0]], dtype=torch.float64)
    problems = [(lambda t, y: rates * (1 + y**2), torch.tan(rates), 2)]
    if isinstance(solver, Tsit5):
        problems.append((lambda t, y: -stiff * (y - 1), 1 - torch.exp(-stiff), 1))
    for f, right, lost in problems:
        y, solution = odeint(
            f, torch.zeros(3, 1, dtype=torch.float64), [0.0, 1.0], solver=solver, batch_dims=1, shared_steps=True,
            on_failure="ignore", return_solution=True,
        )  # fmt: skip
        others = [row for row in range(3) if row != lost]
        torch.testing.assert_close(y[-1, others], right[others], rtol=1e-3, atol=1e-4)
        assert y[-1, lost].isnan()
        assert solution.value[-1, lost].isfinite()
        assert solution.status[others].tolist() == [Status.CONVERGED] * 2
        assert solution.status[lost] in (Status.MAX_STEPS, Status.STALLED)


def test_a_batch_that_is_too_hard_ends_as_a_whole():
    """Samples alike: none is worse than the others by much."""
    rates = torch.tensor([[1.0], [1.1]], dtype=torch.float64)
    _, solution = odeint(
        lambda t, y: rates * torch.cos(300 * t) * y, torch.ones(2, 1, dtype=torch.float64), [0.0, 9.0],
        solver=Tsit5(max_steps=30), batch_dims=1, shared_steps=True, on_failure="ignore", return_solution=True,
    )  # fmt: skip
    assert solution.status.tolist() == [Status.MAX_STEPS] * 2
    assert (solution.steps + solution.rejected).tolist() == [30] * 2


@pytest.mark.parametrize("options", [{}, {"shared_steps": True}])
def test_steps_that_shrink_to_nothing_while_all_are_accepted_stall(options):
    """Kvaerno3 never rejects a step on the way into the pole of y' = y^2."""
    y0 = torch.tensor([[2.0], [-1.0]], dtype=torch.float64)
    y, solution = odeint(
        lambda t, y: y**2, y0, [0.0, 0.25, 2.0], solver=Kvaerno3(rtol=1e-3), batch_dims=1, on_failure="ignore",
        return_solution=True, **options,
    )  # fmt: skip
    assert solution.status.tolist() == [Status.STALLED, Status.CONVERGED]
    torch.testing.assert_close(y[:, 1, 0], torch.tensor([-1.0, -0.8, -1 / 3], dtype=torch.float64), rtol=1e-2, atol=0)
    assert y[1, 0].item() == pytest.approx(4.0, rel=1e-2)
    assert y[2, 0].isnan()


@pytest.mark.parametrize("solver", [Tsit5(), pytest.param(Kvaerno5(), marks=pytest.mark.slow), Rodas5P()])
def test_arguments_of_a_batch_are_whole_in_the_backward_of_steps_that_some_samples_reject(solver):
    rates = torch.tensor([[0.1], [40.0], [3.0]], dtype=torch.float64, requires_grad=True)

    def f(t, y, rates):
        return -rates * (y - torch.cos(9 * t).unsqueeze(1))

    grads = []
    for adjoint in (Discrete(3), Direct()):
        y, solution = odeint(
            f, ONE.expand(3, 1), [0.0, 2.0], rates, batch_dims=1, adjoint=adjoint, solver=solver, return_solution=True
        )
        assert solution.rejected.any()
        grads.append(torch.autograd.grad(y[-1].sum(), rates)[0])
    torch.testing.assert_close(*grads)


def test_an_explicit_method_on_a_stiff_problem_ends():
    _, solution = solve(lambda t, y: -1e6 * (y - torch.cos(t)), [0.0, 100.0], solver=Dopri5(max_steps=300))
    assert solution.status == Status.MAX_STEPS


def test_warnings_and_errors_on_failure():
    options = {"solver": Tsit5(max_steps=1, rtol=1e-9)}
    with pytest.warns(NonConvergenceWarning, match="odeint: 1 of 1 systems did not converge .1 max steps"):
        odeint(lambda t, y: torch.cos(9 * t) * y, ONE, [0.0, 2.0], **options)
    with pytest.raises(NonConvergenceError, match="max_steps"):
        odeint(lambda t, y: torch.cos(9 * t) * y, ONE, [0.0, 2.0], on_failure="raise", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": [0.0, 1.0, 0.5]}, "strictly increasing"),
        ({"t": [0.0, 0.0]}, "strictly increasing"),
        ({"t": [0.0, float("nan")]}, "strictly increasing"),
        ({"t": torch.zeros(2, 2)}, "shape"),
        ({"t": []}, "one or more"),
        ({"batch_dims": 2}, "batch_dims"),
        ({"on_failure": "explode"}, "ignore, warn, raise"),
        ({"compact": True}, "batch_dims=1"),
        ({"compact": True, "batch_dims": 1, "solver": RK4()}, "adaptive"),
        ({"f": lambda t, y: torch.ones(7)}, "structure and shapes"),
        ({"f": lambda t, y: {"a": y}}, "structure and shapes"),
        ({"y0": torch.ones(2, dtype=torch.long)}, "floating point"),
    ],
)
def test_wrong_input(options, message):
    given = {"f": lambda t, y: -y, "y0": ONE, "t": [0.0, 1.0]} | options
    with pytest.raises((ValueError, TypeError), match=message):
        odeint(given.pop("f"), given.pop("y0"), given.pop("t"), **given)


def test_wrong_solvers_and_options():
    with pytest.raises(TypeError, match="Tsit5"):
        odeint(lambda t, y: y, ONE, [0.0, 1.0], solver=Tsit5)
    with pytest.raises(TypeError, match="Discrete"):
        odeint(lambda t, y: y, ONE, [0.0, 1.0], adjoint=Discrete)
    for make in (lambda: Tsit5(rtol=0, atol=0), lambda: Tsit5(max_steps=0), lambda: RK4(step_size=-1)):
        with pytest.raises(ValueError, match="must"):
            make()
    for name, value in (("first_step", 0.0), ("max_step", -1.0), ("safety", 0.0), ("safety", 1.0)):
        with pytest.raises(ValueError, match=f"{name} must"):
            Tsit5(**{name: value})
    with pytest.raises(ValueError, match="checkpoints"):
        Discrete(checkpoints=0)
    with pytest.raises(ValueError, match="dopri5"):
        make_ode_solver("dopri")
    with pytest.raises(ValueError, match=r"no option tol. Valid: rtol, atol"):
        make_ode_solver("tsit5", tol=1)
    with pytest.raises(ValueError, match="discrete"):
        make_adjoint("adjoint")
    assert make_ode_solver("euler", step_size=0.1) == Euler(0.1)


def test_backsolve_through_an_implicit_method_is_refused():
    y0 = ONE.clone().requires_grad_()
    with pytest.raises(ValueError, match="Discrete"):
        odeint(lambda t, y: -y, y0, [0.0, 1.0], solver=Kvaerno3(), adjoint=Backsolve())
