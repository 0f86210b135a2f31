"""Minimisers on sets and with penalties, against closed forms, other libraries and enumeration."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso

from deqzoo.implicit import (
    CONSTRAINED_MINIMIZERS,
    L1,
    Box,
    ElasticNet,
    GroupLasso,
    L1Ball,
    L2Ball,
    LInfBall,
    MirrorDescent,
    NonNegative,
    NuclearNorm,
    ProjectedNewton,
    ProximalGradient,
    SecondOrderCone,
    SemidefiniteCone,
    Simplex,
    Status,
    TotalVariation,
)
from tests.implicit.problems import draw


def quadratic(n, condition=10.0, seed=0):
    """A positive definite H, with eigenvalues from 1 to `condition`, and q."""
    Q = torch.linalg.qr(draw(n, n, seed=seed)).Q
    H = Q @ torch.diag(torch.logspace(0, np.log10(condition), n, dtype=torch.float64)) @ Q.T
    return H, condition**0.5 * draw(n, seed=seed + 1)


def objective(H, q):
    return lambda y: y @ H @ y / 2 - q @ y


def box_by_enumeration(H, q, lower, upper):
    """The minimiser by trying which entries are at which bound."""
    n = len(q)
    for sides in itertools.product((-1, 0, 1), repeat=n):
        sides = torch.tensor(sides)
        y = lower * (sides < 0).double() + upper * (sides > 0).double()
        free = sides == 0
        y[free] = torch.linalg.solve(H[free][:, free], q[free] - H[free][:, ~free] @ y[~free])
        slope = H @ y - q
        fits = (y >= lower - 1e-12) & (y <= upper + 1e-12)
        if (fits & (free | (slope * sides <= 0))).all():
            return y
    raise AssertionError("a strictly convex problem has a solution")


def simplex_by_enumeration(H, q):
    """The minimiser by trying all supports."""
    n, one = len(q), torch.ones(1, 1, dtype=torch.float64)
    for size in range(1, n + 1):
        for support in map(list, itertools.combinations(range(n), size)):
            ones = torch.ones(size, 1, dtype=torch.float64)
            K = torch.cat([torch.cat([H[support][:, support], ones], 1), torch.cat([ones.T, 0 * one], 1)])
            *y, level = torch.linalg.solve(K, torch.cat([q[support], one[0]])).tolist()
            full = torch.zeros(n, dtype=torch.float64)
            full[support] = torch.tensor(y, dtype=torch.float64)
            if (full >= 0).all() and (H @ full - q + level >= -1e-12).all():
                return full
    raise AssertionError("a strictly convex problem has a solution")


@pytest.mark.parametrize("solver", [ProximalGradient(), ProjectedNewton()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("seed", range(4))
def test_box_by_enumeration(solver, seed):
    H, q = quadratic(4, seed=seed)
    solution = solver(objective(H, q), torch.zeros(4).double(), constraint=Box(-0.3, 0.2))
    assert solution.converged
    assert (solution.value >= -0.3).all()
    assert (solution.value <= 0.2).all()
    torch.testing.assert_close(solution.value, box_by_enumeration(H, q, -0.3, 0.2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", [ProximalGradient(), MirrorDescent()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("seed", range(4))
def test_simplex_by_enumeration(solver, seed):
    H, q = quadratic(4, seed=seed)
    solution = solver(objective(H, q), torch.zeros(4).double(), constraint=Simplex())
    assert solution.converged
    assert (solution.value >= 0).all()
    torch.testing.assert_close(solution.value.sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-15)
    torch.testing.assert_close(solution.value, simplex_by_enumeration(H, q), rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", [ProximalGradient(), MirrorDescent()], ids=lambda s: type(s).__name__)
def test_entropy_gives_softmax(solver):
    c = draw(6)
    start = torch.full((6,), 1 / 6).double()
    solution = solver(lambda y: (c * y + y * y.log()).sum(), start, constraint=Simplex())
    assert solution.converged
    torch.testing.assert_close(solution.value, torch.softmax(-c, 0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["proximal_gradient", "mirror_descent"])
def test_linear_objective_ends_in_a_vertex(name):
    solution = CONSTRAINED_MINIMIZERS[name]()(lambda y: y @ draw(5), torch.ones(5).double(), constraint=Simplex(2.0))
    assert solution.converged
    torch.testing.assert_close(solution.value, 2.0 * torch.nn.functional.one_hot(draw(5).argmin(), 5).double())


def test_lasso_of_an_orthogonal_design():
    """The soft threshold of the regression without penalty."""
    X = torch.linalg.qr(draw(8, 5)).Q
    b = 2 * draw(8, seed=1)
    solution = ProximalGradient()(lambda w: (X @ w - b).square().sum() / 2, torch.zeros(5).double(), penalty=L1(0.7))
    plain = X.T @ b
    torch.testing.assert_close(solution.value, plain.sign() * (plain.abs() - 0.7).clamp(min=0), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("rows", "columns", "strength"), [(50, 20, 0.1), (20, 60, 0.05)])
def test_lasso_by_coordinate_descent(rows, columns, strength):
    X, b = draw(rows, columns), 3 * draw(rows, seed=1)
    known = Lasso(alpha=strength, fit_intercept=False, tol=1e-13, max_iter=1_000_000).fit(X.numpy(), b.numpy()).coef_
    solution = ProximalGradient()(
        lambda w: (X @ w - b).square().sum() / (2 * rows), torch.zeros(columns).double(), penalty=L1(strength)
    )
    assert solution.converged
    np.testing.assert_allclose(solution.value, known, rtol=0, atol=1e-8)  # of coordinate descent


EVERY = {
    "box": ({"constraint": Box(-0.3, draw(4).abs())}, (4,)),
    "l1 ball": ({"constraint": L1Ball(0.8)}, (4,)),
    "l2 ball": ({"constraint": L2Ball(0.8)}, (4,)),
    "linf ball": ({"constraint": LInfBall(0.3)}, (4,)),
    "second-order cone": ({"constraint": SecondOrderCone()}, (4,)),
    "semidefinite cone": ({"constraint": SemidefiniteCone()}, (3, 3)),
    "l1": ({"penalty": L1(0.5)}, (4,)),
    "elastic net": ({"penalty": ElasticNet(0.5, 0.3)}, (4,)),
    "group lasso": ({"penalty": GroupLasso(torch.tensor([0, 1, 1, 0]), 0.5)}, (4,)),
    "nuclear norm": ({"penalty": NuclearNorm(0.5)}, (3, 3)),
    "total variation": ({"penalty": TotalVariation(0.5)}, (4,)),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_set_and_penalty_in_a_batch(name, dtype):
    """Each sample as it is alone; no point nearby, pulled into the set, is better."""
    options, shape = EVERY[name]
    options = {k: type(v)(**{n: t.to(dtype) if torch.is_tensor(t) and t.is_floating_point() else t
                             for n, t in vars(v).items()}) for k, v in options.items()}  # fmt: skip
    targets, weights = 2 * draw(3, *shape).to(dtype), 1 + draw(3, *shape, seed=1).abs().to(dtype)

    def f(y, targets, weights):
        return (weights * (y - targets).square()).flatten(1).sum(1) + y.flatten(1).sum(1).cos()

    solver = ProximalGradient()
    start = torch.zeros(3, *shape, dtype=dtype)
    solution = solver(f, start, targets, weights, batch_dims=1, **options)
    assert solution.converged.all()
    assert solution.value.dtype == dtype
    for i in range(3):
        alone = solver(f, start[i : i + 1], targets[i : i + 1], weights[i : i + 1], batch_dims=1, **options)
        torch.testing.assert_close(solution.value[i : i + 1], alone.value)

    def total(y):
        value = f(y, targets, weights)
        return value + options["penalty"].value(y, 1) if "penalty" in options else value

    least = total(solution.value)
    for seed in range(20):
        near = solution.value + 1e-2 * draw(3, *shape, seed=seed).to(dtype)
        near = options["constraint"].project(near) if "constraint" in options else near
        assert (total(near) >= least - 10 * torch.finfo(dtype).eps * least.abs()).all()


@settings(max_examples=30)
@example(n=5, seed=255, condition=1e4)  # no better residual for more than 200 steps, and then one
@given(n=st.integers(1, 6), seed=st.integers(0, 1000), condition=st.sampled_from([1.0, 100.0, 1e4]))
def test_box_problems_are_solved_by_both(n, seed, condition):
    H, q = quadratic(n, condition, seed)
    slow, fast = (
        solver(objective(H, q), torch.zeros(n).double(), constraint=Box(-1.0, 1.0))
        for solver in (ProximalGradient(), ProjectedNewton())
    )
    assert slow.converged
    assert fast.converged
    torch.testing.assert_close(slow.value, fast.value, rtol=0, atol=1e-10 * condition)  # its error bound


def test_nonconvex_objectives_find_a_stationary_point():
    def rosenbrock(y):
        return (1 - y[0]) ** 2 + 100 * (y[1] - y[0] ** 2) ** 2

    for solver in (ProximalGradient(), ProjectedNewton()):
        solution = solver(rosenbrock, torch.tensor([-1.2, 1.0]).double(), constraint=Box(upper=0.8))
        assert solution.converged
        known = torch.tensor([0.8, 0.64], dtype=torch.float64)
        torch.testing.assert_close(solution.value, known, rtol=0, atol=1e-10)


def test_tree_of_sets():
    start = {"w": torch.zeros(2, 3).double(), "b": torch.zeros(2).double()}
    target = {"w": 2 * draw(2, 3), "b": torch.tensor([3.0, -3.0]).double()}

    def f(y):
        return (y["w"] - target["w"]).square().sum(1) + (y["b"] - target["b"]).square()

    solution = ProximalGradient()(f, start, batch_dims=1, constraint={"w": Simplex(), "b": None})
    torch.testing.assert_close(solution.value["w"], Simplex().project(target["w"]))
    torch.testing.assert_close(solution.value["b"], target["b"])


def test_warm_start_takes_few_steps():
    H, q = quadratic(10, 1e3)
    for solver in (ProximalGradient(), ProjectedNewton()):
        first = solver(objective(H, q), torch.zeros(10).double(), constraint=Box(-1.0, 1.0))
        again = solver(objective(H, q), first.value, constraint=Box(-1.0, 1.0))
        assert again.converged
        assert again.steps <= max(first.steps // 5, 3)
        assert objective(H, q)(again.value) <= objective(H, q)(first.value) + 1e-12  # round-off of f


def test_start_at_the_minimum_without_penalty():
    """There the gradient is zero, and the penalty alone moves the point."""
    c = draw(4)
    solution = ProximalGradient()(lambda y: (y - c).square().sum() / 2, c.clone(), penalty=L1(0.3))
    assert solution.converged
    torch.testing.assert_close(solution.value, c.sign() * (c.abs() - 0.3).clamp(min=0))


@pytest.mark.parametrize("solver", [ProximalGradient(), ProjectedNewton()], ids=lambda s: type(s).__name__)
def test_unbounded_below_is_reported(solver):
    solution = solver(lambda y: -y.sum(), torch.ones(3).double(), constraint=NonNegative())
    assert solution.status == Status.DIVERGED


def test_one_bad_sample_changes_no_other():
    c = draw(4, 3)
    c[1, 0] = torch.nan

    def f(y, c):
        return (y - c).square().sum(1)

    solution = ProximalGradient()(f, torch.zeros(4, 3).double(), c, batch_dims=1, constraint=Simplex())
    assert solution.status.tolist() == [0, Status.DIVERGED, 0, 0]
    good = [0, 2, 3]
    torch.testing.assert_close(solution.value[good], Simplex().project(c[good]))


def test_too_few_steps_are_reported_and_feasible():
    H, q = quadratic(10, 1e4)
    f = objective(H, q)
    for solver in (ProximalGradient(max_steps=4), ProjectedNewton(max_steps=2)):
        solution = solver(f, torch.full((10,), 5.0).double(), constraint=Box(-1.0, 1.0))
        assert solution.status == Status.MAX_STEPS
        assert solution.value.abs().max() <= 1
        assert f(solution.value) <= f(torch.ones(10).double())


def test_converged_means_that_the_returned_point_meets_the_rule():
    H, q = quadratic(8, 100)
    for tol in (1e-2, 1e-5, 1e-9):
        solution = ProximalGradient(tol=tol)(objective(H, q), torch.zeros(8).double(), constraint=Box(-1.0, 1.0))
        y = solution.value
        step = y - (y - (H @ y - q) / 100).clamp(-1, 1)  # s = 1/L at least, up to the fall of its estimate
        assert solution.converged
        assert step.norm() <= 2 * tol * y.norm()


def test_vmap():
    H, q = quadratic(4)
    f = lambda q: ProximalGradient()(objective(H, q), torch.zeros(4).double(), constraint=Box(-0.3, 0.2)).value  # noqa: E731
    torch.testing.assert_close(torch.func.vmap(f)(torch.stack([q, -q])), torch.stack([f(q), f(-q)]))


def test_what_a_solver_cannot_take_is_an_error():
    f, y = (lambda y: y.square().sum()), torch.ones(3)
    with pytest.raises(TypeError, match=r"needs constraint=Simplex\(\.\.\.\); ProximalGradient\(\) takes any"):
        MirrorDescent()(f, y, constraint=NonNegative())
    with pytest.raises(TypeError, match="needs bounds: constraint=Box"):
        ProjectedNewton()(f, y, constraint=Simplex())
    with pytest.raises(TypeError, match="a constraint or a penalty"):
        ProximalGradient()(f, y, constraint=Simplex(), penalty=L1())
    with pytest.raises(TypeError, match=r"expected a set such as Simplex\(\)"):
        ProximalGradient()(f, y, constraint="simplex")
    with pytest.raises(ValueError, match="a pytree of them like y"):
        ProximalGradient()(lambda y: y["a"].sum(), {"a": y}, constraint=(Simplex(),))
    with pytest.raises(ValueError, match="Simplex needs 1 axes of its own after the 1 of the batch"):
        ProximalGradient()(lambda y: y.square(), y, batch_dims=1, constraint=Simplex())
