"""Every public solver, and every fault of its input: no finite wrong value comes without a word.

Solvers are taken from the registries, so a new one is tried by itself. `pytest -s` shows what was counted.
"""

from collections import Counter

import pytest
import torch

from deqzoo.implicit import (
    EQUATION_ADJOINTS,
    LINEAR_SOLVERS,
    MINIMIZERS,
    SOLVERS,
    SPLITTINGS,
    Damped,
    LinearOperator,
    Picard,
    Status,
    argmin,
    fixed_point,
    make_adjoint,
    make_solver,
    root,
)
from tests.implicit.failures import INF, NAN, Told, outcomes, told, with_bad, with_nan
from tests.implicit.problems import contraction, draw

W, X = contraction(4, 0.6), draw(3, 4)
GOOD = torch.tensor([0, 2])


def adding(z, x):
    return 0.5 * torch.tanh(z @ W) + x


def saturating(z, x):
    """Here an infinite input looks as good as any."""
    return torch.tanh(z @ W + x)


def reference(f, x):
    z = torch.zeros_like(x)
    for _ in range(200):
        z = f(z, x)
    return z


class Monotone:
    """relu(W z + x) in the parts that splitting asks for."""

    A = W - W.T - 0.5 * torch.eye(4, dtype=W.dtype)

    def __call__(self, z, x):
        return self.prox(self.affine(z, x), 1.0)

    def affine(self, z, x):
        return z @ self.A.T + x

    def prox(self, v, alpha):
        return v.relu()

    def resolvent(self, alpha, x):
        eye = torch.eye(4, dtype=W.dtype)
        inverse = torch.linalg.inv(eye + alpha * (eye - self.A)).T
        return lambda v: (v + alpha * x) @ inverse


def maps(name):
    return [Monotone()] if name in SPLITTINGS else [adding, saturating]


def options_of(name, **options):
    return make_solver(name, **({"max_steps": 500} | options))


def show(what, counts):
    print(f"{what:40}", dict(counts))
    assert not counts["silence"], f"{what}: {dict(counts)}"


each_fixed_point = pytest.mark.parametrize("name", sorted({**SOLVERS, **SPLITTINGS}))


@each_fixed_point
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_fixed_points_of_a_bad_sample(name, bad):
    for f in maps(name):
        solve = lambda x, f=f, **o: fixed_point(f, torch.zeros_like(x), x, solver=options_of(name), batch_dims=1, **o)  # noqa: E731
        right = reference(f, X)
        counts = outcomes(told(lambda: solve(with_bad(X, bad))), with_nan(right))  # noqa: B023
        show(f"{name}, {bad}", counts)
        assert counts == {"right": 2, "not a number": 1}
        with pytest.warns(RuntimeWarning, match="1 of 3"):
            _, solution = solve(with_bad(X, bad), return_solution=True)
        assert solution.status[1] == Status.DIVERGED
        assert torch.isfinite(solution.value).all()


@each_fixed_point
def test_fixed_points_of_zeros_and_of_nothing(name):
    for f in maps(name):
        solve = lambda x, f=f: fixed_point(f, torch.zeros_like(x), x, solver=options_of(name), batch_dims=1)  # noqa: E731
        assert outcomes(told(lambda: solve(0 * X)), reference(f, 0 * X)) == {"right": 3}  # noqa: B023
        assert solve(X[:0]).shape == (0, 4)


@each_fixed_point
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_fixed_points_without_the_budget(name, steps):
    for f in maps(name):
        options = {"solver": options_of(name, max_steps=steps, tol=1e-9), "batch_dims": 1}
        found = told(lambda: fixed_point(f, torch.zeros_like(X), X, **options))  # noqa: B023
        show(f"{name}, {steps} steps", outcomes(found, reference(f, X)))


@each_fixed_point
def test_fixed_points_that_are_not_there(name):
    """z + x = z has no solution, and relu(z + 1) none either."""
    f = Monotone() if name in SPLITTINGS else (lambda z, x: z + x)
    if name in SPLITTINGS:
        f.A = torch.eye(4, dtype=W.dtype)
    x = torch.ones(3, 4, dtype=W.dtype)
    found = told(lambda: fixed_point(f, 0 * x, x, solver=options_of(name, max_steps=60), batch_dims=1))
    show(f"{name}, no solution", outcomes(found, torch.full_like(x, NAN)))


@pytest.mark.parametrize("gradient", sorted(EQUATION_ADJOINTS))
@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("f", [adding, saturating])
@pytest.mark.parametrize("stop", ["rel", "never"])
def test_gradients_of_the_other_samples_stay(gradient, bad, f, stop):
    """Also where the loss takes all samples, and where it leaves the bad one out."""
    if gradient == "reversible_iteration" and stop == "rel":
        pytest.skip("it takes a fixed number of steps")
    damping = 0.8 if gradient == "reversible_iteration" else 1.0

    def slope(x, rows):
        x = x.detach().requires_grad_()
        solver = Picard(stop=stop, max_steps=80, damping=damping)
        z, solution = fixed_point(
            f, torch.zeros_like(x), x, solver=solver, adjoint=make_adjoint(gradient), batch_dims=1,
            on_failure="ignore", return_solution=True,
        )  # fmt: skip
        (found,) = torch.autograd.grad(z[rows].square().sum(), x)
        return z, found, solution

    every = torch.arange(3)
    right, expected, _ = slope(X, every)
    for rows in (GOOD, every):
        z, found, solution = slope(with_bad(X, bad), rows)
        assert z[1].isnan().all()
        assert torch.isfinite(solution.value).all()
        torch.testing.assert_close(z[GOOD], right[GOOD], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found[GOOD], expected[GOOD], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("batch_dims", [0, 1, 2])
@pytest.mark.parametrize("call", ["plain", "vmap", "inference", "compiled", "captured"])
def test_every_way_to_call(batch_dims, call):
    x = draw(2, 3, 4)
    x[1, 2, 0] = NAN
    solver = Picard(stop="never", max_steps=60) if call == "compiled" else Picard()
    f = (lambda z: adding(z["a"], x)) if call == "captured" else (lambda z, x: adding(z["a"], x))

    def solve(x):
        args = () if call == "captured" else (x,)
        start = {"a": torch.zeros_like(x)}
        dims = max(batch_dims - 1, 0) if call == "vmap" else batch_dims
        return fixed_point(lambda *z: {"a": f(*z)}, start, *args, solver=solver, batch_dims=dims, on_failure="ignore")

    if call == "vmap":
        solve = torch.func.vmap(solve)
    context = torch.inference_mode() if call in ("inference", "compiled") else torch.enable_grad()
    with context:
        z = (torch.compile(solve, backend="eager") if call == "compiled" else solve)(x)["a"]
    lost = torch.zeros(2, 3, dtype=torch.bool)
    systems = max(batch_dims, 1) if call == "vmap" else batch_dims
    lost[[..., (1,), (1, 2)][systems]] = True
    assert torch.equal(z.isnan().all(-1), lost)
    assert torch.equal(z.isnan().any(-1), lost)
    torch.testing.assert_close(z[~lost], reference(adding, x)[~lost], rtol=1e-6, atol=1e-8)


# --- roots, minima, black boxes ---


def equation(y, x):
    return y + 0.3 * torch.tanh(y @ W) - x


def bounded(y, x):
    """Bounded in x: no residual tells of an infinite one."""
    return y - torch.tanh(0.5 * y + x)


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_roots(name):
    solver = options_of(name)
    for f in (equation, bounded):
        right = root(f, 0 * X, X, batch_dims=1, on_failure="raise")
        total = Counter()
        for bad in (NAN, INF):
            found = told(lambda: root(f, 0 * X, with_bad(X, bad), solver=solver, batch_dims=1))  # noqa: B023
            total += outcomes(found, with_nan(right))
        assert total == {"right": 4, "not a number": 2}
        zeros = told(lambda: root(f, 0 * X, 0 * X, solver=solver, batch_dims=1))  # noqa: B023
        assert outcomes(zeros, 0 * X) == {"right": 3}
        few = told(lambda: root(f, 0 * X, X, solver=options_of(name, max_steps=1, tol=1e-9), batch_dims=1))  # noqa: B023
        show(f"root, {name}", total + outcomes(few, right))
    assert root(equation, X[:0], X[:0], solver=solver, batch_dims=1).shape == (0, 4)


SINGULAR = {
    "no root": lambda y, x: y**2 + 1 + 0 * x,
    "a singular Jacobian": lambda y, x: (y @ torch.ones(4, 4, dtype=W.dtype)) - 1 - x,
    "flat": lambda y, x: 0 * y + 1 + 0 * x,
}


@pytest.mark.parametrize("name", sorted(SOLVERS))
@pytest.mark.parametrize("kind", SINGULAR)
def test_roots_that_are_not_there(name, kind):
    found = told(lambda: root(SINGULAR[kind], 0 * X + 0.5, X, solver=options_of(name, max_steps=60), batch_dims=1))
    show(f"root, {name}, {kind}", outcomes(found, torch.full_like(X, NAN)))


def bowl(y, x):
    return ((y - x) ** 2).sum(-1) + 0.1 * torch.cos(y).sum(-1)


def bounded_bowl(y, x):
    return (y**2 / 2 - 0.5 * y * torch.tanh(x)).sum(-1)


@pytest.mark.parametrize("name", sorted(MINIMIZERS))
def test_minima(name):
    solver = options_of(name)
    for objective in (bowl, bounded_bowl):
        right = argmin(objective, 0 * X, X, batch_dims=1, on_failure="raise")
        total = Counter()
        for bad in (NAN, INF):
            found = told(lambda: argmin(objective, 0 * X, with_bad(X, bad), solver=solver, batch_dims=1))  # noqa: B023
            total += outcomes(found, with_nan(right))
        assert total == {"right": 4, "not a number": 2}
        few = told(
            lambda: argmin(objective, 0 * X, X, solver=options_of(name, max_steps=1, tol=1e-9), batch_dims=1)  # noqa: B023
        )
        show(f"argmin, {name}", total + outcomes(few, right))
    assert argmin(bowl, X[:0], X[:0], solver=solver, batch_dims=1).shape == (0, 4)


@pytest.mark.parametrize("name", sorted(MINIMIZERS))
@pytest.mark.parametrize("objective", [lambda y: y.sum(), lambda y: y.log().sum(), lambda y: -(y**4).sum()])
def test_minima_that_are_not_there(name, objective):
    y = torch.ones(2, dtype=W.dtype)
    found = told(lambda: argmin(objective, y, solver=options_of(name, max_steps=200))[None])
    show(f"argmin, {name}, unbounded", outcomes(found, torch.full((1, 2), NAN)))


@pytest.mark.parametrize("face", [fixed_point, root])
def test_black_boxes(face):
    """A callable reports nothing: what it returns, and what it was given, is looked at."""
    f = adding if face is fixed_point else (lambda y, x: y - adding(y, x))

    def solver(f, z0, x):
        z = reference(adding, x)
        z[2, 3] = INF
        return torch.where(z.isnan(), 0.0, z)

    x = with_bad(X, NAN)
    with pytest.warns(RuntimeWarning, match="2 of 3 systems.*2 diverged"):
        z, solution = face(f, torch.zeros_like(x), x, solver=solver, batch_dims=1, return_solution=True)
    assert z.isnan().all(1).tolist() == [False, True, True]
    assert solution.status.tolist() == [0, Status.DIVERGED, Status.DIVERGED]


# --- linear solvers ---


def matrices():
    """Symmetric positive definite, so that each solver takes them; the series converges."""
    gram = contraction(4, 0.5)
    return torch.eye(4, dtype=W.dtype) + 0.5 * torch.stack([gram @ gram.T, gram.T @ gram, -0.5 * gram @ gram.T])


def solved(name, A, b, **options):
    solver = Damped(make_solver("cg"), 0.0) if name == "damped" else make_solver(name, **options)
    solution = solver(LinearOperator.from_matrix(A, ("symmetric", "positive_definite")), b)
    return solution, solution.value


def judged(solution, right, tol=1e-3):
    """As `outcomes`; a linear solver tells by its status, each system by itself."""
    total = Counter()
    for i in range(len(right)):
        warned = int(solution.status[i]) != Status.CONVERGED
        total += outcomes(Told(solution.value[i : i + 1], warned), right[i : i + 1], tol)
    return total


@pytest.mark.parametrize("name", sorted(LINEAR_SOLVERS))
@pytest.mark.parametrize("bad", [NAN, INF])
def test_linear_systems_of_a_bad_sample(name, bad):
    A, b = matrices(), draw(3, 4)
    right = torch.linalg.solve(A, b)
    options = {"k": 60} if name == "neumann" else {}
    spoilt_b, _ = solved(name, A, with_bad(b, bad), **options)
    spoilt_A, _ = solved(name, with_bad(A, bad), b, **options)
    total = judged(spoilt_b, with_nan(right)) + judged(spoilt_A, with_nan(right))
    show(f"{name}, {bad}", total)
    assert total["right"] == 4


@pytest.mark.parametrize("name", sorted(LINEAR_SOLVERS))
def test_linear_systems_of_zeros_and_of_nothing(name):
    A = matrices()
    solution, x = solved(name, A, torch.zeros(3, 4, dtype=W.dtype))
    assert torch.equal(x, torch.zeros_like(x))
    assert solution.converged.all()
    assert solved(name, A[:0], torch.zeros(0, 4, dtype=W.dtype))[1].shape == (0, 4)


@pytest.mark.parametrize("name", sorted(LINEAR_SOLVERS))
@pytest.mark.parametrize("consistent", [True, False])
def test_singular_linear_systems(name, consistent):
    """Of a consistent one any solution is right; of another none is."""
    q = torch.linalg.qr(draw(4, 4)).Q
    A = ((q * torch.tensor([1.0, 0.5, 0.7, 0.0], dtype=W.dtype)) @ q.T).expand(3, 4, 4)
    b = draw(3, 4, seed=1)
    b = (A @ b.unsqueeze(2)).squeeze(2) if consistent else b
    solution, x = solved(name, A, b, **({"k": 60} if name == "neumann" else {}))
    reached = (A @ x.unsqueeze(2)).squeeze(2)
    for i in range(3):
        size = torch.linalg.vector_norm(b[i])
        assert torch.linalg.vector_norm(reached[i] - b[i]) <= 1.001 * size  # no worse than zero
        if solution.status[i] == Status.CONVERGED:
            assert torch.linalg.vector_norm(reached[i] - b[i]) <= 1e-3 * size


@pytest.mark.parametrize("name", sorted(set(LINEAR_SOLVERS) - {"dense", "svd"}))
def test_linear_systems_without_the_budget(name):
    A, b = matrices() + 5 * torch.diag(torch.arange(4.0, dtype=W.dtype)), draw(3, 4)
    if name == "neumann":
        A = matrices()
    few = {"k": 1} if name == "neumann" else {"max_steps": max(LINEAR_SOLVERS[name].fewest_steps, 1)}
    solution, _ = solved(name, A, b, **few)
    show(f"{name}, one step", judged(solution, torch.linalg.solve(A, b)))
