"""Cone programs: projections, solutions and derivatives against closed forms, diffcp and finite differences."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

pytest.importorskip("clarabel", reason="needs pip install 'deqzoo[convex]'")

from deqzoo.implicit import Clarabel, Cones, NonConvergenceWarning, Status, cone_program
from deqzoo.implicit.programs import exponential_cone as exponential_module
from deqzoo.implicit.programs.cone_program import _conditions, _jacobian
from deqzoo.implicit.programs.exponential_cone import exponential_cone
from deqzoo.implicit.programs.layout import Sparse, Whole
from deqzoo.implicit.programs.power_cone import power_cone

F64 = torch.float64
EVERY = Cones(zero=1, nonnegative=3, second_order=(5, 3), semidefinite=(2, 3), exponential=2, power=(0.3, 0.8))
DISC = Cones(second_order=(3,))


def solve(*arguments, **options):
    return cone_program(*arguments, on_failure="raise", **options)


def random_program(cones, n=4, seed=0, batch=()):
    """(c, A, b) over the unit ball, 0 being inside of the other cones; the ball is the first second-order cone."""
    source = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*batch, *shape, dtype=F64, generator=source)

    A = draw(cones.rows, n)
    ball = cones.zero + cones.nonnegative
    A[..., ball : ball + n + 1, :] = torch.cat([torch.zeros(1, n, dtype=F64), -torch.eye(n, dtype=F64)])
    inside = [torch.zeros(cones.zero), torch.full((cones.nonnegative,), 0.3)]
    inside += [torch.eye(size)[0] for size in cones.second_order]
    for size in cones.semidefinite:
        columns, rows = torch.tril_indices(size, size)
        inside.append(0.3 * (rows == columns))
    inside += [torch.tensor([0.0, 1.0, 1.5])] * cones.exponential
    inside += [torch.tensor([1.0, 1.0, 0.3])] * len(cones.power)
    return draw(n), A, torch.cat([part.double() for part in inside]).expand(*batch, -1)


def optimality(arguments, point, cones):
    """The largest violation of the optimality conditions."""
    c, A, b = (t.detach() for t in arguments)
    x, y, s = (t.detach() for t in point)
    stationary = c + (A.mT @ y.unsqueeze(-1)).squeeze(-1)
    feasible = (A @ x.unsqueeze(-1)).squeeze(-1) + s - b
    violations = (stationary, feasible, cones.project(s) - s, cones.project(-y), (s * y).sum(-1))
    return max(v.abs().max().item() for v in violations)


def disc():
    """The point of the unit disc that is farthest along -c."""
    A = torch.cat([torch.zeros(1, 2, dtype=F64), -torch.eye(2, dtype=F64)])
    return torch.tensor([3.0, 4.0], dtype=F64), A, torch.tensor([1.0, 0, 0], dtype=F64)


# --- projections ---


@given(st.lists(st.integers(-1000, 1000).map(lambda k: k / 100), min_size=3, max_size=3))  # zeros, no underflow
@settings(max_examples=150)
def test_moreau_splits_a_vector_by_the_exponential_cone(v):
    v = torch.tensor(v, dtype=F64)
    p = exponential_cone(v)
    rest = v - p
    size = max(1.0, v.abs().max().item())
    assert abs(torch.dot(p, rest).item()) <= 1e-8 * size**2
    x, y, z = p.tolist()  # in the cone
    if y > 1e-12:
        assert y * math.exp(min(x / y, 700)) <= z + 1e-8 * size
    else:
        assert x <= 1e-8
        assert z >= -1e-8
    # Minus the rest in the dual cone, once moved inwards by more than its round-off, which near u = 0 decides e^(w/u).
    u, w, t = (-rest + 1e-8 * size * torch.tensor([-1.0, 1.0, 1.0], dtype=F64)).tolist()
    assert u < 0
    assert -u * math.exp(min(w / u, 700)) <= math.e * t


def test_the_exponential_cone_far_out_and_at_its_faces():
    points = [
        [1e-3, -1e3, 1.0],
        [-1.0, -1.0, 2.0],
        [-1.0, -1.0, -2.0],
        [0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0],
        [-5.0, 1e-8, -1.0],
    ]
    v = torch.tensor(points, dtype=F64)
    p = exponential_cone(v)
    torch.testing.assert_close(exponential_cone(p), p, rtol=0, atol=1e-9)
    torch.testing.assert_close((p * (v - p)).sum(-1), torch.zeros(6, dtype=F64), rtol=0, atol=1e-9)
    torch.testing.assert_close(p[1], torch.tensor([-1.0, 0.0, 2.0], dtype=F64))


def test_derivatives_of_the_exponential_cone():
    v = torch.randn(6, 3, dtype=F64, requires_grad=True)
    assert gradcheck(exponential_cone, v, check_forward_ad=True)
    assert gradgradcheck(exponential_cone, v)


@given(
    st.lists(st.integers(-1000, 1000).map(lambda k: k / 100), min_size=3, max_size=3),
    st.sampled_from([0.1, 0.3, 0.5, 0.8]),
)
@example([0.0, 0.19, 0.01], 0.1)
@settings(max_examples=150)
def test_moreau_splits_a_vector_by_the_power_cone(v, alpha):
    v = torch.tensor(v, dtype=F64)
    p = power_cone(v, torch.tensor(alpha, dtype=F64))
    rest = v - p
    size = max(1.0, v.abs().max().item())
    assert abs(torch.dot(p, rest).item()) <= 1e-12 * size**2
    assert p[:2].min() >= 0
    # In the cone, and minus the rest in its dual, once moved inwards by more than round-off: an x of 3e-14 may be lost,
    # and x^alpha is .04 then.
    inwards = 1e-12 * size * torch.tensor([1.0, 1.0, 0.0], dtype=F64)
    x, y, z = (p + inwards).tolist()
    assert x**alpha * y ** (1 - alpha) >= abs(z) - 1e-12 * size
    u, w, t = (-rest + inwards).tolist()
    assert (u / alpha) ** alpha * (w / (1 - alpha)) ** (1 - alpha) >= abs(t) - 1e-12 * size


def test_the_power_cone_far_out_and_at_its_faces():
    points = [
        [-1.0, -1.0, 50.0],
        [0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0],
        [-1.0, 2.0, 0.0],
        [1e-3, -1e3, 1.0],
        [-1.0, 0.0, 1e9],
    ]
    v = torch.tensor(points, dtype=F64)
    p = power_cone(v, torch.tensor([0.5, 0.1, 0.5, 0.3, 0.7, 0.05]))
    torch.testing.assert_close((p * (v - p)).sum(-1) / v.norm(dim=1).clamp(min=1) ** 2, torch.zeros(6, dtype=F64))
    torch.testing.assert_close(p[:4], torch.tensor([[16.0, 16, 16], [0, 0, 0], [1, 0, 0], [0, 2, 0]], dtype=F64))
    assert power_cone(torch.tensor([torch.nan, 1, 1]), torch.tensor(0.5)).isnan().all()


@pytest.mark.parametrize(("dtype", "error"), [(F64, 1e-13), (torch.float32, 1e-5)])
def test_the_power_cone_of_exponents_near_its_ends(dtype, error):
    """There roots lie beyond all numbers: among 20,000 draws each is finite, and the nearest point of the cone."""
    source = torch.Generator().manual_seed(0)
    v = torch.randn(20_000, 3, dtype=F64, generator=source) * torch.randn(20_000, 3, dtype=F64, generator=source).exp()
    alpha = 0.01 + 0.98 * torch.rand(20_000, dtype=F64, generator=source)
    v, alpha = v.to(dtype).requires_grad_(), alpha.to(dtype)
    p = power_cone(v, alpha)
    (gradient,) = torch.autograd.grad(p.square().sum(), v)
    assert p.isfinite().all()
    size, both = v.norm(dim=1, keepdim=True).detach(), torch.stack([alpha, 1 - alpha], dim=1).double()
    # Half the gradient of |p|^2 at v is p itself: of the squared distance to the polar cone.
    torch.testing.assert_close(gradient / (2 * size), p / size, rtol=0, atol=1e3 * error)
    p, v = (p / size).detach().double(), (v / size).detach().double()
    assert ((p * (v - p)).sum(dim=1).abs() <= error).all()
    for point, scale in ((p, 1), (p - v, both)):  # in the cone, and in the dual one, but for round-off
        legs = (point[:, :2] + error) / scale
        assert (point[:, :2] >= -error).all()
        assert ((both * legs.log()).sum(dim=1).exp() >= point[:, 2].abs() - error).all()


def test_roots_of_projections_take_few_evaluations(monkeypatch):
    """A bisection alone takes 46 in float64, whatever the point."""
    evaluations = []
    equation = exponential_module._equation
    monkeypatch.setattr(exponential_module, "_equation", lambda *args: (evaluations.append(1), equation(*args))[1])
    for v in torch.randn(50, 1, 3, dtype=F64, generator=torch.Generator().manual_seed(1)):
        exponential_cone(v)
    assert len(evaluations) <= 50 * 16


def test_derivatives_of_the_power_cone():
    source = torch.Generator().manual_seed(0)
    v = torch.randn(8, 3, dtype=F64, generator=source).requires_grad_()
    alpha = torch.tensor([0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], dtype=F64)
    assert gradcheck(lambda v: power_cone(v, alpha), v, check_forward_ad=True)
    assert gradgradcheck(lambda v: power_cone(v, alpha), v)


def test_a_product_of_cones_projects_each_part():
    v = 3 * torch.randn(4, EVERY.rows, dtype=F64)
    p = EVERY.project(v)
    torch.testing.assert_close(EVERY.project(p), p, rtol=0, atol=1e-10)
    torch.testing.assert_close((p * (v - p)).sum(-1), torch.zeros(4, dtype=F64), rtol=0, atol=1e-9)
    assert (p[:, 0] == 0).all()
    assert (p[:, 1:4] >= 0).all()


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_the_derivative_of_a_projection_is_that_of_its_tape(scale):
    v = torch.randn(20, EVERY.rows, dtype=F64, generator=torch.Generator().manual_seed(2))
    v[:, EVERY.zero + EVERY.nonnegative] *= scale  # the first cone of second order: outside, beside, inside
    of_tape = torch.stack([torch.func.jacrev(EVERY.project)(row) for row in v])
    torch.testing.assert_close(EVERY.derivative(v), of_tape, rtol=0, atol=1e-9)


def test_the_derivative_of_the_conditions_is_that_of_its_tape():
    c, A, b = random_program(EVERY)
    rows, columns = torch.cartesian_prod(torch.arange(A.shape[0]), torch.arange(A.shape[1])).unbind(1)
    sparse = Sparse(rows, columns, tuple(A.shape))
    x, v = torch.randn(4, dtype=F64), torch.randn(EVERY.rows, dtype=F64)

    def conditions(point):
        return torch.cat(_conditions(EVERY, Whole(), (point[:4], point[4:]), c, A, b))

    of_tape = torch.func.jacrev(conditions)(torch.cat([x, v]))
    for layout, entries in ((Whole(), A), (sparse, A.flatten())):
        found = _jacobian(EVERY, layout, v.unsqueeze(0), entries.unsqueeze(0))[0]
        torch.testing.assert_close(found, of_tape, rtol=0, atol=1e-9)


# --- solutions ---


@pytest.mark.parametrize("threads", [1, 3])
def test_the_solution_meets_the_optimality_conditions(threads):
    arguments = random_program(EVERY, batch=(6,))
    point, solution = solve(*arguments, EVERY, solver=Clarabel(threads=threads), return_solution=True)
    assert solution.converged.all()
    assert optimality(arguments, point, EVERY) < 1e-9


def test_the_disc():
    c, A, b = disc()
    torch.testing.assert_close(solve(c, A, b, DISC).x, -c / 5, rtol=0, atol=1e-12)
    single = solve(c.float(), A.float(), b.float(), DISC).x
    torch.testing.assert_close(single, (-c / 5).float(), rtol=0, atol=1e-6)


def test_arguments_without_batch_axes_are_shared():
    c, A, b = disc()
    c = c * torch.tensor([1.0, -1.0, 2.0], dtype=F64)[:, None]
    torch.testing.assert_close(solve(c, A, b, DISC).x, -c / c.norm(dim=1, keepdim=True), rtol=0, atol=1e-10)


# --- derivatives ---


def test_the_derivative_of_the_disc_is_the_closed_form():
    c, A, b = disc()
    jacobian = torch.func.jacrev(lambda c: solve(c, A, b, DISC).x)(c)
    unit = c / c.norm()
    exact = -(torch.eye(2, dtype=F64) - torch.outer(unit, unit)) / c.norm()
    torch.testing.assert_close(jacobian, exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.func.jacfwd(lambda c: solve(c, A, b, DISC).x)(c), exact, rtol=0, atol=1e-10)
    second = torch.func.hessian(lambda c: solve(c, A, b, DISC).x[0])(c)
    torch.testing.assert_close(second, torch.func.hessian(lambda c: (-c / c.norm())[0])(c), rtol=0, atol=1e-9)
    batched = torch.func.vmap(lambda c: solve(c, A, b, DISC).x)(torch.stack([c, -c]))
    torch.testing.assert_close(batched, torch.stack([-unit, unit]), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "cones",
    [DISC, Cones(1, 2, (4, 3)), Cones(0, 1, (4,), (2,)), Cones(1, 1, (4,), (), 1), Cones(0, 1, (4,), power=(0.3, 0.6))],
    ids=["disc", "second order", "semidefinite", "exponential", "power"],
)
def test_gradients_are_those_of_finite_differences(cones):
    arguments = disc() if cones is DISC else random_program(cones, 3, seed=3)
    leaves = [t.clone().requires_grad_() for t in arguments]
    assert gradcheck(lambda *given: solve(*given, cones).x, leaves, atol=1e-4)  # the solver leaves 1e-10


def test_gradients_are_those_of_diffcp():
    diffcp = pytest.importorskip("diffcp", reason="needs pip install diffcp")
    from scipy.sparse import csc_matrix

    cones = Cones(zero=1, nonnegative=4, second_order=(7, 3, 4))
    for seed in range(5):
        c, A, b = random_program(cones, 6, seed=seed)
        leaves = [t.clone().requires_grad_() for t in (c, A, b)]
        point = solve(*leaves, cones)
        weights = torch.randn(6, dtype=F64)
        ours = torch.autograd.grad((weights * point.x).sum(), leaves)
        accurate = {"tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13, "tol_feas": 1e-13, "verbose": False}
        dims = {"z": 1, "l": 4, "q": [7, 3, 4]}
        *_, adjoint = diffcp.solve_and_derivative(
            csc_matrix(A.numpy()), b.numpy(), c.numpy(), dims, mode="dense", solve_method="CLARABEL", **accurate
        )
        zeros = torch.zeros(cones.rows).numpy()
        of_A, of_b, of_c = adjoint(weights.numpy(), zeros, zeros)
        ours = ours[0], ours[1] * (A != 0), ours[2]  # it has no gradient of the entries that are not stored
        for mine, theirs in zip(ours, (of_c, of_A.toarray(), of_b), strict=True):
            size = max(1.0, abs(theirs).max())
            # diffcp's own solution may be off by 1e-6, which its derivative inherits (ours: the next test)
            torch.testing.assert_close(mine / size, torch.as_tensor(theirs) / size, rtol=0, atol=1e-5)


def test_gradients_are_those_of_accurate_differences():
    """Of fourth order: 1e-9 is left of their own error."""
    cones = Cones(zero=1, nonnegative=4, second_order=(7, 3, 4))
    c, A, b = random_program(cones, 6, seed=4)
    slope = torch.autograd.functional.jacobian(lambda c: solve(c, A, b, cones).x, c)
    shift = 1e-4 * torch.eye(6, dtype=F64)
    x = [solve(c + k * shift, A, b, cones).x for k in (-2, -1, 1, 2)]
    torch.testing.assert_close(slope.mT, (x[0] - 8 * x[1] + 8 * x[2] - x[3]) / 12e-4, rtol=0, atol=1e-8)


# --- failures ---


def test_no_solution_is_a_status():
    one = torch.ones(1, 1, dtype=F64)
    rows, both = Cones(nonnegative=2), torch.cat([one, -one])
    b = torch.tensor([[0.0, -1.0], [1.0, 1.0], [torch.nan, 0.0]], dtype=F64)
    with pytest.warns(NonConvergenceWarning, match="1 diverged, 1 infeasible"):
        point, solution = cone_program(one[0], both, b, rows, return_solution=True)
    assert solution.status.tolist() == [Status.INFEASIBLE, Status.CONVERGED, Status.DIVERGED]
    assert point.x[1].item() == pytest.approx(-1)
    assert point.x[[0, 2]].isnan().all()
    below = cone_program(one[0], one, one[0], Cones(nonnegative=1), return_solution=True, on_failure="ignore")[1]
    assert below.status.item() == Status.UNBOUNDED
    short = cone_program(*disc(), DISC, solver=Clarabel(max_steps=1), return_solution=True, on_failure="ignore")[1]
    assert short.status.item() == Status.MAX_STEPS


def test_no_rows_and_no_programs():
    c = torch.ones(2, dtype=F64, requires_grad=True)
    A, b = torch.zeros(0, 2, dtype=F64), torch.zeros(0, dtype=F64)
    with pytest.warns(NonConvergenceWarning, match="1 unbounded"):
        assert cone_program(c, A, b, Cones()).x.isnan().all()
    flat, solution = cone_program(0 * c.detach(), A, b, Cones(), return_solution=True)
    assert solution.converged
    assert flat.x.tolist() == [0, 0]
    c, A, b = disc()
    none = c.expand(0, 2).clone().requires_grad_()
    x = solve(none, A, b, DISC).x
    assert x.shape == torch.autograd.grad(x.sum(), none)[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": torch.zeros(4, dtype=F64)}, r"b must have shape \(..., 3\)"),
        ({"A": torch.zeros(3, 3, dtype=F64)}, r"A must have shape \(..., 3, 2\)"),
        ({"c": torch.zeros(2)}, "one dtype"),
        ({"cones": {"l": 3}}, "cones must be a Cones"),
        ({"c": torch.zeros(2, 2, dtype=F64), "b": torch.zeros(3, 3, dtype=F64)}, "leading axes"),
    ],
    ids=str,
)
def test_bad_input_is_told(change, message):
    c, A, b = disc()
    with pytest.raises((TypeError, ValueError), match=message):
        cone_program(**({"c": c, "A": A, "b": b, "cones": DISC} | change))
    with pytest.raises(ValueError, match="must not be negative"):
        Cones(zero=-1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Cones(power=(1.5,))
    with pytest.raises(ValueError, match="at least one row"):
        Cones(second_order=(0,))
