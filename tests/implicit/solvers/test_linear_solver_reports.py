"""Linear solvers: what they report, how they stop, warm starts, preconditioners."""

import pytest
import torch

from deqzoo.implicit import CG, GMRES, MINRES, BiCGSTAB, Damped, Dense, LinearOperator, Neumann, NormalCG, Status
from tests.implicit.solvers.helpers import (
    F64,
    HostReads,
    Recorded,
    assert_close,
    matrix_of_norm,
    orthogonal,
    randn,
    symmetric_matrix,
)

POSITIVE = ["positive_definite"]
N = 12


def answer(matrix, b):
    return torch.linalg.solve(matrix.double(), b.double().unsqueeze(-1)).squeeze(-1)


def operator_of(matrix, tags=(), preconditioner=None):
    """The dense operator with its products counted, and an optional preconditioner given as a matrix."""
    plain = LinearOperator.from_matrix(matrix, tags)
    precondition = None if preconditioner is None else (lambda v: v @ preconditioner.T)
    return LinearOperator(Recorded(plain.mv), plain.rmv, plain.tags, precondition)


def residual(matrix, x, b):
    return ((matrix @ x.unsqueeze(-1)).squeeze(-1) - b).norm(dim=1) / b.norm(dim=1)


MATRICES = {
    "near the identity": torch.eye(N, dtype=F64) - matrix_of_norm(N, 0.8),
    "non-normal": torch.eye(N, dtype=F64) + torch.triu(2 * randn(N, N, seed=1), 1),
    "rotation": orthogonal(N),
    "indefinite": symmetric_matrix(torch.linspace(-1, 1, N, dtype=F64) + 0.05),
    "random": randn(N, N, seed=3) + 0.5 * torch.eye(N, dtype=F64),
    "ill-conditioned": symmetric_matrix(torch.logspace(-4, 0, N, dtype=F64)),
}
SOLVERS = {"gmres": GMRES(restart=N), "dense": Dense()}
EVERY = [GMRES(), CG(), MINRES(), NormalCG(), BiCGSTAB(), Damped(damping=0.0), Dense(), Neumann()]
every_solver = pytest.mark.parametrize("solver", EVERY, ids=lambda solver: type(solver).__name__)


# --- the report ---


@pytest.mark.parametrize("solver", [*EVERY[:-2], GMRES(restart=3)], ids=repr)
def test_nfe_is_the_number_of_products_and_the_residual_is_true(solver):
    matrix = symmetric_matrix(torch.linspace(1, 10, N, dtype=F64))
    b = randn(3, N, seed=1)
    operator = operator_of(matrix, POSITIVE)
    solution = solver(operator, b)
    assert solution.nfe == operator.mv.calls
    assert torch.allclose(solution.residual, residual(matrix, solution.value, b), rtol=0.1, atol=1e-14)


@pytest.mark.parametrize(
    "solver",
    [
        GMRES(max_steps=4),
        GMRES(max_steps=4, restart=2),
        *[sort(max_steps=4) for sort in (CG, MINRES, NormalCG, BiCGSTAB)],
        Damped(CG(max_steps=4), damping=0.0),
    ],
    ids=repr,
)
def test_the_step_limit_is_kept_and_reported(solver):
    matrix = symmetric_matrix(torch.logspace(0, 3, N, dtype=F64))
    operator = operator_of(matrix, POSITIVE)
    b = randn(2, N, seed=1)
    solution = solver(operator, b)
    assert solution.status.tolist() == [Status.MAX_STEPS] * 2
    assert operator.mv.calls == solution.nfe <= 4
    assert_close(solution.residual, residual(matrix, solution.value, b), 1e-6)


def test_dense_counts_a_product_a_column():
    operator = operator_of(MATRICES["random"])
    assert Dense()(operator, randn(3, N)).nfe == operator.mv.calls == N


def test_a_tolerance_below_round_off_ends_with_the_best_there_is():
    matrix, b = torch.eye(N, dtype=F64) - matrix_of_norm(N, 0.8), randn(2, N, seed=1)
    for solver in (GMRES(tol=0.0), GMRES(tol=0.0, restart=4)):
        solution = solver(operator_of(matrix), b)
        assert (residual(matrix, solution.value, b) < 1e-14).all()
        assert solution.nfe < 200


def test_gmres_reads_the_host_a_few_times_per_step():
    """Only where it must decide to go on: once per step, and a few times per cycle."""
    b = randn(2, N, seed=1)
    with HostReads() as reads:
        solution = GMRES(restart=N)(LinearOperator.from_matrix(MATRICES["random"]), b)
    assert reads.count <= solution.nfe + 6


# --- warm start, preconditioner, transpose ---


@pytest.mark.parametrize("solver", [sort(tol=1e-8) for sort in (GMRES, CG, MINRES, BiCGSTAB)], ids=repr)
@pytest.mark.parametrize("scale", [1e-20, 1.0])
def test_a_warm_start_saves_products(solver, scale):
    matrix = symmetric_matrix(torch.linspace(1, 50, 40, dtype=F64))
    b = scale * randn(2, 40, seed=1)
    operator = LinearOperator.from_matrix(matrix, POSITIVE)
    cold = solver(operator, b)
    near = cold.value * (1 + 1e-6 * randn(2, 40, seed=2))
    warm = solver(operator, b, near)
    assert warm.converged.all()
    assert warm.nfe < 0.6 * cold.nfe
    assert_close(warm.value, cold.value, 1e-6)
    assert solver(operator, b, cold.value).nfe <= 2


def test_every_solver_takes_a_warm_start():
    matrix, b = torch.eye(4, dtype=F64) - matrix_of_norm(4, 0.5), randn(2, 4, seed=1)
    start = answer(matrix, b) + 0.01
    for solver in (GMRES(), NormalCG(), BiCGSTAB(), Dense(), Neumann(k=60)):
        assert_close(solver(operator_of(matrix), b, start).value, answer(matrix, b), 1e-10)
    exact = Neumann(k=0)(operator_of(matrix), b, answer(matrix, b))
    assert_close(exact.value, answer(matrix, b), 1e-13)


@pytest.mark.parametrize("kind", ["exact", "near", "diagonal", "scaled"])
@pytest.mark.parametrize("solver", [*EVERY[:-2], GMRES(restart=4)], ids=repr)
def test_a_preconditioner_changes_the_cost_and_not_the_result(solver, kind):
    diagonal = torch.logspace(0, 3, N, dtype=F64)
    matrix = torch.diag(diagonal) + symmetric_matrix(torch.linspace(0, 0.5, N, dtype=F64))
    inverse = {
        "exact": torch.linalg.inv(matrix),
        "near": torch.linalg.inv(matrix + 0.01 * torch.diag(diagonal)),
        "diagonal": torch.diag(1 / matrix.diagonal()),
        "scaled": 1e-12 * torch.diag(1 / matrix.diagonal()),
    }[kind]
    b = randn(2, N, seed=1)
    plain = operator_of(matrix, POSITIVE)
    with_it = operator_of(matrix, POSITIVE, inverse)
    expected = answer(matrix, b)
    cost = solver(plain, b).nfe
    solution = solver(with_it, b)
    assert solution.converged.all()
    assert_close(solution.value, expected, 1e-8)
    assert torch.allclose(solution.residual, residual(matrix, solution.value, b), rtol=0.2, atol=1e-13)
    # An exact one takes one step, and one product more where a solver looks at the true residual.
    assert solution.nfe <= (3 if kind == "exact" else cost)


def test_an_unhelpful_preconditioner_does_not_change_the_result_either():
    matrix, b = MATRICES["random"], randn(2, N, seed=1)
    operator = operator_of(matrix, preconditioner=orthogonal(N, seed=7))
    solution = GMRES(restart=N)(operator, b)
    assert solution.converged.all()
    assert_close(solution.value, answer(matrix, b), 1e-8)


def test_the_transposed_system_uses_the_transposed_preconditioner():
    """A non-symmetric inverse, exact: two products at most, which its transpose alone allows."""
    matrix = MATRICES["non-normal"]
    b = randn(2, N, seed=1)
    operator = operator_of(matrix, preconditioner=torch.linalg.inv(matrix)).T
    solution = GMRES()(operator, b)
    assert solution.converged.all()
    assert solution.nfe <= 2
    assert_close(solution.value, answer(matrix.T, b), 1e-9)


@pytest.mark.parametrize("solver", [CG(), MINRES(), NormalCG(), BiCGSTAB()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("systems", [1, 2])
def test_an_operator_that_turns_nan_leaves_a_finite_iterate(solver, systems):
    matrix, calls = torch.diag(torch.linspace(1, 50, N, dtype=F64)), []

    def broken(v):
        calls.append(1)
        return v @ matrix if len(calls) < 3 else v * torch.nan

    solution = solver(LinearOperator(broken, broken, ("positive_definite",)), torch.ones(systems, N, dtype=F64))
    assert torch.isfinite(solution.value).all()
    assert (solution.status == Status.DIVERGED).all()


@pytest.mark.parametrize("solver", [MINRES, NormalCG, BiCGSTAB])
def test_a_budget_without_a_step_is_refused(solver):
    with pytest.raises(ValueError, match="max_steps must be at least"):
        solver(max_steps=1)
    least = solver(max_steps=solver.fewest_steps)
    operator = operator_of(torch.diag(torch.linspace(1, 3, N, dtype=F64)), POSITIVE)
    assert least(operator, torch.ones(1, N, dtype=F64)).value.abs().sum() > 0
