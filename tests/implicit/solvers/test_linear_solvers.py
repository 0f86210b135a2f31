"""Linear solvers against dense solves in float64: hard matrices, and right-hand sides of any size."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqzoo.implicit import CG, GMRES, MINRES, BiCGSTAB, Damped, Dense, LinearOperator, Neumann, NormalCG, Status
from tests.implicit.solvers.helpers import (
    DTYPES,
    F64,
    PeakBytes,
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


# --- answers ---


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES.keys())
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_hard_matrices_in_float64(solver, matrix):
    b = randn(3, N, seed=4)
    solution = solver(operator_of(matrix), b)
    assert solution.converged.all()
    assert (residual(matrix, solution.value, b) < 2e-12).all()
    assert_close(solution.value, answer(matrix, b), 1e-7)


@pytest.mark.parametrize("name", ["near the identity", "rotation", "indefinite"])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_matrices_in_float32(solver, name):
    matrix, b = MATRICES[name].float(), randn(3, N, seed=4, dtype=torch.float32)
    solution = solver(operator_of(matrix), b)
    assert solution.value.dtype == torch.float32
    assert solution.converged.all()
    assert_close(solution.value, answer(matrix, b), 1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cg_on_a_positive_definite_matrix(dtype):
    matrix = symmetric_matrix(torch.logspace(0, 2, N, dtype=F64)).to(dtype)
    b = randn(3, N, seed=1, dtype=dtype)
    solution = CG()(operator_of(matrix, POSITIVE), b)
    assert solution.converged.all()
    assert_close(solution.value, answer(matrix, b), 2e2 * torch.finfo(dtype).eps ** 0.75)


@settings(max_examples=40)
@given(
    solver=st.sampled_from([*EVERY[:-1], GMRES(restart=3)]),
    systems=st.integers(1, 4),
    unknowns=st.integers(1, 8),
    dtype=st.sampled_from(DTYPES),
    exponent=st.integers(-30, 30),
    seed=st.integers(0, 10_000),
)
def test_any_shape_and_size_of_the_right_hand_side(solver, systems, unknowns, dtype, exponent, seed):
    """A matrix per system, right-hand sides from 1e-30 to 1e30."""
    factors = randn(systems, unknowns, unknowns, seed=seed)
    matrix = (torch.eye(unknowns, dtype=F64) + 0.3 * factors @ factors.mT / unknowns).to(dtype)
    b = 10.0**exponent * randn(systems, unknowns, seed=seed + 1, dtype=dtype)
    solution = solver(LinearOperator.from_matrix(matrix, POSITIVE), b)
    assert solution.converged.all()
    assert solution.value.shape == b.shape
    assert solution.status.shape == solution.residual.shape == solution.steps.shape == (systems,)
    unit = 10.0**exponent
    assert_close(solution.value / unit, answer(matrix, b / unit), 20 * torch.finfo(dtype).eps ** 0.75)


@pytest.mark.parametrize("solver", [*EVERY[:-1], Neumann(k=400)], ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("scale", [1e-30, 1e-38, 1e30, 1e37])
def test_the_relative_error_does_not_depend_on_the_size_of_b(solver, scale):
    """Linear to the last digits from under 1e-23, where a float32 square underflows, to 1e37."""
    matrix = (torch.eye(8, dtype=F64) - symmetric_matrix(torch.linspace(-0.8, 0.8, 8, dtype=F64))).float()
    b = randn(2, 8, seed=1, dtype=torch.float32)
    b = b / b.abs().max()
    plain = solver(LinearOperator.from_matrix(matrix, POSITIVE), b)
    scaled = solver(LinearOperator.from_matrix(matrix, POSITIVE), scale * b)
    assert scaled.converged.all()
    assert scaled.nfe == plain.nfe
    assert_close(scaled.value.double() / scale, plain.value, 1e-5)


@every_solver
def test_rows_of_one_batch_may_differ_by_sixty_orders_of_magnitude(solver):
    matrix = torch.eye(4, dtype=F64) - symmetric_matrix(torch.linspace(-0.01, 0.02, 4, dtype=F64))
    b = randn(3, 4, seed=1) * torch.tensor([[1e-30], [1.0], [1e30]], dtype=F64)
    solution = solver(LinearOperator.from_matrix(matrix, POSITIVE), b)
    assert solution.converged.all()
    for i in range(3):
        assert_close(solution.value[i], answer(matrix, b)[i], 1e-10)


@every_solver
def test_a_right_hand_side_of_zero(solver):
    operator = operator_of(torch.eye(3, dtype=F64) * 1.1, POSITIVE)
    b = torch.zeros(2, 3, dtype=F64)
    solution = solver(operator, b)
    assert torch.equal(solution.value, b)
    assert solution.converged.all()
    assert solution.residual.tolist() == [0, 0]
    if not isinstance(solver, Dense | Neumann):
        assert operator.mv.calls == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@every_solver
def test_a_right_hand_side_that_is_not_finite_spoils_its_row_alone(solver, bad):
    matrix = torch.eye(3, dtype=F64) - symmetric_matrix(torch.tensor([0.01, 0.02, -0.02], dtype=F64))
    b = randn(3, 3, seed=1)
    b[1, 2] = bad
    solution = solver(LinearOperator.from_matrix(matrix, POSITIVE), b)
    assert solution.status.tolist() == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    assert solution.value[1].isnan().all()
    assert_close(solution.value[[0, 2]], answer(matrix, b[[0, 2]]), 1e-10)


@pytest.mark.parametrize("solver", [GMRES(), Dense()], ids=["gmres", "dense"])
def test_a_singular_matrix_is_reported(solver):
    """Rank one less; the right-hand side of the first system is out of its range."""
    matrix = symmetric_matrix(torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=F64))
    null = torch.linalg.eigh(matrix).eigenvectors[:, 0]
    solution = solver(operator_of(matrix), null.unsqueeze(0) + 0.1)
    assert not solution.converged.any()


def test_gmres_solves_a_singular_system_that_is_consistent():
    matrix = symmetric_matrix(torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=F64))
    b = randn(2, 4, seed=1) @ matrix
    solution = GMRES()(operator_of(matrix), b)
    assert solution.converged.all()
    assert_close(solution.value @ matrix, b, 1e-11)


def test_gmres_on_the_operator_zero_and_on_a_nilpotent_one():
    b = randn(2, 4, seed=1)
    for matrix in (torch.zeros(4, 4, dtype=F64), torch.diag(torch.ones(3, dtype=F64), 1)):
        solution = GMRES()(operator_of(matrix), b)
        assert not solution.converged.any()
        assert torch.isfinite(solution.value).all()
        assert solution.nfe < 60


@every_solver
def test_an_operator_that_is_nan_diverges(solver):
    solution = solver(LinearOperator(lambda v: v * math.nan, tags=("positive_definite",)), randn(2, 3, seed=1))
    assert solution.status.tolist() == [Status.DIVERGED] * 2


# --- conjugate gradients ---


def test_cg_needs_the_tag():
    with pytest.raises(ValueError, match=r"positive_definite.*GMRES"):
        CG()(LinearOperator.from_matrix(torch.eye(2)), torch.ones(1, 2))
    with pytest.raises(ValueError, match="positive_definite"):
        CG()(LinearOperator.from_matrix(torch.eye(2), ["symmetric"]), torch.ones(1, 2))


def test_cg_reports_bad_curvature_and_the_other_systems_go_on():
    matrices = torch.stack([torch.eye(3, dtype=F64), torch.diag(torch.tensor([1.0, -2.0, 1.0], dtype=F64))])
    b = torch.ones(2, 3, dtype=F64)
    solution = CG()(LinearOperator.from_matrix(matrices, POSITIVE), b)
    assert solution.status.tolist() == [Status.CONVERGED, Status.BAD_CURVATURE]
    assert_close(solution.value[0], b[0], 1e-12)
    assert torch.isfinite(solution.value).all()


def test_cg_ends_within_the_number_of_distinct_eigenvalues():
    matrix = symmetric_matrix(torch.tensor([1.0] * 5 + [3.0] * 5 + [7.0] * 2, dtype=F64))
    solution = CG()(operator_of(matrix, POSITIVE), randn(2, 12, seed=1))
    assert solution.converged.all()
    assert solution.nfe == 3


# --- GMRES ---


def test_gmres_has_the_smallest_residual_of_the_krylov_space():
    matrix, b = MATRICES["random"], randn(1, N, seed=1)
    for steps in (1, 3, 6):
        space = [b[0]]
        for _ in range(steps - 1):
            space.append(matrix @ space[-1])
        images = torch.linalg.qr(torch.stack([matrix @ v for v in space], dim=1)).Q
        smallest = (b[0] - images @ (images.T @ b[0])).norm() / b.norm()
        solution = GMRES(max_steps=steps)(operator_of(matrix), b)
        assert_close(residual(matrix, solution.value, b)[0], smallest, 1e-8)
        assert_close(solution.residual[0], smallest, 1e-8)


@pytest.mark.parametrize("restart", [2, 4, 40])
def test_gmres_restarts(restart):
    matrix, b = torch.eye(40, dtype=F64) - matrix_of_norm(40, 0.9), randn(3, 40, seed=1)
    solution = GMRES(restart=restart)(operator_of(matrix), b)
    assert solution.converged.all()
    assert (residual(matrix, solution.value, b) <= 2e-12).all()


def test_gmres_keeps_no_more_vectors_than_restart():
    """On a map of no cost to memory, so that only the solver's own tensors count."""
    scale, b = torch.linspace(1, 20, 1000, dtype=F64), randn(1, 1000, seed=1)
    peaks = []
    for max_steps in (40, 400):
        with PeakBytes() as peak:
            GMRES(restart=10, max_steps=max_steps, tol=0.0)(LinearOperator(lambda v: v * scale), b)
        peaks.append(peak.peak)
    state = b.numel() * 8
    assert peaks[1] <= peaks[0] + state
    assert peaks[1] < (16 + 12 + 12) * state  # capacity doubles to 11, old and new side by side, temporaries


def test_each_system_stops_on_its_own():
    eye = torch.eye(N, dtype=F64)
    matrices = torch.stack(
        [2 * eye, eye - matrix_of_norm(N, 0.9), symmetric_matrix(torch.linspace(1, 3, N, dtype=F64))]
    )
    b = randn(3, N, seed=1)
    together = GMRES(restart=N)(LinearOperator.from_matrix(matrices), b)
    assert together.converged.all()
    assert together.steps[0] == 1
    for i in range(3):
        one = slice(i, i + 1)
        alone = GMRES(restart=N)(LinearOperator.from_matrix(matrices[one]), b[one])
        assert torch.equal(alone.steps, together.steps[one])
        assert_close(together.value[one], alone.value, 1e-11)


# --- Neumann, shapes, options ---


@pytest.mark.parametrize("k", [0, 1, 5])
def test_neumann_is_the_truncated_series(k):
    jacobian, b = matrix_of_norm(5, 0.6), randn(2, 5, seed=1)
    operator = operator_of(torch.eye(5, dtype=F64) - jacobian)
    expected = sum((torch.linalg.matrix_power(jacobian, i) @ b.T).T for i in range(k + 1))
    solution = Neumann(k=k)(operator, b)
    assert_close(solution.value, expected, 1e-13)
    assert solution.nfe == operator.mv.calls == k
    assert solution.steps.tolist() == [k, k]
    exact = answer(torch.eye(5, dtype=F64) - jacobian, b)
    assert (solution.value - exact).norm(dim=1).max() <= 0.6 ** (k + 1) / 0.4 * b.norm(dim=1).max()


def test_with_a_tolerance_the_series_ends_where_each_system_meets_it():
    slopes = torch.tensor([0.09, 0.5, 0.0], dtype=F64)
    matrices = (1 - slopes).view(3, 1, 1) * torch.eye(2, dtype=F64)
    b = randn(3, 2, seed=1)
    operator = operator_of(matrices)
    solution = Neumann(k=50, tol=1e-3)(operator, b)
    # After n products the residual is slope^n ||b||.
    assert solution.steps.tolist() == [3, 10, 1]
    assert solution.nfe == operator.mv.calls == 10
    assert solution.converged.all()
    assert_close(solution.residual, slopes ** torch.tensor([3, 10, 1]), 1e-12)
    assert_close(solution.value, b * ((1 - slopes**solution.steps) / (1 - slopes)).unsqueeze(1), 1e-12)
    for i in range(3):
        alone = Neumann(k=50, tol=1e-3)(operator_of(matrices[i : i + 1]), b[i : i + 1])
        assert_close(alone.value[0], solution.value[i], 1e-15)
    assert not Neumann(k=50, tol=1e-3).truncated
    assert Neumann(k=9, tol=1e-3)(operator_of(matrices), b).status.tolist() == [
        Status.CONVERGED,
        Status.MAX_STEPS,
        Status.CONVERGED,
    ]


def test_damping_tames_eigenvalues_below_minus_one():
    matrix, b = torch.diag(torch.tensor([2.5, 1.0, 0.2], dtype=F64)), randn(2, 3, seed=1)  # I - A has -1.5
    expected = sum(0.5 * b * (1 - 0.5 * matrix.diagonal()) ** i for i in range(7))
    assert_close(Neumann(k=6, damping=0.5)(operator_of(matrix), b).value, expected, 1e-13)
    assert_close(Neumann(k=600, damping=0.5)(operator_of(matrix), b).value, answer(matrix, b), 1e-12)
    assert (Neumann(k=600)(operator_of(matrix), b).value - answer(matrix, b)).norm() > 1
    start = 0.9 * answer(matrix, b)
    expected = start + 0.5 * (b - start @ matrix)
    assert_close(Neumann(k=0, damping=0.5)(operator_of(matrix), b, start).value, expected, 1e-13)


def test_neumann_with_a_preconditioner_is_richardsons_iteration():
    matrix, b = (
        torch.diag(torch.logspace(0, 4, 6, dtype=F64)) + 0.1 * randn(6, 6, seed=1),
        randn(2, 6, seed=2),
    )
    solution = Neumann(k=40)(operator_of(matrix, preconditioner=torch.diag(1 / matrix.diagonal())), b)
    assert solution.converged.all()
    assert_close(solution.value, answer(matrix, b), 1e-10)


def test_a_series_that_diverges_is_reported():
    solution = Neumann(k=2000)(operator_of(-3 * torch.eye(2, dtype=F64)), torch.ones(1, 2, dtype=F64))
    assert solution.status.tolist() == [Status.DIVERGED]
    # The residuals known are 1, 4, 16 and 64 times ||b||; on the line of the sum lies the solution.
    for k in (1, 2, 3):
        solution = Neumann(k=k)(operator_of(-3 * torch.eye(2)), torch.ones(1, 2))
        assert solution.status.tolist() == [Status.STALLED]
        assert_close(solution.value, torch.full((1, 2), -1 / 3), 1e-6)


@every_solver
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_empty_batches_and_empty_systems(solver, shape):
    solution = solver(LinearOperator(lambda v: 2 * v, tags=("positive_definite",)), torch.zeros(shape))
    assert solution.value.shape == shape
    assert solution.status.shape == (shape[0],)
    assert solution.converged.all()


@every_solver
def test_the_arguments_are_not_written_to(solver):
    b, start = randn(2, 3, seed=1), randn(2, 3, seed=2)
    kept = b.clone(), start.clone()
    solver(LinearOperator.from_matrix(1.1 * torch.eye(3, dtype=F64), POSITIVE), b, start)
    assert torch.equal(b, kept[0])
    assert torch.equal(start, kept[1])


def test_under_autocast_a_solve_runs_in_the_precision_of_b():
    matrix, b = (
        (torch.eye(8) - 0.1 * randn(8, 8, dtype=torch.float32)),
        randn(2, 8, seed=1, dtype=torch.float32),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for solver in (GMRES(), Dense()):
            assert_close(solver(LinearOperator.from_matrix(matrix), b).value, answer(matrix, b), 1e-4)


def test_bad_options_are_errors():
    with pytest.raises(ValueError, match="restart >= 1"):
        GMRES(restart=0)
    with pytest.raises(ValueError, match="k >= 0"):
        Neumann(k=-1)
    for damping in (0.0, 1.5):
        with pytest.raises(ValueError, match="damping in"):
            Neumann(damping=damping)
    with pytest.raises(ValueError, match="systems, unknowns"):
        GMRES()(LinearOperator.from_matrix(torch.eye(2)), torch.ones(2))
    with pytest.raises(ValueError, match="damping >= 0"):
        Damped(damping=-1.0)
    for solver in (GMRES, CG, MINRES, NormalCG, BiCGSTAB, Neumann, Dense, Damped):
        with pytest.raises(ValueError, match="tol"):
            solver(tol=-1.0)
    for solver in (GMRES, CG, MINRES, NormalCG, BiCGSTAB):
        with pytest.raises(ValueError, match="max_steps"):
            solver(max_steps=-1)
