"""torchdiffeq: as a backend, and as a reference."""

import pytest
import torch
import torchdiffeq

from deqzoo.implicit import Backsolve, Direct, Discrete, Dopri5, TorchDiffEq, odeint
from tests.implicit.ode.problems import net, randn, relative

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("adjoint", [None, Direct(), Backsolve(), Backsolve(seminorm=False)])
def test_the_backend_gives_its_solution_and_gradients(adjoint):
    field, y0, times = net(), {"a": randn(2, 3)}, torch.linspace(0, 1, 4).double()
    solver = TorchDiffEq(method="dopri5", **TIGHT)
    y, solution = odeint(
        lambda t, y, b: {"a": field(y["a"]) + b}, y0, times, torch.ones(3).double(), solver=solver,
        adjoint=adjoint, return_solution=True,
    )  # fmt: skip
    assert solution.nfe > 10
    reference = torchdiffeq.odeint(lambda t, y: field(y) + 1, y0["a"], times, **TIGHT)
    torch.testing.assert_close(y["a"], reference)
    found, expected = (torch.autograd.grad(x.square().sum(), list(field.parameters())) for x in (y["a"], reference))
    assert relative(found, expected) < 1e-6


def test_our_solver_agrees_with_torchdiffeq():
    field, y0, times = net(), randn(5, 3).requires_grad_(), torch.linspace(0, -2, 9).double()
    ours = odeint(lambda t, y: field(y) * t, y0, times, solver=Dopri5(**TIGHT))
    theirs = torchdiffeq.odeint(lambda t, y: field(y) * t, y0, times, **TIGHT)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    sources = [y0, *field.parameters()]
    found, expected = (torch.autograd.grad(x.square().sum(), sources) for x in (ours, theirs))
    assert relative(found, expected) < 1e-6


def test_what_torchdiffeq_has_not():
    with pytest.raises(ValueError, match="batch_dims=0"):
        odeint(lambda t, y: y, torch.ones(2), [0.0, 1.0], solver=TorchDiffEq(), batch_dims=1)
    with pytest.raises(ValueError, match="Backsolve"):
        odeint(lambda t, y: y, torch.ones(2), [0.0, 1.0], solver=TorchDiffEq(), adjoint=Discrete())
