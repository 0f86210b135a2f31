"""The hypergradient of `problems.Penalised` by jaxopt, compiled as a whole. Its CPU time is that of all its threads."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.problems import Penalised

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jax
        import jaxopt
        from jax import numpy as jnp
except ImportError:
    jaxopt = None


def jaxopt_hypergradient(problem: Penalised, minimiser: Tensor, tol: float) -> Callable[[], Tensor]:
    """The gradient of the outer loss at t = 0 for a given minimiser, by `custom_root` with its conjugate gradients."""
    jax.config.update("jax_enable_x64", True)
    x, y, x_validation, y_validation, solution = (
        jnp.asarray(t.numpy())
        for t in (problem.x, problem.y, problem.x_validation, problem.y_validation, minimiser.detach())
    )
    logistic = problem.loss is not torch.nn.functional.mse_loss

    def stationarity(w: Any, t: Any) -> Any:
        prediction = x @ w
        residual = jax.nn.sigmoid(prediction) - y if logistic else 2 * (prediction - y)
        return x.T @ residual / len(y) + jnp.exp(t) * w

    def outer(w: Any) -> Any:
        prediction = x_validation @ w
        if logistic:
            return (jax.nn.softplus(prediction) - y_validation * prediction).mean()
        return ((prediction - y_validation) ** 2).mean()

    linear = functools.partial(jaxopt.linear_solve.solve_cg, tol=tol)
    solve = jaxopt.implicit_diff.custom_root(stationarity, solve=linear)(lambda start, t: solution)
    gradient, t = jax.jit(jax.grad(lambda t: outer(solve(None, t)))), jnp.zeros_like(solution)
    return lambda: torch.from_numpy(np.array(gradient(t)))
