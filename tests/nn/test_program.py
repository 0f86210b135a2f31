"""A quadratic program as a layer: its solution, its gradient, and what it says of failures."""

import pytest
import torch
from torch.autograd import gradcheck

from deqzoo.implicit import InteriorPoint, NonConvergenceWarning, Status
from deqzoo.nn import ProgramLayer


def layer_of(features=6, constraints=2, **options):
    torch.manual_seed(0)
    return ProgramLayer(features, constraints, level=0.5, **options)


def rows(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_the_solution_meets_the_optimality_conditions():
    """Feasible, and no feasible direction improves: compared with many random feasible points."""
    layer, p = layer_of().double(), rows(4, 6).double()
    z = layer(p)
    A, b = layer.constraints()
    torch.testing.assert_close(z @ A.T, b.expand(4, -1), rtol=1e-9, atol=1e-9)
    assert z.min() > -1e-9

    def objective(z):
        return layer.strength / 2 * z.square().sum(-1) - (p * z).sum(-1)

    others = 0.5 + 0.3 * (rows(500, 1, 6).double() - 0.5)
    others = others - (others @ A.T - b) @ torch.linalg.pinv(A).T  # onto Az = b
    others = others[(others >= 0).all(2).all(1)]
    assert len(others) > 20
    assert (objective(others) >= objective(z) - 1e-9).all()


def test_gradients_reach_the_constraints_and_the_input():
    layer, p = layer_of(4, 2).double(), rows(3, 4).double().requires_grad_()

    def solved(p, matrix, log_point):
        return torch.func.functional_call(layer, {"matrix": matrix, "log_point": log_point}, (p,))

    assert gradcheck(solved, (p, layer.matrix, layer.log_point))
    layer(p).square().sum().backward()
    assert layer.solution.backward.converged.all()
    assert not layer.solution.value.x.requires_grad


def test_it_is_solved_in_float64_unless_asked_not_to():
    layer, p = layer_of(), rows(3, 6)
    assert layer(p).dtype == torch.float32
    assert layer.solution.value.x.dtype == torch.float64
    single = layer_of(dtype=None, solver=InteriorPoint(tol=1e-4))
    torch.testing.assert_close(single(p), layer(p), rtol=0, atol=1e-2)
    assert single.solution.value.x.dtype == torch.float32


def test_failures_are_told():
    layer, p = layer_of(), rows(3, 6)
    right = layer(p)
    p[1, 2] = torch.nan
    with pytest.warns(NonConvergenceWarning):
        found = layer(p)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], right[[0, 2]])
    assert layer.solution.status[1] == Status.DIVERGED
    few = layer_of(solver=InteriorPoint(max_steps=1))
    with pytest.warns(NonConvergenceWarning, match="raise max_steps"):
        few(rows(3, 6))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"constraints": 7}, "constraints must lie between 1 and the 6 features, got 7"),
        ({"strength": 0.0}, "strength and level must be positive"),
    ],
)
def test_wrong_options(options, told):
    with pytest.raises(ValueError, match=told):
        layer_of(**options)
