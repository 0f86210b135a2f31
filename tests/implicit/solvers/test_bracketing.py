"""Bracketing root solvers against SciPy, on whole batches, with derivatives and failures."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, elementwise
from torch.autograd import gradcheck, gradgradcheck

from deqzoo.implicit import Bisection, Chandrupatla, NonConvergenceWarning, Status, fixed_point, root

F64 = torch.float64
SOLVERS = [Bisection, Chandrupatla]
FUNCTIONS = {
    "cubic": (lambda y: y**3 - 2 * y - 5, 0.0, 4.0),
    "cosine": (lambda y: torch.cos(y) - y, 0.0, 2.0),
    "flat": (lambda y: (y - 1) ** 5, -3.0, 4.0),
    "steep": (lambda y: torch.exp(30 * y) - 2, -5.0, 2.0),
    "step": (lambda y: torch.sign(y - 0.3) + 0.1 * y, -1.0, 1.0),
    "at zero": (lambda y: torch.sinh(y), -1.0, 3.0),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_root_is_that_of_brent(solver, name):
    f, low, high = FUNCTIONS[name]
    solution = solver(low=low, high=high)(f, torch.zeros((), dtype=F64), root=True)
    exact = brentq(lambda y: f(torch.tensor(y, dtype=F64)).item(), low, high, xtol=1e-14, maxiter=1000)
    assert solution.status == Status.CONVERGED
    # a root of fifth order is known to eps^(1/5)
    assert solution.value.item() == pytest.approx(exact, abs=2e-3 if name == "flat" else 1e-10)


def test_interpolation_takes_fewer_steps():
    f, low, high = FUNCTIONS["cubic"]
    slow, fast = (solver(low=low, high=high)(f, torch.zeros((), dtype=F64), root=True) for solver in SOLVERS)
    assert fast.steps < slow.steps / 3
    for solution in (slow, fast):
        assert solution.nfe == solution.steps + 2, "both ends, and one evaluation a step"


@pytest.mark.parametrize("name", ["cubic", "cosine", "flat", "steep", "at zero"])
def test_the_evaluations_are_those_of_scipy(name):
    """`find_root` is Chandrupatla's method too; its tolerances are other ones, and worth two evaluations at most."""
    f, low, high = FUNCTIONS[name]
    solution = Chandrupatla(low=low, high=high, tol=1e-14)(f, torch.zeros((), dtype=F64), root=True)
    tolerances = {"xatol": 1e-14, "xrtol": 1e-14, "fatol": 0.0, "frtol": 0.0}
    theirs = elementwise.find_root(lambda y: f(torch.from_numpy(y)).numpy(), (low, high), tolerances=tolerances)
    assert abs(solution.nfe - int(theirs.nfev)) <= 2


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=8),
    st.sampled_from(SOLVERS),
    st.sampled_from([torch.float32, F64]),
)
@settings(max_examples=40)
def test_a_batch_is_one_by_one(numbers, solver, dtype):
    a = torch.tensor(numbers, dtype=dtype)
    by = solver(low=0.0, high=11.0)
    y = root(lambda y, a: y**2 - a, torch.zeros_like(a), a, solver=by, batch_dims=1, on_failure="raise")
    torch.testing.assert_close(y, a.sqrt(), rtol=1e-10 if dtype == F64 else 2e-5, atol=0)
    alone = root(lambda y, a: y**2 - a, torch.zeros_like(a[0]), a[0], solver=by, on_failure="raise")
    assert torch.equal(y[0], alone)


@pytest.mark.parametrize("solver", SOLVERS)
def test_derivatives(solver):
    def solve(a):
        by = solver(low=torch.zeros(3, dtype=F64), high=torch.tensor([2.0, 3.0, 4.0], dtype=F64))
        return root(lambda y, a: y**3 - a, torch.zeros_like(a), a, solver=by, batch_dims=1, on_failure="raise")

    a = torch.tensor([0.5, 2.0, 5.0], dtype=F64, requires_grad=True)
    assert gradcheck(solve, a, check_forward_ad=True)
    assert gradgradcheck(solve, a)

    def one(a):
        return root(lambda y, a: y**3 - a, torch.zeros_like(a), a, solver=solver(high=4.0), on_failure="raise")

    torch.testing.assert_close(torch.func.vmap(one)(a), a ** (1 / 3), rtol=1e-10, atol=0)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(one))(a), a ** (-2 / 3) / 3, rtol=1e-8, atol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_failures_leave_the_others_alone(solver):
    a = torch.tensor([1.0, -1.0, math.nan, 4.0], dtype=F64)
    start = torch.zeros_like(a)
    with pytest.warns(NonConvergenceWarning, match="1 stalled, 1 diverged"):
        y, solution = root(lambda y, a: y**2 - a, start, a, solver=solver(high=3.0), batch_dims=1, return_solution=True)
    assert solution.status.tolist() == [0, Status.STALLED, Status.DIVERGED, 0]
    torch.testing.assert_close(y[[0, 3]], torch.tensor([1.0, 2.0], dtype=F64))
    assert y[2].isnan()
    short = solver(high=3.0, max_steps=1)(lambda y: y**2 - 2, torch.zeros((), dtype=F64), root=True)
    assert short.status == Status.MAX_STEPS


def test_an_end_where_f_is_not_finite():
    """log is -inf at 0: diverged, and not a bracket without a change of sign."""
    low = torch.tensor([0.0, 0.5], dtype=F64)
    y, solution = root(
        lambda y: y.log(), torch.ones(2, dtype=F64), solver=Chandrupatla(low=low, high=3.0), batch_dims=1,
        return_solution=True, on_failure="ignore",
    )  # fmt: skip
    assert solution.status.tolist() == [Status.DIVERGED, Status.CONVERGED]
    assert y[1].item() == pytest.approx(1, abs=1e-10)


def test_an_end_may_be_the_root():
    for low, high in ((0.0, 1.0), (1.0, 3.0)):
        y = root(lambda y: y - 1, torch.zeros((), dtype=F64), solver=Chandrupatla(low=low, high=high))
        assert y.item() == 1.0


def test_what_it_is_not_for():
    with pytest.raises(ValueError, match=r"one unknown per system: pass batch_dims=y0\.dim\(\)"):
        root(lambda y: y - 1, torch.zeros(2), solver=Bisection())
    with pytest.raises(ValueError, match="is for root"):
        fixed_point(lambda y: y / 2, torch.zeros(()), solver=Bisection())
