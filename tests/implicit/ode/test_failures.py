"""What cannot be solved ends with a status and the last state; wrong input with an error that names the mend."""

import math

import pytest
import torch

from deqzoo.implicit import (
    RK4,
    Backsolve,
    Discrete,
    Dopri5,
    Euler,
    Kvaerno3,
    NonConvergenceError,
    NonConvergenceWarning,
    Status,
    Tsit5,
    make_adjoint,
    make_ode_solver,
    odeint,
)

ONE = torch.ones(1, dtype=torch.float64)


def solve(f, t=(0.0, 2.0), **options):
    return odeint(f, ONE, t, on_failure="ignore", return_solution=True, **options)


def test_step_size_underflow():
    """y' = y^2 from 1 is infinite at t = 1."""
    y, solution = solve(lambda t, y: y**2, [0.0, 0.5, 2.0])
    assert solution.status in (Status.STALLED, Status.DIVERGED)
    assert y[1].item() == pytest.approx(2.0, rel=1e-3)
    assert torch.isfinite(y).all()
    assert y[2] > 100  # the last state, near the pole


def test_max_steps():
    y, solution = solve(lambda t, y: -y, solver=Tsit5(rtol=1e-10, atol=1e-12, max_steps=5))
    assert solution.status == Status.MAX_STEPS
    assert solution.steps + solution.rejected == 5
    assert math.exp(-2) < y[-1].item() < 1.0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite(bad):
    y, solution = solve(lambda t, y: torch.where(t > 1, bad, -y))
    assert solution.status == Status.DIVERGED
    assert y[-1].item() == pytest.approx(math.exp(-1), rel=1e-3)
    y, solution = solve(lambda t, y: y * bad)
    assert solution.status == Status.DIVERGED
    assert y[-1].item() == 1.0


def test_gradients_after_a_failure_are_those_of_the_last_state():
    y0 = ONE.clone().requires_grad_()
    y = odeint(lambda t, y: torch.where(t > 1, torch.nan, -y), y0, [0.0, 2.0], on_failure="ignore")
    y[-1].sum().backward()
    assert y0.grad.item() == pytest.approx(y[-1].item(), rel=1e-3)


def test_an_explicit_method_on_a_stiff_problem_ends():
    _, solution = solve(lambda t, y: -1e6 * (y - torch.cos(t)), [0.0, 100.0], solver=Dopri5(max_steps=300))
    assert solution.status == Status.MAX_STEPS


def test_warnings_and_errors_on_failure():
    options = {"solver": Tsit5(max_steps=1, rtol=1e-9)}
    with pytest.warns(NonConvergenceWarning, match="odeint: 1 of 1 systems did not converge .1 max steps"):
        odeint(lambda t, y: torch.cos(9 * t) * y, ONE, [0.0, 2.0], **options)
    with pytest.raises(NonConvergenceError, match="max_steps"):
        odeint(lambda t, y: torch.cos(9 * t) * y, ONE, [0.0, 2.0], on_failure="raise", **options)


def test_a_failed_backward_solve_is_told_of():
    """Backwards in time y' = -50 y grows by exp(50 * 20): the continuous adjoint cannot follow it."""
    y0 = ONE.clone().requires_grad_()
    with pytest.warns(NonConvergenceWarning, match="adjoint"):
        odeint(
            lambda t, y: -50 * (y - torch.cos(t)) - y**3, y0, [0.0, 20.0],
            solver=Tsit5(rtol=1e-6, atol=1e-8, max_steps=2000), adjoint=Backsolve(),
        )[-1].sum().backward()  # fmt: skip


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
        odeint(lambda t, y: y, ONE, [0.0, 1.0], solver="tsit5")
    with pytest.raises(TypeError, match="Discrete"):
        odeint(lambda t, y: y, ONE, [0.0, 1.0], adjoint="discrete")
    for make in (lambda: Tsit5(rtol=0, atol=0), lambda: Tsit5(max_steps=0), lambda: RK4(step_size=-1)):
        with pytest.raises(ValueError, match="must"):
            make()
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
