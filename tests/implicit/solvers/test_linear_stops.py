"""Where linear solvers stop: as soon as nothing more can be gained, and at the first direction of no curvature."""

import dataclasses

import pytest
import torch

from deqzoo.implicit import CG, GMRES, MINRES, BiCGSTAB, Damped, LinearOperator, Neumann, NormalCG, Status
from tests.implicit.solvers.helpers import F64, HostReads, Recorded, assert_close, randn, symmetric_matrix

POSITIVE = ["positive_definite"]


def counted(matrix, tags=()):
    plain = LinearOperator.from_matrix(matrix, tags)
    return LinearOperator(Recorded(plain.mv), plain.rmv, plain.tags)


# --- GMRES ---


def test_gmres_ends_with_the_first_cycle_that_gains_nothing():
    """r^T A r = 0 for a rotation by a quarter: one Krylov vector brings nothing, at any number of restarts."""
    rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)
    operator = counted(rotation)
    solution = GMRES(restart=1)(operator, torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=F64))
    assert solution.status.tolist() == [Status.STALLED] * 2
    assert solution.nfe == operator.mv.calls == 2  # the step, and the true residual


@pytest.mark.parametrize("gain", [0.005, 0.02])
def test_gmres_goes_on_while_a_cycle_gains_a_percent(gain):
    """With one vector per cycle the residual falls by sqrt(1 - c^2), c the cosine of the angle between r and A r."""
    cosine = (1 - (1 - gain) ** 2) ** 0.5
    sine = (1 - cosine**2) ** 0.5
    rotation = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=F64)
    solution = GMRES(restart=1, max_steps=41)(counted(rotation), torch.tensor([[1.0, 2.0]], dtype=F64))
    if gain < 0.01:
        assert (solution.status.item(), solution.nfe) == (Status.STALLED, 2)
    else:
        assert (solution.status.item(), solution.nfe) == (Status.MAX_STEPS, 41)
        assert_close(solution.residual, torch.tensor([(1 - gain) ** 21], dtype=F64), 1e-10)


def test_gmres_ends_a_cycle_where_the_krylov_space_is_exhausted():
    """A projector: A b is mapped to itself. What is left of b is mapped to zero, and the second cycle sees it."""
    kept = (torch.arange(40) % 2).to(F64)
    b = randn(2, 40, seed=1)
    for diagonal, most in ((kept, 6), (0 * kept, 2)):  # 5 but for round-off; the product and the true residual
        operator = counted(torch.diag(diagonal))
        solution = GMRES()(operator, b)
        assert solution.status.tolist() == [Status.STALLED] * 2
        assert operator.mv.calls <= most
        assert_close(b - solution.value * diagonal, b * (1 - diagonal), 1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_gmres_ends_a_cycle_where_round_off_takes_over(seed):
    """Of a singular system that has no solution, once its least residual is reached: the next cycle is short."""
    n = 40
    eigenvalues = torch.linspace(0.5, 1.5, n, dtype=F64)
    eigenvalues[0] = 0.0
    matrix = symmetric_matrix(eigenvalues, seed)
    b = randn(2, n, seed=1)
    solution = GMRES(restart=n)(counted(matrix), b)
    null = symmetric_matrix((eigenvalues == 0).to(F64), seed)
    assert solution.status.tolist() == [Status.STALLED] * 2
    assert_close(solution.residual, (b @ null).norm(dim=1) / b.norm(dim=1), 1e-9)
    assert solution.nfe < 1.5 * n, "two whole cycles would be twice n"


# --- conjugate gradients ---

NOT_DEFINITE = {
    "negative": (torch.diag(torch.tensor([-1.0, -1.0, -1.0])), [1.0, 2.0, 3.0]),
    "indefinite": (torch.diag(torch.tensor([2.0, -1.0, 3.0])), [1.0, 2.0, 1.0]),
    "no curvature": (torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), [1.0, 0.0, 0.0]),
    "that of round-off": (symmetric_matrix(torch.tensor([0.0, 1.0, 2.0], dtype=F64)), [1.0, 2.0, 3.0]),
}


@pytest.mark.parametrize(("matrix", "b"), NOT_DEFINITE.values(), ids=NOT_DEFINITE.keys())
@pytest.mark.parametrize("systems", [1, 2])
@pytest.mark.parametrize("preconditioner", [None, torch.clone], ids=["plain", "preconditioned"])
def test_cg_stops_at_a_direction_without_curvature(matrix, b, systems, preconditioner):
    """A single system has a loop of its own; a step along such a direction may even solve -I x = b, by luck."""
    matrix, rows = matrix.to(F64), torch.tensor([b] * systems, dtype=F64)
    plain = LinearOperator.from_matrix(matrix, POSITIVE)
    operator = LinearOperator(plain.mv, plain.rmv, plain.tags, preconditioner)
    solution = CG()(operator, rows)
    assert solution.status.tolist() == [Status.BAD_CURVATURE] * systems
    assert torch.isfinite(solution.value).all()
    found = (rows - solution.value @ matrix).norm(dim=1) / rows.norm(dim=1)
    assert (found <= 1 + 1e-15).all()
    assert_close(solution.residual, found, 1e-6)


@pytest.mark.parametrize("systems", [1, 2])
def test_cg_takes_no_step_where_the_first_direction_has_no_curvature(systems):
    operator = counted(-torch.eye(3, dtype=F64), POSITIVE)
    solution = CG()(operator, torch.ones(systems, 3, dtype=F64))
    assert not solution.value.any()
    assert solution.steps.tolist() == [0] * systems
    assert operator.mv.calls == 2  # the direction, and the true residual


# --- How often the host looks ---

SOLVERS = {
    "gmres": (GMRES(tol=1e-9), ()),
    "cg": (CG(tol=1e-9), POSITIVE),
    "minres": (MINRES(tol=1e-9), ["symmetric"]),
    "normal_cg": (NormalCG(tol=1e-9), ()),
    "bicgstab": (BiCGSTAB(tol=1e-9), ()),
    "neumann": (Neumann(tol=1e-9, k=100), ()),
    "damped": (Damped(tol=1e-9, damping=1e-3), POSITIVE),
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("check_every", [2, 5, 1000])
def test_looking_rarely_changes_the_host_reads_and_not_the_result(name, check_every):
    solver, tags = SOLVERS[name]
    matrix = symmetric_matrix(torch.linspace(0.6, 1.4, 12, dtype=F64))
    b = randn(3, 12, seed=4)
    b[0] *= 1e-30
    b[1] = 0.0
    results, reads = [], []
    for every in (1, check_every):
        with HostReads() as count:
            results.append(dataclasses.replace(solver, check_every=every)(LinearOperator.from_matrix(matrix, tags), b))
        reads.append(count.count)
    often, rarely = results
    assert often.converged.all()
    assert torch.equal(rarely.value, often.value)
    assert torch.equal(rarely.status, often.status)
    assert torch.equal(rarely.residual, often.residual)
    assert torch.equal(rarely.steps, often.steps)
    assert rarely.nfe >= often.nfe
    assert reads[1] < reads[0]


def test_check_every_is_checked():
    with pytest.raises(ValueError, match="check_every must be at least 1, got 0"):
        GMRES(check_every=0)
