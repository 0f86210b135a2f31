"""The step size control: what is accepted, and what step follows; for all systems together and for each its own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deqzoo.implicit import Bosh3, Dopri5, Dopri8, Kvaerno3, Tsit5, odeint
from deqzoo.implicit.ode.integrate import errors, promise
from deqzoo.implicit.ode.plans import Controlled, ControlledEach
from deqzoo.implicit.ode.steps import Stepper

ERRORS = st.lists(st.sampled_from([0.0, 1e-6, 0.05, 0.2, 0.95, 1.0, 1.8, 40.0, 1e4, math.inf, math.nan]), max_size=30)
SHARES = st.lists(st.sampled_from([0.0, 1e-4, 0.1, 0.49, 0.5, 0.69, 0.71, 1.0, math.inf]), max_size=15)


def attempts(errors, solver, shares=(), each=False):
    """Each (start, size) that was begun, when the looks at the first ones find these shares and the attempts errors."""
    plan = ControlledEach(solver, [0.0, 2.0], 1, True) if each else Controlled(solver, [0.0, 2.0])
    begun, shares = [], iter(shares)
    for error in errors:
        while (step := plan.next()) is not None:
            begun.append(tuple(map(float, step.each() if each else step.shared())))
            if not plan.tentative or plan.look(step, [next(shares, 1.0)]):
                break
        if step is None:
            break
        plan.judge(step, [error])
    return begun, tuple(map(int, plan.report()))


@given(ERRORS, SHARES)
def test_steps_of_one_system_of_its_own_are_those_for_all(errors, shares):
    begun, report = attempts(errors, Dopri5(), shares, each=True)
    expected, expected_report = attempts(errors, Dopri5(), shares)
    assert torch.allclose(torch.tensor(begun), torch.tensor(expected))
    assert report == expected_report


def test_a_first_step_that_promises_too_little_is_begun_anew():
    begun, report = attempts([0.3, 0.3], Dopri5(), [0.3, 0.75])
    assert [size for _, size in begun] == pytest.approx([1.0, 1 / 3, 1 / 3])  # of one length, where .3 is promised
    assert report[2] == 0  # none was rejected
    assert [size for _, size in attempts([0.3], Dopri5(), [0.5])[0]] == [1.0]  # with half of it, the step goes on
    assert [size for _, size in attempts([0.3], Dopri5(), [0.1, 0.69])[0]] == pytest.approx([1.0, 0.1, 0.069])
    assert [size for _, size in attempts([0.3], Dopri5(), [0.1, 0.71])[0]] == pytest.approx([1.0, 0.1])
    assert [size for _, size in attempts([0.3], Dopri5(first_step=2.0), [0.1])[0]] == [1.0]  # the user's own choice
    assert [size for _, size in attempts([0.3], Kvaerno3(), [0.1])[0]] == [1.0]


def test_a_first_step_that_promises_less_and_less_has_order_one():
    assert attempts([0.5], Dopri5(), [0.3, 0.6, 1.0])[1][1:] == (1, 0)
    begun, report = attempts([0.5], Dopri5(), [0.1, 0.6, 0.6, 1.0])
    assert report[1:] == (0, 1)  # an error of half the tolerance does not count there
    (_, tried), next_size = begun[-1], attempts([0.5, 0.1], Dopri5(), [0.1, 0.6, 0.6, 1.0])[0][-1][1]
    assert next_size == pytest.approx(tried * 0.9 * 0.1 / 0.5)
    assert attempts([0.05], Dopri5(), [0.1, 0.6, 0.6, 1.0])[1][1:] == (1, 0)


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
        return errors(stepper, stages, h, y.unsqueeze(0), new, None)[0]

    allowed = next(h for h in (span * 0.95**i for i in range(200)) if error(h) <= 1)
    begun = stepper.begin(torch.zeros(()), allowed, y.unsqueeze(0), first.unsqueeze(0))
    (share,) = promise(stepper, begun, allowed, y.unsqueeze(0), None)
    assert 0.4 < share < 2


@pytest.mark.parametrize("solver", [Bosh3, Dopri5, Tsit5, Dopri8])
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_looking_at_the_first_step_costs_less_than_trying_all_of_it(solver, batch_dims):
    f, start, span = fields()["network"]
    y, found = start.repeat(3, 1), []
    for first_step in (None, span):
        options = solver(rtol=1e-5, atol=1e-5, first_step=first_step)
        end, solution = odeint(
            lambda t, y: f(t, y.mT).mT, y, [0.0, span], solver=options, batch_dims=batch_dims, return_solution=True
        )
        found.append((end[-1], solution))
    (looked, cheaper), (tried, dearer) = found
    assert cheaper.nfe < dearer.nfe
    assert int(cheaper.rejected.max()) < int(dearer.rejected.max())
    assert torch.allclose(looked, tried, rtol=0, atol=1e-3)


@pytest.mark.parametrize("compact", [False, True])
def test_looks_are_no_attempts(compact):
    """Decays of which the fastest begins anew several times: each does its own attempts, and no more."""
    rates = torch.tensor([[0.1], [3.0], [1000.0]], dtype=torch.float64)

    def attempts_of(max_steps):
        options = Dopri5(max_steps=max_steps)
        return odeint(
            lambda t, y, rates: -rates * y, torch.ones(3, 1, dtype=torch.float64), [0.0, 1.0], rates, solver=options,
            batch_dims=1, compact=compact, on_failure="ignore", return_solution=True,
        )[1]  # fmt: skip

    solution = attempts_of(10_000)
    needed = int((solution.steps + solution.rejected).max())
    assert bool(solution.converged.all())
    assert bool(attempts_of(needed).converged.all())
    assert attempts_of(needed - 1).converged.tolist() == [True, True, False]


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_looks_inside_transforms(batch_dims):
    """Gradients of a solve whose first step begins anew, under torch.func and on the tape; several at once too."""
    f, start, span = fields()["network"]
    scale, starts = torch.tensor(1.0, dtype=torch.float64), torch.stack([start, 0.5 * start])

    def loss(scale, y):
        y = y.unsqueeze(0)
        options = Dopri5(rtol=1e-8, atol=1e-8)
        end = odeint(lambda t, y, s: f(t, (s * y).mT).mT, y, [0.0, span], scale, solver=options, batch_dims=batch_dims)
        return end[-1].square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(scale, starts)
    leaf = scale.clone().requires_grad_()
    expected = [torch.autograd.grad(loss(leaf, y), leaf)[0] for y in starts]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_a_start_from_rest_and_a_field_that_ends_are_tried():
    y = torch.zeros((), dtype=torch.float64)
    end, solution = odeint(lambda t, y: t, y, [0.0, 1.0], solver=Dopri5(), return_solution=True)
    assert (end[-1].item(), solution.nfe) == (pytest.approx(0.5), 7)  # f is 0 at first, which says nothing
    y0 = torch.ones((), dtype=torch.float64)
    end, solution = odeint(lambda t, y: -10 * y * y.sqrt(), y0, [0.0, 1.0], solver=Dopri5(), return_solution=True)
    assert end[-1].item() == pytest.approx(1 / 36, rel=1e-3)  # y = (1 + 5 t)^-2; a step of all of it ends below zero
    assert bool(solution.converged)
    assert int(solution.rejected) == 0


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
