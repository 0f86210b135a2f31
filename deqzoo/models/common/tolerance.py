"""Another tolerance in training than where a network is used."""

import dataclasses
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from deqzoo.nn import solver_layers, use_solver


def training_tolerance(network: nn.Module, tol: float | None) -> AbstractContextManager[None]:
    """Within it, the solver of the network's layers has this tolerance; None, or fixed steps of an ODE: its own.

    Of an equation's solver it is ``tol``, of an adaptive ODE solver ``rtol`` and ``atol``.
    """
    solver = solver_layers(network)[0].solver
    names = {field.name for field in dataclasses.fields(solver)} & {"tol", "rtol", "atol"}
    changed = {"tol"} if "tol" in names else names
    if tol is None or not changed:
        return nullcontext()
    return use_solver(network, dataclasses.replace(solver, **dict.fromkeys(changed, tol)))
