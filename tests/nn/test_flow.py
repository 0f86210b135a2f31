"""Continuous flows: log-determinants, densities that integrate to one, draws, scores, contexts, random probes."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal
from torch.func import functional_call, grad, hessian, vmap

from deqzoo.implicit import RK4, Dopri8, Tsit5
from deqzoo.nn import ContinuousFlow, FlowODE, squash_mlp

F64 = torch.float64
SHARP = Dopri8(rtol=1e-11, atol=1e-11)


class Linear(nn.Module):
    """dx/dt = A x."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(torch.as_tensor(matrix, dtype=F64))

    def forward(self, t, x):
        return x @ self.matrix.T


class Field(nn.Module):
    """The field of a network, without a forward mode of its own."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, t, x, *context):
        return self.net(t, x, *context)


def small(features=2, context=0, seed=0, **options):
    torch.manual_seed(seed)
    return squash_mlp(features, (16, 16), context=context, **options).double()


def rotation_and_growth(size=3):
    torch.manual_seed(3)
    return 0.5 * torch.randn(size, size, dtype=F64)


@pytest.mark.parametrize("end", [1.0, 0.5])
def test_linear_flow_is_the_normal_of_the_closed_form(end):
    a = rotation_and_growth()
    flow = FlowODE(Linear(a), t=(0.0, end), solver=SHARP)
    x = torch.randn(5, 3, dtype=F64)
    z, change = flow.to_base(x)
    torch.testing.assert_close(change, torch.full((5,), -end * a.trace().item(), dtype=F64), rtol=0, atol=1e-8)
    again, back = flow.from_base(z)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-8)
    torch.testing.assert_close(back, change, rtol=0, atol=1e-8)
    density = ContinuousFlow(Linear(a), (3,), t=(0.0, end), solver=SHARP)
    through = torch.linalg.matrix_exp(end * a)
    exact = MultivariateNormal(torch.zeros(3, dtype=F64), through @ through.T)
    torch.testing.assert_close(density.log_prob(x), exact.log_prob(x), rtol=0, atol=1e-8)


def test_gradient_of_the_likelihood_is_that_of_the_closed_form():
    flow = ContinuousFlow(Linear(rotation_and_growth()), (3,), solver=SHARP)
    x = torch.randn(6, 3, dtype=F64)
    flow.log_prob(x).sum().backward()
    a = flow.flow.dynamics.matrix.detach().requires_grad_()
    through = torch.linalg.matrix_exp(a)
    MultivariateNormal(torch.zeros(3, dtype=F64), through @ through.T).log_prob(x).sum().backward()
    torch.testing.assert_close(flow.flow.dynamics.matrix.grad, a.grad, rtol=1e-7, atol=1e-7)


def test_density_integrates_to_one():
    flow = ContinuousFlow(small(), (2,), solver=Tsit5(rtol=1e-6, atol=1e-6)).eval()
    axis = torch.linspace(-8, 8, 161, dtype=F64)
    with torch.no_grad():
        density = flow.log_prob(torch.cartesian_prod(axis, axis)).exp()
    assert density.sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=1e-3)


def test_log_density_is_that_of_the_dense_jacobian():
    """log |det dz/dx| of the map itself, differentiated through the solver."""
    flow = ContinuousFlow(small(3), (3,), solver=SHARP).eval()
    x = torch.randn(4, 3, dtype=F64)
    z = flow.flow.states(x, torch.tensor([1.0, 0.0], dtype=F64))[-1]
    jacobians = vmap(torch.func.jacrev(lambda x: flow.flow.states(x[None], torch.tensor([1.0, 0.0]).to(x))[-1, 0]))(x)
    exact = -0.5 * (z.square().sum(1) + 3 * math.log(2 * math.pi)) + torch.linalg.slogdet(jacobians)[1]
    torch.testing.assert_close(flow.log_prob(x), exact, rtol=0, atol=1e-8)


def test_draws_have_the_log_density_that_they_come_with():
    flow = ContinuousFlow(small(), (2,), solver=SHARP).eval()
    x, log_density = flow.rsample_with_log_prob((4, 3))
    assert x.shape == (4, 3, 2)
    torch.testing.assert_close(flow.log_prob(x), log_density, rtol=0, atol=1e-8)
    torch.manual_seed(5)
    drawn = flow.sample((4, 3))
    torch.manual_seed(5)
    torch.testing.assert_close(flow.rsample((4, 3)), drawn)
    assert not drawn.requires_grad
    torch.manual_seed(5)
    (gradient,) = torch.autograd.grad(flow.rsample((7,)).sum(), flow.flow.dynamics.layers[0].weight)
    assert gradient.abs().sum() > 0


def test_scores_and_curvature_by_transforms():
    flow = ContinuousFlow(Linear(rotation_and_growth()), (3,), solver=Tsit5(rtol=1e-9, atol=1e-9)).eval()
    through = torch.linalg.matrix_exp(flow.flow.dynamics.matrix.detach())
    precision = torch.linalg.inv(through @ through.T)
    x = torch.randn(4, 3, dtype=F64)
    torch.testing.assert_close(vmap(grad(flow.log_prob))(x), -x @ precision, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(hessian(flow.log_prob)(x[0]), -precision, rtol=1e-5, atol=1e-6)


def test_score_and_gradient_by_parameters_of_a_network():
    flow = ContinuousFlow(small(), (2,), solver=RK4(step_size=0.1)).eval()
    x = torch.randn(4, 2, dtype=F64, requires_grad=True)
    (score,) = torch.autograd.grad(flow.log_prob(x).sum(), x)
    torch.testing.assert_close(vmap(grad(flow.log_prob))(x.detach()), score)
    parameters = dict(flow.named_parameters())
    found = grad(lambda p: functional_call(flow, p, (x.detach(),)).mean())(parameters)
    expected = torch.autograd.grad(flow.log_prob(x.detach()).mean(), list(parameters.values()), allow_unused=True)
    for name, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[name], torch.zeros_like(found[name]) if value is None else value)


def test_field_without_forward_mode_gives_the_same():
    net = small()
    x = torch.randn(6, 2, dtype=F64)
    values, gradients = [], []
    for field in (net, Field(net)):
        flow = ContinuousFlow(field, (2,), solver=RK4(step_size=0.25), penalties=("kinetic", "jacobian"))
        loss = flow.log_prob(x).sum() + sum(integral.sum() for integral in flow.flow.path.values())
        values.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, list(net.parameters()), allow_unused=True))
    torch.testing.assert_close(values[0], values[1])
    for one, other in zip(*gradients, strict=True):
        if one is None or other is None:  # the last layer's bias has no part in the derivatives by reverse mode
            assert one is None or one.abs().max() < 1e-12
            continue
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("divergence", ["gaussian", "rademacher"])
def test_hutchinson_is_right_on_average(divergence):
    net, x = small(3), torch.randn(1, 3, dtype=F64)
    exact = ContinuousFlow(net, (3,), solver=RK4(step_size=0.25)).log_prob(x).item()
    torch.manual_seed(0)
    estimate = ContinuousFlow(net, (3,), solver=RK4(step_size=0.25), divergence=divergence)
    with torch.no_grad():
        drawn = estimate.log_prob(x.expand(20_000, 3))
    error = drawn.std().item() / len(drawn) ** 0.5
    assert 0 < error < 0.02
    assert drawn.mean().item() == pytest.approx(exact, abs=4 * error)


def test_noise_is_fixed_within_a_solve_and_its_backward_and_new_in_the_next():
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small(3)

        def forward(self, t, x):
            return self.net(t, x)

        def with_jvp(self, t, x, v):
            seen.append(v.detach().clone())
            return self.net.with_jvp(t, x, v)

    flow = ContinuousFlow(Watched(), (3,), divergence="gaussian")
    x = torch.randn(5, 3, dtype=F64)
    first = flow.log_prob(x)
    forward = len(seen)
    one = seen[0]
    other = flow.log_prob(x)  # a solve between forward and backward of the first
    assert not torch.equal(seen[-1], one)
    del seen[forward:]
    first.sum().backward()
    assert len(seen) > forward
    assert all(torch.equal(v, one) for v in seen)
    assert not torch.equal(first, other)
    flow.eval()
    flow.flow.eval_divergence = "gaussian"
    torch.testing.assert_close(flow.log_prob(x), flow.log_prob(x), rtol=0, atol=0)


def test_penalties_are_the_integrals_along_the_path():
    rate = -0.7
    flow = FlowODE(Linear([[rate, 0.0], [0.0, rate]]), t=(0.0, 2.0), solver=SHARP, penalties=("kinetic", "jacobian"))
    x = torch.randn(7, 2, dtype=F64)
    z, _ = flow.to_base(x)
    # |f|^2 / D = rate^2 e^(2 rate t) |z|^2 / 2, and ||J||_F^2 / D = rate^2.
    integral = rate * (math.exp(4 * rate) - 1) / 2
    torch.testing.assert_close(flow.path["kinetic"], integral * z.square().mean(1))
    torch.testing.assert_close(flow.path["jacobian"], torch.full((7,), 2 * rate**2, dtype=F64))
    assert copy.deepcopy(flow).path == {}
    flow.eval().to_base(x)
    assert flow.path == {}


def test_context_is_broadcast_and_differentiated():
    flow = ContinuousFlow(small(context=3), (2,), solver=RK4(step_size=0.25)).eval()
    x, context = torch.randn(5, 2, dtype=F64), torch.randn(4, 1, 3, dtype=F64, requires_grad=True)
    log_density = flow.log_prob(x, context)
    assert log_density.shape == (4, 5)
    torch.testing.assert_close(log_density[2, 3], flow.log_prob(x[3], context[2, 0]))
    assert flow.sample((6,), context).shape == (6, 4, 1, 2)
    (gradient,) = torch.autograd.grad(log_density.sum(), context)
    assert (gradient != 0).all()
    drawn, log_density = flow.rsample_with_log_prob((3,), context[:, 0])
    torch.testing.assert_close(flow.log_prob(drawn, context[:, 0]), log_density, atol=1e-4, rtol=0)


def test_images_as_events():
    flow = ContinuousFlow(lambda t, x: -x, (1, 3, 3)).eval()
    assert flow.sample((2,)).shape == (2, 1, 3, 3)
    expected = -4.5 * math.log(2 * math.pi) + 9.0
    torch.testing.assert_close(flow.log_prob(torch.zeros(2, 1, 3, 3)), torch.full((2,), expected))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: FlowODE(Linear([[1.0]]), divergence="hutch"),
            "divergence=hutch is unknown; valid are exact, gaussian",
        ),
        (lambda: FlowODE(Linear([[1.0]]), penalties=("jacobi",)), "no penalty 'jacobi'; valid are kinetic, jacobian"),
        (lambda: ContinuousFlow(small(), (2,)).log_prob(torch.zeros(3)), r"must end with the shape \(2,\)"),
        (lambda: ContinuousFlow(small(context=1), (2,)).log_prob(torch.zeros(2)), "built for 1 features of context"),
        (lambda: squash_mlp(2, activation="relu"), "activation=relu is unknown; valid are silu, softplus, tanh"),
    ],
)
def test_wrong_options(call, told):
    with pytest.raises(ValueError, match=told):
        call()
