"""Pendulums: their equation, their energy, and the derivatives that a residual is made of."""

import torch

from deqzoo.implicit import Tsit5
from deqzoo.models import PendulumODE, PendulumPINN
from deqzoo.models.physics.pendulum_network import Pendulum


def test_small_swings_are_the_damped_oscillator():
    model = PendulumODE(1, gravity_over_length=4.0, damping=0.4, solver=Tsit5(rtol=1e-8, atol=1e-10)).double()
    with torch.no_grad():
        model.initial.copy_(torch.tensor([[1e-3, 0.0]]))
    times = torch.linspace(0, 5, 30, dtype=torch.float64)
    frequency = (4.0 - 0.2**2) ** 0.5
    phase = frequency * times
    exact = 1e-3 * (-0.2 * times).exp() * (phase.cos() + 0.2 / frequency * phase.sin())
    torch.testing.assert_close(model(times)[0], exact, rtol=0, atol=1e-8)


def test_energy_falls_by_damping_alone():
    physics = Pendulum(9.81, 0.3)
    state = torch.tensor([[0.7, -1.2], [2.5, 0.4]])
    rate = physics(torch.zeros(()), state)
    energy_rate = state[:, 1] * rate[:, 1] + 9.81 * state[:, 0].sin() * rate[:, 0]
    torch.testing.assert_close(energy_rate, -0.3 * state[:, 1] ** 2, rtol=1e-4, atol=1e-4)


def test_residual_has_the_derivatives_of_the_network():
    model = PendulumPINN(3, span=4.0, frequencies=5).double()
    times = torch.rand(6, dtype=torch.float64, requires_grad=True)
    angle = model(times)
    expected = []
    for row in range(3):
        (velocity,) = torch.autograd.grad(angle[row].sum(), times, create_graph=True)
        (acceleration,) = torch.autograd.grad(velocity.sum(), times, create_graph=True)
        expected.append(acceleration - model.physics.acceleration(angle[row], velocity))
    torch.testing.assert_close(model.residual(times), torch.stack(expected))


def test_gradient_of_the_residual_reaches_network_and_physics():
    model = PendulumPINN(2)
    model.residual(torch.rand(4)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_solved_states_start_where_the_network_does():
    model = PendulumPINN(2)
    times = torch.linspace(0, 1, 5)
    states = model.states(times)
    assert states.shape == (2, 5, 2)
    torch.testing.assert_close(states[:, 0, 0], model(times[:1])[:, 0])
