"""Operator splitting: known answers, the contract of all fixed-point solvers, and what it does beyond their range."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from deqzoo.implicit import (
    Anderson,
    ForwardBackward,
    MonotoneMap,
    NonConvergenceError,
    PeacemanRachford,
    Picard,
    Status,
    fixed_point,
    make_solver,
    root,
)
from tests.implicit.solvers.helpers import DTYPES, F64, Recorded, assert_close, randn, true_residual

N, MARGIN = 6, 0.5
SPLITTINGS = {
    "forward_backward": ForwardBackward(alpha=0.05, max_steps=3000),
    "peaceman_rachford": PeacemanRachford(alpha=0.3, max_steps=1000),
}
every_splitting = pytest.mark.parametrize("solver", SPLITTINGS.values(), ids=SPLITTINGS.keys())


class Map:
    """relu(W z + b) on rows, with dense W."""

    def __call__(self, z, b, W):
        return self.affine(z, b, W).relu()

    def affine(self, z, b, W):
        return z @ W.T + b

    def prox(self, v, alpha):
        return v.relu()

    def resolvent(self, alpha, b, W):
        eye = torch.eye(len(W), dtype=W.dtype)
        inverse = torch.linalg.inv(eye + alpha * (eye - W)).T
        return lambda v: (v + alpha * b) @ inverse


def weights(seed=0, size=1.0, dtype=F64, n=N):
    """W with I - W >= MARGIN I, whose norm grows with the size."""
    a, b = size * randn(n, n, seed=seed), size * randn(n, n, seed=seed + 100)
    return ((1 - MARGIN) * torch.eye(n, dtype=F64) - a.T @ a + b - b.T).to(dtype)


def by_newton(W, b):
    """The fixed points by semismooth Newton steps with dense W, one row per system."""
    eye, z = torch.eye(N, dtype=F64), torch.zeros_like(b)
    for _ in range(50):
        active = (z @ W.T + b > 0).to(F64)
        residual = z - (z @ W.T + b).relu()
        jacobian = eye - active.unsqueeze(2) * W
        z = z - torch.linalg.solve(jacobian, residual.unsqueeze(2)).squeeze(2)
    assert_close((z @ W.T + b).relu(), z, 1e-12)
    return z


@every_splitting
@pytest.mark.parametrize("seed", range(4))
def test_equals_semismooth_newton_from_random_starts(solver, seed):
    W, b = weights(seed, size=0.7), randn(5, N, seed=seed + 1)
    solution = solver(Map(), randn(5, N, seed=seed + 2), b, W, batch_dims=1)
    assert solution.converged.all()
    assert_close(solution.value, by_newton(W, b), 1e-8)


def test_solves_what_plain_iteration_cannot():
    W, b = weights(size=2.0), randn(3, N)
    assert (torch.linalg.eigvals(W).abs() > 10).any()
    f, z0 = Map(), torch.zeros(3, N, dtype=F64)
    assert not Picard()(f, z0, b, W, batch_dims=1).converged.any()
    solution = PeacemanRachford(alpha=0.1, max_steps=500)(f, z0, b, W, batch_dims=1)
    assert solution.converged.all()
    assert_close(solution.value, by_newton(W, b), 1e-8)


@pytest.mark.parametrize("alpha", [0.03, 0.3, 3.0, 30.0])
def test_peaceman_rachford_converges_for_every_step_length(alpha):
    W, b = weights(size=0.7), randn(3, N)
    solution = PeacemanRachford(alpha=alpha, max_steps=5000)(Map(), torch.zeros(3, N, dtype=F64), b, W, batch_dims=1)
    assert_close(solution.value, by_newton(W, b), 1e-8)


def test_forward_backward_converges_inside_its_range_and_says_so_outside():
    """I - W = m I + s J, J a rotation by a right angle, has L^2 = m^2 + s^2, and 2 m / L^2 is sharp."""
    m, s = MARGIN, 1.5
    W = torch.tensor([[1 - m, s], [-s, 1 - m]], dtype=F64)
    answer = torch.tensor([[1.0, 1.0], [2.0, 1.0], [1.0, 3.0]], dtype=F64)
    b, z0 = answer - answer @ W.T, 0.9 * answer
    limit = 2 * m / (m**2 + s**2)
    inside = ForwardBackward(alpha=0.7 * limit, max_steps=1000)(Map(), z0, b, W, batch_dims=1)
    assert inside.converged.all()
    assert_close(inside.value, answer, 1e-9)
    beyond = ForwardBackward(alpha=1.1 * limit, max_steps=1000)
    outside = beyond(Map(), z0, b, W, batch_dims=1)
    assert not outside.converged.any()
    assert set(outside.status.tolist()) <= {Status.DIVERGED, Status.STALLED, Status.MAX_STEPS}
    assert torch.isfinite(outside.value).all()
    with pytest.raises(NonConvergenceError, match="3 of 3 systems did not converge"):
        fixed_point(Map(), z0, b, W, solver=beyond, batch_dims=1, on_failure="raise")


@every_splitting
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_residual_bounds_the_true_one(solver, dtype):
    W, b = weights(size=0.7, dtype=dtype), randn(4, N, dtype=dtype)
    solution = make_solver_like(solver, tol=1e-3)(Map(), torch.zeros_like(b), b, W, batch_dims=1)
    assert solution.value.dtype == dtype
    assert (solution.residual <= 1e-3).all()
    norm = torch.linalg.matrix_norm(torch.eye(N, dtype=dtype) - W, 2).item()
    factor = 1 if isinstance(solver, ForwardBackward) else (norm + 1 / solver.alpha) / 2
    scale = 3 if isinstance(solver, PeacemanRachford) else 1.01  # the rule is relative to u there, and not to z
    assert (true_residual(Map(), solution.value, b, W) <= scale * factor * 1e-3).all()


def make_solver_like(solver, **options):
    name = next(name for name, made in SPLITTINGS.items() if made is solver)
    return make_solver(name, **{"alpha": solver.alpha, "max_steps": solver.max_steps, **options})


@every_splitting
def test_a_sample_is_solved_alike_alone_and_in_a_batch(solver):
    W, b = weights(size=0.7), randn(4, N) * torch.tensor([[1e-3], [1.0], [30.0], [1.0]], dtype=F64)
    b[3] = torch.nan
    together = solver(Map(), torch.zeros_like(b), b, W, batch_dims=1)
    assert together.status.tolist() == [0, 0, 0, Status.DIVERGED]
    assert together.steps[:3].max() > together.steps[:3].min()
    for i in range(3):
        alone = solver(Map(), torch.zeros(1, N, dtype=F64), b[i : i + 1], W, batch_dims=1)
        assert alone.steps[0] == together.steps[i]
        assert_close(together.value[i], alone.value[0], 1e-12)


@every_splitting
def test_a_former_solution_is_one_at_once(solver):
    W, b = weights(size=0.7), randn(3, N)
    again = make_solver_like(solver, tol=1e-6)(Map(), by_newton(W, b), b, W, batch_dims=1)
    assert again.steps.max() == 0


@every_splitting
def test_counts_limits_and_trace(solver):
    W, b = weights(size=0.7), randn(3, N)
    options = make_solver_like(solver, tol=0.0, max_steps=7, trace=True)
    solution = options(Map(), torch.zeros_like(b), b, W, batch_dims=1)
    assert (solution.status == Status.MAX_STEPS).all()
    assert solution.steps.tolist() == [7, 7, 7]
    assert solution.trace.shape == (8, 3)
    assert solution.nfe == (8 if isinstance(solver, ForwardBackward) else 9)


def test_the_resolvent_is_made_once_per_solve_and_applied_once_per_step():
    class Counted(Map):
        made = 0

        def resolvent(self, *args):
            self.made += 1
            self.applied = Recorded(super().resolvent(*args))
            return self.applied

    f, b = Counted(), randn(3, N)
    solution = PeacemanRachford()(f, torch.zeros_like(b), b, weights(size=0.7), batch_dims=1)
    assert f.made == 1
    assert f.applied.calls == solution.nfe - 1


@every_splitting
def test_empty_batch_inference_mode_and_one_system(solver):
    W = weights(size=0.7)
    empty = solver(Map(), torch.zeros(0, N, dtype=F64), torch.zeros(0, N, dtype=F64), W, batch_dims=1)
    assert empty.value.shape == (0, N)
    b = randn(3, N)
    with torch.inference_mode():
        inside = solver(Map(), torch.zeros_like(b), b, W, batch_dims=1)
    assert_close(inside.value, by_newton(W, b), 1e-8)
    single = solver(Map(), torch.zeros_like(b), b, W)
    assert single.status.shape == ()
    assert_close(single.value, by_newton(W, b), 1e-8)


def test_gradients_of_first_and_second_order():
    def solved(b, W):
        return fixed_point(Map(), torch.zeros_like(b), b, W, solver=PeacemanRachford(alpha=0.5), batch_dims=1)

    b, W = randn(2, 3, seed=5).requires_grad_(), weights(size=0.3, n=3).requires_grad_()
    assert (solved(b, W) > 0).any()
    assert gradcheck(solved, (b, W), check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(solved, (b, W), fast_mode=True)


def test_transforms():
    W, b = weights(size=0.7), randn(3, N)

    def solved(b):
        return fixed_point(Map(), torch.zeros_like(b), b, W, solver=PeacemanRachford())

    rows = torch.func.vmap(lambda row: solved(row.unsqueeze(0)).squeeze(0))(b)
    assert_close(rows, by_newton(W, b), 1e-8)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: solved(row.unsqueeze(0)).squeeze(0)))(b)
    active = (rows > 0).to(F64).unsqueeze(2)
    assert_close(jacobian, torch.linalg.inv(torch.eye(N, dtype=F64) - active * W) * active.mT, 1e-8)


def test_states_of_several_tensors():
    class Pair:
        def __call__(self, z):
            return self.prox(self.affine(z), 1.0)

        def affine(self, z):
            return {"a": 0.5 - z["b"], "b": 1.0 + z["a"]}

        def prox(self, v, alpha):
            return {name: value.relu() for name, value in v.items()}

        def resolvent(self, alpha):
            def solve(v):
                a, b = v["a"] + 0.5 * alpha, v["b"] + alpha  # (1 + alpha) a + alpha b, (1 + alpha) b - alpha a
                scale = (1 + alpha) ** 2 + alpha**2
                return {"a": ((1 + alpha) * a - alpha * b) / scale, "b": ((1 + alpha) * b + alpha * a) / scale}

            return solve

    start = {"a": torch.zeros(2, dtype=F64), "b": torch.zeros(2, dtype=F64)}
    for solver in (PeacemanRachford(), ForwardBackward(alpha=0.3)):
        solution = solver(Pair(), start, batch_dims=1)
        assert_close(solution.value["a"], torch.zeros(2), 1e-9)
        assert_close(solution.value["b"], torch.ones(2), 1e-9)
        anderson = Anderson()(Pair(), start, batch_dims=1)
        assert_close(solution.value["b"], anderson.value["b"], 1e-9)


@pytest.mark.parametrize("name", SPLITTINGS)
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_a_step_length_that_cannot_be_is_an_error(name, alpha):
    with pytest.raises(ValueError, match="needs a step length alpha above 0"):
        make_solver(name, alpha=alpha)


@every_splitting
def test_what_cannot_be_split_is_an_error_that_names_the_mend(solver):
    assert isinstance(Map(), MonotoneMap)
    with pytest.raises(TypeError, match=r"affine, prox and resolvent, .*Anderson\(\) takes any f"):
        fixed_point(torch.cos, torch.zeros(1), solver=solver)
    zeros = torch.zeros(1, N)
    with pytest.raises(ValueError, match="leave out compact"):
        fixed_point(Map(), zeros, zeros, torch.eye(N), solver=solver, batch_dims=1, compact=True)
    with pytest.raises(TypeError, match="pass it to fixed_point"):
        root(Map(), torch.zeros(1, N), torch.zeros(1, N), torch.eye(N), solver=solver)
