"""Linear solvers on what they cannot solve: never worse than zero, never a false CONVERGED, one row never another's."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deqzoo.implicit import (
    CG,
    GMRES,
    MINRES,
    BiCGSTAB,
    Damped,
    Dense,
    ImplicitFunction,
    LinearOperator,
    Neumann,
    NonConvergenceWarning,
    NormalCG,
    Status,
)
from tests.implicit.solvers.helpers import DTYPES, F64, HostReads, Recorded, assert_close, orthogonal, randn

POSITIVE = ["positive_definite"]
N = 7
EVERY = [GMRES(), CG(), MINRES(), NormalCG(), BiCGSTAB(), Damped(damping=0.0), Dense(), Neumann(k=60)]
KRYLOV = EVERY[:5]
every_solver = pytest.mark.parametrize("solver", EVERY, ids=lambda solver: type(solver).__name__)
every_krylov = pytest.mark.parametrize("solver", KRYLOV, ids=lambda solver: type(solver).__name__)


def spectrum(*eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues, exactly symmetric."""
    q = orthogonal(len(eigenvalues), seed)
    matrix = (q * torch.tensor(eigenvalues, dtype=F64)) @ q.T
    return (matrix + matrix.T) / 2


GOOD = spectrum(0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
SINGULAR = spectrum(0.7, 0.8, 0.0, 1.0, 1.1, 0.0, 1.3, seed=5)


def relative_residual(matrix, x, b):
    """In float64; (systems,)."""
    b = b.double()
    image = (matrix.double() @ x.double().unsqueeze(-1)).squeeze(-1)
    return (b - image).norm(dim=1) / b.norm(dim=1)


def least_residual(matrix, b):
    """Of any x: the part of b out of the range of the matrix, relative; singular values of round-off are zero."""
    rtol = 100 * torch.finfo(matrix.dtype).eps
    x = torch.linalg.pinv(matrix.double(), rtol=rtol) @ b.double().unsqueeze(-1)
    return relative_residual(matrix, x.squeeze(-1), b)


def attainable(solver, matrix, x, b):
    """What CONVERGED may stand for: the tolerance, and the round-off with which this test itself takes a residual."""
    eps = torch.finfo(b.dtype).eps
    tol = eps**0.75 if solver.tol is None else solver.tol
    tol = max(tol, 1e3 * eps) if isinstance(solver, Dense) and solver.tol is None else tol
    size = torch.linalg.matrix_norm(matrix.double()) * x.double().norm(dim=1) / b.double().norm(dim=1)
    return tol + 2 * eps * (1 + size)


# --- the table: what happens when something goes wrong in one row ---


def batch_with(bad_matrix, bad_b):
    """Three systems, of which the second is bad."""
    matrices, b = torch.stack([GOOD, bad_matrix, GOOD]), randn(3, N, seed=1)
    b[1] = bad_b
    return matrices, b


def check_the_good_rows(solution, b):
    assert solution.status[[0, 2]].tolist() == [Status.CONVERGED] * 2
    assert_close(solution.value[[0, 2]], torch.linalg.solve(GOOD, b[[0, 2]].T).T, 1e-10)


@every_solver
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("tangled", [False, True])
def test_a_row_that_is_not_finite(solver, bad, tangled):
    """Also where products of one row would spoil those of the others: what is not finite reaches none."""
    row = randn(N, seed=2)
    row[3] = bad
    matrices, b = batch_with(GOOD, row)
    plain = LinearOperator.from_matrix(matrices, POSITIVE)
    mv = (lambda v: plain.mv(v) + 0 * v.sum()) if tangled else plain.mv
    solution = solver(LinearOperator(mv, mv, plain.tags), b)
    assert solution.status[1] == Status.DIVERGED
    assert solution.value[1].isnan().all()
    assert not solution.all_converged
    check_the_good_rows(solution, b)


@every_solver
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_operator_that_is_not_finite_for_one_system(solver, bad):
    matrices, b = batch_with(torch.full((N, N), bad, dtype=F64), randn(N, seed=2))
    solution = solver(LinearOperator.from_matrix(matrices, POSITIVE), b)
    assert solution.status[1] == Status.DIVERGED
    assert torch.isfinite(solution.value).all()
    assert not solution.all_converged
    check_the_good_rows(solution, b)


@every_solver
def test_a_singular_system_that_has_solutions(solver):
    matrices, b = batch_with(SINGULAR, SINGULAR @ randn(N, seed=2))
    solution = solver(LinearOperator.from_matrix(matrices, POSITIVE), b)
    assert relative_residual(matrices, solution.value, b)[1] < 1e-9
    assert (solution.status[1] == Status.CONVERGED) == (not isinstance(solver, Dense))
    check_the_good_rows(solution, b)


@every_solver
def test_a_singular_system_that_has_none(solver):
    matrices, b = batch_with(SINGULAR, randn(N, seed=2))
    solution = solver(LinearOperator.from_matrix(matrices, POSITIVE), b)
    expected = {CG: Status.BAD_CURVATURE, Damped: Status.BAD_CURVATURE, Neumann: Status.MAX_STEPS}
    if not isinstance(solver, MINRES):  # which looks for better steps until the limit
        assert solution.status[1] == expected.get(type(solver), Status.STALLED)
    least, found = least_residual(matrices, b)[1], relative_residual(matrices, solution.value, b)[1]
    assert least > 0.2  # else there were nothing to see
    assert found <= (1.6 if isinstance(solver, CG | Damped) else 1.05) * least  # CG does not minimise the residual
    assert found <= 1
    assert_close(solution.residual[1], found, 1e-6)
    assert not solution.all_converged
    check_the_good_rows(solution, b)


@every_solver
def test_a_system_of_zero(solver):
    """x = 0 solves with any matrix."""
    matrices, b = batch_with(SINGULAR, torch.zeros(N, dtype=F64))
    solution = solver(LinearOperator.from_matrix(matrices, POSITIVE), b)
    assert solution.status[1] == Status.CONVERGED
    assert not solution.value[1].any()
    check_the_good_rows(solution, b)


@every_solver
@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_nothing_to_solve(solver, shape):
    solution = solver(LinearOperator(lambda v: 3 * v, lambda v: 3 * v, tuple(POSITIVE)), torch.zeros(shape, dtype=F64))
    assert solution.value.shape == shape
    assert solution.converged.all()
    assert solution.all_converged in (True, None)


@pytest.mark.parametrize(
    "solver",
    [*[sort(max_steps=3) for sort in (GMRES, CG, MINRES, NormalCG, BiCGSTAB)], GMRES(max_steps=3, restart=1)],
    ids=repr,
)
@pytest.mark.parametrize("systems", [1, 3])
@pytest.mark.parametrize("singular", [False, True])
def test_an_exhausted_budget(solver, systems, singular):
    """On a spectrum where the residuals of conjugate gradients rise at first."""
    least = 0.0 if singular else 1e-7
    matrix = spectrum(*torch.logspace(-5, 0, 11, dtype=F64).tolist(), least, seed=3)
    b = randn(systems, 12, seed=4)
    operator = LinearOperator.from_matrix(matrix, POSITIVE)
    solution = solver(operator, b)
    assert (solution.status == Status.MAX_STEPS).all()
    found = relative_residual(matrix, solution.value, b)
    assert (found <= 1 + 1e-12).all()
    if not isinstance(solver, BiCGSTAB):  # whose first step gains nothing here
        assert (found < 0.999).all(), "the best of the steps is more than nothing"
    assert_close(solution.residual, found, 1e-6)


# --- properties ---


@st.composite
def systems(draw):
    """Matrices of any rank, symmetric or not, well scaled or not, with right-hand sides in their range or not."""
    n, count = draw(st.integers(1, 14)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["semidefinite", "symmetric", "general", "nilpotent"]))
    dtype, spread = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([0.0, 1.0, 5.0]))
    rank, seed, consistent = draw(st.integers(0, n)), draw(st.integers(0, 10**6)), draw(st.booleans())
    left, right = (torch.linalg.qr(randn(count, n, n, seed=seed + i)).Q for i in (0, 1))
    sizes = 10 ** (-spread * torch.rand(count, 1, n, generator=torch.Generator().manual_seed(seed), dtype=F64))
    sizes[..., rank:] = 0
    if kind == "nilpotent":
        matrix = torch.triu(randn(count, n, n, seed=seed), 1)
    elif kind == "general":
        matrix = (left * sizes) @ right.mT
    else:
        signs = randn(count, 1, n, seed=seed + 2).sign() if kind == "symmetric" else 1
        matrix = (left * sizes * signs) @ left.mT
        matrix = (matrix + matrix.mT) / 2
    b = randn(count, n, seed=seed + 3)
    return kind, matrix.to(dtype), ((matrix @ b.unsqueeze(-1)).squeeze(-1) if consistent else b).to(dtype)


@settings(max_examples=150)
@given(given_system=systems(), warm=st.booleans(), seed=st.integers(0, 1000))
def test_no_result_is_worse_than_zero_or_x0_and_converged_is_true(given_system, warm, seed):
    kind, matrix, b = given_system
    solvers = [GMRES(), GMRES(restart=2), GMRES(max_steps=3), NormalCG(), NormalCG(max_steps=5), BiCGSTAB(), Dense()]
    solvers += [BiCGSTAB(max_steps=5), Dense(tol=1e-9)]
    solvers += [MINRES(), MINRES(max_steps=3)] if kind in ("semidefinite", "symmetric") else []
    solvers += [CG(), CG(max_steps=3)] if kind == "semidefinite" else []
    tags = {"semidefinite": POSITIVE, "symmetric": ["symmetric"]}.get(kind, [])
    x0 = 10.0 ** (seed % 3 - 1) * randn(*b.shape, seed=seed, dtype=b.dtype) if warm else None
    for solver in solvers:
        solution = solver(LinearOperator.from_matrix(matrix, tags), b, x0)
        assert torch.isfinite(solution.value).all(), solver
        sized = b.norm(dim=1) > 0
        found = relative_residual(matrix, solution.value, b)
        allowed = attainable(solver, matrix, solution.value, b)
        bar = 1 + allowed if x0 is None else torch.minimum(torch.ones(()), relative_residual(matrix, x0, b)) + allowed
        assert (found <= bar)[sized].all(), (solver, found)
        assert (found <= allowed)[solution.converged & sized].all(), (solver, found)
        assert solution.all_converged in (None, bool(solution.converged.all())), solver


@settings(max_examples=100)
@given(
    n=st.integers(1, 20),
    lost=st.integers(1, 4),
    exponent=st.integers(-20, 20),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 10**6),
)
@example(n=5, lost=1, exponent=5, dtype=F64, seed=105431)  # its last pivot is round-off of a small one before
def test_dense_tells_singular_matrices_from_regular_ones(n, lost, exponent, dtype, seed):
    """Regular ones may be badly scaled, row by row and column by column, and of a condition of 1e3 beside."""
    factor = torch.linalg.qr(randn(n, n, seed=seed)).Q * torch.logspace(0, -3, n, dtype=F64)
    regular = factor @ torch.linalg.qr(randn(n, n, seed=seed + 1)).Q
    kept = max(n - lost, 0)
    singular = (10.0**exponent * randn(n, kept, seed=seed) @ randn(kept, n, seed=seed + 1)).to(dtype)
    b = randn(1, n, seed=seed + 2, dtype=dtype)
    solution = Dense()(LinearOperator.from_matrix(singular), b)
    assert solution.status.tolist() == [Status.STALLED]
    least = least_residual(singular[None], b)
    assert relative_residual(singular, solution.value, b) <= 1.01 * least + 1e3 * torch.finfo(dtype).eps
    assert Dense()(LinearOperator.from_matrix(regular.to(dtype)), b).converged.all()
    scales = 10.0 ** (20 * torch.rand(2, n, generator=torch.Generator().manual_seed(seed), dtype=F64) - 10)
    scaled = scales[0].unsqueeze(1) * regular * scales[1]
    x = Dense()(LinearOperator.from_matrix(scaled), scales[0] * (regular @ (b[0].double())).unsqueeze(0)).value
    assert_close(x * scales[1], b.double(), 1e-7)


# --- Dense ---


@pytest.mark.parametrize("n", [4, 8, 11])
def test_dense_solves_hilbert_matrices(n):
    """Of condition 1.5e4, 1.5e10 and 5e14; the residual is that of a stable solver all the same."""
    i = torch.arange(n, dtype=F64)
    matrix = 1 / (i.unsqueeze(1) + i + 1)
    b = matrix.sum(dim=1).unsqueeze(0)
    solution = Dense()(LinearOperator.from_matrix(matrix), b)
    assert solution.converged.all()
    assert relative_residual(matrix, solution.value, b) < 1e-14


def test_dense_gives_the_shortest_least_squares_solution_of_a_singular_system():
    b = torch.stack([randn(N, seed=3), SINGULAR @ randn(N, seed=4)])
    solution = Dense()(LinearOperator.from_matrix(SINGULAR.expand(2, N, N)), b)
    assert solution.status.tolist() == [Status.STALLED] * 2
    assert_close(solution.value, b @ torch.linalg.pinv(SINGULAR, rtol=1e-10).T, 1e-10)
    zero = Dense()(LinearOperator.from_matrix(torch.zeros(3, 3)), torch.ones(1, 3))
    assert zero.status.tolist() == [Status.STALLED]
    assert not zero.value.any()


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_dense_and_singular_matrices_under_vmap(axes):
    """A singular one among regular ones; A and b of different axes."""
    matrices, b = torch.stack([GOOD, SINGULAR, GOOD]), randn(3, N, seed=2)

    def solve(matrix, b):
        solution = Dense()(LinearOperator.from_matrix(matrix), b.unsqueeze(0))
        return solution.value[0], solution.status[0]

    given_ones = (matrices if axes[0] == 0 else SINGULAR, b if axes[1] == 0 else b[0])
    values, codes = torch.func.vmap(solve, in_dims=axes)(*given_ones)
    for i in range(3):
        matrix, right = matrices[i] if axes[0] == 0 else SINGULAR, b[i] if axes[1] == 0 else b[0]
        assert_close(values[i], torch.linalg.pinv(matrix, rtol=1e-10) @ right, 1e-10)
    assert codes.tolist() == ([0, 1, 0] if axes[0] == 0 else [1, 1, 1])


# --- preconditioners ---


@every_krylov
def test_a_singular_preconditioner_gives_no_worse_than_zero(solver):
    """It hides the directions that it maps to zero: what is found is the best of the others, or less."""
    plain = LinearOperator.from_matrix(GOOD, POSITIVE)
    projector = spectrum(1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, seed=9)
    operator = LinearOperator(plain.mv, plain.rmv, plain.tags, lambda v: v @ projector)
    for systems in (1, 2):
        b = randn(systems, N, seed=3)
        solution = solver(operator, b)
        assert not solution.converged.any()
        assert torch.isfinite(solution.value).all()
        assert (relative_residual(GOOD, solution.value, b) <= 1).all()


def test_a_preconditioner_whose_round_off_is_large_does_not_make_a_false_report():
    """The exact inverse, of condition 1e11: the recurrence alone would call this converged to 2e-12."""
    matrix = (orthogonal(9, 1) * torch.logspace(-11, 0, 9, dtype=F64)) @ orthogonal(9, 2)
    inverse, b = torch.linalg.inv(matrix), randn(2, 9, seed=1)
    for solver in (GMRES(), BiCGSTAB(), NormalCG()):
        operator = LinearOperator(
            lambda v: v @ matrix.T, lambda v: v @ matrix, preconditioner=lambda v: v @ inverse.T
        )  # fmt: skip
        solution = solver(operator, b)
        found = relative_residual(matrix, solution.value, b)
        assert (found <= attainable(solver, matrix, solution.value, b))[solution.converged].all()
        assert torch.allclose(solution.residual, found, rtol=1.0, atol=1e-5)


# --- Neumann: truncated on purpose, but not without a word where it diverges ---


@pytest.mark.parametrize("largest", [1.3, 2.0, 5.0])
@pytest.mark.parametrize("k", [4, 9, 30])
def test_a_series_that_grows_is_a_failure_and_no_worse_than_zero(largest, k):
    jacobian = spectrum(largest, -0.4, 0.3, 0.2, 0.1, 0.0, 0.0)
    matrices = torch.eye(N, dtype=F64) - torch.stack([jacobian, 0.1 * jacobian])
    b = 1 + randn(2, N, seed=1).abs()
    solution = Neumann(k=k)(LinearOperator.from_matrix(matrices), b)
    found = relative_residual(matrices, solution.value, b)
    if found[0] > 1 or solution.status[0] == Status.STALLED:
        assert solution.status[0] == Status.STALLED
        assert_close(solution.residual[0], found[0], 1e-6)
    assert found[0] <= 1
    alone = Neumann(k=k)(LinearOperator.from_matrix(matrices[1:]), b[1:])
    assert_close(solution.value[1:], alone.value, 1e-14)
    if largest**k > 30:
        assert solution.status[0] == Status.STALLED


def test_a_diverging_series_warns_in_a_backward_pass():
    def gradient(slope):
        function = ImplicitFunction(lambda x: x / (1 - slope), lambda y, x: y - slope * y - x, linear_solver=Neumann())
        x = torch.tensor([1.0], dtype=F64, requires_grad=True)
        return torch.autograd.grad(function(x).sum(), x)[0]

    with pytest.warns(NonConvergenceWarning, match="1 stalled"):
        assert_close(gradient(-1.7), torch.tensor([1 / 2.7]), 1e-6)
    assert_close(gradient(0.5), torch.tensor([2.0]), 1e-3)  # truncated on purpose: without a word


# --- what it costs ---


@pytest.mark.parametrize("systems", [1, 3])
@pytest.mark.parametrize("solver", [GMRES(), CG(1e-9), MINRES(), NormalCG(), BiCGSTAB(), Dense()], ids=repr)
def test_the_host_knows_the_outcome_without_a_read_of_its_own(solver, systems):
    b = randn(systems, N, seed=1)
    for matrix, good in ((GOOD, True), (SINGULAR, False)):
        operator = LinearOperator.from_matrix(matrix.expand(systems, N, N), POSITIVE)
        solution = solver(operator, b)
        assert solution.all_converged is good or (solution.all_converged is None and isinstance(solver, Dense))
        if good:
            with HostReads() as reads:
                solution.check("raise", "solve")
            assert reads.count == 0


def test_dense_reads_the_host_once():
    with HostReads() as reads:
        Dense()(LinearOperator.from_matrix(GOOD), randn(2, N, seed=1))
    assert reads.count == 1


@pytest.mark.parametrize("systems", [1, 3])
def test_an_easy_tolerance_costs_no_product_for_the_truth(systems):
    """Four distinct eigenvalues: four products. At a tolerance near round-off one more."""
    matrix, b = spectrum(1.0, 3.0, 3.0, 7.0, 7.0, 7.0, 9.0), randn(systems, N, seed=1)
    for solver, extra in ((CG(1e-10), 0), (GMRES(1e-10), 0), (CG(1e-15), 1), (MINRES(1e-10), 1)):
        operator = LinearOperator.from_matrix(matrix, POSITIVE)
        counted = LinearOperator(Recorded(operator.mv), operator.rmv, operator.tags)
        solution = solver(counted, b)
        assert solution.nfe == counted.mv.calls
        assert solution.nfe == 4 + extra or (extra and solver.tol == 1e-15 and solution.nfe <= 12)
        assert (relative_residual(matrix, solution.value, b) <= solver.tol + 1e-15)[solution.converged].all()
