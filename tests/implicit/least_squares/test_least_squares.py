"""Least squares: solutions against SciPy and closed forms, derivatives in every mode."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares as scipy_least_squares
from torch.autograd import gradcheck, gradgradcheck

from deqzoo.implicit import (
    Dogleg,
    GaussNewtonStep,
    Huber,
    Implicit,
    LevenbergMarquardt,
    NonConvergenceWarning,
    argmin,
    least_squares,
)
from deqzoo.implicit.least_squares import columns
from deqzoo.implicit.least_squares.losses import Square
from deqzoo.implicit.least_squares.solvers import Model

F64 = torch.float64
SOLVERS = ["levenberg_marquardt", "dogleg", "gauss_newton"]
LOSSES = {"square": "linear", "huber": "huber", "soft_l1": "soft_l1", "cauchy": "cauchy"}


def decay(y, x, t):
    return y[0] * torch.exp(-y[1] * x) + y[2] - t


def points(count=40, outlier=3.0):
    """An exponential decay with noise and outliers."""
    x = torch.linspace(0, 3, count, dtype=F64)
    t = 2.5 * torch.exp(-1.3 * x) + 0.5 + 0.1 * torch.randn(count, dtype=F64)
    t[::7] += outlier
    return x, t


def fit(*args, **options):
    return least_squares(decay, torch.ones(3, dtype=F64), *args, on_failure="raise", **options)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_fit_is_that_of_scipy(solver, loss):
    x, t = points()

    def residual(y):
        return decay(torch.from_numpy(y), x, t).numpy()

    tight = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-12}
    exact = scipy_least_squares(residual, np.ones(3), loss=LOSSES[loss], **tight).x
    y = fit(x, t, solver=solver, loss=loss)
    np.testing.assert_allclose(y, exact, rtol=0, atol=1e-6)


def test_a_solver_called_by_itself_takes_all_for_one_system():
    x, t = points()
    solution = LevenbergMarquardt()(decay, torch.ones(3, dtype=F64), x, t)
    assert solution.status.shape == ()
    assert solution.converged
    torch.testing.assert_close(solution.value, fit(x, t), rtol=1e-8, atol=0)


@given(m=st.integers(1, 8), n=st.integers(1, 8), batch=st.sampled_from([None, 3]), seed=st.integers(0, 1000))
@settings(max_examples=40)
def test_linear_residuals_have_the_solution_of_the_pseudo_inverse(m, n, batch, seed):
    source = torch.Generator().manual_seed(seed)
    shape = () if batch is None else (batch,)
    A = torch.randn(*shape, m, n, dtype=F64, generator=source)
    U, _, V = torch.linalg.svd(A, full_matrices=False)  # no ill-conditioned ones
    A = U @ (torch.linspace(1, 2, min(m, n), dtype=F64).unsqueeze(-1) * V)
    b = torch.randn(*shape, m, dtype=F64, generator=source)
    y = least_squares(
        lambda y, A, b: (A @ y.unsqueeze(-1)).squeeze(-1) - b,
        torch.zeros(*shape, n, dtype=F64),
        A,
        b,
        batch_dims=len(shape),
        on_failure="raise",
    )
    exact = (torch.linalg.pinv(A) @ b.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(y, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 4), (4, 2), (3, 3)])
def test_the_derivative_is_that_of_the_pseudo_inverse(shape):
    A = torch.randn(shape, dtype=F64, requires_grad=True)
    b = torch.randn(shape[0], dtype=F64, requires_grad=True)

    def solve(A, b):
        return least_squares(lambda y, A, b: A @ y - b, torch.zeros(shape[1], dtype=F64), A, b, on_failure="raise")

    weights = torch.arange(1.0, shape[1] + 1, dtype=F64)
    ours = torch.autograd.grad((weights * solve(A, b)).sum(), (A, b))
    exact = torch.autograd.grad((weights * (torch.linalg.pinv(A) @ b)).sum(), (A, b))
    for mine, theirs in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)
    assert gradcheck(solve, (A, b), check_forward_ad=True)


def test_the_nearest_root_depends_on_the_start():
    """The unit circle: the root nearest to the start is the start over its norm."""
    start = torch.tensor([3.0, 4.0], dtype=F64)
    y = least_squares(lambda y: (y.square().sum() - 1).reshape(1), start, on_failure="raise")
    torch.testing.assert_close(y, start / 5, rtol=0, atol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives_where_the_residual_does_not_vanish(loss):
    x, t = (v.clone().requires_grad_() for v in points(5, outlier=0.2))
    others = () if loss == "square" else (x.detach(),)
    leaves = (*others, *((x, t) if loss == "square" else (t,)))
    assert gradcheck(lambda *given: fit(*given, loss=loss), leaves, check_forward_ad=loss == "square")


def test_second_derivatives():
    x, t = points(4, outlier=0.2)
    assert gradgradcheck(lambda t: fit(x, t), t.requires_grad_())


def test_the_derivative_by_the_matrix_of_gauss_and_newton():
    """J'J in place of the Hessian: exact where the residual vanishes, and told apart where it does not."""
    x, t = points(5, outlier=0.2)
    fitted = decay(fit(x, t), x, torch.zeros_like(t))
    for target, exact in ((fitted, True), (t, False)):
        leaf = target.clone().requires_grad_()
        y = fit(x, leaf, adjoint=GaussNewtonStep())
        torch.testing.assert_close(y, fit(x, target), rtol=0, atol=1e-9)
        found = torch.stack([torch.autograd.grad(entry, leaf, retain_graph=True)[0] for entry in y])
        J = torch.func.jacrev(lambda y: decay(y, x, target))(y.detach())  # noqa: B023
        torch.testing.assert_close(found, torch.linalg.pinv(J), rtol=1e-6, atol=1e-8)
        true = torch.func.jacrev(lambda t: fit(x, t))(target)
        assert torch.allclose(found, true, rtol=1e-4, atol=1e-6) == exact
    batch = torch.func.vmap(torch.func.jacfwd(lambda t: fit(x, t, adjoint="gauss_newton_step")))(
        torch.stack([t, fitted])
    )
    torch.testing.assert_close(batch[0], found, rtol=1e-6, atol=1e-8)
    with pytest.raises(TypeError, match="an adjoint of least_squares, not of argmin"):
        argmin(lambda y: y.square().sum(), torch.ones(2), adjoint=GaussNewtonStep())


def test_under_torch_func():
    x, t = points(5, outlier=0.2)
    batch = torch.stack([t, t + 0.1])
    slope = torch.func.vmap(torch.func.jacrev(lambda t: fit(x, t)))(batch)
    forward = torch.func.vmap(torch.func.jacfwd(lambda t: fit(x, t)))(batch)
    torch.testing.assert_close(slope, forward, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(torch.func.vmap(lambda t: fit(x, t))(batch)[1], fit(x, batch[1]), rtol=0, atol=1e-8)


def test_a_batch_is_one_by_one():
    x, _ = points(10)
    t = torch.stack([a * torch.exp(-b * x) + 0.02 * torch.randn(10, dtype=F64) for a, b in [(1, 1), (2, 0.5), (3, 2)]])

    def residual(y, t):
        return y[:, :1] * torch.exp(-y[:, 1:] * x) - t

    together = least_squares(residual, torch.ones(3, 2, dtype=F64), t, batch_dims=1, on_failure="raise")
    for i in range(3):
        alone = least_squares(residual, torch.ones(1, 2, dtype=F64), t[i : i + 1], batch_dims=1, on_failure="raise")
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-8)


def test_trees_go_in_and_captured_tensors_get_gradients():
    x, t = points(10)
    t.requires_grad_()

    def residual(y):
        return {"fit": y["a"] * torch.exp(-y["b"] * x) - t, "prior": 0.1 * (y["b"] - 1)}

    y = least_squares(residual, {"a": torch.ones((), dtype=F64), "b": torch.ones((), dtype=F64)}, on_failure="raise")
    (gradient,) = torch.autograd.grad(y["a"], t)
    shifted = [1e-5 * k for k in (-1, 1)]
    with torch.no_grad():
        t0 = t.clone()
        ends = []
        for step in shifted:
            t.copy_(t0)
            t[2] += step
            ends.append(least_squares(residual, {"a": y["a"].detach(), "b": y["b"].detach()}, on_failure="raise")["a"])
    assert gradient[2].item() == pytest.approx(((ends[1] - ends[0]) / 2e-5).item(), rel=1e-4)


def test_many_unknowns_take_products_alone(monkeypatch):
    from deqzoo.implicit.least_squares import solvers

    monkeypatch.setattr(solvers.Model, "jacobian", None)  # not to be written out
    chain = lambda y: torch.cat([10 * (y[1:] - y[:-1] ** 2), 1 - y[:-1]])  # noqa: E731
    start = torch.full((400,), 0.5, dtype=F64)
    y, solution = least_squares(chain, start, solver=Dogleg(), return_solution=True, on_failure="raise")
    torch.testing.assert_close(y, torch.ones_like(y), rtol=0, atol=1e-7)
    assert solution.steps < 100


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_both_precisions(dtype):
    x, t = (v.to(dtype) for v in points())
    y = least_squares(decay, torch.ones(3, dtype=dtype), x, t, loss=Huber(0.2), on_failure="raise")
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), fit(x.double(), t.double(), loss=Huber(0.2)), rtol=0, atol=2e-3)


def test_a_deficient_rank_is_told():
    """r depends on y_0 + y_1 alone: neither is unique."""
    t = torch.ones(3, dtype=F64, requires_grad=True)
    y = least_squares(lambda y, t: y.sum() * t - 1, torch.zeros(2, dtype=F64), t)
    assert y.sum().item() == pytest.approx(1)
    with pytest.warns(NonConvergenceWarning, match="adjoint solve"):
        torch.autograd.grad(y[0], t)


def test_bad_input_is_told():
    x, t = points()
    with pytest.raises(TypeError, match="loss must be a Loss"):
        fit(x, t, loss=torch.nn.MSELoss())
    with pytest.raises(ValueError, match="unknown loss 'hubert'; did you mean 'huber'"):
        fit(x, t, loss="hubert")
    with pytest.raises(TypeError, match="solver must be one of"):
        fit(x, t, solver=torch.nn.Identity())
    with pytest.raises(TypeError, match="adjoint of least_squares"):
        fit(x, t, adjoint=torch.nn.Identity())
    with pytest.raises(ValueError, match="scale must be positive"):
        Huber(scale=0.0)
    with pytest.raises(ValueError, match="takes neither solver nor loss"):
        least_squares(lambda y: y[:1], torch.zeros(2), loss="huber")
    with pytest.raises(TypeError, match="pass it to least_squares"):
        LevenbergMarquardt().descent(lambda z: z, [])
    y, solution = least_squares(
        lambda y: y * torch.nan, torch.zeros(2), return_solution=True, on_failure="ignore", adjoint=Implicit()
    )
    assert y.isnan().all()
    assert solution.status.item() == 2


# --- Jacobians by groups of columns ---


def chains(batch=(), n=81):
    """Residuals that depend on neighbours alone, whose zeros change with the point."""
    source = torch.Generator().manual_seed(0)
    t = torch.randn(*batch, n, dtype=F64, generator=source)

    def residual(y, t):
        links = y[..., 1:] - y[..., :-1].sin()
        far = y[..., :1] * y[..., -1:]  # no derivative where both are zero
        return torch.cat([y - t, links, far], dim=-1)

    return residual, torch.zeros(*batch, n, dtype=F64), t.requires_grad_()


@pytest.mark.parametrize("batch", [(), (3,)])
def test_columns_that_share_no_row_are_taken_together(monkeypatch, batch):
    residual, y0, t = chains(batch)
    options = {"batch_dims": len(batch), "on_failure": "raise"}
    y = least_squares(residual, y0, t, **options)
    grad = torch.autograd.grad(y.square().sum(), t)[0]
    monkeypatch.setattr(columns, "_FEWEST", 10_000)  # every J is written out
    other = least_squares(residual, y0, t, **options)
    torch.testing.assert_close(y, other, rtol=0, atol=1e-10)
    torch.testing.assert_close(grad, torch.autograd.grad(other.square().sum(), t)[0], rtol=0, atol=1e-9)


def test_a_jacobian_by_groups_is_the_whole_one_and_others_are_told():
    residual, _, t = chains()
    model = Model(lambda z: residual(z, t.detach()), Square())
    first, second = torch.zeros(1, 81, dtype=F64), torch.randn(1, 81, dtype=F64)
    whole = torch.func.jacrev(lambda z: residual(z, t.detach()))
    torch.testing.assert_close(model.jacobian(first)[0], whole(first[0]))
    assert int(model.columns.group.max()) == 1  # two groups, as the last row has no slope there
    torch.testing.assert_close(model.jacobian(second)[0], whole(second[0]))  # one more row: written out
    assert int(model.columns.group.max()) == 2
    third = model.columns.jacobian(model.at(2 * second)[0], second)
    torch.testing.assert_close(third[0], whole(2 * second[0]))


def test_rows_that_hold_many_columns_are_not_grouped():
    found = columns.Columns()
    found.learn(torch.ones(1, 3, 100))
    assert found.hopeless
    found.learn(torch.eye(100).unsqueeze(0))
    assert found.group is None


@pytest.mark.parametrize("adjoint", [None, GaussNewtonStep()], ids=["exact", "step"])
def test_derivatives_of_many_unknowns(adjoint):
    """Beyond those whose Hessian is written out: by conjugate gradients that J'J preconditions."""
    residual, y0, t = chains(n=240)
    y, solution = least_squares(residual, y0, t, adjoint=adjoint, return_solution=True, on_failure="raise")
    grad = torch.autograd.grad(y.square().sum(), t)[0]
    H = torch.func.hessian(lambda y: residual(y, t.detach()).square().sum() / 2)(y.detach())
    if adjoint is not None:
        J = torch.func.jacrev(lambda y: residual(y, t.detach()))(y.detach())
        H = J.mT @ J
    else:
        assert 0 < solution.backward.nfe < 60
    torch.testing.assert_close(grad, torch.linalg.solve(H, 2 * y.detach()), rtol=0, atol=1e-7)


def test_a_fit_to_small_noise_does_not_end_in_the_round_off_of_its_objective():
    """Residuals are differences of larger numbers: steps that bring the gradient down are good without a fall."""
    source, x = torch.Generator().manual_seed(0), torch.linspace(0, 3, 50, dtype=F64)

    def curve(y):
        return y[:, :1] * (-y[:, 1:2] * x).exp() + y[:, 2:]

    true = 1 + torch.rand(200, 3, dtype=F64, generator=source)
    t = curve(true) + 1e-3 * torch.randn(200, 50, dtype=F64, generator=source)
    y0 = torch.ones(200, 3, dtype=F64)
    _, solution = least_squares(lambda y, t: curve(y) - t, y0, t, batch_dims=1, return_solution=True)
    assert solution.converged.all()
    assert solution.steps.max() <= 30
