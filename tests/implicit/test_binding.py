"""What f reads is bound at the forward: rebound tensors are those of the forward, all else that changes is an error."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.utils.checkpoint import checkpoint

from deqzoo.implicit import (
    RK4,
    Backsolve,
    Direct,
    Discrete,
    Kvaerno3,
    Rodas5P,
    Tsit5,
    argmin,
    fixed_point,
    odeint,
    root,
)
from deqzoo.nn import ContinuousFlow, NeuralODE

F64 = torch.float64
SOLVER = Tsit5(rtol=1e-9, atol=1e-11)
ADJOINTS = [Discrete(), Discrete(checkpoints=2), Backsolve(), Direct()]


def number(value):
    return torch.tensor(value, dtype=F64, requires_grad=True)


class Decay(nn.Module):
    """dy/dt = -scale rate t y, with a number and a tensor that may be set anew: y(1) = exp(-scale rate / 2)."""

    def __init__(self, rate, scale=1.0):
        super().__init__()
        self.rate, self.scale = rate, scale

    def forward(self, t, y):
        return -self.scale * self.rate * t * y


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
@pytest.mark.parametrize("create_graph", [False, True])
def test_attribute_set_anew_between_two_forwards(adjoint, create_graph):
    one, other, y0 = number(0.8), number(-0.3), number(1.0)
    f = Decay(one)
    first = odeint(f, y0, [0.0, 1.0], solver=SOLVER, adjoint=adjoint)[-1]
    f.rate = other
    second = odeint(f, y0, [0.0, 1.0], solver=SOLVER, adjoint=adjoint)[-1]
    found = torch.autograd.grad(2 * first + second, (one, other, y0), create_graph=create_graph)
    a, b = math.exp(-0.4), math.exp(0.15)
    expected = torch.tensor([-a, -b / 2, 2 * a + b], dtype=F64)
    torch.testing.assert_close(torch.stack(found).detach(), expected, rtol=1e-6, atol=1e-8)
    if create_graph:
        (twice,) = torch.autograd.grad(found[0], one)
        torch.testing.assert_close(twice, one.new_tensor(a / 2), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("adjoint", ADJOINTS[:3], ids=str)
@pytest.mark.parametrize("create_graph", [False, True])
def test_number_that_has_changed_is_an_error(adjoint, create_graph):
    """Where f is zero at the first time whatever the number, too."""
    f, y0 = Decay(number(0.8)), number(1.0)
    y = odeint(f, y0, [0.0, 1.0], solver=SOLVER, adjoint=adjoint)[-1]
    f.scale = 1.01
    with pytest.raises(RuntimeError, match="f has changed between the forward and the backward"):
        torch.autograd.grad(y, y0, create_graph=create_graph)


@pytest.mark.parametrize("solver", [Tsit5(), RK4(step_size=0.1), Kvaerno3(), Rodas5P()], ids=lambda s: type(s).__name__)
def test_mode_that_has_changed_is_an_error(solver):
    class Switched(nn.Module):
        def forward(self, t, y):
            return -y if self.training else -0.5 * y

    f, y0 = Switched(), torch.ones(3, requires_grad=True)
    y = odeint(f, y0, [0.0, 1.0], solver=solver)[-1]
    f.eval()
    with pytest.raises(RuntimeError, match="training mode"):
        y.sum().backward()


def test_change_that_makes_the_steps_impossible_is_an_error():
    class Rate(nn.Module):
        rate = 1.0

        def forward(self, t, y):
            return -self.rate * y

    f, y0 = Rate(), torch.ones(3, requires_grad=True)
    y = odeint(f, y0, [0.0, 1.0], solver=RK4(step_size=0.1))[-1]
    f.rate = math.inf
    with pytest.raises(RuntimeError, match="f has changed"):
        y.sum().backward()


def test_random_numbers_that_are_drawn_anew_are_an_error():
    y0 = torch.ones(50, requires_grad=True)
    y = odeint(lambda t, y: -y * torch.rand_like(y), y0, [0.0, 1.0], solver=RK4(step_size=0.25))[-1]
    with pytest.raises(RuntimeError, match="random numbers"):
        y.sum().backward()


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_parameter_exchanged_before_the_backward(adjoint):
    layer, y0 = nn.Linear(3, 3).double(), torch.randn(3, dtype=F64, requires_grad=True)
    weight, bias = layer.weight, layer.bias

    def end():
        return odeint(lambda t, y: torch.tanh(layer(y)), y0, [0.0, 1.0], solver=SOLVER, adjoint=adjoint)[-1].sum()

    expected = torch.autograd.grad(end(), (weight, bias, y0))
    y = end()
    layer.weight = nn.Parameter(torch.randn(3, 3, dtype=F64))
    for one, other in zip(torch.autograd.grad(y, (weight, bias, y0)), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


class Whole(nn.Module):
    """Reads its parameter by closures alone."""

    def __init__(self, solve):
        super().__init__()
        self.a, self.solve = nn.Parameter(torch.tensor(0.9, dtype=F64)), solve

    def forward(self):
        return self.solve(lambda: self.a)


def one():
    return torch.ones(1, dtype=F64)


SOLVES = {  # a -> its square root, its cube root, exp(a)
    "fixed_point": lambda a: fixed_point(lambda z: 0.6 * z + 0.4 * a() / z, one()),
    "root": lambda a: root(lambda y: y**3 - a(), one()),
    "argmin": lambda a: argmin(lambda y: (y**4 / 4 - a() * y).sum(), one()),
    "odeint": lambda a: odeint(lambda t, y: a() * y, one(), [0.0, 1.0], solver=SOLVER)[-1],
    "layer": lambda a: NeuralODE(lambda t, y: a() * y, solver=SOLVER)(one()),
    "flow": lambda a: ContinuousFlow(lambda t, x: a() * x, (1,), solver=SOLVER).log_prob(one()),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", SOLVES)
def test_functional_call(name, frozen):
    """The backward runs when the module holds its own parameter again, which may need no gradient."""
    whole = Whole(SOLVES[name]).requires_grad_(not frozen)
    a, reference = number(1.4), number(1.4)
    y = functional_call(whole, {"a": a}, ()).sum()
    expected = SOLVES[name](lambda: reference).sum()
    (first,) = torch.autograd.grad(y, a, create_graph=True)
    (known,) = torch.autograd.grad(expected, reference, create_graph=True)
    torch.testing.assert_close(first, known, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(*[torch.autograd.grad(g, x)[0] for g, x in ((first, a), (known, reference))])
    torch.testing.assert_close(
        grad(lambda a: functional_call(whole, {"a": a}, ()).sum())(a.detach()), known.detach(), rtol=1e-7, atol=1e-9
    )


class Piecewise(nn.Module):
    """A layer for each third of the time."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2).double() for _ in range(3))

    def forward(self, t, y):
        return torch.tanh(self.layers[min(2, int(3 * t))](y))


@pytest.mark.parametrize("adjoint", ADJOINTS[:2], ids=str)
@pytest.mark.parametrize("held", ["module", "closure", "method"])
def test_tensors_that_are_read_later_than_at_the_first_time(adjoint, held):
    f, y0 = Piecewise(), torch.randn(4, 2, dtype=F64, requires_grad=True)
    field = {"module": f, "closure": lambda t, y: f(t, y), "method": f.forward}[held]
    wanted = (*f.parameters(), y0)

    def gradients(adjoint):
        y = odeint(field, y0, [0.0, 1.0], solver=RK4(step_size=0.1), adjoint=adjoint)[-1]
        return torch.autograd.grad((y**2).sum(), wanted)

    for one, other in zip(gradients(adjoint), gradients(Direct()), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("adjoint", [Discrete(), Backsolve()], ids=str)
def test_captured_tensor_that_is_read_later_and_cannot_be_known_is_an_error(adjoint):
    early, late = number(0.5), number(1.5)
    y0 = number(1.0)
    y = odeint(
        lambda t, y: y * (early if t < 0.5 else late), y0, [0.0, 1.0], solver=RK4(step_size=0.1), adjoint=adjoint
    )
    with pytest.raises(RuntimeError, match="at times after the first one"):
        y[-1].backward()


def test_field_with_a_leaf_of_its_own():
    """The gradient of an energy in a detached copy of y: a leaf on the tape that f has made itself."""
    weight, y0 = torch.randn(3, 3, dtype=F64, requires_grad=True), torch.randn(3, dtype=F64)

    def field(t, y):
        with torch.enable_grad():
            own = y.detach().requires_grad_()
            return torch.autograd.grad((weight @ own).tanh().sum(), own, create_graph=True)[0]

    def gradient(adjoint):
        y = odeint(field, y0, [0.0, 1.0], solver=RK4(step_size=0.1), adjoint=adjoint)[-1]
        return torch.autograd.grad(y.sum(), weight)[0]

    torch.testing.assert_close(gradient(Discrete()), gradient(Direct()))


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", ["fixed_point", "root", "argmin", "implicit stages"])
def test_number_that_has_changed_in_a_condition(name, create_graph):
    """What is on the tape of the forward is right; what is evaluated again for `create_graph` is an error."""
    one, factor = torch.ones((), dtype=torch.float64), [1.0]
    a = (2 * one).requires_grad_()

    def field(t, y):
        return -factor[0] * a * y**2

    solves = {
        "fixed_point": lambda: fixed_point(lambda y: (y + factor[0] * a / y) / 2, one),
        "root": lambda: root(lambda y: y**3 - factor[0] * a, one),
        "argmin": lambda: argmin(lambda y: y**4 / 4 - factor[0] * a * y, one),
        "implicit stages": lambda: odeint(field, one, [0.0, 1.0], solver=Kvaerno3(), adjoint=Direct())[-1],
    }
    exact = {"fixed_point": 8**-0.5, "root": 2 ** (-2 / 3) / 3, "argmin": 2 ** (-2 / 3) / 3, "implicit stages": -1 / 9}
    y = solves[name]()
    factor[0] = 3.0
    if create_graph:
        with pytest.raises(RuntimeError, match="the condition has changed between the forward and the backward"):
            torch.autograd.grad(y, a, create_graph=True)
    else:
        assert torch.autograd.grad(y, a)[0].item() == pytest.approx(exact[name], rel=1e-4)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_hooks_on_saved_tensors_have_the_condition_evaluated_again(checkpointed):
    """z = k cos(a z) with k = 1: dz/da = -z sin(a z) / (1 + a sin(a z)). A first-order backward, too, looks whether k
    is what it was, and uses the tensors of the forward.
    """
    a, k = number(0.7), [1.0]
    cos = (lambda x: checkpoint(torch.cos, x, use_reentrant=False)) if checkpointed else torch.cos

    def solve():
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
            return fixed_point(lambda z: k[0] * cos(held[0] * z), a.new_zeros(()))

    held = [a]
    z = solve()
    held[0] = number(0.2)
    (found,) = torch.autograd.grad(z, a)
    slope = torch.sin(a * z)
    torch.testing.assert_close(found, (-z * slope / (1 + a * slope)).detach(), rtol=1e-6, atol=1e-8)
    held[0] = a
    z, k[0] = solve(), 0.5
    with pytest.raises(RuntimeError, match="the condition has changed between the forward and the backward"):
        torch.autograd.grad(z, a)
