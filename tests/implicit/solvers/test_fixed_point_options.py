"""Options of the fixed-point solvers: tolerances and their scales, names, and solves without a stop."""

import math

import pytest
import torch

from deqzoo.implicit import (
    Anderson,
    Broyden,
    Newton,
    NewtonKrylov,
    Picard,
    Status,
    make_solver,
)
from tests.implicit.solvers.helpers import (
    DTYPES,
    F64,
    FIXED_POINT_SOLVERS,
    HostReads,
    affine,
    every_iteration,
    every_solver,
    matrix_of_norm,
    randn,
    true_residual,
)

# --- options ---


@every_solver
def test_the_default_tolerance_follows_the_dtype(solver):
    for dtype in DTYPES:
        tol = torch.finfo(dtype).eps ** 0.75
        solution = solver()(lambda z: 0.7 * torch.cos(z) + 1, torch.zeros(1, 2, dtype=dtype), batch_dims=1)
        assert solution.converged.all()
        assert (solution.residual <= tol).all()
        assert (solution.residual > 0).all() or solver not in (Picard,)


@every_iteration
def test_the_relative_stop_does_not_depend_on_the_scale_of_the_unknown(solver):
    nfe = set()
    for scale in (1e-20, 1.0, 1e20):
        f = lambda z, s=scale: s * torch.cos(z / s)  # noqa: E731
        solution = solver(tol=1e-6)(f, torch.full((2,), 0.5 * scale, dtype=F64))
        assert solution.converged
        nfe.add(solution.nfe)
    assert len(nfe) == 1


@every_solver
@pytest.mark.parametrize("size", [1e-16, 1e-12, 1e12, 1e16])
def test_converged_is_never_said_of_a_wrong_answer_at_extreme_sizes(solver, size):
    """In float32 the squares of such numbers under- and overflow."""
    x = size * torch.tensor([[1.0, 0.3, -0.2]])
    solution = solver()(lambda z: 0.5 * torch.sin(z / size) * size + x, torch.zeros(1, 3), batch_dims=1)
    right = torch.tensor([[1.4987012, 0.5696811, -0.3901756]])
    assert torch.isfinite(solution.value).all()
    assert not solution.converged or torch.allclose(solution.value / size, right, rtol=1e-3)


@every_iteration
def test_the_absolute_stop_is_absolute(solver):
    matrix, x = matrix_of_norm(40, 0.8), 1e6 * randn(2, 40, seed=4)
    arguments = (affine(matrix), torch.zeros_like(x), x)
    absolute = solver(tol=1e-3, stop="abs")(*arguments, batch_dims=1)
    relative = solver(tol=1e-3)(*arguments, batch_dims=1)
    assert (true_residual(*arguments[:1], absolute.value, x, stop="abs") <= 1e-3).all()
    assert (true_residual(*arguments[:1], relative.value, x, stop="abs") > 1e-3).all()
    assert absolute.nfe > relative.nfe


@every_solver
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": "relative"}, "'rel', 'abs' or 'never'"),
        ({"max_steps": -1}, "max_steps"),
        ({"check_every": 0}, "check_every"),
        ({"patience": 0}, "patience"),
        ({"tol": -1e-3}, "tol"),
        ({"tol": math.nan}, "tol"),
    ],
)
def test_bad_options_are_errors_that_name_the_option(solver, options, message):
    with pytest.raises(ValueError, match=message):
        solver(**options)


@pytest.mark.parametrize("name", ["picard", "anderson", "broyden", "newton", "newton_krylov"])
def test_solvers_are_made_by_name_and_are_plain_values(name):
    made = make_solver(name, tol=1e-5, max_steps=9)
    assert made == FIXED_POINT_SOLVERS[name](tol=1e-5, max_steps=9)
    assert hash(made) == hash(FIXED_POINT_SOLVERS[name](tol=1e-5, max_steps=9))
    with pytest.raises(AttributeError):
        made.tol = 1.0


def test_a_solver_can_be_used_again_and_keeps_nothing():
    solver = Broyden(tol=1e-8)
    first = solver(torch.cos, torch.ones(3, dtype=F64))
    solver(torch.sin, torch.ones(5, dtype=F64))
    second = solver(torch.cos, torch.ones(3, dtype=F64))
    assert torch.equal(first.value, second.value)
    assert first.nfe == second.nfe


# --- without a stop ---


@pytest.mark.parametrize("solver", [Picard, Anderson, Broyden])
def test_without_a_stop_all_steps_are_taken_and_the_host_reads_nothing(solver):
    f, x = torch.tanh, torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    calls = []

    def counted(z, x):
        calls.append(None)
        return 0.5 * f(z) + x

    with HostReads() as reads:
        solution = solver(stop="never", max_steps=40)(counted, torch.zeros_like(x), x, batch_dims=1)
    assert reads.count == 0
    assert solution.nfe == len(calls) == 41
    assert solution.steps.tolist() == [40] * 4
    assert solution.converged.all()
    assert torch.allclose(solution.value, 0.5 * f(solution.value) + x, atol=1e-11)


def test_without_a_stop_the_status_tells_who_converged():
    rate = torch.tensor([[0.0], [0.99], [3.0]], dtype=torch.float64)
    solution = Picard(stop="never", max_steps=900, tol=1e-6)(
        lambda z, rate: rate * z + 1, torch.zeros_like(rate), rate, batch_dims=1
    )
    assert solution.status.tolist() == [Status.CONVERGED, Status.MAX_STEPS, Status.DIVERGED]


def test_without_a_stop_iterates_are_kept():
    solution = Picard(stop="never", max_steps=3, keep=(1, 3, 9))(lambda z: z / 2 + 1, torch.zeros(2))
    assert [z.tolist() for z in solution.kept] == [[1.0, 1.0], [1.75, 1.75], [1.75, 1.75]]


def test_without_a_stop_a_root():
    solution = Broyden(stop="never", max_steps=60, tol=1e-9)(
        lambda y: y + 0.3 * torch.sin(y) - 1, torch.zeros(3, dtype=torch.float64), root=True, batch_dims=1
    )
    assert solution.converged.all()


@pytest.mark.parametrize("solver", [Newton(stop="never"), NewtonKrylov(stop="never")])
def test_a_search_needs_a_stop(solver):
    with pytest.raises(ValueError, match="a search must judge"):
        solver(lambda y: y**3 - 8, torch.ones((), dtype=torch.float64), root=True)
