"""The neural CDE layer: closed forms, paths that jump, gradients by all adjoints, transforms, bad input."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, jvp, vmap

from deqzoo.implicit import RK4, Backsolve, Direct, Discrete, Euler, NonConvergenceWarning, Status, Tsit5
from deqzoo.nn import (
    INTERPOLATIONS,
    MLPVectorField,
    NeuralCDE,
    hermite_cubic,
    natural_cubic,
    piecewise_linear,
    rectilinear,
    solver_layers,
    use_solver,
)

F64 = torch.float64
SHARP = Tsit5(rtol=1e-10, atol=1e-10)


class Bilinear(nn.Module):
    """f(t, z) of entries f_jc = sum_k A_cjk z_k: the solution is an ordered exponential."""

    def __init__(self, matrices):
        super().__init__()
        self.matrices = nn.Parameter(matrices)  # (channels, hidden, hidden)

    def forward(self, t, z):
        return torch.einsum("cjk,...k->...jc", self.matrices, z)


@pytest.fixture
def data():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, 2, dtype=F64, generator=random)
    x[0, 2, 1] = x[2, 0, 0] = torch.nan
    t = torch.tensor([0.0, 0.5, 0.8, 1.5, 2.0, 2.6], dtype=F64)
    return x, t, torch.randn(3, 2, dtype=F64, generator=random)


@pytest.fixture
def field():
    random = torch.Generator().manual_seed(1)
    return Bilinear(0.5 * torch.randn(2, 2, 2, dtype=F64, generator=random))


def exact(path, field, z0):
    """Along straight lines dX/dt is constant on each piece, and the solution a product of matrix exponentials."""
    z, x = z0, path(path.knots)
    for change in x.diff(dim=0):
        z = torch.einsum("bjk,bk->bj", torch.linalg.matrix_exp(torch.einsum("cjk,bc->bjk", field.matrices, change)), z)
    return z


@pytest.mark.parametrize("solver", [SHARP, RK4(step_size=0.05), Euler(step_size=2e-3), "tsit5"])
def test_along_straight_lines_it_is_a_product_of_matrix_exponentials(data, field, solver):
    x, t, z0 = data
    layer, path = NeuralCDE(field, solver=solver), piecewise_linear(x, t)
    tol = {"tsit5": 1e-3, SHARP: 1e-8}.get(solver, 2e-2 if isinstance(solver, Euler) else 1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(path, z0), exact(path, field, z0), rtol=tol, atol=tol)


@pytest.mark.parametrize("interpolate", [hermite_cubic, natural_cubic, piecewise_linear])
def test_one_channel_depends_on_the_ends_of_the_path_alone(interpolate):
    """dz = z dX has the solution z0 exp(X - X0), whatever the path between."""
    x = torch.tensor([[[0.0], [1.5], [-0.3], [0.7]]], dtype=F64)
    layer = NeuralCDE(lambda t, z: z.unsqueeze(-1), solver=SHARP)
    z0 = torch.ones(1, 1, dtype=F64)
    torch.testing.assert_close(layer(interpolate(x), z0), torch.full_like(z0, 0.7).exp())
    times = torch.tensor([0.0, 0.4, 2.0, 3.0], dtype=F64)
    path = interpolate(x)
    torch.testing.assert_close(layer(path, z0, times), (path(times) - path(times[0])).exp(), rtol=1e-8, atol=1e-8)
    back = layer(path, z0 * 2.0, times.flip(0))
    torch.testing.assert_close(back[-1], 2 * (path(times[0]) - path(times[-1])).exp(), rtol=1e-8, atol=1e-8)


def test_the_times_of_the_knots_make_no_difference(data, field):
    x, t, z0 = data
    layer = NeuralCDE(field, solver=SHARP)
    x = x.nan_to_num(0.2)
    slow, fast = piecewise_linear(x, t), piecewise_linear(x)
    torch.testing.assert_close(layer(slow, z0), layer(fast, z0), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", sorted(INTERPOLATIONS))
def test_whether_steps_end_at_knots_makes_no_difference_at_a_tight_tolerance(data, field, name):
    x, t, z0 = data
    path = INTERPOLATIONS[name](x, t)
    ends, passes = (NeuralCDE(field, solver=SHARP, stop_at_knots=stop) for stop in (True, False))
    torch.testing.assert_close(ends(path, z0), passes(path, z0), rtol=1e-6, atol=1e-6)
    assert ends.solution.nfe < passes.solution.nfe


def test_fixed_steps_go_from_knot_to_knot(data, field):
    x, t, z0 = data
    layer = NeuralCDE(field, solver="rk4")
    layer(hermite_cubic(x, t), z0)
    assert layer.solution.steps.tolist() == [5] * 3
    with use_solver(layer, RK4(step_size=0.25)):
        layer(hermite_cubic(x, t), z0)
    assert layer.solution.steps.tolist() == [2 + 2 + 3 + 2 + 3] * 3


@pytest.mark.parametrize("adjoint", ["discrete", "direct", "backsolve"])
@pytest.mark.parametrize("name", sorted(INTERPOLATIONS))
def test_gradients_are_those_of_finite_differences(data, field, adjoint, name):
    """In the field's parameters, the start, and the observations."""
    x, t, z0 = data
    seen = ~x.isnan()
    # The others differentiate the steps that were taken, whatever these are.
    solver = Tsit5(rtol=1e-8, atol=1e-8) if adjoint == "backsolve" else RK4(step_size=0.3)

    def end(matrices, z0, observed):
        path = INTERPOLATIONS[name](torch.full_like(x, torch.nan).masked_scatter(seen, observed), t)
        layer = NeuralCDE(
            lambda t, z: torch.einsum("cjk,bk->bjc", matrices, z),
            solver=solver,
            adjoint=adjoint,
        )
        return layer(path, z0)[:2].sum(1)

    inputs = [part.detach().clone().requires_grad_() for part in (field.matrices, z0, x[seen])]
    assert torch.autograd.gradcheck(end, inputs, eps=1e-4, atol=1e-5, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("adjoint", [Discrete(), Direct(), Backsolve(), None])
def test_gradients_of_the_product_of_exponentials(data, field, adjoint):
    x, t, z0 = data
    path, start = piecewise_linear(x, t), z0.clone().requires_grad_()
    NeuralCDE(field, solver=SHARP, adjoint=adjoint)(path, start).square().sum().backward()
    found = start.grad, field.matrices.grad
    closed = z0.clone().requires_grad_()
    wanted = torch.autograd.grad(exact(path, field, closed).square().sum(), [closed, field.matrices])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_second_derivatives_transforms_and_forward_mode(data, field):
    x, t, z0 = data
    path, layer = hermite_cubic(x, t), NeuralCDE(field, solver=RK4(), adjoint="discrete")
    start = z0.clone().requires_grad_()
    (first,) = torch.autograd.grad(layer(path, start).pow(3).sum(), start, create_graph=True)
    assert torch.autograd.gradgradcheck(lambda z: layer(path, z).pow(3).sum(), start, fast_mode=True)
    assert first.requires_grad
    value, tangent = jvp(lambda z: layer(path, z), (z0,), (torch.ones_like(z0),))
    torch.testing.assert_close(value, layer(path, z0))
    torch.testing.assert_close(tangent, layer(path, torch.ones_like(z0)))  # the solution is linear in the start

    def of_one(x, z):
        return functional_call(layer, dict(layer.named_parameters()), (hermite_cubic(x, t), z))

    torch.testing.assert_close(vmap(of_one)(x, z0), layer(path, z0))


def test_further_arguments_go_to_the_field(data):
    x, t, z0 = data
    scale = torch.tensor(0.5, dtype=F64, requires_grad=True)
    layer = NeuralCDE(lambda t, z, a: a * z.unsqueeze(-1).expand(-1, -1, 2), solver=SHARP)
    layer(hermite_cubic(x, t), z0, None, scale).sum().backward()
    assert scale.grad.abs() > 1e-3


def test_in_half_precision_times_and_path_keep_theirs():
    torch.manual_seed(0)
    x = torch.cat([torch.linspace(0, 1, 200).reshape(1, 200, 1), torch.randn(1, 200, 1).cumsum(1) / 10], 2)
    full = NeuralCDE(MLPVectorField(4, 2, width=8), solver="rk4")
    half = copy.deepcopy(full).to(torch.bfloat16)
    z0 = torch.zeros(1, 4)
    found = half(hermite_cubic(x, 1000 + torch.arange(200.0)), z0.to(torch.bfloat16))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), full(hermite_cubic(x), z0), rtol=0.05, atol=0.02)


def test_it_is_a_solver_layer_that_can_be_trained_copied_and_compiled(data):
    x, t, z0 = data
    torch.manual_seed(0)
    layer = NeuralCDE(MLPVectorField(2, 2, width=8).double(), solver="rk4")
    assert solver_layers(nn.Sequential(layer)) == [layer]
    layer(hermite_cubic(x, t), z0).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())
    assert copy.deepcopy(layer).solution is None
    assert not layer.is_one_graph
    assert "RK4" in repr(layer)


def test_one_that_explodes_is_reported_and_leaves_the_others_alone():
    layer = NeuralCDE(lambda t, z: z.unsqueeze(-1).square(), solver=Tsit5(max_steps=200))
    x = torch.tensor([0.0, 1.0]).reshape(1, 2, 1).expand(2, 2, 1)
    with pytest.warns(NonConvergenceWarning):
        z = layer(piecewise_linear(x), torch.tensor([[0.5], [2.0]]))  # z0 / (1 - z0): a pole at X = 1 / z0
    assert layer.solution.status[0] == Status.CONVERGED
    assert layer.solution.status[1] != Status.CONVERGED
    torch.testing.assert_close(z[0], torch.ones(1), rtol=1e-2, atol=1e-2)
    assert z[1].isnan()


def test_bad_input_has_an_error_that_names_the_mend(data, field):
    x, t, z0 = data
    layer, path = NeuralCDE(field), hermite_cubic(x, t)
    with pytest.raises(ValueError, match="the first argument is the path, such as hermite_cubic"):
        layer(x, z0)
    with pytest.raises(ValueError, match=r"z0 must be \(3, hidden\) as the path is, got \(2, 2\)"):
        layer(path, z0[:2])
    with pytest.raises(ValueError, match=r"must lie on the path, from 0 to 2\.6"):
        layer(path, z0, [0.0, 3.0])
    with pytest.raises(ValueError, match=r"must return \(..., hidden, channels\) = \(3, 2, 2\), got \(3, 2\)"):
        NeuralCDE(lambda t, z: z)(path, z0)
    with pytest.raises(ValueError, match="knots that differ under vmap"):
        vmap(lambda x, t, z: layer(hermite_cubic(x, t), z))(x, torch.stack([t, t + 1, 2 * t]), z0)
    with pytest.raises(ValueError, match="depth must be at least 1"):
        MLPVectorField(2, 2, depth=0)


def test_a_rectilinear_path_does_not_look_ahead(data, field):
    """The state at a knot is that of the series cut off there."""
    x, t, z0 = data
    x = x.nan_to_num(0.3)
    x[..., 0] = t
    layer = NeuralCDE(field, solver=SHARP)
    whole = layer(rectilinear(x), z0, [0.0, 4.0])[-1]
    torch.testing.assert_close(layer(rectilinear(x[:, :3]), z0), whole, rtol=1e-7, atol=1e-8)
