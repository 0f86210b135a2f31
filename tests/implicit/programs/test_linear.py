"""Linear programs: vertices, their derivatives, and what a degenerate one does."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch.autograd import gradcheck

from deqzoo.implicit import NonConvergenceWarning, Status, linear_program
from tests.implicit.programs.programs import F64, random_program, with_box


@given(n=st.integers(1, 8), p=st.integers(0, 3), m=st.integers(0, 10), seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_the_value_is_that_of_highs(n, p, m, seed):
    _, c, A, b, G, h = with_box(random_program((), n, min(p, n - 1), m, seed))
    x = linear_program(c, A, b, G, h, on_failure="raise").x
    of_numpy = [t.numpy() for t in (c, G, h, A, b)]
    exact = linprog(*of_numpy[: 5 if len(A) else 3], bounds=(None, None))
    assert exact.status == 0
    assert torch.dot(c, x).item() == pytest.approx(exact.fun, rel=1e-8, abs=1e-8)


def test_a_vertex_moves_with_its_constraints():
    _, c, A, b, G, h = (t.requires_grad_() for t in with_box(random_program((2,), 3, 1, 3)))
    assert gradcheck(lambda *given: linear_program(*given, on_failure="raise").x, (c, A, b, G, h))
    point = linear_program(c, A, b, G, h, on_failure="raise")
    value = (c * point.x).sum()
    for found, exact in zip(
        torch.autograd.grad(value, (c, b, h)), (point.x, -point.equality_duals, -point.inequality_duals), strict=True
    ):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-8)


def test_a_face_of_solutions_is_said_to_have_no_derivative():
    """min x_1 over the unit square: the whole edge is optimal."""
    eye = torch.eye(2, dtype=F64)
    c = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
    h = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=F64)
    point, solution = linear_program(c, G=torch.cat([eye, -eye]), h=h, return_solution=True)
    assert point.x[0].item() == pytest.approx(0, abs=1e-9)
    assert 0.1 < point.x[1] < 0.9  # inside the face
    with pytest.warns(NonConvergenceWarning, match="adjoint solve"):
        torch.autograd.grad(point.x.sum(), c)
    assert solution.backward.status.item() == Status.STALLED


def test_unbounded_and_infeasible():
    one = torch.ones(1, 1, dtype=F64)
    _, solution = linear_program(-one[0], G=-one, h=0 * one[0], return_solution=True, on_failure="ignore")
    assert solution.status.item() == Status.UNBOUNDED
    both, bounds = torch.cat([one, -one]), torch.tensor([0.0, -1.0], dtype=F64)
    _, solution = linear_program(one[0], G=both, h=bounds, return_solution=True, on_failure="ignore")
    assert solution.status.item() == Status.INFEASIBLE


def test_a_degenerate_vertex_is_solved():
    """Three lines through one point of the plane: the multipliers are not unique, x is."""
    G = torch.tensor([[-1.0, 0.0], [0.0, -1.0], [-1.0, -1.0]], dtype=F64)
    x = linear_program(torch.ones(2, dtype=F64), G=G, h=torch.zeros(3, dtype=F64), on_failure="raise").x
    np.testing.assert_allclose(x, 0, atol=1e-9)
