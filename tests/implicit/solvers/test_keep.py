"""Iterates that a solver is asked to keep: after the steps that it names, and the last one beyond the end."""

import pytest
import torch

from deqzoo.implicit import LBFGS, Anderson, Broyden, Newton, Picard
from tests.implicit.solvers.helpers import F64, assert_close, randn


def f(z):
    return torch.cos(z)


def test_iterates_of_plain_iteration_have_the_index_asked_for():
    z0 = randn(3, 2, seed=0)
    solution = Picard(tol=0.0, max_steps=5, keep=[0, 1, 3, 5])(f, z0, batch_dims=1)
    expected = [z0]
    for _ in range(5):
        expected.append(f(expected[-1]))
    for kept, steps in zip(solution.kept, (0, 1, 3, 5), strict=True):
        assert torch.equal(kept, expected[steps])
    assert Picard()(f, z0).kept == []


@pytest.mark.parametrize("solver", [Anderson, Broyden])
def test_they_are_those_of_a_solve_that_ends_there(solver):
    z0 = randn(3, 4, seed=0)
    kept = solver(tol=0.0, max_steps=8, keep=(2, 6))(f, z0, batch_dims=1).kept
    for value, steps in zip(kept, (2, 6), strict=True):
        again = solver(tol=0.0, max_steps=steps, keep=(steps,))(f, z0, batch_dims=1).kept[0]
        assert torch.equal(value, again)


def test_what_the_solve_does_not_come_to_is_its_last_iterate():
    solution = Picard(tol=1e-3, max_steps=100, keep=(1, 50, 90))(f, torch.ones(2, dtype=F64))
    assert solution.steps < 50
    assert_close(f(solution.kept[1]), solution.kept[1], 1e-2)
    assert torch.equal(solution.kept[1], solution.kept[2])


@pytest.mark.parametrize("solver", [Newton, LBFGS])
def test_a_search_keeps_one_point_for_each_number(solver):
    """y^2 = 2, and the least (y^2 - 2)^2: from 1.5 and before the last number it ends."""
    search = solver(keep=(0, 2, 90))
    f = (lambda y: y**2 - 2) if solver is Newton else (lambda y: ((y**2 - 2) ** 2).sum())
    solution = search(f, torch.full((1,), 1.5, dtype=F64), root=True)
    first, second, last = solution.kept
    assert first == 1.5
    assert 0 < (second**2 - 2).abs() < 0.1
    assert torch.equal(last, solution.value)


def test_a_pytree_is_kept_as_one():
    state = {"a": torch.ones(2, 3), "b": (torch.ones(2),)}
    kept = Picard(tol=0.0, max_steps=2, keep=(2,))(
        lambda s: torch.utils._pytree.tree_map(f, s), state, batch_dims=1
    ).kept
    assert kept[0]["a"].shape == (2, 3)
    torch.testing.assert_close(kept[0]["b"][0], torch.ones(2).cos().cos())


@pytest.mark.parametrize("keep", [(3, 2), (1, 1), (-1,)])
def test_wrong_steps(keep):
    with pytest.raises(ValueError, match="keep must be increasing numbers of steps"):
        Anderson(keep=keep)
