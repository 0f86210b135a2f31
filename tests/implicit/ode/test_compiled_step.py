"""Steps of an adaptive solver as one graph each."""

import pytest
import torch
from torch import nn

from deqzoo.implicit import Bosh3, Direct, Dopri5, Dopri8, Kvaerno5, Rodas5P, Tsit5, odeint
from deqzoo.implicit.ode import compiled_step, steps
from tests.implicit.test_compile_whole import F64, WAITS, recorded_part

SOLVERS = [Bosh3, Dopri5, Tsit5, Dopri8]


class Field(nn.Module):
    """Three unknowns, time in it, with kinks in neither."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 7, dtype=F64), nn.Linear(7, 3, dtype=F64)

    def forward(self, t, y):
        return self.b(torch.tanh(self.a(y))) * torch.cos(3 * t).reshape(-1, 1)


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are compiled in a test."""
    return recorded_part(monkeypatch, compiled_step.explicit_step, steps, "compiled_step")


@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_is_one_graph(solver, batch_dims, graphs):
    field, y, t = Field(), torch.randn(4, 3, dtype=F64, requires_grad=True), torch.tensor([0.0, 1.0, 2.5], dtype=F64)
    found = []
    for compiled in (False, True, True):
        chosen = solver(rtol=1e-7, atol=1e-8, compile=compiled)
        values, solution = odeint(field, y, t, solver=chosen, batch_dims=batch_dims, return_solution=True)
        gradient = torch.autograd.grad(values.square().sum(), [y, *field.parameters()])
        found.append(((values, gradient), (solution.nfe, solution.steps), len(graphs)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-8, atol=1e-10)
    assert torch.equal(torch.as_tensor(found[1][1][1]), torch.as_tensor(found[0][1][1]))
    assert found[1][1][0] == found[0][1][0]  # evaluations
    # Of the solve, and of its steps taken again in the backward, f at the begin known or not; whatever the length.
    assert 1 <= len(graphs) == found[1][2] <= 3
    called = [str(node.target) for _, module in graphs for node in module.graph.nodes if node.op == "call_function"]
    assert not [name for name in called if any(wait in name for wait in WAITS)]
    assert sum("tanh.default" in name for name in called) >= solver.tableau.stages - 1


def test_as_without_compilation_in_transforms_on_the_tape_and_by_rows(graphs):
    def solve(y, **options):
        solver = Tsit5(rtol=1e-7, atol=1e-8, compile=True)
        return odeint(lambda t, y: -y * y, y, [0.0, 1.0], solver=solver, **options)[-1]

    y = torch.tensor([0.5, 2.0], dtype=F64)
    exact = y / (1 + y)
    torch.testing.assert_close(torch.func.vmap(solve)(y), exact, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(torch.func.grad(lambda y: solve(y).sum())(y), 1 / (1 + y) ** 2, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(solve(y.requires_grad_(), adjoint=Direct()), exact, rtol=1e-6, atol=1e-7)
    assert not graphs
    torch.testing.assert_close(solve(y.detach(), batch_dims=1, compact=True), exact.detach(), rtol=1e-6, atol=1e-7)


def test_a_field_that_jumps(graphs):
    solver = Tsit5(rtol=1e-9, atol=1e-9, jump_times=(0.3,), compile=True)
    field = lambda t, y: torch.where(t < 0.3, 1.0, -1.0).to(F64) + 0 * y  # noqa: E731
    y = odeint(field, torch.zeros(1, dtype=F64), [0.0, 1.0], solver=solver)[-1]
    torch.testing.assert_close(y, torch.tensor([-0.4], dtype=F64), rtol=0, atol=1e-12)
    assert graphs


@pytest.mark.parametrize("solver", [Kvaerno5, Rodas5P])
def test_implicit_methods_refuse(solver):
    with pytest.raises(ValueError, match="compile is for explicit methods"):
        solver(compile=True)


@pytest.mark.slow
def test_by_the_default_compiler():
    torch._dynamo.reset()
    torch.manual_seed(0)
    field, y = Field(), torch.randn(4, 3, dtype=F64, requires_grad=True)
    values = [odeint(field, y, [0.0, 1.0], solver=Tsit5(rtol=1e-9, compile=compiled)) for compiled in (False, True)]
    gradients = [torch.autograd.grad(value.square().sum(), [y, *field.parameters()]) for value in values]
    torch.testing.assert_close(values[1], values[0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-9)
