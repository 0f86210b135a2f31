"""`argmin` on the simplex and of the lasso beside compiled jaxopt: a part of `optimisation.py` that runs alone, too."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.problems import seeded
from benchmarks.side_by_side import Comparison, Row, SolutionAndGradient, Way, side_by_side
from deqzoo.implicit import L1, ProximalGradient, Simplex, argmin

_MISSING = ""
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jax
        import jaxopt
        import numpy as np
        from jax import numpy as jnp
except ImportError as error:
    _MISSING = str(error)

SIZES = [(200, 100), (2_000, 1_000)]  # rows and columns of X
QUICK = [(8, 4)]
TOL = 1e-10  # relative to the solution; jaxopt's is absolute
LIMIT = 1.5  # of jaxopt's time
OF_LARGEST = 0.2  # strength of the lasso's penalty, over the least one with the solution 0


def constrained_rows(quick: bool) -> list[Row]:
    """min |X y - t|^2 / 2 on the simplex, or with a penalty s |y|_1; the gradient in t of a random combination of y.

    On the simplex t is X times a point inside with as much noise as brings about half of the unknowns to zero.
    """
    rows = []
    for m, n in QUICK if quick else SIZES:
        with seeded():
            X, t, weights = (torch.randn(*shape, dtype=torch.float64) for shape in ((m, n), (m,), (n,)))
        X = X / m**0.5
        strength = OF_LARGEST * (X.T @ t).abs().max().item()
        inside = X @ weights.softmax(dim=0) + t / n
        parts = (
            ("simplex", {"constraint": Simplex()}, inside, None),
            ("lasso", {"penalty": L1(strength)}, t, strength),
        )
        for what, part, t, strength in parts:

            def with_gradient(solve: Callable[[Tensor], Tensor], t=t, weights=weights) -> SolutionAndGradient:
                leaf = t.clone().requires_grad_()
                y = solve(leaf)
                return y.detach(), torch.autograd.grad(y @ weights, leaf)[0]

            ours = functools.partial(_ours, X, part=part)
            support = ours(t, tol=1e-13).detach()
            exact = with_gradient(functools.partial(_exact, X, support, strength))
            ways: dict[str, Way] = {"deqzoo": functools.partial(with_gradient, ours)}
            ways["jaxopt, compiled"] = _MISSING or _by_jaxopt(X, t, weights, strength)
            rows += side_by_side(f"{what}, {n} unknowns", ways, exact, 1 if quick else 5, max(1, 500 // n))
    return rows


def _ours(X: Tensor, t: Tensor, tol: float = TOL, *, part: dict) -> Tensor:
    y = torch.zeros_like(X[0])
    on_failure = "ignore" if tol < TOL else "warn"  # the reference goes as far as round-off lets it
    options = {"solver": ProximalGradient(tol=tol), "on_failure": on_failure}
    return argmin(lambda y, t: (X @ y - t).square().sum() / 2, y, t, **options, **part)


def _exact(X: Tensor, near: Tensor, strength: float | None, t: Tensor) -> Tensor:
    """The solution with the support and the signs of `near`: that of a linear system."""
    held = near.abs() > 1e-9 * near.abs().max()
    X, H = X[:, held], X[:, held].T @ X[:, held]
    if strength is not None:
        return t.new_zeros(len(near)).masked_scatter(
            held, torch.linalg.solve(H, X.T @ t - strength * near[held].sign())
        )
    one = torch.ones(len(H), 1, dtype=H.dtype)
    KKT = torch.cat([torch.cat([H, one], dim=1), torch.cat([one.T, one.new_zeros(1, 1)], dim=1)])
    y = torch.linalg.solve(KKT, torch.cat([X.T @ t, t.new_ones(1)]))[:-1]
    return t.new_zeros(len(near)).masked_scatter(held, y)


def _by_jaxopt(X: Tensor, t: Tensor, weights: Tensor, strength: float | None) -> Callable[[], SolutionAndGradient]:
    jax.config.update("jax_enable_x64", True)
    X, t, weights = (jnp.asarray(part.numpy()) for part in (X, t, weights))

    def objective(y, X, t):  # a captured X would be a constant of the program, folded while it is compiled
        return ((X @ y - t) ** 2).sum() / 2

    solve = functools.partial(jaxopt.linear_solve.solve_normal_cg, tol=TOL)
    options = {"tol": TOL, "maxiter": 10_000, "implicit_diff_solve": solve}
    if strength is None:
        solver = jaxopt.ProjectedGradient(objective, jaxopt.projection.projection_simplex, **options)
        first, start = 1.0, jnp.full_like(weights, 1 / len(weights))
    else:
        solver = jaxopt.ProximalGradient(objective, jaxopt.prox.prox_lasso, **options)
        first, start = strength, jnp.zeros_like(weights)

    @jax.jit
    def compiled(X, t):
        def outer(t):
            y = solver.run(start, first, X, t).params
            return y @ weights, y

        gradient, y = jax.grad(outer, has_aux=True)(t)
        return y, gradient

    def way() -> SolutionAndGradient:
        y, gradient = compiled(X, t)
        return torch.from_numpy(np.array(y)), torch.from_numpy(np.array(gradient))

    return way


COMPARISON = Comparison(
    "constrained",
    "argmin on the simplex and of the lasso: solution and a gradient",
    constrained_rows,
    ("deqzoo", "jax", "jaxopt"),
    LIMIT,
)

if __name__ == "__main__":
    raise SystemExit(COMPARISON.main(__doc__))
