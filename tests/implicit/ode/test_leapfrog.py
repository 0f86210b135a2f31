"""`Leapfrog`: its order, what it conserves, its reversibility; and `Reversible`, the adjoint that takes steps back."""

import importlib
import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jacrev, jvp, vmap

from deqzoo.implicit import (
    RK4,
    Backsolve,
    Direct,
    Discrete,
    Leapfrog,
    NonConvergenceWarning,
    Reversible,
    Status,
    Tsit5,
    odeint,
    odeint_dense,
    odeint_event,
)
from deqzoo.implicit.ode.trajectory import Checkpoints
from tests.implicit.ode.problems import randn, relative

F64 = torch.float64
integrate_module = importlib.import_module("deqzoo.implicit.ode.integrate")


def pendulum(t, y, k=1.0):
    """H = p^2 / 2 - k cos(q)."""
    q, p = y
    return p, -k * torch.sin(q)


def driven(t, y):
    """H = p^2 (1 + sin(t) / 2) / 2 - cos(q) (1 + cos(t) / 2): both parts depend on time."""
    q, p = y
    return p * (1 + torch.sin(t) / 2), -torch.sin(q) * (1 + torch.cos(t) / 2)


def coupled(t, y, a):
    """Of (B, 2): T = sum cosh(p), V = a-dependent and not a sum over the two positions."""
    q, p = y
    return torch.sinh(p), -torch.stack([torch.sin(q[:, 0] + a * q[:, 1]), a * torch.sin(q[:, 0] + a * q[:, 1])], 1)


def state(*shape, seed=0):
    return randn(*shape, seed=seed), randn(*shape, seed=seed + 1)


def energy(q, p):
    return p.square() / 2 - torch.cos(q)


@pytest.mark.parametrize("f", [pendulum, driven])
def test_order_two_also_where_the_hamiltonian_depends_on_time(f):
    exact = torch.stack(odeint(f, state(3), [0.0, 2.0], solver=Tsit5(rtol=1e-11, atol=1e-11)))
    errors = []
    for count in (32, 64):
        y = torch.stack(odeint(f, state(3), [0.0, 2.0], solver=Leapfrog(step_size=2 / count)))
        errors.append((y - exact)[:, -1].norm().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


def test_a_step_by_hand():
    q, p = state(3)
    h = 0.3
    half = p - h / 2 * torch.sin(q)
    new = q + h * half
    expected = new, half - h / 2 * torch.sin(new)
    (found, momentum), solution = odeint(pendulum, (q, p), [0.0, h], solver=Leapfrog(), return_solution=True)
    torch.testing.assert_close((found[-1], momentum[-1]), expected, rtol=1e-14, atol=1e-14)
    assert solution.nfe == 3 + 3  # and those of the check
    solution = odeint(pendulum, (q, p), [0.0, h], solver=Leapfrog(0.1, check=False), return_solution=True)[1]
    assert solution.nfe == 1 + 2 * 3


@pytest.mark.parametrize("f", [pendulum, driven])
def test_steps_can_be_taken_back(f):
    start, times = state(4), torch.linspace(0, 50, 3, dtype=F64)
    there = odeint(f, start, times, solver=Leapfrog(step_size=0.1))
    back = odeint(f, tuple(x[-1] for x in there), times.flip(0), solver=Leapfrog(step_size=0.1))
    rounding = {"rtol": 1e-9, "atol": 1e-9}  # of 1,000 steps, which a driven pendulum amplifies
    torch.testing.assert_close(tuple(x[-1] for x in back), start, **rounding)
    torch.testing.assert_close(tuple(x[1] for x in back), tuple(x[1] for x in there), **rounding)


@pytest.mark.parametrize(("solver", "symplectic"), [(Leapfrog, True), (RK4, False)])
def test_symplecticity(solver, symplectic):
    """J^T Omega J = Omega of the map over many long steps; RK4's is not."""
    a = torch.tensor(0.7, dtype=F64)

    def flow(y):
        q, p = odeint(coupled, (y[None, :2], y[None, 2:]), [0.0, 3.0], a, solver=solver(step_size=0.3))
        return torch.cat([q[-1, 0], p[-1, 0]])

    jacobian = jacrev(flow)(randn(4))
    eye = torch.eye(2, dtype=F64)
    omega = torch.kron(torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64), eye)
    error = (jacobian.T @ omega @ jacobian - omega).abs().max()
    assert (error < 1e-12) == symplectic


def test_the_error_of_the_energy_stays_bounded():
    """Over 60 periods as over 3; that of RK4 with as many calls grows in proportion."""
    start, errors = (torch.tensor([1.2], dtype=F64), torch.zeros(1, dtype=F64)), {}
    for solver in (Leapfrog(step_size=0.25), RK4(step_size=0.5)):
        for periods in (3, 60):
            times = torch.linspace(0, 2 * math.pi * periods, 2 + 20 * periods, dtype=F64)
            q, p = odeint(pendulum, start, times, solver=solver)
            errors[type(solver), periods] = (energy(q, p) - energy(q[0], p[0])).abs().max()
    assert errors[Leapfrog, 60] < 1.1 * errors[Leapfrog, 3]
    assert errors[RK4, 60] > 10 * errors[RK4, 3]


OTHERS = [Direct(), Discrete(), Discrete(checkpoints=2)]


def gradients(adjoint, dtype=F64, end=20.0, **options):
    y0 = tuple(x.to(dtype).requires_grad_() for x in state(3, 2))
    a = torch.tensor(0.7, dtype=dtype, requires_grad=True)
    times = torch.linspace(0, end, 5, dtype=dtype)
    solver = Leapfrog(step_size=0.1)
    (q, p), solution = odeint(coupled, y0, times, a, solver=solver, adjoint=adjoint, return_solution=True, **options)
    loss = (q[1:] * p[1:]).sum() + p[-1].sin().sum()
    return torch.autograd.grad(loss, [*y0, a]), solution


@pytest.mark.parametrize("options", [{}, {"batch_dims": 1}, {"batch_dims": 1, "shared_steps": True}])
@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_reversible_is_backpropagation_through_the_same_steps(other, options):
    expected, _ = gradients(other, **options)
    found, solution = gradients(Reversible(), **options)
    assert relative(found, expected) < 1e-11
    assert (solution.backward.status == Status.CONVERGED).all()


def test_reversible_in_single_precision():
    expected, _ = gradients(Direct(), torch.float64)
    found, _ = gradients(Reversible(), torch.float32)
    rounded, _ = gradients(Direct(), torch.float32)
    assert relative(found, rounded) < 1e-3
    assert relative(found, expected) < 1e-3


def test_reversible_keeps_one_state(monkeypatch):
    """The start, whatever the number of steps."""
    kept = []

    class Watched(Checkpoints):
        def __init__(self, limit):
            super().__init__(limit)
            kept.append(self.states)

        def offer(self, number, state):
            super().offer(number, state)
            kept[-1] = self.states

    monkeypatch.setattr(integrate_module, "Checkpoints", Watched)
    for adjoint in (Reversible(), Discrete()):
        for count in (10, 1000):
            y0 = tuple(x.requires_grad_() for x in state(3))
            q, _ = odeint(pendulum, y0, [0.0, 1.0], solver=Leapfrog(1 / count, check=False), adjoint=adjoint)
            assert q.grad_fn is not None
    assert [len(states) for states in kept] == [1, 1, 10, 16]
    assert torch.equal(kept[1][0][0], torch.cat([x.detach() for x in state(3)]).unsqueeze(0))


def test_gradients_of_times_and_second_derivatives():
    y0 = tuple(x.requires_grad_() for x in state(2, 2))
    a = torch.tensor(0.7, dtype=F64, requires_grad=True)
    times = torch.tensor([0.0, 0.4, 1.0], dtype=F64, requires_grad=True)

    def solve(q, p, a, t):
        return odeint(coupled, (q, p), t, a, solver=Leapfrog(step_size=0.25), adjoint=Reversible())

    assert gradcheck(solve, (*y0, a, times))
    assert gradgradcheck(lambda q, p, a: solve(q, p, a, times.detach()), (*y0, a))


def test_transforms():
    y0, a = state(2, 2), torch.tensor(0.7, dtype=F64)

    def end(a):
        q, p = odeint(coupled, y0, [0.0, 1.0], a, solver=Leapfrog(step_size=0.25), adjoint=Reversible())
        return (q[-1] * p[-1]).sum()

    _, tangent = jvp(end, (a,), (torch.ones_like(a),))
    expected = (end(a + 1e-6) - end(a - 1e-6)) / 2e-6
    torch.testing.assert_close(tangent, expected, rtol=1e-8, atol=0)
    many = vmap(end)(torch.stack([a, 2 * a]))
    torch.testing.assert_close(many, torch.stack([end(a), end(2 * a)]), rtol=1e-13, atol=0)


def test_jumps_of_the_force():
    """A force that jumps at 1: with a step that ends there, the parabola is exact; and its derivative by g."""

    def f(t, y, g):
        return y[1], torch.where(t < 1, -g, g).expand_as(y[0])

    found = {}
    for adjoint in (Discrete(), Reversible()):
        g = torch.tensor(2.0, dtype=F64, requires_grad=True)
        start = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
        solver = Leapfrog(step_size=0.4, jump_times=(1.0,))
        q, _ = odeint(f, start, [0.0, 2.5], g, solver=solver, adjoint=adjoint)
        q[-1].backward()
        found[type(adjoint)] = q[-1].item(), g.grad.item()
    expected = 2.5 - 2.0 * (0.5 + 1.5 - 1.5**2 / 2), -(0.5 + 1.5 - 1.5**2 / 2)
    assert found[Discrete] == pytest.approx(expected, rel=1e-12)
    assert found[Reversible] == pytest.approx(expected, rel=1e-12)


def test_a_way_back_that_is_lost_is_told():
    """An unstable saddle: the way back amplifies the rounding of the way there by exp(2 t)."""

    def saddle(t, y):
        return y[1], y[0] + 0.1 * torch.sin(5 * y[0])

    y0 = tuple(x.requires_grad_() for x in state(2))
    (q, _), solution = odeint(
        saddle, y0, [0.0, 25.0], solver=Leapfrog(0.05), adjoint=Reversible(), return_solution=True
    )
    with pytest.warns(NonConvergenceWarning, match="adjoint solve"):
        q[-1].sum().backward()
    assert solution.backward.status == Status.STALLED


def test_a_system_that_fails_leaves_the_others_their_gradient():
    def f(t, y):
        return y[1], torch.where(y[0] > 5, torch.inf, -torch.sin(y[0]))

    q0 = torch.tensor([[0.5], [0.1]], dtype=F64)
    p0 = torch.tensor([[0.1], [8.0]], dtype=F64)
    found = []
    for which in (slice(None), slice(1)):
        y0 = q0[which].clone().requires_grad_(), p0[which].clone().requires_grad_()
        options = {"solver": Leapfrog(0.1, check=False), "adjoint": Reversible(), "on_failure": "ignore"}
        q, _ = odeint(f, y0, [0.0, 3.0], batch_dims=1, shared_steps=True, **options)
        found.append(torch.autograd.grad(q[-1, 0].sum(), y0[0])[0][0])
    torch.testing.assert_close(*found, rtol=1e-11, atol=0)


@pytest.mark.parametrize("start", [torch.zeros(4), (torch.zeros(2),), (torch.zeros(2), torch.zeros(3)), {"q": 1.0}])
def test_a_state_that_is_no_pair(start):
    with pytest.raises(ValueError, match=r"needs a state \(q, p\)"):
        odeint(lambda t, y: y, start, [0.0, 1.0], solver=Leapfrog())


def friction(t, y):
    return y[1], -y[0] - 1e-6 * y[1]


def moving_frame(t, y):
    return y[1] + 1e-6 * y[0], -y[0]


@pytest.mark.parametrize("f", [friction, moving_frame])
@pytest.mark.parametrize("start", [state(3, 2), tuple(torch.zeros(3, 2, dtype=F64) for _ in range(2))])
def test_a_field_that_is_not_separable(f, start):
    for batch_dims in (0, 1):
        with pytest.raises(ValueError, match="separable"):
            odeint(f, start, [0.0, 1.0], solver=Leapfrog(0.1), batch_dims=batch_dims)
    odeint(f, start, [0.0, 1.0], solver=Leapfrog(0.1, check=False))


def test_what_does_not_go_together():
    y0 = tuple(x.requires_grad_() for x in state(2))
    with pytest.raises(ValueError, match="Reversible"):
        odeint(pendulum, y0, [0.0, 1.0], solver=Leapfrog(), adjoint=Backsolve())
    with pytest.raises(ValueError, match="Discrete"):
        odeint(pendulum, y0, [0.0, 1.0], solver=RK4(), adjoint=Reversible())
    with pytest.raises(ValueError, match="dense output"):
        odeint_dense(pendulum, y0, [0.0, 1.0], solver=Leapfrog())
    with pytest.raises(ValueError, match="dense output"):
        odeint_event(pendulum, y0, [0.0, 1.0], event=lambda t, y: y[0].sum(), solver=Leapfrog())
