"""A solution that can be evaluated anywhere, after the solve."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from deqzoo.implicit import (
    RK4,
    Backsolve,
    Bosh3,
    Direct,
    Discrete,
    Dopri5,
    Dopri8,
    Euler,
    Heun,
    Kvaerno3,
    Midpoint,
    Rodas5P,
    TorchDiffEq,
    Tsit5,
    odeint,
    odeint_dense,
)
from tests.implicit.ode.problems import START, exact, linear, net, randn

TIGHT = {"rtol": 1e-9, "atol": 1e-11}
SOLVERS = [
    (Tsit5(**TIGHT), 1e-6), (Dopri5(**TIGHT), 1e-6), (Dopri8(**TIGHT), 1e-6), (Bosh3(rtol=1e-8, atol=1e-9), 1e-5),
    (Kvaerno3(rtol=1e-5, atol=1e-6), 1e-3), (Rodas5P(rtol=1e-6, atol=1e-7), 1e-4),
    (RK4(step_size=0.05), 1e-5), (Heun(step_size=0.02), 5e-3),
    (Midpoint(step_size=0.02), 5e-3), (Euler(step_size=0.01), 0.1),
]  # fmt: skip
QUERIES = torch.tensor([0.0, 1.7, 0.3, 2.0, 1.2345], dtype=torch.float64)


@pytest.mark.parametrize(("solver", "tol"), SOLVERS)
@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize("back", [False, True])
def test_every_method_between_its_steps(solver, tol, batch_dims, back):
    sign = -1.0 if back else 1.0
    start = torch.stack([START, 2 * START]) if batch_dims else START

    def f(t, y):
        return sign * linear(t, y)

    y = odeint_dense(f, start, [0.0, sign * 2.0], solver=solver, batch_dims=batch_dims)
    values = exact(QUERIES)
    expected = torch.stack([values, 2 * values], dim=1) if batch_dims else values
    torch.testing.assert_close(y(sign * QUERIES), expected, rtol=tol, atol=tol)
    of_time = sign * linear(None, expected)
    torch.testing.assert_close(y.derivative(sign * QUERIES), of_time, rtol=100 * tol, atol=100 * tol)


def test_evaluating_calls_nothing_and_takes_times_of_any_shape():
    calls = []

    def f(t, y):
        calls.append(1)
        return linear(t, y)

    y, solution = odeint_dense(f, START, [0.0, 2.0], solver=Dopri8(), return_solution=True)
    assert solution.nfe == len(calls)
    assert y(0.5).shape == (2,)
    assert y(torch.rand(3, 4)).shape == (3, 4, 2)
    assert y(torch.empty(0)).shape == (0, 2)
    assert y.times.shape == (int(solution.steps),)
    torch.testing.assert_close(y(1), exact([1.0])[0], rtol=1e-5, atol=1e-5)
    assert solution.nfe == len(calls)


def test_it_is_what_odeint_gives_at_these_times():
    t = torch.tensor([0.0, 0.31, 0.77, 2.0], dtype=torch.float64)
    for solver in (Tsit5(), Dopri8(), Kvaerno3()):
        y = odeint_dense(linear, START, t, solver=solver)
        torch.testing.assert_close(y(t), odeint(linear, START, t, solver=solver), rtol=1e-13, atol=1e-13)


def test_pytrees_and_times_of_each_sample():
    start = {"a": torch.tensor([[1.0], [2.0]]).double(), "b": (torch.tensor([3.0, -1.0]).double(),)}

    def f(t, y):
        return {"a": -y["a"] * t.reshape(-1, 1), "b": (torch.cos(t) * y["b"][0],)}

    y = odeint_dense(f, start, [0.0, 3.0], batch_dims=1, solver=Tsit5(**TIGHT))
    t = torch.tensor([[0.5, 2.5], [1.0, 3.0], [0.0, 0.1]], dtype=torch.float64)
    found = y(t, each=True)
    torch.testing.assert_close(found["a"].squeeze(2), torch.tensor([1.0, 2.0]) * torch.exp(-(t**2) / 2))
    torch.testing.assert_close(found["b"][0], torch.tensor([3.0, -1.0]) * torch.exp(torch.sin(t)))
    shared = y(t)
    assert shared["a"].shape == (3, 2, 2, 1)
    torch.testing.assert_close(shared["b"][0][..., 1], -torch.exp(torch.sin(t)))
    with pytest.raises(ValueError, match="each=True"):
        y(torch.zeros(3), each=True)
    with pytest.raises(ValueError, match="each=True"):
        odeint_dense(linear, START, [0.0, 1.0])(torch.zeros(2), each=True)


def test_outside_of_the_span():
    y = odeint_dense(linear, START, [1.0, 2.0])
    for t in (0.999, 2.001, torch.tensor([1.5, 3.0]), math.nan):
        with pytest.raises(ValueError, match="from 1 to 2"):
            y(t)
    y(torch.tensor(2.0).nextafter(torch.tensor(3.0)))  # rounding is no error


@pytest.mark.parametrize("solver", [Tsit5(**TIGHT), RK4(step_size=0.4)])
@pytest.mark.parametrize("adjoint", [Discrete(checkpoints=3), Direct()])
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_gradients_of_everything(solver, adjoint, batch_dims):
    """In the start, an argument, a captured tensor, parameters, both ends of the span, and the query times."""
    field, start = net(size=2), randn(3, 2, seed=1)

    def f(t, y, matrix):
        return field(y) + y @ matrix * torch.cos(t).reshape(-1, 1) * captured

    def loss(start, matrix, captured_, end, queries, *parameters):
        nonlocal captured
        captured = captured_
        t = torch.stack([torch.zeros_like(end), end])
        y = odeint_dense(f, start, t, matrix, solver=solver, adjoint=adjoint, batch_dims=batch_dims)
        return y(queries).square().sum() + y.derivative(queries[0]).sum()

    captured = None
    leaves = [start, randn(2, 2, seed=2), torch.tensor(0.7).double(), torch.tensor(1.5).double()]
    leaves = [x.requires_grad_() for x in (*leaves, torch.tensor([0.2, 1.1, 0.9]).double())]
    found = torch.autograd.grad(loss(*leaves), [*leaves, *field.parameters()])
    h = 1e-5
    for i, x in enumerate([*leaves, *field.parameters()]):
        direction = randn(*x.shape, 1, seed=10 + i).squeeze(-1)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                x += sign * h * direction
                ends.append(loss(*leaves))
                x -= sign * h * direction
        slope = (found[i] * direction).sum()
        torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * h), rtol=2e-6, atol=2e-6)


def test_one_backward_pass_for_many_queries():
    calls = []

    def f(t, y, a):
        calls.append(1)
        return a * linear(t, y)

    a = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y = odeint_dense(f, START, [0.0, 2.0], a)
    begun = len(calls)
    sum(y(t).sum() for t in torch.linspace(0, 2, 50)).backward()
    many, begun, once = len(calls) - begun, len(calls), a.grad.clone()
    a.grad = None
    odeint_dense(f, START, [0.0, 2.0], a)(torch.linspace(0, 2, 50)).sum().backward()
    torch.testing.assert_close(a.grad, once)
    assert many <= len(calls) - begun


@pytest.mark.parametrize("solver", [Kvaerno3(rtol=1e-2, atol=1e-3, stage_tol=1e-9), Rodas5P(rtol=1e-2, atol=1e-3)])
def test_the_gradient_through_an_implicit_method(solver):
    """Same steps, on the tape and backwards."""
    leaves = [START.clone().requires_grad_(), randn(2, 2, seed=5).requires_grad_()]
    found = []
    for adjoint in (Discrete(), Direct()):
        y = odeint_dense(
            lambda t, y, m: torch.tanh(y @ m), leaves[0], [0.0, 1.0], leaves[1], adjoint=adjoint, solver=solver
        )
        found.append(torch.autograd.grad(y(QUERIES / 2).square().sum() + y.derivative(0.3).sum(), leaves))
    torch.testing.assert_close(found[0], found[1])


def test_higher_orders():
    a, end = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.8, 1.3))

    def run(a, end, query):
        t = torch.stack([torch.zeros_like(end), end])
        y = odeint_dense(lambda t, y: torch.sin(a * y) + t, torch.ones(2).double(), t, solver=RK4(step_size=0.5))
        return y(query) * y.derivative(query)

    query = torch.tensor([0.4, 0.8], dtype=torch.float64, requires_grad=True)
    assert gradcheck(run, (a, end, query))
    assert gradgradcheck(run, (a, end, query))


@pytest.mark.parametrize("solver", [Tsit5(rtol=1e-8, atol=1e-8), RK4(step_size=0.25)])
def test_transforms(solver):
    queries = torch.tensor([0.2, 0.0, 1.0], dtype=torch.float64)

    def run(weight, queries=queries, y0=START):
        y = odeint_dense(lambda t, y: torch.tanh(y @ weight) * (1 + t), y0, [0.0, 1.0], solver=solver)
        return y(queries).square().sum() + y.derivative(queries[0]).sum()

    weight = randn(2, 2, seed=3).requires_grad_()
    (expected,) = torch.autograd.grad(run(weight), weight)
    weight = weight.detach()
    torch.testing.assert_close(grad(run)(weight), expected)
    torch.testing.assert_close(jacfwd(run)(weight), expected)
    direction = randn(2, 2, seed=4)
    torch.testing.assert_close(jvp(run, (weight,), (direction,))[1], (expected * direction).sum())
    torch.testing.assert_close(hessian(run)(weight), jacrev(jacrev(run))(weight))
    weights = torch.stack([weight, 2 * weight])
    # Under vmap the steps are shared by all, so that results agree within the tolerance alone.
    loop = torch.stack([run(w) for w in weights])
    torch.testing.assert_close(vmap(run)(weights), loop, rtol=1e-5, atol=1e-5)
    many = torch.stack([queries, queries.flip(0)])
    torch.testing.assert_close(vmap(run, (None, 0))(weight, many), torch.stack([run(weight, q) for q in many]))
    y = odeint_dense(linear, START, [0.0, 2.0])
    torch.testing.assert_close(vmap(y)(queries), y(queries))
    torch.testing.assert_close(jacrev(y)(queries[2]), y.derivative(queries[2]))
    torch.testing.assert_close(jacfwd(y)(queries[0]), y.derivative(queries[0]))


def test_what_was_not_reached_is_nan():
    def blow_up(t, y):
        return y**2

    start = torch.tensor([[1.0], [0.1]], dtype=torch.float64)
    y, solution = odeint_dense(
        blow_up, start, [0.0, 2.0], batch_dims=1, return_solution=True, on_failure="ignore", solver=Tsit5(max_steps=300)
    )
    assert solution.status[0] != 0
    assert solution.status[1] == 0
    found = y(torch.tensor([0.5, 1.5])).squeeze(2)
    torch.testing.assert_close(found[0], (1 / (1 / start - 0.5)).squeeze(1), rtol=1e-4, atol=1e-4)
    assert found[1, 0].isnan()
    torch.testing.assert_close(found[1, 1], 1 / (10 - torch.tensor(1.5).double()), rtol=1e-4, atol=1e-4)
    bad = odeint_dense(lambda t, y: y * torch.nan, START, [0.0, 1.0], on_failure="ignore")
    assert bad(0.5).isnan().all()


@pytest.mark.parametrize("solver", [Tsit5(), RK4(step_size=0.1)])
def test_no_samples(solver):
    y = odeint_dense(linear, torch.zeros(0, 2).double(), [0.0, 1.0], batch_dims=1, solver=solver)
    assert y(0.5).shape == (0, 2)
    assert y.derivative(torch.rand(4)).shape == (4, 0, 2)


def test_under_inference_mode_and_in_float32():
    with torch.inference_mode():
        y = odeint_dense(linear, START.float(), [0.0, 2.0], torch.tensor([[0.0, 1.0], [-4.0, -0.3]]))
        found = y(QUERIES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact(QUERIES).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"t": [0.0]}, ValueError, "two times"),
        ({"adjoint": Backsolve()}, ValueError, "Discrete"),
        ({"solver": TorchDiffEq()}, ValueError, "Tsit5"),
        ({"solver": Tsit5}, TypeError, "ODESolver"),
        ({"batch_dims": 2}, ValueError, "batch_dims"),
        ({"compact": True}, ValueError, "batch_dims=1"),
        ({"on_failure": "explode"}, ValueError, "ignore, warn, raise"),
    ],
)
def test_wrong_input(options, error, message):
    with pytest.raises(error, match=message):
        odeint_dense(linear, START, options.pop("t", [0.0, 1.0]), **options)


def test_a_number_at_one_time():
    """A state without axes at a time without axes."""
    y = odeint_dense(lambda t, y: -y, torch.tensor(2.0, dtype=torch.float64), [0.0, 2.0], solver=Tsit5(**TIGHT))
    for value, sign in ((y(1.0), 1), (y.derivative(1.0), -1)):
        assert value.shape == ()
        assert math.isclose(value, sign * 2 * math.exp(-1), rel_tol=1e-6)
