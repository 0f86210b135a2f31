"""Problems of CVXPY as torch functions: the same solutions, and derivatives against finite differences."""

import pytest
import torch
from torch.autograd import gradcheck

cvxpy = pytest.importorskip("cvxpy", reason="needs pip install 'deqzoo[convex]'")
pytest.importorskip("clarabel", reason="needs pip install 'deqzoo[convex]'")

from deqzoo.implicit import from_cvxpy, projections  # noqa: E402

F64 = torch.float64
ACCURATE = {"solver": "CLARABEL", "tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}


def everything():
    """Second-order, semidefinite and exponential cones, a matrix parameter and a symmetric variable."""
    x, X = cvxpy.Variable(3), cvxpy.Variable((2, 2), symmetric=True)
    F, a, t = cvxpy.Parameter((2, 3)), cvxpy.Parameter(3), cvxpy.Parameter(nonneg=True)
    cost = cvxpy.norm(F @ x - 1) + t * cvxpy.sum_squares(x) + cvxpy.sum_squares(x - a) + cvxpy.exp(x[0])
    cost += X[0, 0] + 2 * X[1, 1] + 0.4 * X[0, 1]
    constraints = [x <= 1.5, cvxpy.sum(x) == 1, X >> 0.1 * torch.eye(2).numpy(), X[0, 1] == x[2]]
    problem = cvxpy.Problem(cvxpy.Minimize(cost), constraints)
    values = [torch.randn(4, 2, 3, dtype=F64), 0.3 * torch.randn(3, dtype=F64), torch.rand(4, dtype=F64) + 0.5]
    return problem, [F, a, t], [x, X], values


def test_it_solves_as_cvxpy_does():
    problem, parameters, variables, values = everything()
    found = from_cvxpy(problem, parameters, variables)(*values, on_failure="raise")
    assert [tuple(v.shape) for v in found] == [(4, 3), (4, 2, 2)]
    for i in range(4):
        for parameter, value in zip(parameters, (values[0][i], values[1], values[2][i]), strict=True):
            parameter.value = value.numpy()
        problem.solve(**ACCURATE)
        for ours, theirs in zip(found, variables, strict=True):
            torch.testing.assert_close(ours[i], torch.as_tensor(theirs.value), rtol=0, atol=1e-6)


def test_gradients_are_those_of_finite_differences():
    problem, parameters, variables, (F, a, t) = everything()
    function = from_cvxpy(problem, parameters, variables)
    leaves = [v.clone().requires_grad_() for v in (F[0], a, t[0])]
    assert gradcheck(lambda *given: function(*given, on_failure="raise"), leaves, atol=1e-4)  # the solver leaves 1e-10


def test_power_cones():
    """Of PowCone3D, and of a power that CVXPY states by one."""
    x, a = cvxpy.Variable(3), cvxpy.Parameter(3)
    cost = cvxpy.sum_squares(x - a) + cvxpy.sum(cvxpy.power(x[:1] + 3, 3.3, approx=False))
    problem = cvxpy.Problem(cvxpy.Minimize(cost), [cvxpy.PowCone3D(x[0], x[1], x[2], 0.3)])
    function, points = from_cvxpy(problem, [a], [x]), torch.tensor([[1.0, 1.0, 5.0], [0.2, 2.0, -3.0]], dtype=F64)
    (found,) = function(points, on_failure="raise")
    for given, ours in zip(points, found, strict=True):
        a.value = given.numpy()
        problem.solve(**ACCURATE)
        # Clarabel's x on a curved boundary, which CVXPY hands out as it is; ours is polished.
        torch.testing.assert_close(ours, torch.as_tensor(x.value), rtol=0, atol=1e-5)
    leaf = points.clone().requires_grad_()
    assert gradcheck(lambda a: function(a, on_failure="raise"), leaf, atol=1e-4)  # the solver leaves 1e-10


def test_a_geometric_program():
    """The example of cvxpylayers' README: a box of the largest volume, of bounded area."""
    x, y, z = (cvxpy.Variable(pos=True) for _ in range(3))
    a, b, c = cvxpy.Parameter(pos=True), cvxpy.Parameter(pos=True), cvxpy.Parameter()
    problem = cvxpy.Problem(cvxpy.Minimize(1 / (x * y * z)), [a * (x * y + x * z + y * z) <= b, x >= y**c])
    with pytest.raises(ValueError, match="gp=True"):
        from_cvxpy(problem, [a, b, c], [x, y, z])
    function = from_cvxpy(problem, [a, b, c], [x, y, z], gp=True)
    values = [torch.tensor(v, dtype=F64, requires_grad=True) for v in ([2.0, 1.5], 1.0, 0.5)]
    found = function(*values, on_failure="raise")
    for i, value in enumerate((2.0, 1.5)):
        a.value, b.value, c.value = value, 1.0, 0.5
        problem.solve(gp=True, **ACCURATE)
        for ours, theirs in zip(found, (x, y, z), strict=True):
            assert ours[i].item() == pytest.approx(float(theirs.value), abs=1e-5)  # theirs is not polished
    assert gradcheck(lambda *given: function(*given, on_failure="raise"), values, atol=1e-4)
    alone = function(*(t if t.dim() == 0 else t[0] for t in values))  # scalars of no batch
    torch.testing.assert_close(torch.stack(alone), torch.stack(found)[:, 0], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="3 parameters, got 1"):
        function(values[0])
    twice = cvxpy.Parameter(pos=True)
    both = cvxpy.Problem(cvxpy.Minimize(1 / (x * y)), [twice * x * y**twice <= 1, x <= 3])
    with pytest.raises(ValueError, match="a factor and an exponent"):
        from_cvxpy(both, [twice], [x], gp=True)


def test_the_projection_on_the_simplex():
    x, a = cvxpy.Variable(4), cvxpy.Parameter(4)
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(x - a)), [cvxpy.sum(x) == 1, x >= 0])
    point = torch.randn(5, 4, dtype=F64)
    (nearest,) = from_cvxpy(problem, [a], [x])(point)
    torch.testing.assert_close(nearest, projections.simplex(point), rtol=0, atol=1e-8)


def test_what_is_not_supported_is_told():
    x, X, P = cvxpy.Variable(2), cvxpy.Variable((2, 2), diag=True), cvxpy.Parameter((2, 2), PSD=True)
    diagonal = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(X - 1)))
    with pytest.raises(ValueError, match="attribute"):
        from_cvxpy(diagonal, [], [X])
    with pytest.raises(ValueError, match="take a plain Parameter"):
        from_cvxpy(cvxpy.Problem(cvxpy.Minimize(cvxpy.norm(P @ x - 1))), [P], [x])
    together = cvxpy.PowConeND(cvxpy.hstack([x, 1]), x[0], torch.tensor([0.2, 0.3, 0.5]).numpy())
    with pytest.raises(ValueError, match="power cone of more than three"):
        from_cvxpy(cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(x - 1)), [together]), [], [x])


def test_bad_input_is_told():
    x, a, b = cvxpy.Variable(2), cvxpy.Parameter(2), cvxpy.Parameter(2)
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(x - a)))
    with pytest.raises(TypeError, match=r"cvxpy\.Problem"):
        from_cvxpy("problem", [a], [x])
    with pytest.raises(ValueError, match="parameters must be those of the problem"):
        from_cvxpy(problem, [b], [x])
    with pytest.raises(ValueError, match="variables must be among"):
        from_cvxpy(problem, [a], [cvxpy.Variable(2)])
    with pytest.raises(ValueError, match="DPP"):
        from_cvxpy(cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(x + a * (b @ b)))), [a, b], [x])
    function = from_cvxpy(problem, [a], [x])
    with pytest.raises(ValueError, match="1 parameters, got 2"):
        function(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"must have shape \(..., 2\)"):
        function(torch.zeros(3))
