"""Adaptation to tasks: meta-gradients against closed forms and dense solves, memory, chunks, transforms, failures."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from deqzoo.implicit import CG, LBFGS, MINRES, Damped, Dense, GradientDescent, NewtonCG, NonConvergenceWarning, Status
from deqzoo.models import MetaLearner
from deqzoo.nn import IMAML, MAML, FirstOrderMAML
from tests.implicit.solvers.helpers import F64, PeakBytes, assert_close, randn, symmetric_matrix

EXACT = {
    "gradient descent": GradientDescent(tol=1e-11, max_steps=5000),
    "lbfgs": LBFGS(tol=1e-11),
    "hessian-free": NewtonCG(tol=1e-11),
}
METHODS = {
    "maml": MAML(steps=3, lr=0.1),
    "checkpointed": MAML(steps=3, lr=0.1, checkpoint=True),
    "first order": FirstOrderMAML(steps=3, lr=0.1),
    "imaml": IMAML(strength=0.5, solver=NewtonCG(tol=1e-12), linear_solver=CG(tol=1e-12)),
}


def network(width=6):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, 1)).double()


def sines(tasks, points, seed=0):
    """Inputs and targets (tasks, points, 1) of sinusoids."""
    x, phase = 3 * randn(tasks, points, 1, seed=seed), randn(tasks, 1, 1, seed=seed + 1)
    return x, torch.sin(x + phase)


def learner(method, chunk=None, width=6):
    return MetaLearner(network(width), method, nn.functional.mse_loss, chunk=chunk)


def meta_gradient(model, tasks=3, queries=4):
    x, y = sines(tasks, 5)
    query, target = sines(tasks, queries, seed=7)
    loss = (model(x, y, query) - target).square().mean()
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])


# --- known answers ---


@pytest.mark.parametrize("solver", EXACT.values(), ids=EXACT.keys())
@pytest.mark.parametrize("linear_solver", [CG(tol=1e-12), MINRES(tol=1e-12), Dense()], ids=lambda s: type(s).__name__)
def test_quadratic_tasks_have_the_closed_form(solver, linear_solver):
    """L = phi^T D phi / 2 - b^T phi: dphi/dtheta = strength (D + strength I)^-1."""
    strength, n = 0.7, 5
    D = torch.stack([symmetric_matrix(torch.linspace(0.1, top, n, dtype=F64), top) for top in (1, 4, 9)])
    b, start, g = randn(3, n, seed=1), randn(n, seed=2).requires_grad_(), randn(3, n, seed=3)
    method = IMAML(strength, solver, linear_solver, on_failure="raise")
    adapted, solution = method(lambda p, D, b: p @ D @ p / 2 - b @ p, start, D, b)
    damped = D + strength * torch.eye(n, dtype=F64)
    assert_close(adapted, torch.linalg.solve(damped, b + strength * start), 1e-9)
    (found,) = torch.autograd.grad((g * adapted).sum(), start)
    assert_close(found, strength * torch.linalg.solve(damped, g).sum(0), 1e-8)
    assert (solution.residual <= 1e-11).all()


def test_unrolled_steps_on_quadratic_tasks():
    """dphi/dtheta = (I - lr D)^steps, and the identity for the first-order method."""
    D, start, g = symmetric_matrix(torch.linspace(0.1, 2, 4, dtype=F64)), randn(4, seed=2), randn(1, 4, seed=3)
    start.requires_grad_()
    for method in (MAML(steps=6, lr=0.3), MAML(steps=6, lr=0.3, checkpoint=True)):
        adapted, _ = method(lambda p, D: p @ D @ p / 2, start, D[None])
        power = torch.linalg.matrix_power(torch.eye(4, dtype=F64) - 0.3 * D, 6)
        assert_close(adapted[0], power @ start, 1e-13)
        assert_close(torch.autograd.grad((g * adapted).sum(), start)[0], (power @ g[0]), 1e-13)
    adapted, _ = FirstOrderMAML(steps=6, lr=0.3)(lambda p, D: p @ D @ p / 2, start, D[None])
    assert_close(adapted[0], power @ start, 1e-13)
    assert_close(torch.autograd.grad((g * adapted).sum(), start)[0], g[0], 1e-13)


def test_meta_gradient_of_a_network_is_that_of_a_dense_solve():
    strength = 0.5
    model = learner(IMAML(strength, LBFGS(tol=1e-12), CG(tol=1e-13)))
    x, y = sines(1, 5)
    query, target = sines(1, 4, seed=7)
    found = meta_gradient(model, tasks=1)
    adapted = model.adapt(x[0], y[0])
    names = [name for name, _ in adapted.named_parameters()]
    vector = nn.utils.parameters_to_vector(adapted.parameters()).detach().requires_grad_()

    def loss(vector, inputs, targets):
        parts = vector.split([p.numel() for p in adapted.parameters()])
        shaped = {n: v.reshape(p.shape) for n, v, p in zip(names, parts, adapted.parameters(), strict=True)}
        return nn.functional.mse_loss(functional_call(adapted, shaped, (inputs,)), targets)

    hessian = torch.func.hessian(loss)(vector, x[0], y[0]).detach()
    outer = torch.func.grad(loss)(vector, query[0], target[0]).detach()
    damped = hessian + strength * torch.eye(len(vector), dtype=F64)
    assert torch.linalg.eigvalsh(damped)[0] > 0
    assert_close(found, strength * torch.linalg.solve(damped, outer), 1e-8)


@pytest.mark.parametrize("name", ["maml", "checkpointed", "imaml"])
def test_meta_gradient_against_finite_differences(name):
    model = learner(METHODS[name])
    found = meta_gradient(model)
    x, y = sines(3, 5)
    query, target = sines(3, 4, seed=7)
    direction, step = randn(len(found), seed=5), 1e-4
    values = []
    for sign in (1, -1):
        moved = copy.deepcopy(model)
        vector = nn.utils.parameters_to_vector(model.parameters()) + sign * step * direction
        nn.utils.vector_to_parameters(vector.detach(), moved.parameters())
        values.append((moved(x, y, query) - target).square().mean().item())
    assert found @ direction == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_checkpointing_changes_nothing_but_memory():
    assert_close(meta_gradient(learner(METHODS["checkpointed"])), meta_gradient(learner(METHODS["maml"])), 1e-14)


# --- memory ---


def peak_bytes(method):
    model = learner(method, width=8)
    with PeakBytes() as peak:
        meta_gradient(model)
    return peak.peak


def test_memory_of_imaml_does_not_grow_with_the_inner_steps():
    """Plain descent, so that the solver's own memory is the same; all steps are taken. MAML's grows beside it."""

    def implicit(steps):
        solver = GradientDescent(tol=0.0, max_steps=steps, stop="abs", patience=steps + 1)
        return IMAML(0.5, solver, CG(max_steps=5), on_failure="ignore")

    peak_bytes(implicit(2))  # what is made once
    assert peak_bytes(implicit(8)) == peak_bytes(implicit(64))
    few, many = (peak_bytes(MAML(steps, lr=0.01)) for steps in (4, 16))
    assert many > 3 * few
    spared = [peak_bytes(MAML(steps, lr=0.01, checkpoint=True)) for steps in (4, 16)]
    assert spared[1] < many / 3


# --- chunks, transforms, modes ---


@settings(max_examples=8)
@given(name=st.sampled_from(sorted(METHODS)), chunk=st.integers(1, 6), tasks=st.integers(1, 5))
def test_chunks_do_not_change_the_gradient(name, chunk, tasks):
    whole, cut = learner(METHODS[name]), learner(METHODS[name], chunk)
    assert_close(meta_gradient(cut, tasks), meta_gradient(whole, tasks), 1e-7)
    assert len(cut.solutions) == (-(-tasks // chunk) if name == "imaml" else 0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("chunk", [None, 1])
def test_predictions_are_the_same_in_every_grad_mode(name, chunk):
    model = learner(METHODS[name], chunk)
    x, y = sines(2, 5)
    expected = model(x, y, x).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_close(model(x, y, x), expected, 1e-9)
    model.requires_grad_(False)
    assert_close(model(x, y, x), expected, 1e-9)


def test_adapted_network_is_an_ordinary_one():
    model = learner(METHODS["imaml"])
    x, y = sines(2, 5)
    before = copy.deepcopy(model.state_dict())
    adapted = model.adapt(x[1], y[1])
    assert isinstance(adapted, nn.Sequential)
    assert_close(adapted(x[1]), model(x, y, x)[1], 1e-9)
    assert nn.functional.mse_loss(adapted(x[1]), y[1]) < nn.functional.mse_loss(model.network(x[1]), y[1])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    copy.deepcopy(model)  # no graph hangs on it


# --- reports and errors ---


def test_inner_solve_reports_its_stationarity_relative_to_the_first_gradient():
    model = learner(IMAML(0.5, LBFGS(tol=1e-12, max_steps=4), on_failure="ignore"))
    x, y = sines(2, 5)
    model(x, y, x)
    (solution,) = model.solutions
    assert solution.status.tolist() == [Status.MAX_STEPS] * 2

    def slope(parameters, task):
        loss = nn.functional.mse_loss(functional_call(model.network, parameters, (x[task],)), y[task])
        gaps = [
            (p - start.detach()).square().sum()
            for p, start in zip(parameters.values(), model.parameters(), strict=True)
        ]
        return torch.cat(
            [g.reshape(-1) for g in torch.autograd.grad(loss + 0.25 * sum(gaps), list(parameters.values()))]
        )

    for task in range(2):
        at_end = {name: value[task].detach().requires_grad_() for name, value in solution.value.items()}
        at_start = {name: value.detach().requires_grad_() for name, value in model.start.items()}
        expected = slope(at_end, task).norm() / slope(at_start, task).norm()
        assert solution.residual[task].item() == pytest.approx(expected.item(), rel=1e-6)


def test_bad_curvature_is_reported_and_damping_mends_it():
    """A maximum of the task's loss, held by no proximal term that is strong enough."""
    start, tasks = torch.zeros(3, dtype=F64, requires_grad=True), torch.ones(1, 3, dtype=F64)

    def gradient_with(linear_solver):
        stay = GradientDescent(max_steps=0)
        adapted, solution = IMAML(0.5, stay, linear_solver, on_failure="ignore")(
            lambda p, a: -(a * p**2).sum() / 2 + p[0], start, tasks
        )
        (found,) = torch.autograd.grad(adapted.sum(), start)
        return found, solution.backward.status.item()

    assert gradient_with(CG())[1] == Status.BAD_CURVATURE
    found, status = gradient_with(Damped(CG(), damping=1.0))
    assert status == Status.CONVERGED
    assert_close(found, 0.5 / (1.0 - 0.5) * torch.ones(3), 1e-10)
    assert_close(gradient_with(MINRES())[0], -torch.ones(3), 1e-10)


def test_an_inner_problem_that_is_not_solved_warns():
    with pytest.warns(NonConvergenceWarning, match="argmin"):
        learner(IMAML(0.5, LBFGS(tol=1e-12, max_steps=2)))(*sines(2, 5), sines(2, 5)[0])


def test_bad_options_are_errors():
    for wrong in ({"steps": 0}, {"lr": 0.0}):
        with pytest.raises(ValueError, match="steps must be at least 1 and lr positive"):
            MAML(**wrong)
        with pytest.raises(ValueError, match="steps must be at least 1 and lr positive"):
            FirstOrderMAML(**wrong)
    with pytest.raises(ValueError, match="strength must be positive"):
        IMAML(strength=0.0)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        learner(MAML(), chunk=0)


@pytest.mark.parametrize("method", [MAML(steps=1), FirstOrderMAML(steps=1), IMAML()])
def test_no_tasks_give_no_predictions_and_unequal_counts_an_error(method):
    learner = MetaLearner(nn.Linear(1, 2), method, nn.functional.mse_loss)
    x, y = torch.zeros(0, 5, 1), torch.zeros(0, 5, 2)
    assert learner(x, y, torch.zeros(0, 3, 1)).shape == (0, 3, 2)
    with pytest.raises(ValueError, match="of the same number of tasks, got 0, 0, 1"):
        learner(x, y, torch.zeros(1, 3, 1))


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(1)])
def test_a_network_that_differs_from_call_to_call_is_refused(layer):
    with pytest.raises(ValueError, match=r"0 is a .*no dropout and no running statistics"):
        MetaLearner(nn.Sequential(layer), MAML(), nn.functional.mse_loss)


def test_an_adapted_network_tells_how_near_its_inner_solve_came():
    learner = MetaLearner(
        nn.Linear(1, 1), IMAML(solver=LBFGS(max_steps=1), on_failure="ignore"), nn.functional.mse_loss
    )
    learner.adapt(torch.randn(5, 1), torch.randn(5, 1))
    assert len(learner.solutions) == 1
    assert learner.solutions[0].steps.item() <= 1
