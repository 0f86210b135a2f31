"""torch.func, forward mode, torch.compile."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from deqzoo.implicit import RK4, Backsolve, Dopri5, Kvaerno3, Rodas5P, Tsit5, odeint
from tests.implicit.ode.problems import net, randn

SOLVERS = [RK4(step_size=0.25), Tsit5(rtol=1e-9, atol=1e-9), Rodas5P(rtol=1e-9, atol=1e-9)]
ONE_STEP = {"rtol": 1e6, "atol": 1e6, "first_step": "span"}  # tolerances that accept anything
WEIGHT, START = randn(3, 3), randn(2, 3, seed=1)


def final(y0, weight, solver=SOLVERS[0], t=(0.0, 1.0)):
    return odeint(lambda t, y: torch.tanh(y @ weight) * (1 + t), y0, t, solver=solver)[-1]


@pytest.mark.parametrize("solver", SOLVERS)
def test_grad_and_jvp_agree_with_the_tape(solver):
    weight = WEIGHT.clone().requires_grad_()
    (expected,) = torch.autograd.grad(final(START, weight, solver).square().sum(), weight)
    found = grad(lambda w: final(START, w, solver).square().sum())(WEIGHT)
    torch.testing.assert_close(found, expected)
    direction = randn(3, 3, seed=4)
    _, tangent = jvp(lambda w: final(START, w, solver).square().sum(), (WEIGHT,), (direction,))
    torch.testing.assert_close(tangent, (expected * direction).sum())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(WEIGHT, direction)
        tangent = forward_ad.unpack_dual(final(START, dual, solver)).tangent
    torch.testing.assert_close(tangent, jvp(lambda w: final(START, w, solver), (WEIGHT,), (direction,))[1])


@pytest.mark.parametrize("solver", [*SOLVERS[:2], Kvaerno3(**ONE_STEP, stage_tol=1e-16), Rodas5P(**ONE_STEP)])
def test_jacobians_and_hessians(solver):
    def loss(w):
        return final(START, w, solver).square().sum()

    torch.testing.assert_close(jacfwd(loss)(WEIGHT), jacrev(loss)(WEIGHT))
    second = hessian(loss)(WEIGHT)
    torch.testing.assert_close(second, jacrev(jacrev(loss))(WEIGHT))
    torch.testing.assert_close(second, second.permute(2, 3, 0, 1))


def test_third_order():
    def loss(a):
        return odeint(lambda t, y: torch.sin(a * y), torch.ones(()).double(), [0.0, 1.0], solver=RK4(step_size=0.2))[-1]

    a = torch.tensor(0.7, dtype=torch.float64)
    third = grad(grad(grad(loss)))(a)
    h = 1e-4
    numeric = (grad(grad(loss))(a + h) - grad(grad(loss))(a - h)) / (2 * h)
    torch.testing.assert_close(third, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_vmap_over_states_and_arguments_is_a_loop(solver):
    states, weights = randn(4, 2, 3, seed=2), randn(4, 3, 3, seed=3)
    found = vmap(lambda y, w: final(y, w, solver))(states, weights)
    # Under vmap the steps are shared by all, so that results agree within the tolerance alone.
    expected = torch.stack([final(y, w, solver) for y, w in zip(states, weights, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    gradients = vmap(grad(lambda w: final(START, w, solver).sum()))(weights)
    expected = torch.stack([grad(lambda w: final(START, w, solver).sum())(w) for w in weights])
    torch.testing.assert_close(gradients, expected, rtol=1e-6, atol=1e-6)


def test_vmap_over_the_end():
    ends = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    solver = Tsit5(rtol=1e-9, atol=1e-9)

    def at(end):
        return final(START, WEIGHT, solver, torch.stack([torch.zeros_like(end), end]))

    torch.testing.assert_close(vmap(at)(ends), torch.stack([at(e) for e in ends]), rtol=1e-7, atol=1e-7)
    middle = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.9, 1.0]]).double()
    with pytest.raises(ValueError, match="same fractions"):
        vmap(lambda t: odeint(lambda t, y: y, START, t))(middle)


def test_derivative_in_time_is_f():
    _, tangent = jvp(
        lambda end: final(START, WEIGHT, SOLVERS[1], torch.stack([torch.zeros_like(end), end])),
        (torch.tensor(1.0).double(),),
        (torch.tensor(1.0).double(),),
    )
    y = final(START, WEIGHT, SOLVERS[1])
    torch.testing.assert_close(tangent, torch.tanh(y @ WEIGHT) * 2.0, rtol=1e-6, atol=1e-7)


def test_functional_call():
    field = net()

    def loss(parameters):
        return odeint(lambda t, y: functional_call(field, parameters, (y,)), START, [0.0, 1.0])[-1].sum()

    found = grad(loss)(dict(field.named_parameters()))
    odeint(lambda t, y: field(y), START, [0.0, 1.0])[-1].sum().backward()
    for name, parameter in field.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_per_sample_steps_inside_transforms():
    def run(w):
        return odeint(
            lambda t, y: torch.tanh(y @ w) * (1 + t.reshape(-1, 1)), START, [0.0, 1.0], batch_dims=1, solver=Dopri5()
        )[-1].sum()

    weight = WEIGHT.clone().requires_grad_()
    # Inside, all samples take the steps of the hardest one: results agree within the tolerance.
    expected = torch.autograd.grad(run(weight), weight)[0]
    torch.testing.assert_close(grad(run)(WEIGHT), expected, rtol=1e-4, atol=1e-5)


def test_backsolve_inside_transforms_is_the_derivative_of_the_steps():
    def run(w, adjoint=None):
        return odeint(lambda t, y: torch.tanh(y @ w), START, [0.0, 1.0], adjoint=adjoint)[-1].sum()

    torch.testing.assert_close(grad(run)(WEIGHT), grad(lambda w: run(w, Backsolve()))(WEIGHT))


def test_a_compiled_field_and_a_compiled_training_step():
    field = net().float()
    y0 = torch.randn(4, 3)
    compiled = torch.compile(field, backend="aot_eager")
    losses, gradients = [], []
    for f in (field, compiled):
        loss = odeint(lambda t, y, f=f: f(y), y0, [0.0, 1.0])[-1].square().sum()
        gradients.append(torch.autograd.grad(loss, list(field.parameters())))
        losses.append(loss)
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])

    @torch.compile(backend="aot_eager")
    def step(y0):
        return odeint(lambda t, y: field(y), y0 * 2, [0.0, 1.0])[-1].square().sum() * 0.5

    loss = step(y0)
    loss.backward()
    again = odeint(lambda t, y: field(y), y0 * 2, [0.0, 1.0])[-1].square().sum() * 0.5
    torch.testing.assert_close(loss, again)
