"""Quadratic programs: the solution and its derivatives against known answers, in every mode."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from deqzoo.implicit import InteriorPoint, NonConvergenceError, NonConvergenceWarning, Status, quadratic_program
from deqzoo.implicit.programs.program import QuadraticProgram
from tests.implicit.programs.programs import F64, optimality, random_program, with_box

DTYPES = [torch.float32, torch.float64]


def solve(*arguments, **options):
    return quadratic_program(*arguments, on_failure="raise", **options)


def of_root(M, q, A, b, G, h):
    """All parts of the solution, with the root of P as argument: finite differences keep P symmetric."""
    P = M @ M.mT + 0.1 * torch.eye(M.shape[-1], dtype=M.dtype)
    return tuple(part for part in solve(P, q, A, b, G, h) if part.numel())


def leaves(batch=(), **sizes):
    _, *others = random_program(batch, **sizes)
    n = others[0].shape[-1]
    M = torch.randn(*batch, n, n, dtype=F64, generator=torch.Generator().manual_seed(7))
    return [t.clone().requires_grad_() for t in (M, *others)]


# --- the solution ---


@given(
    n=st.integers(1, 8),
    p=st.integers(0, 3),
    m=st.integers(0, 10),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(DTYPES),
    batch=st.sampled_from([(), (3,), (2, 2)]),
)
@example(n=6, p=2, m=6, seed=6, dtype=torch.float32, batch=(3,))
@settings(max_examples=60)
def test_the_solution_meets_the_optimality_conditions(n, p, m, seed, dtype, batch):
    arguments = tuple(t.to(dtype) for t in random_program(batch, n, min(p, n - 1), m, seed))
    point, solution = quadratic_program(*arguments, on_failure="ignore", return_solution=True)
    assert point.x.shape == (*batch, n)
    assert point.slacks.shape == (*batch, m)
    assert solution.converged.all()
    scale = max(t.abs().max().item() for t in (*arguments, *point) if t.numel())
    assert optimality(arguments, point) <= (1e-10 if dtype == F64 else 2e-4) * scale**2  # products of two numbers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "p", "m", "seed", "row"),
    [
        # Mehrotra's method alone cycles on these.
        (6, 2, 6, 6, None),
        (5, 2, 8, 552877, None),
        (5, 0, 9, 140789, None),
        (1, 0, 10, 412727, None),
        # The active rows are nearly dependent: in float32 the regularisation is to be reduced.
        (3, 2, 9, 808199, None),
        (4, 3, 8, 360527, None),
        (3, 2, 9, 714742, 53),
        # The boundary blocks the way to points that meet the constraints.
        (7, 3, 3, 774721, 6),
        (3, 2, 3, 857527, 59),
    ],
)
def test_programs_that_are_hard_to_reach(n, p, m, seed, row, dtype):
    batch = (8,) if row is None else (64,)
    arguments = [t.to(dtype)[slice(None) if row is None else [row]] for t in random_program(batch, n, p, m, seed)]
    point, solution = quadratic_program(*arguments, on_failure="ignore", return_solution=True)
    assert solution.converged.all()
    scale = max(t.abs().max().item() for t in (*arguments, *point) if t.numel())
    assert optimality(arguments, point) <= (1e-10 if dtype == F64 else 2e-4) * scale**2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("boxed", "rank"), [(False, None), (True, 2), (True, 0)])
def test_thousands_of_random_programs_converge(boxed, rank, dtype):
    generator = torch.Generator().manual_seed(1)
    for seed in range(100):
        n, p, m = (torch.randint(*ends, (), generator=generator).item() for ends in ((2, 11), (0, 4), (0, 13)))
        arguments = random_program((64,), n, min(p, n - 1), m, seed, rank=rank)
        arguments = with_box(arguments) if boxed else arguments
        solution = quadratic_program(*(t.to(dtype) for t in arguments), on_failure="ignore", return_solution=True)[1]
        assert solution.converged.all(), (n, p, m, seed)


def test_it_is_that_of_cvxpy_and_clarabel():
    cvxpy = pytest.importorskip("cvxpy", reason="needs pip install 'deqzoo[convex]'")
    arguments = random_program((6,), 6, 2, 8, seed=4)
    point = solve(*arguments)
    for i in range(6):
        P, q, A, b, G, h = (t[i].numpy() for t in arguments)
        x = cvxpy.Variable(6)
        constraints = [A @ x == b, G @ x <= h]
        objective = cvxpy.Minimize(0.5 * cvxpy.quad_form(x, cvxpy.psd_wrap(P)) + q @ x)
        accurate = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
        cvxpy.Problem(objective, constraints).solve(solver="CLARABEL", **accurate)
        for ours, theirs in zip(point, (x, *(c.dual_value for c in constraints)), strict=False):
            theirs = getattr(theirs, "value", theirs)
            torch.testing.assert_close(ours[i], torch.as_tensor(theirs), rtol=0, atol=1e-7)


def test_equalities_alone_are_a_linear_system():
    P, q, A, b, _, _ = random_program((3,), 5, 2, 0)
    zero = torch.zeros(3, 2, 2, dtype=F64)
    K = torch.cat([torch.cat([P, A.mT], 2), torch.cat([A, zero], 2)], 1)
    exact = torch.linalg.solve(K, torch.cat([-q, b], 1))
    point = solve(P, q, A, b)
    torch.testing.assert_close(torch.cat([point.x, point.equality_duals], 1), exact, rtol=1e-9, atol=1e-10)


def test_the_projection_on_a_box_is_exact():
    target = torch.tensor([-3.0, 0.5, 7.0], dtype=F64)
    eye, one = torch.eye(3, dtype=F64), torch.ones(3, dtype=F64)
    point = solve(eye, -target, G=torch.cat([eye, -eye]), h=torch.cat([one, one]))
    torch.testing.assert_close(point.x, target.clamp(-1, 1), rtol=0, atol=1e-10)
    expected = torch.tensor([0, 0, 6.0, 2.0, 0, 0], dtype=F64)
    torch.testing.assert_close(point.inequality_duals, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_singular_P_is_no_trouble(rank):
    arguments = with_box(random_program((8,), 6, 1, 6, seed=2, rank=rank))
    point, solution = solve(*arguments, return_solution=True)
    assert solution.converged.all()
    assert optimality(arguments, point) < 1e-9


def test_a_repeated_constraint_is_no_trouble():
    P, q, A, b, G, h = random_program((4,), 5, 2, 6)
    once = solve(P, q, A, b, G, h).x
    twice = solve(P, q, torch.cat([A, A], 1), torch.cat([b, b], 1), torch.cat([G, G], 1), torch.cat([h, h], 1)).x
    torch.testing.assert_close(twice, once, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_no_scale_of_objective_constraints_or_unknowns_matters(size):
    P, q, A, b, G, h = random_program((), 5, 1, 6)
    plain = solve(P, q, A, b, G, h)
    torch.testing.assert_close(solve(size * P, size * q, A, b, G, h).x, plain.x, rtol=1e-8, atol=1e-9)
    rows = torch.logspace(-4, 4, 6, dtype=F64)
    torch.testing.assert_close(
        solve(P, q, size * A, size * b, rows[:, None] * G, rows * h).x, plain.x, rtol=1e-8, atol=1e-9
    )
    torch.testing.assert_close(
        solve(P, size * q, A, size * b, G, size * h).x, size * plain.x, rtol=1e-8, atol=1e-9 * size
    )


def test_the_batch_is_one_by_one():
    arguments = random_program((16,), 5, 1, 8, seed=3)
    together = solve(*arguments)
    for i in range(16):
        alone = solve(*(t[i] for t in arguments))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i], b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shared", range(6))
def test_an_argument_without_batch_axes_is_shared(shared):
    batched = list(random_program((3,), 4, 1, 5))
    one = batched[shared] = batched[shared][0]
    expanded = list(batched)
    expanded[shared] = one.expand(3, *one.shape)
    for program in (batched, expanded):
        program[shared] = program[shared].detach().clone().requires_grad_()
    results = [solve(*program).x for program in (batched, expanded)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)
    weights = torch.arange(12, dtype=F64).reshape(3, 4)
    gradients = [
        torch.autograd.grad((weights * x).sum(), g[shared])[0]
        for x, g in zip(results, (batched, expanded), strict=True)
    ]
    torch.testing.assert_close(gradients[0], gradients[1].sum(0), rtol=1e-7, atol=1e-8)


def test_constraints_that_all_programs_share_are_not_copied():
    P, q, A, b, G, h = random_program((), 4, 1, 5)
    program = QuadraticProgram.of((P, q.expand(7, 4), A, b, G, h), torch.Size([7]))
    assert program.P.shape == (4, 4)
    assert torch.equal(program.C, torch.cat([A, G]))
    assert torch.equal(program.d, torch.cat([b, h]).expand(7, 6))


def test_the_factor_is_shared_without_inequalities(monkeypatch):
    shapes = []
    cholesky = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda H: (shapes.append(H.shape), cholesky(H))[1])
    P, q, A, b, _, _ = random_program((), 4, 1, 0)
    x = solve(P, q.expand(7, 4) * torch.arange(7)[:, None], A, b).x
    assert {shape[0] for shape in shapes} == {1}
    torch.testing.assert_close(x[1], solve(P, q, A, b).x, rtol=0, atol=1e-9)
    free = solve(P, q.expand(7, 4)).x
    torch.testing.assert_close(free[3], torch.linalg.solve(P, -q), rtol=0, atol=1e-9)


def test_a_warm_start_needs_fewer_steps():
    P, q, A, b, G, h = random_program((8,), 10, 2, 15, seed=5)
    start, cold = solve(P, q, A, b, G, h, return_solution=True)
    _, same = solve(P, q, A, b, G, h, start=start, return_solution=True)
    near, warm = solve(P, q + 1e-5, A, b, G, h, start=start, return_solution=True)
    exact, again = solve(P, q + 1e-5, A, b, G, h, return_solution=True)
    assert same.steps.max() <= 3
    assert warm.steps.float().mean() < 0.7 * again.steps.float().mean()
    torch.testing.assert_close(near.x, exact.x, rtol=0, atol=1e-9)
    _, from_nan = solve(P, q, A, b, G, h, start=type(start)(*(torch.nan * t for t in start)), return_solution=True)
    assert torch.equal(from_nan.steps, cold.steps)


# --- derivatives ---


@pytest.mark.parametrize("sizes", [{}, {"p": 0}, {"m": 0, "p": 2}, {"m": 0, "p": 0}], ids=str)
def test_first_derivatives_in_both_modes(sizes):
    assert gradcheck(
        of_root, leaves((2,), **({"n": 3, "m": 3} | sizes)), check_forward_ad=True, check_batched_grad=True
    )


@pytest.mark.parametrize("sizes", [{"n": 3, "m": 3}, {"n": 3, "m": 0}], ids=str)
def test_second_derivatives(sizes):
    assert gradgradcheck(of_root, leaves(**sizes))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_those_of_a_dense_solve(dtype):
    """dL = -u'dF with M u = dL/d(x, y, z), M of the active constraints, written out."""
    arguments = [t.to(dtype).requires_grad_() for t in random_program((5,), 6, 2, 8, seed=9)]
    point, solution = solve(*arguments, return_solution=True)
    weights = torch.randn(5, 6, dtype=F64)
    gradients = torch.autograd.grad((point.x * weights).sum(), arguments)
    assert solution.backward.converged.all()
    for i in range(5):
        P, _, A, _, G, _ = (t[i].detach().double() for t in arguments)
        x, y, z = (t[i].detach().double() for t in point[:3])
        active = z > point.slacks[i]
        C = torch.cat([A, G[active]])
        k = len(C)
        K = torch.cat([torch.cat([P, C.mT], 1), torch.cat([C, torch.zeros(k, k, dtype=F64)], 1)])
        u = torch.linalg.solve(K, -torch.cat([weights[i], torch.zeros(k, dtype=F64)]))
        of_x, of_y, of_z = u[:6], u[6:8], torch.zeros(8, dtype=F64)
        of_z[active] = u[8:]
        outer = torch.outer(of_x, x)
        expected = (
            (outer + outer.mT) / 2,
            of_x,
            torch.outer(y, of_x) + torch.outer(of_y, x),
            -of_y,
            torch.outer(z, of_x) + torch.outer(of_z, x),
            -of_z,
        )
        tolerance = 1e-8 if dtype == F64 else 2e-3  # x itself has 1e-6 in float32, K a condition of hundreds
        for found, exact in zip(gradients, expected, strict=True):
            size = exact.abs().max().clamp(min=1)
            torch.testing.assert_close(found[i].double() / size, exact / size, rtol=0, atol=tolerance)


def test_under_torch_func():
    P, q, A, b, G, h = arguments = random_program((3,), 4, 1, 5)
    x = solve(*arguments).x
    torch.testing.assert_close(torch.func.vmap(lambda *given: solve(*given).x)(*arguments), x, rtol=0, atol=1e-10)

    def of_q(q, *others):
        P, *rest = others
        return solve(P, q, *rest).x

    reverse = torch.func.vmap(torch.func.jacrev(of_q))(q, P, A, b, G, h)
    forward = torch.func.vmap(torch.func.jacfwd(of_q))(q, P, A, b, G, h)
    torch.testing.assert_close(reverse, forward, rtol=1e-8, atol=1e-9)
    leaf = q.clone().requires_grad_()
    tape = torch.stack([torch.autograd.grad(solve(P, leaf, A, b, G, h).x[:, i].sum(), leaf)[0] for i in range(4)], 1)
    torch.testing.assert_close(reverse, tape, rtol=1e-8, atol=1e-9)


def test_the_gradient_of_P_is_symmetric():
    arguments = [t.requires_grad_() for t in random_program()]
    gradient = torch.autograd.grad(solve(*arguments).x.sum(), arguments[0])[0]
    assert torch.equal(gradient, gradient.mT)


def test_no_scale_of_the_loss_matters():
    arguments = random_program()
    q = arguments[1].requires_grad_()
    x = solve(*arguments).x.sum()
    one, tiny = (torch.autograd.grad(scale * x, q, retain_graph=True)[0] / scale for scale in (1.0, 1e-30))
    torch.testing.assert_close(one, tiny, rtol=1e-9, atol=1e-12)


def test_dependent_active_constraints_take_the_dense_solver():
    """Two equal active rows: M is singular, x has a derivative all the same."""
    eye = torch.eye(2, dtype=F64)
    q = torch.tensor([-3.0, -1.0], dtype=F64, requires_grad=True)
    G = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=F64)
    point = quadratic_program(eye, q, G=G, h=torch.ones(2, dtype=F64), on_failure="ignore")
    gradient = torch.autograd.grad(point.x.sum(), q)[0]
    torch.testing.assert_close(gradient, torch.tensor([0.0, -1.0], dtype=F64), rtol=0, atol=1e-6)


def test_a_kink_has_one_of_its_two_derivatives():
    """max(t, 0) at t = 0, exactly."""
    t = torch.zeros(1, dtype=F64, requires_grad=True)
    one = torch.ones(1, 1, dtype=F64)
    x = quadratic_program(one, -t, G=-one, h=torch.zeros(1, dtype=F64), on_failure="ignore").x
    (slope,) = torch.autograd.grad(x.sum(), t)
    assert -1e-6 <= slope.item() <= 1 + 1e-6


# --- failures ---


def test_no_solution_is_a_status_and_leaves_the_others_alone():
    arguments = with_box(random_program((5,), 4, 1, 3, seed=8))
    P, q, A, b, G, h = (t.clone() for t in arguments)
    h[1, -1], h[1, -5] = -10.0, 5.0  # x_4 >= 10 and x_4 <= 5
    q[3, 0] = torch.nan
    q.requires_grad_()
    with pytest.warns(NonConvergenceWarning, match="1 diverged, 1 infeasible"):
        point, solution = quadratic_program(P, q, A, b, G, h, return_solution=True)
    assert solution.status.tolist() == [0, Status.INFEASIBLE, 0, Status.DIVERGED, 0]
    whole = solve(*arguments).x
    for i in (0, 2, 4):
        torch.testing.assert_close(point.x[i], whole[i], rtol=0, atol=1e-10)
    for part in point:
        assert part[[1, 3]].isnan().all()
    gradient = torch.autograd.grad(point.x[[0, 2, 4]].sum(), q)[0]
    assert gradient[[0, 2, 4]].isfinite().all()
    assert torch.equal(gradient[[1, 3]], torch.zeros(2, 4, dtype=F64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inequalities", [True, False])
def test_contradictory_equalities_are_infeasible(dtype, inequalities):
    P, q, A, b, G, h = (t.to(dtype) for t in with_box(random_program((10,), 6, 2, 4)))
    A, b = torch.cat([A, A[:, :1]], 1), torch.cat([b, b[:, :1] + 1], 1)
    others = (G, h) if inequalities else ()
    _, solution = quadratic_program(P, q, A, b, *others, return_solution=True, on_failure="ignore")
    assert (solution.status == Status.INFEASIBLE).all()


@pytest.mark.parametrize("m", [0, 2])
def test_an_objective_without_a_least_value_is_unbounded(m):
    arguments = random_program((10,), 6, 1, m, rank=1)
    _, solution = quadratic_program(*arguments, return_solution=True, on_failure="ignore")
    assert (solution.status == Status.UNBOUNDED).all()
    single = tuple(t.float() for t in arguments)
    _, solution = quadratic_program(*single, return_solution=True, on_failure="ignore")
    # In float32 the proof may drown in the round-off of a P of rank one: then the program has stalled.
    assert torch.isin(solution.status, torch.tensor([Status.UNBOUNDED, Status.STALLED])).all()
    assert (solution.status == Status.UNBOUNDED).sum() >= 8


def test_raise_raises():
    one = torch.ones(1, 1)
    with pytest.raises(NonConvergenceError, match="quadratic program: 1 of 1 systems did not converge"):
        solve(one, one[0], G=torch.cat([one, -one]), h=torch.tensor([0.0, -1.0]))
    with pytest.raises(NonConvergenceError, match="max steps"):
        solve(*random_program(), solver=InteriorPoint(max_steps=1))


EYE, ZERO = torch.eye(2), torch.zeros(2)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.tensor([[1.0, 1.0], [0.0, 1.0]]), ZERO), {}, "P must be symmetric"),
        ((torch.diag(torch.tensor([1.0, -1.0])), ZERO), {}, "P must be positive semidefinite"),
        ((torch.eye(3), ZERO), {}, r"P must have shape \(..., 2, 2\)"),
        ((EYE, ZERO, EYE), {}, "A and b belong together"),
        ((EYE, ZERO), {"h": ZERO}, "G and h belong together"),
        ((EYE, ZERO, EYE, torch.zeros(3)), {}, r"A must have shape \(..., 3, 2\)"),
        ((EYE.expand(3, 2, 2), ZERO.expand(4, 2)), {}, "leading axes must be equal or missing"),
        ((EYE, torch.zeros(0)), {}, "q must have shape"),
        ((EYE.double(), ZERO), {}, "one dtype and device"),
        ((EYE.half(), ZERO.half()), {}, "P must be float32 or float64"),
        ((EYE, [0.0, 0.0]), {}, "q must be a tensor"),
        ((EYE, ZERO), {"solver": "newton"}, "solver must be an InteriorPoint"),
        ((EYE, ZERO), {"on_failure": "panic"}, "on_failure must be one of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_told(arguments, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        quadratic_program(*arguments, **options)


def test_a_start_of_another_size_is_told():
    P, q, *_ = random_program((), 3, 0, 0)
    start = solve(P, q)
    for part, size in (("x", 3), ("slacks", 0)):
        with pytest.raises(ValueError, match=rf"start\.{part} must have shape \(\.\.\., {size}\), got \(4,\)"):
            solve(P, q, start=start._replace(**{part: torch.ones(4, dtype=F64)}))


def test_sets_of_no_constraints_are_allowed():
    none = torch.zeros(0, 2), torch.zeros(0)
    point = solve(EYE, ZERO + 1, *none, *none)
    torch.testing.assert_close(point.x, -torch.ones(2))
    assert point.inequality_duals.shape == (0,)
    empty = solve(EYE, torch.zeros(0, 2), G=EYE, h=ZERO)
    assert empty.x.shape == (0, 2)


def test_the_host_reads_once_a_step():
    from tests.implicit.solvers.helpers import HostReads

    arguments = random_program((8,), 5, 1, 6)
    with HostReads() as reads, torch.no_grad():
        _, solution = quadratic_program(*arguments, return_solution=True)
    assert reads.count <= solution.steps.max() + 4  # before the steps, after the last, and the check of the status
