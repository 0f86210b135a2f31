"""The first step, the largest one, and times at which f jumps: against solutions that are known."""

import itertools
import math

import pytest
import torch

from deqzoo.implicit import (
    RK4,
    Backsolve,
    Bosh3,
    Direct,
    Discrete,
    Dopri5,
    Heun,
    Kvaerno3,
    Kvaerno5,
    Rodas5P,
    Status,
    Tsit5,
    odeint,
)
from deqzoo.implicit.ode import Dopri8

ADAPTIVE = [Bosh3, Dopri5, Dopri8, Kvaerno3, Kvaerno5, Rodas5P, Tsit5]
ZERO, ONE = torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)


@pytest.mark.parametrize("solver", ADAPTIVE)
@pytest.mark.parametrize(("centre", "width"), [(2.0, 0.3), (0.7, 0.05), (-1.0, 0.2)])
def test_a_bump_after_a_rest_is_seen(solver, centre, width):
    """y' = -s y + bump(t), s the direction of time; the exact value by quadrature."""
    s = math.copysign(1.0, centre)
    times = torch.linspace(0, s * 9, 20001, dtype=torch.float64)

    def bump(t):
        return 50 * torch.exp(-(((t - centre) / width) ** 2))

    exact = torch.trapezoid(torch.exp(-(s * 9 - times) * s) * bump(times), times)
    y = odeint(lambda t, y: -s * y + bump(t), ZERO, [0.0, s * 9], solver=solver(rtol=1e-6, atol=1e-9))
    assert y[-1].item() == pytest.approx(exact.item(), rel=1e-3)


def test_the_first_step_is_that_of_hairer_norsett_and_wanner():
    """By hand for y' = -2 y, y = 3: d0 = 3 / sc, d1 = 6 / sc, h0 = .005, d2 = 12 / sc."""
    scale = 1e-6 + 1e-3 * 3
    expected = (0.01 / (12 / scale)) ** (1 / 5)
    for batch_dims, rows in ((0, 1), (1, 2)):
        seen = []

        def f(t, y, seen=seen):
            seen.append(t.reshape(-1)[0].item())
            return -2 * y

        solver = Dopri5(rtol=1e-3, atol=1e-6)
        _, solution = odeint(
            f, 3 * ONE.expand(rows, 1), [0.0, 5.0], solver=solver, batch_dims=batch_dims, return_solution=True
        )
        assert seen[0] == 0.0
        assert seen[1] == pytest.approx(0.005)
        assert max(seen[2:8]) == pytest.approx(expected)
        assert solution.nfe == len(seen) == 2 + 6 * int((solution.steps + solution.rejected).max())


def test_each_sample_has_a_first_step_of_its_own_and_vmap_the_shortest():
    rates = torch.tensor([[1.0], [100.0]], dtype=torch.float64)
    first = {}
    for row, rate in enumerate(rates):
        _, solution = odeint(lambda t, y, r=rate: -r * y, ONE, [0.0, 1.0], return_solution=True)
        first[row] = int(solution.steps)
    options = {"batch_dims": 1, "return_solution": True}
    _, solution = odeint(lambda t, y: -rates * y, ONE.expand(2, 1), [0.0, 1.0], **options)
    assert solution.steps.tolist() == [first[0], first[1]]
    mapped = torch.func.vmap(lambda r: odeint(lambda t, y: -r * y, ONE, [0.0, 1.0])[-1, 0])(rates)
    torch.testing.assert_close(mapped, torch.exp(-rates), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("solver", [Tsit5, Kvaerno3])
def test_max_step(solver):
    """A spike long after everything has come to rest: found, where no step is longer than it."""

    def f(t, y):
        return -y + 30 * torch.exp(-(((t - 60) / 0.5) ** 2))

    seen = []

    def watched(t, y):
        seen.append(t.item())
        return f(t, y)

    y = odeint(watched, ZERO, [0.0, 61.0], solver=solver(max_step=1.0))
    times = torch.linspace(50, 61, 20001, dtype=torch.float64)
    exact = torch.trapezoid(torch.exp(times - 61) * f(times, 0.0), times)
    assert y[-1].item() == pytest.approx(exact.item(), rel=1e-3)
    starts = sorted(set(seen))
    assert max(b - a for a, b in itertools.pairwise(starts)) <= 1.0
    for batch_dims in (0, 1):
        _, solution = odeint(
            lambda t, y: 0 * y, ONE, [0.0, -3.0], solver=solver(max_step=0.29), batch_dims=batch_dims,
            return_solution=True,
        )  # fmt: skip
        assert int(solution.steps.max()) >= 11


def square_wave(t):
    """1 in [0, 1), -1 in [1, 2), and so on."""
    return 1 - 2 * (torch.floor(t) % 2)


@pytest.mark.parametrize("solver", [*ADAPTIVE, RK4, Heun])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_a_square_wave(solver, dtype, batch_dims):
    """y' = a square(t): a triangle. Without jumps inside a step each method is exact; nothing is rejected."""
    times = torch.tensor([0.0, 0.25, 1.0, 1.5, 2.75, 4.5], dtype=dtype)
    options = {"step_size": 0.7} if solver in (RK4, Heun) else {}
    a = torch.tensor(3.0, dtype=dtype, requires_grad=True)
    y, solution = odeint(
        lambda t, y: a * square_wave(t).reshape(-1, 1) + 0 * y, torch.zeros(2, 1, dtype=dtype), times,
        solver=solver(jump_times=(4, 3, 1, 2), **options), batch_dims=batch_dims, return_solution=True,
    )  # fmt: skip
    triangle = torch.tensor([0.0, 0.25, 1.0, 0.5, 0.75, 0.5], dtype=dtype)
    torch.testing.assert_close(y.detach()[:, 1, 0], 3 * triangle, rtol=1e-5, atol=1e-5)
    assert not solution.rejected.any()
    (of_a,) = torch.autograd.grad(y[:, 0].sum(), a)
    assert of_a.item() == pytest.approx(triangle.sum().item(), rel=1e-5)


@pytest.mark.parametrize("adjoint", [Discrete(), Discrete(checkpoints=2), Direct(), Backsolve()])
@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize(
    "solver", [Tsit5(rtol=1e-9, atol=1e-9, jump_times=[1.0]), RK4(step_size=0.02, jump_times=[1.0])]
)
def test_gradients_across_a_jump(adjoint, batch_dims, solver):
    """y' = -a y before t = 1, b y after it: y(2) = y0 exp(-a + b); so the start's time adds a y(2)."""
    a, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.7, 0.4))
    y0, t = (
        ONE.repeat(2, 1).requires_grad_(),
        torch.tensor([0.0, 0.5, 1.5, 2.0], dtype=torch.float64, requires_grad=True),
    )

    def f(t, y):
        return torch.where(t.reshape(-1, 1) < 1, -a, b) * y

    y = odeint(f, y0, t, solver=solver, adjoint=adjoint, batch_dims=batch_dims)
    end = math.exp(-0.7 + 0.4)
    assert y[-1, 0].item() == pytest.approx(end, rel=1e-7)
    of_a, of_b, of_y0, of_t = torch.autograd.grad(y[-1, 0].sum(), [a, b, y0, t])
    assert (of_a.item(), of_b.item()) == pytest.approx((-end, end), rel=1e-6)
    assert of_y0[:, 0].tolist() == pytest.approx([end, 0.0], rel=1e-6, abs=1e-9)
    assert of_t.tolist() == pytest.approx([0.7 * end, 0.0, 0.0, 0.4 * end], rel=1e-6, abs=1e-7)


def test_each_sample_comes_to_a_jump_at_its_own_step():
    """Rates that differ by far: y' = -r (y - sign(t - 1)); and what is not among the jumps costs rejected steps."""
    rates = torch.tensor([[0.5], [20.0]], dtype=torch.float64)

    def f(t, y, rates):
        return -rates * (y - torch.where(t > 1, 1.0, -1.0).reshape(-1, 1))

    counts = []
    for jumps in ([1.0], []):
        for compact in (False, True):
            y, solution = odeint(
                f, torch.zeros(2, 1).double(), [0.0, 0.3, 2.0], rates, batch_dims=1, compact=compact,
                solver=Dopri5(rtol=1e-6, atol=1e-6, jump_times=jumps), return_solution=True,
            )  # fmt: skip
            middle = -(1 - torch.exp(-rates))
            torch.testing.assert_close(y[1], -(1 - torch.exp(-0.3 * rates)), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(y[2], 1 + (middle - 1) * torch.exp(-rates), rtol=1e-4, atol=1e-5)
            counts.append(solution.nfe)
    assert max(counts[:2]) < min(counts[2:])


def test_jumps_inside_transforms():
    def end(a, solver):
        f = lambda t, y: torch.where(t < 0.3, a, -a) * y  # noqa: E731
        return odeint(f, ONE[0], [0.0, 1.0], solver=solver)[-1].sum()

    scales = torch.tensor([0.5, 1.0], dtype=torch.float64)
    for solver in (Tsit5(rtol=1e-8, atol=1e-8, jump_times=[0.3]), RK4(step_size=0.02, jump_times=[0.3])):
        found = torch.func.vmap(torch.func.grad(lambda a, s=solver: end(a, s)))(scales)
        torch.testing.assert_close(found, -0.4 * torch.exp(-0.4 * scales), rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="vmap over t"):
        torch.func.vmap(lambda t: odeint(lambda t, y: y, ONE[0], t, solver=Tsit5(jump_times=[0.3])))(
            scales.outer(scales)
        )


def test_a_start_at_which_f_is_not_finite_has_diverged_at_once():
    for first_step in (None, "span"):
        solver = Tsit5(first_step=first_step)
        _, solution = odeint(
            lambda t, y: y / t, ONE, [0.0, 1.0], solver=solver, on_failure="ignore", return_solution=True
        )
        assert solution.status == Status.DIVERGED
        assert solution.nfe <= 2


def test_wrong_options():
    for make, message in (
        (lambda: Tsit5(first_step="whole"), "span"),
        (lambda: Tsit5(max_step="span"), "max_step"),
        (lambda: Tsit5(max_step=0.0), "max_step must be positive"),
        (lambda: Tsit5(jump_times=[math.nan]), "jump_times must be finite"),
        (lambda: RK4(jump_times=[math.inf]), "jump_times must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert Tsit5(jump_times=[2, 1, 1]) == Tsit5(jump_times=(1.0, 2.0))
    assert hash(Tsit5(jump_times=[1])) == hash(Tsit5(jump_times=(1.0,)))


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_rest_of_tiny_values(solver):
    """Errors whose squares underflow are no NaN: y' = s(t) - y with s a late switch, next to nothing at the start."""
    y = odeint(
        lambda t, y: torch.sigmoid(200 * (t - 3)) - y, ZERO, [0.0, 3.2, 6.0], solver=solver(), on_failure="raise"
    )
    assert y[-1].item() == pytest.approx(1 - math.exp(-3), rel=1e-3)
