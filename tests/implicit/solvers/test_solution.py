"""Failure is a value: what a Solution says, and how fixed_point, root and argmin ignore, warn or raise."""

import re
import warnings

import pytest
import torch

from deqzoo.implicit import (
    LBFGS,
    Implicit,
    Neumann,
    Newton,
    NonConvergenceError,
    NonConvergenceWarning,
    Picard,
    Solution,
    Status,
    argmin,
    fixed_point,
    root,
)
from tests.implicit.solvers.helpers import F64


def never(z):
    return -z + 1


SHORT = {
    "fixed_point": lambda **o: fixed_point(never, torch.zeros(2), solver=Picard(max_steps=3), **o),
    "root": lambda **o: root(lambda y: y**2 + 1, torch.ones(2), solver=Newton(max_steps=3), **o),
    "argmin": lambda **o: argmin(lambda y: torch.exp(y).sum(), torch.zeros(2), solver=LBFGS(max_steps=3), **o),
}
each_face = pytest.mark.parametrize("face", SHORT.values(), ids=SHORT.keys())


@each_face
def test_non_convergence_warns_by_default(face):
    with pytest.warns(NonConvergenceWarning, match="1 of 1 systems did not converge.*Raise max_steps"):
        face()


@each_face
def test_non_convergence_raises_when_asked(face):
    with pytest.raises(NonConvergenceError, match="max steps"):
        face(on_failure="raise")


@each_face
def test_non_convergence_is_ignored_when_asked_and_stands_in_the_solution(face):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, solution = face(on_failure="ignore", return_solution=True)
    assert solution.status == Status.MAX_STEPS
    assert not solution.converged


@each_face
def test_an_unknown_choice_is_an_error_that_lists_the_valid_ones(face):
    with pytest.raises(ValueError, match="ignore, warn, raise"):
        face(on_failure="explode")


def test_the_warning_points_at_the_callers_line():
    with pytest.warns(NonConvergenceWarning) as caught:
        fixed_point(never, torch.zeros(2), solver=Picard(max_steps=3))
    assert caught[0].filename == __file__


def test_success_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        z = fixed_point(torch.cos, torch.zeros(2), on_failure="raise")
    assert torch.allclose(z, torch.cos(z), atol=1e-5)


def test_an_adjoint_solve_that_fails_is_reported():
    """A Jacobian df/dz of 1 makes I - df/dz singular: the gradient does not exist."""
    x = torch.zeros(2, dtype=F64, requires_grad=True)
    z, solution = fixed_point(lambda z, x: z + 0 * x, torch.ones(2, dtype=F64), x, return_solution=True)
    with pytest.warns(NonConvergenceWarning, match="adjoint solve"):
        z.sum().backward()
    assert not solution.backward.converged

    z = fixed_point(lambda z, x: z + 0 * x, torch.ones(2, dtype=F64), x, on_failure="raise")
    with pytest.raises(NonConvergenceError, match="adjoint solve"):
        z.sum().backward()


def test_a_truncated_series_is_no_failure_and_one_that_diverges_is():
    x = torch.zeros(2, dtype=F64, requires_grad=True)

    def gradient(factor, k):
        z = fixed_point(
            lambda z, x: factor * z + x,
            torch.zeros(2, dtype=F64),
            x,
            solver=Newton(),
            adjoint=Implicit(Neumann(k=k)),
            on_failure="raise",
        )
        return torch.autograd.grad(z.sum(), x)[0]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.allclose(gradient(0.5, k=2), torch.full((2,), 1.75, dtype=F64))
    with pytest.raises(NonConvergenceError, match="diverged"):
        gradient(3.0, k=1000)


def test_the_backward_solution_is_filled_by_the_backward():
    x = torch.zeros(3, 2, dtype=F64, requires_grad=True)
    z, solution = fixed_point(
        lambda z, x: 0.5 * torch.cos(z) + x,
        torch.zeros(3, 2, dtype=F64),
        x,
        batch_dims=1,
        return_solution=True,
    )
    assert solution.backward is None
    z.sum().backward()
    backward = solution.backward
    assert backward.value is None
    assert backward.converged.tolist() == [True] * 3
    assert backward.nfe >= 1
    assert backward.residual.shape == backward.steps.shape == (3,)


def test_describe_counts_each_way_of_failing():
    codes = [
        Status.CONVERGED,
        Status.STALLED,
        Status.DIVERGED,
        Status.MAX_STEPS,
        Status.BAD_CURVATURE,
        Status.STALLED,
    ]
    solution = Solution(None, torch.tensor(codes), torch.linspace(0, 1, 6), torch.arange(6), nfe=7)
    text = solution.describe()
    assert text.startswith("5 of 6 systems")
    for part in ("2 stalled", "1 diverged", "1 max steps", "1 bad curvature", "1.0e+00", "7 evaluations"):
        assert part in text


@pytest.mark.parametrize("shape", [(), (0,), (2, 2)])
def test_describe_takes_any_batch_shape(shape):
    status = torch.full(shape, int(Status.MAX_STEPS))
    solution = Solution(None, status, torch.ones(shape), torch.zeros(shape, dtype=torch.long), nfe=1)
    assert f"{status.numel()} of {status.numel()}" in solution.describe()
    assert solution.converged.shape == shape


def test_an_empty_batch_has_not_failed():
    solution = Solution(None, torch.zeros(0, dtype=torch.long), torch.zeros(0), torch.zeros(0), nfe=1)
    solution.check("raise", "nothing")


def test_the_codes_are_fixed():
    """They are stored in logs."""
    names = ["CONVERGED", "STALLED", "DIVERGED", "MAX_STEPS", "BAD_CURVATURE", "INFEASIBLE", "UNBOUNDED"]
    assert [s.value for s in Status] == list(range(7))
    assert [s.name for s in Status] == names


def test_a_solution_prints_one_line_whatever_its_size_and_its_summary_tells_of_the_backward():
    z, solution = fixed_point(
        lambda z, a: torch.cos(a * z),
        torch.zeros(5, 40),
        torch.ones(5, 1, requires_grad=True),
        batch_dims=1,
        return_solution=True,
    )
    assert "\n" not in repr(solution)
    assert re.fullmatch(
        r"Solution\(5 of 5 systems converged, residual at most \d\.\de-\d\d, steps at most \d+, nfe \d+\)",
        repr(solution),
    )
    assert "backward" not in solution.summary()
    z.sum().backward()
    assert "backward:\n" in solution.summary()
    assert solution.summary().count("converged 5 of 5 systems") == 2


def test_a_solution_prints_inside_a_transform_too():
    def solved(a):
        _, solution = fixed_point(lambda z, a: torch.cos(a * z), torch.zeros(()), a, return_solution=True)
        assert repr(solution) == solution.summary() == f"Solution(nfe {solution.nfe})"
        return a

    torch.func.vmap(solved)(torch.ones(3))
