"""The neural ODE layer: closed forms, augmentation, penalties of the path, fixed random draws, failures."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from deqzoo.implicit import RK4, Backsolve, Direct, Discrete, NonConvergenceError, NonConvergenceWarning, Status, Tsit5
from deqzoo.nn import MLPDynamics, NeuralODE, solver_layers, use_solver

F64 = torch.float64
SHARP = Tsit5(rtol=1e-9, atol=1e-9)


class Linear(nn.Module):
    """dy/dt = A y."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(torch.as_tensor(matrix, dtype=F64))

    def forward(self, t, y):
        return y @ self.matrix.T


ROTATION = [[0.0, -1.0], [1.0, 0.0]]


def test_end_and_all_times_are_the_matrix_exponential():
    layer = NeuralODE(Linear(ROTATION), t=(0.0, 2.0), solver=SHARP)
    y0 = torch.randn(4, 2, dtype=F64)
    exact = lambda t: y0 @ torch.linalg.matrix_exp(t * layer.dynamics.matrix).T  # noqa: E731
    torch.testing.assert_close(layer(y0), exact(2.0))
    assert layer.solution.status.tolist() == [Status.CONVERGED] * 4
    assert layer.solution.nfe > 6
    times = torch.linspace(0, 2, 7, dtype=F64)
    torch.testing.assert_close(layer(y0, times), torch.stack([exact(t) for t in times]), rtol=1e-7, atol=1e-7)
    backwards = NeuralODE(layer.dynamics, t=(2.0, 0.0), solver=SHARP)
    torch.testing.assert_close(backwards(layer(y0)), y0)


@pytest.mark.parametrize("adjoint", [Discrete(), Direct(), Backsolve(), None])
def test_gradients_are_those_of_the_closed_form(adjoint):
    layer = NeuralODE(Linear(ROTATION), solver=SHARP, adjoint=adjoint)
    y0 = torch.randn(3, 2, dtype=F64, requires_grad=True)
    layer(y0).square().mul(torch.tensor([1.0, 3.0])).sum().backward()
    if not isinstance(adjoint, Direct):  # which backpropagates through the steps, and evaluates nothing anew
        assert layer.solution.backward.nfe > 0
    closed, matrix = y0.detach().requires_grad_(), layer.dynamics.matrix.detach().requires_grad_()
    (closed @ torch.linalg.matrix_exp(matrix).T).square().mul(torch.tensor([1.0, 3.0])).sum().backward()
    torch.testing.assert_close(y0.grad, closed.grad, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(layer.dynamics.matrix.grad, matrix.grad, rtol=1e-6, atol=1e-7)


def test_a_pytree_and_a_plain_function():
    layer = NeuralODE(lambda t, y: {"a": -y["a"], "b": 2 * t * torch.ones_like(y["b"])}, solver=SHARP)
    y = layer({"a": torch.ones(3, 2, dtype=F64), "b": torch.zeros(3, dtype=F64)})
    torch.testing.assert_close(y["a"], torch.full((3, 2), -1.0, dtype=F64).exp())
    torch.testing.assert_close(y["b"], torch.ones(3, dtype=F64))


def test_augmentation_appends_zeros_that_the_dynamics_may_fill():
    seen = []

    def dynamics(t, y):
        seen.append(tuple(y.shape))
        return torch.ones_like(y)

    y = NeuralODE(dynamics, augment=3)(torch.full((2, 4, 5, 5), 7.0))
    assert set(seen) == {(2, 7, 5, 5)}
    torch.testing.assert_close(y[:, :4], torch.full((2, 4, 5, 5), 8.0))
    torch.testing.assert_close(y[:, 4:], torch.ones(2, 3, 5, 5))


def test_penalties_are_the_integrals_along_the_path():
    rate = -0.7
    layer = NeuralODE(Linear([[rate, 0.0], [0.0, rate]]), t=(0.0, 2.0), solver=SHARP, penalties=("kinetic", "jacobian"))
    y0 = torch.randn(20_000, 2, dtype=F64)
    layer(y0)
    # |f|^2 / dim = rate^2 e^(2 rate t) |y0|^2 / 2, and ||J||_F^2 / dim = rate^2.
    integral = rate * (torch.tensor(4 * rate, dtype=F64).exp() - 1) / 2
    torch.testing.assert_close(layer.path["kinetic"], integral * y0.square().mean(1))
    assert layer.path["jacobian"].mean().item() == pytest.approx(2 * rate**2, rel=0.03)
    layer.eval()(y0)
    assert layer.path == {}


def test_gradient_of_the_penalties_is_that_of_finite_differences():
    torch.manual_seed(0)
    layer = NeuralODE(MLPDynamics(2, 5, "tanh").double(), solver=RK4(step_size=0.25), penalties=("kinetic", "jacobian"))
    y0 = torch.randn(3, 2, dtype=F64)
    weight = layer.dynamics.layers[0].weight

    def penalty():
        torch.manual_seed(1)  # the noise is drawn in forward
        layer(y0)
        return layer.path["kinetic"].sum() + layer.path["jacobian"].sum()

    (gradient,) = torch.autograd.grad(penalty(), weight)
    direction = torch.randn_like(weight)
    with torch.no_grad():
        weight += 1e-5 * direction
    above = penalty().detach()
    with torch.no_grad():
        weight -= 2e-5 * direction
    torch.testing.assert_close((gradient * direction).sum(), (above - penalty().detach()) / 2e-5, rtol=1e-6, atol=1e-9)


class Noisy(nn.Module):
    """Dropout in the dynamics; keeps what it dropped."""

    def __init__(self):
        super().__init__()
        self.dropout, self.masks = nn.Dropout(0.5), []

    def forward(self, t, y):
        mask = self.dropout(torch.ones_like(y))
        self.masks.append(mask.detach())
        return -mask * y


def test_dropout_is_fixed_within_a_solve_and_new_in_the_next():
    layer = NeuralODE(Noisy())
    y0 = torch.ones(4, 8, requires_grad=True)
    layer(y0).sum().backward()
    first = layer.dynamics.masks
    assert len(first) > layer.solution.nfe  # the backward evaluates it too
    assert all(torch.equal(mask, first[0]) for mask in first)
    layer.dynamics.masks = []
    layer(y0)
    assert not torch.equal(layer.dynamics.masks[0], first[0])


def test_functional_call_differentiates_the_parameters_it_is_given():
    layer = NeuralODE(Linear(ROTATION), solver=SHARP)
    y0 = torch.randn(3, 2, dtype=F64)
    other = torch.tensor([[-1.0, 0.0], [0.0, -2.0]], dtype=F64, requires_grad=True)
    y = functional_call(layer, {"dynamics.matrix": other}, (y0,))
    torch.testing.assert_close(y, y0 @ torch.linalg.matrix_exp(other).T)
    (gradient,) = torch.autograd.grad(y.sum(), other)
    (expected,) = torch.autograd.grad((y0 @ torch.linalg.matrix_exp(other).T).sum(), other)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


def test_works_under_inference_mode_and_autocast():
    layer = NeuralODE(MLPDynamics(3, 16))
    y0 = torch.randn(5, 3)
    expected = layer(y0).detach()
    with torch.inference_mode():
        torch.testing.assert_close(layer(y0), expected)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(y0.bfloat16())
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.05)


def test_failure_is_a_value_unless_asked_otherwise():
    # The batch shares its steps, of which the ends at t = 1 and t = 2/3 take about forty, more or less by rounding.
    blow_up = NeuralODE(lambda t, y: y**2, t=(0.0, 2.0), solver=Tsit5(rtol=1e-6, atol=1e-6, max_steps=200))
    with pytest.warns(NonConvergenceWarning, match="2 of 3"):
        y = blow_up(torch.tensor([[1.0], [-1.0], [1.5]]))  # y / (1 - y t)
    assert blow_up.solution.converged.tolist() == [False, True, False]
    assert y[[0, 2]].isnan().all()
    assert y[1].item() == pytest.approx(-1 / 3, rel=1e-4)
    assert torch.isfinite(blow_up.solution.value).all()
    blow_up.on_failure = "ignore"
    blow_up.on_failure = "raise"
    with pytest.raises(NonConvergenceError):
        blow_up(torch.ones(2, 1))


def test_copies_leave_the_last_solve_behind():
    layer = NeuralODE(MLPDynamics(2, 4), penalties=("kinetic",))
    layer(torch.randn(3, 2))
    twin = copy.deepcopy(layer)
    assert layer.solution is not None
    assert layer.path
    assert twin.solution is None
    assert twin.path == {}
    assert not any(name.startswith("times") for name in layer.state_dict())


def test_solver_layers_are_found_and_their_solver_exchanged():
    network = nn.Sequential(nn.Linear(2, 2), NeuralODE(MLPDynamics(2, 4)), nn.Sequential(NeuralODE(MLPDynamics(2, 4))))
    first, second = solver_layers(network)
    assert (first, second) == (network[1], network[2][0])
    own = first.solver
    with use_solver(network, RK4()):
        assert isinstance(second.solver, RK4)
    assert first.solver is own
    assert first.function is first.dynamics


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"t": (0.0, 0.0)}, "two different times"),
        ({"augment": -1}, "augment must not be negative"),
        ({"penalties": ("jacobi",)}, "no penalty 'jacobi'; valid are kinetic, jacobian"),
    ],
)
def test_wrong_options(options, told):
    with pytest.raises(ValueError, match=told):
        NeuralODE(lambda t, y: y, **options)
