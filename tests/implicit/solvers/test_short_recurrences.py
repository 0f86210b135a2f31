"""MINRES, NormalCG, BiCGSTAB: hard matrices, what each is the best at, and where each ends without a solution."""

import pytest
import torch

from deqzoo.implicit import (
    CG,
    GMRES,
    MINRES,
    BiCGSTAB,
    Damped,
    Implicit,
    ImplicitFunction,
    LinearOperator,
    NormalCG,
    Status,
    argmin,
)
from tests.implicit.solvers.helpers import (
    DTYPES,
    F64,
    HostReads,
    PeakBytes,
    assert_close,
    matrix_of_norm,
    orthogonal,
    randn,
    symmetric_matrix,
)

SYMMETRIC = ["symmetric"]
N = 12
ROTATION = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)


def residual(matrix, x, b):
    return ((matrix @ x.unsqueeze(-1)).squeeze(-1) - b).norm(dim=1) / b.norm(dim=1)


def answer(matrix, b):
    return torch.linalg.solve(matrix.double(), b.double().unsqueeze(-1)).squeeze(-1)


GENERAL = {
    "near the identity": torch.eye(N, dtype=F64) - matrix_of_norm(N, 0.8),
    "non-normal": torch.eye(N, dtype=F64) + torch.triu(0.5 * randn(N, N, seed=1), 1),
    "random": randn(N, N, seed=3) + 4 * torch.eye(N, dtype=F64),
}
INDEFINITE = {
    "both signs": symmetric_matrix(torch.linspace(-1, 1, N, dtype=F64) + 0.05),
    "one negative": symmetric_matrix(torch.cat([-torch.ones(1, dtype=F64), torch.linspace(1, 30, N - 1, dtype=F64)])),
    "ill-conditioned": symmetric_matrix(torch.logspace(-2, 0, N, dtype=F64)),
}


# --- answers ---


@pytest.mark.parametrize("matrix", GENERAL.values(), ids=GENERAL.keys())
@pytest.mark.parametrize("solver", [NormalCG(), BiCGSTAB()], ids=["normal_cg", "bicgstab"])
def test_general_matrices(solver, matrix):
    b = randn(3, N, seed=4)
    solution = solver(LinearOperator.from_matrix(matrix), b)
    assert solution.converged.all()
    assert (residual(matrix, solution.value, b) < 4e-12).all()
    assert_close(solution.value, answer(matrix, b), 1e-9)


@pytest.mark.parametrize("matrix", INDEFINITE.values(), ids=INDEFINITE.keys())
@pytest.mark.parametrize("dtype", DTYPES)
def test_minres_on_symmetric_matrices(matrix, dtype):
    b = randn(3, N, seed=4, dtype=dtype)
    solution = MINRES()(LinearOperator.from_matrix(matrix.to(dtype), SYMMETRIC), b)
    assert solution.value.dtype == dtype
    assert solution.converged.all()
    assert_close(solution.value, answer(matrix.to(dtype), b), 2e3 * torch.finfo(dtype).eps ** 0.75)


@pytest.mark.parametrize("sort", [MINRES, NormalCG, BiCGSTAB])
def test_each_system_stops_on_its_own(sort):
    matrices = torch.stack(
        [
            2 * torch.eye(N, dtype=F64),
            *(symmetric_matrix(torch.linspace(1, 3, k, dtype=F64).repeat(N // k), k) for k in (2, 4)),
        ]
    )
    b = randn(3, N, seed=1)
    together = sort()(LinearOperator.from_matrix(matrices, SYMMETRIC), b)
    assert together.converged.all()
    assert together.steps[0] == 1 < together.steps[1] < together.steps[2]
    for i in range(3):
        one = slice(i, i + 1)
        alone = sort()(LinearOperator.from_matrix(matrices[one], SYMMETRIC), b[one])
        assert torch.equal(alone.steps, together.steps[one])
        assert_close(together.value[one], alone.value, 1e-12)


@pytest.mark.parametrize("sort", [MINRES, NormalCG, BiCGSTAB])
def test_memory_does_not_grow_with_the_steps(sort):
    scale, b = torch.linspace(1, 200, 1000, dtype=F64), randn(1, 1000, seed=1)
    peaks = []
    for max_steps in (10, 100):
        with PeakBytes() as peak:
            operator = LinearOperator(lambda v: v * scale, tags=("symmetric",))
            sort(max_steps=max_steps, tol=0.0)(operator, b)
        peaks.append(peak.peak)
    state = b.numel() * 8
    assert peaks[1] <= peaks[0] + state
    assert peaks[1] < 32 * state


@pytest.mark.parametrize("sort", [MINRES, NormalCG, BiCGSTAB])
def test_the_host_is_read_once_per_step(sort):
    operator = LinearOperator.from_matrix(GENERAL["near the identity"] @ GENERAL["near the identity"].T, SYMMETRIC)
    with HostReads() as reads:
        solution = sort()(operator, randn(2, N, seed=1))
    assert reads.count <= solution.steps.max() + 6


# --- MINRES ---


def test_minres_has_the_smallest_residual_of_the_krylov_space():
    matrix, b = INDEFINITE["both signs"], randn(1, N, seed=1)
    operator = LinearOperator.from_matrix(matrix, SYMMETRIC)
    for steps in (1, 2, 4, 7):
        solution, best = MINRES(max_steps=steps + 1)(operator, b), GMRES(max_steps=steps)(operator, b)
        assert_close(solution.value, best.value, 1e-8)
        assert solution.nfe == steps + 1  # one for the true residual


def test_minres_needs_the_tag_and_a_positive_preconditioner():
    with pytest.raises(ValueError, match=r"symmetric.*GMRES"):
        MINRES()(LinearOperator.from_matrix(torch.eye(2)), torch.ones(1, 2))
    operator = LinearOperator(lambda v: 2 * v, tags=("symmetric",), preconditioner=lambda v: -v)
    solution = MINRES()(operator, torch.ones(1, 2))
    assert solution.status.tolist() == [Status.BAD_CURVATURE]
    assert solution.value.tolist() == [[0, 0]]


def test_minres_and_singular_systems():
    matrix = symmetric_matrix(torch.tensor([0.0, 1.0, -2.0, 3.0], dtype=F64))
    operator = LinearOperator.from_matrix(matrix, SYMMETRIC)
    null = torch.linalg.eigh(matrix).eigenvectors[:, 1]
    assert not MINRES()(operator, null.unsqueeze(0) + 0.1).converged.any()
    b = randn(2, 4, seed=1) @ matrix
    solution = MINRES()(operator, b)
    assert solution.converged.all()
    assert_close(solution.value @ matrix, b, 1e-10)
    nothing = MINRES()(LinearOperator(lambda v: 0 * v, tags=("symmetric",)), b)
    assert nothing.status.tolist() == [Status.STALLED] * 2
    assert nothing.nfe < 3


# --- NormalCG ---


def test_normal_cg_never_raises_the_residual():
    matrix, b = GENERAL["non-normal"], randn(2, N, seed=1)
    operator = LinearOperator.from_matrix(matrix)
    norms = torch.stack([NormalCG(max_steps=2 * k + 1)(operator, b).residual for k in range(1, 12)])
    assert (norms[1:] <= norms[:-1] * (1 + 1e-12)).all()
    assert norms[-1].max() < 0.5 * norms[0].min()


def test_normal_cg_needs_the_transposed_product():
    with pytest.raises(ValueError, match="no transposed product"):
        NormalCG()(LinearOperator(lambda v: v), torch.ones(1, 2))


def test_normal_cg_and_singular_systems():
    """Out of the range of A, the least-squares solution, and the report that it is not one of the system."""
    matrix = torch.diag(torch.tensor([0.0, 1.0, 2.0], dtype=F64))
    solution = NormalCG()(LinearOperator.from_matrix(matrix), torch.ones(1, 3, dtype=F64))
    assert not solution.converged.any()
    assert_close(solution.value, torch.tensor([[0.0, 1.0, 0.5]], dtype=F64), 1e-8)
    with_preconditioner = LinearOperator.from_matrix(GENERAL["random"])
    inverse = torch.linalg.inv(GENERAL["random"])
    operator = LinearOperator(
        with_preconditioner.mv, with_preconditioner.rmv, preconditioner=lambda v: v @ inverse.T
    )  # not symmetric: its transpose is another one
    assert NormalCG()(operator, randn(2, N, seed=1)).steps.tolist() == [1, 1]


# --- BiCGSTAB ---


def test_bicgstab_ends_with_its_best_iterate_where_it_breaks_down():
    solution = BiCGSTAB()(LinearOperator.from_matrix(ROTATION), torch.tensor([[1.0, 2.0]], dtype=F64))
    assert solution.status.tolist() == [Status.STALLED]
    assert torch.isfinite(solution.value).all()
    assert solution.residual.item() <= 1
    assert solution.nfe < 10


def test_bicgstab_takes_up_again_after_a_breakdown():
    """With r0^T r2 = 0 the second step's direction cannot be told."""
    matrix = torch.tensor([[-1.0, 0.0, 0.0], [-2.0, -2.0, -1.0], [0.0, 1.0, -2.0]], dtype=F64)
    b = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64)
    solution = BiCGSTAB()(LinearOperator.from_matrix(matrix), b)
    assert solution.converged.all()
    assert solution.nfe > 2 * solution.steps.item() + 1  # the true residual was looked at twice
    assert_close(solution.value, answer(matrix, b), 1e-10)


@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_bicgstab_ends_where_a_singular_system_has_no_solution(seed):
    """A row of zeros: once the corrections are lost in round-off none follows, and the budget of 60 is left."""
    matrix, b = torch.eye(6, dtype=F64) + 0.2 * randn(1, 6, 6, seed=seed), randn(1, 6, seed=seed + 10)
    matrix[:, 5] = 0
    solution = BiCGSTAB()(LinearOperator.from_matrix(matrix), b)
    assert solution.status.tolist() == [Status.STALLED]
    assert solution.nfe < 55


def test_bicgstab_reports_the_true_residual():
    matrix, b = torch.eye(60, dtype=F64) + torch.triu(randn(60, 60, seed=1), 1), randn(2, 60, seed=2)
    solution = BiCGSTAB(max_steps=60)(LinearOperator.from_matrix(matrix), b)
    assert torch.allclose(solution.residual, residual(matrix, solution.value, b), rtol=1e-6)


# --- damping, and derivatives by these solvers ---


def test_damped_solves_the_damped_system():
    matrix, b = INDEFINITE["one negative"], randn(2, N, seed=1)
    operator = LinearOperator.from_matrix(matrix, ["positive_definite"])
    solution = Damped(CG(), damping=1.5)(operator, b)
    assert solution.converged.all()
    assert_close(solution.value, answer(matrix + 1.5 * torch.eye(N, dtype=F64), b), 1e-9)
    assert Damped(CG(), damping=0.5)(operator, b).status.tolist() == [Status.BAD_CURVATURE] * 2
    back = LinearOperator.from_matrix(GENERAL["random"]).damped(2.0)
    assert_close(back.rmv(b), b @ (GENERAL["random"] + 2 * torch.eye(N, dtype=F64)), 1e-14)


@pytest.mark.parametrize("linear_solver", [NormalCG(), BiCGSTAB(), GMRES()], ids=lambda s: type(s).__name__)
def test_gradients_of_any_order(linear_solver):
    matrix = 0.5 * orthogonal(3)

    def solve(x):
        y = torch.zeros_like(x)
        for _ in range(200):
            y = torch.tanh(matrix @ y) + x
        return y

    function = ImplicitFunction(solve, lambda y, x: y - torch.tanh(matrix @ y) - x, linear_solver=linear_solver)
    x = randn(3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_minres_differentiates_a_stationary_point_that_is_no_minimum():
    """y = x / a at the saddle of sum a y^2 / 2 - x y, with one negative a: CG reports it, MINRES solves it."""
    a, x = torch.tensor([2.0, -1.0, 3.0], dtype=F64), randn(3, seed=1).requires_grad_()

    def stationary(linear_solver):
        return argmin(
            lambda y, x: (a * y**2 / 2 - x * y).sum(),
            torch.zeros(3, dtype=F64),
            x,
            solver=lambda objective, y0, x: x / a,
            adjoint=Implicit(linear_solver),
            on_failure="ignore",
            return_solution=True,
        )

    y, _ = stationary(MINRES())
    assert_close(torch.autograd.grad(y.sum(), x)[0], 1 / a, 1e-12)
    y, solution = stationary(CG())
    torch.autograd.grad(y.sum(), x)
    assert solution.backward.status.item() == Status.BAD_CURVATURE


def test_minres_under_vmap():
    matrix = INDEFINITE["one negative"]
    rows = randn(4, N, seed=1)

    def minimum(x):
        return argmin(
            lambda y, x: (y @ matrix @ y) / 2 - x @ y, 0 * x, x, solver=lambda f, y0, x: answer(matrix, x[None])[0],
            adjoint=Implicit(MINRES()),
        )  # fmt: skip

    found = torch.func.vmap(torch.func.jacrev(minimum))(rows)
    assert_close(found, torch.linalg.inv(matrix).expand(4, N, N), 1e-9)
