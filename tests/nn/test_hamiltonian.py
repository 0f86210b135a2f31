"""Hamiltonian dynamics: their field, what they conserve, and their training through the solver."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from deqzoo.implicit import RK4, Direct, Leapfrog, Reversible, Tsit5
from deqzoo.nn import Hamiltonian, HamiltonianODE, SeparableHamiltonian

F64 = torch.float64


class Coupled(Hamiltonian):
    """Not separable: H = p^2 q^2 / 2 + cosh(q)."""

    def energy(self, q, p):
        return (p.square() * q.square() / 2 + torch.cosh(q)).sum(1)


def networks(d=2, width=8, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return [nn.Sequential(nn.Linear(d, width), nn.Tanh(), nn.Linear(width, 1)).double() for _ in range(2)]


def states(n=3, d=2, seed=0):
    return torch.randn(n, 2 * d, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_the_field_is_the_symplectic_gradient():
    q, p = states(d=1).chunk(2, 1)
    dq, dp = Coupled()(torch.tensor(0.0), (q, p))
    torch.testing.assert_close(dq, p * q.square())
    torch.testing.assert_close(dp, -(p.square() * q + torch.sinh(q)))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_field_in_all_modes(mode):
    hamiltonian, y = SeparableHamiltonian(*networks()), states()
    expected = [x.detach() for x in hamiltonian(torch.tensor(0.0), y.chunk(2, 1))]
    with mode():
        found = hamiltonian(torch.tensor(0.0), y.chunk(2, 1))
        assert all(x.requires_grad == (mode is torch.enable_grad) for x in found)
        batched = torch.func.vmap(lambda y: torch.cat(hamiltonian(torch.tensor(0.0), y[None].chunk(2, 1)), 1)[0])(y)
    torch.testing.assert_close([x.detach() for x in found], expected)
    torch.testing.assert_close(batched, torch.cat(expected, 1))


def test_derivatives_of_the_field():
    hamiltonian, y = SeparableHamiltonian(*networks()), states().requires_grad_()
    weights = [p.requires_grad_() for p in hamiltonian.parameters()][:1]
    assert gradcheck(lambda y, *_: torch.cat(hamiltonian(torch.tensor(0.0), y.chunk(2, 1)), 1), (y, *weights))


@pytest.mark.parametrize("adjoint", ["discrete", "reversible"])
def test_training_through_the_solver_has_the_exact_gradient(adjoint):
    y, times, grads = states(), torch.linspace(0, 2, 5), []
    for chosen in (adjoint, "direct"):
        layer = HamiltonianODE(SeparableHamiltonian(*networks()), solver=Leapfrog(0.1), adjoint=chosen)
        layer(y, times).square().mean().backward()
        grads.append([p.grad for p in layer.parameters() if p.grad is not None])
    assert len(grads[0]) == 6  # a constant in T or V does nothing
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


def test_a_learned_energy_is_conserved():
    layer = HamiltonianODE(SeparableHamiltonian(*networks()), solver=Leapfrog(0.05))
    path = layer(states(), torch.linspace(0, 50, 6))
    energy = torch.stack([layer.dynamics.energy(*y.chunk(2, 1)) for y in path])
    assert (energy - energy[0]).abs().max() < 1e-3 * energy.std(1).mean()


def test_a_hamiltonian_that_is_not_separable_wants_another_solver():
    y = states(d=1)
    with pytest.raises(ValueError, match="separable"):
        HamiltonianODE(Coupled(), solver=Leapfrog(0.1))(y)
    layer = HamiltonianODE(Coupled(), solver=Tsit5(rtol=1e-9, atol=1e-9))
    before, after = (Coupled().energy(*x.chunk(2, 1)) for x in (y, layer(y)))
    torch.testing.assert_close(after, before, rtol=1e-6, atol=0)


def test_a_separable_one_is_not_asked():
    layer = HamiltonianODE(SeparableHamiltonian(*networks()), solver="leapfrog")
    layer(states())
    assert layer.solution.nfe == 1 + 2
    assert layer.solver.check


@pytest.mark.parametrize("state", [torch.zeros(3, 5), torch.zeros(4), (torch.zeros(3, 1), torch.zeros(3, 1))])
def test_a_state_of_odd_size_or_another_form(state):
    layer = HamiltonianODE(SeparableHamiltonian(*networks()))
    with pytest.raises(ValueError, match=r"one tensor \(B, 2 d\)"):
        layer(state)


def test_a_short_training_finds_the_spring():
    """H = (p^2 + 4 q^2) / 2 from its motion, by a few steps of L-BFGS: the period is right where nothing was shown."""
    truth = HamiltonianODE(
        SeparableHamiltonian(lambda p: p.square().sum(1) / 2, lambda q: 2 * q.square().sum(1)), solver=Leapfrog(0.01)
    )
    starts, times = states(24, 1), torch.linspace(0, 0.4, 3)
    shown = truth(starts, times)
    layer = HamiltonianODE(SeparableHamiltonian(*networks(1, 16)), solver=Leapfrog(0.1), adjoint=Direct())
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=120, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = (layer(starts, times) - shown).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    start = torch.tensor([[0.5, 0.0]], dtype=F64)
    assert (layer(start, [0.0, math.pi])[-1] - start).abs().max() < 0.05


def test_adjoints_by_name_and_fixed_steps():
    layer = HamiltonianODE(SeparableHamiltonian(*networks()), adjoint="reversible")
    assert layer.adjoint == Reversible()
    with pytest.raises(ValueError, match="Leapfrog"):
        HamiltonianODE(SeparableHamiltonian(*networks()), solver=RK4(0.1), adjoint="reversible")(
            states().requires_grad_()
        )
