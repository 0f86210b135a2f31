"""`get_deq` as torchdeq has it: ``from deqzoo.compat.torchdeq import get_deq``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from deqzoo.implicit import (
    GMRES,
    Anderson,
    Broyden,
    EquationAdjoint,
    FixedPointSolver,
    Implicit,
    Phantom,
    Picard,
    fixed_point,
)
from deqzoo.implicit.solution import Solution

SOLVERS: dict[str, type[FixedPointSolver]] = {
    "fixed_point_iter": Picard,
    "simple_fixed_point_iter": Picard,
    "anderson": Anderson,
    "broyden": Broyden,
}
DEFAULTS = {
    "f_solver": "fixed_point_iter",
    "f_max_iter": 40,
    "f_tol": 1e-3,
    "f_stop_mode": "abs",
    "b_max_iter": 40,
    "b_tol": 1e-6,
    "ift": False,
    "hook_ift": False,
    "grad": 1,
    "tau": 1.0,
}
# Others of torchdeq's, which its parser gives all: they may have the values that ask for nothing.
_NOT_HERE = {"n_states": 1, "indexing": [], "eval_factor": 1.0, "eval_f_max_iter": 0, "sup_gap": -1, "sup_loc": []}
_NO_MATTER = "core", "b_solver", "b_stop_mode"  # of one state, and of a linear system that GMRES solves


def get_deq(args: Any = None, **options: Any) -> EquilibriumCall:
    """A DEQ that is called as torchdeq's: ``z_out, info = deq(func, z_init)``.

    Args:
        args: options by name, a mapping or a namespace (as of torchdeq's ``add_deq_args``); its entries come before
            the ``options``, and those that are none of torchdeq's are left alone.
        options: f_solver (fixed_point_iter, anderson, broyden), f_max_iter, f_tol, f_stop_mode (abs, rel); of gradients
            ift (the exact one, by GMRES to b_tol in at most b_max_iter steps) or grad and tau (the phantom gradient).
            core, b_solver and b_stop_mode change nothing here.

    Raises:
        ValueError: an option that is not here, such as several states (n_states, indexing, sup_gap, a list of grad).

    >>> import torch
    >>> deq = get_deq(f_solver="anderson", f_tol=1e-6, ift=True)
    >>> z_out, info = deq(lambda z: torch.cos(z), torch.zeros(1, 1))
    >>> z_out[-1], sorted(info)
    (tensor([[0.7391]]), ['abs_lowest', 'nstep', 'solution'])
    """
    given = dict(args) if isinstance(args, Mapping) else {} if args is None else vars(args)
    asked = options | {key: value for key, value in given.items() if key in DEFAULTS or key in _NOT_HERE}
    idle = {key for key, value in asked.items() if key in _NO_MATTER or (key in _NOT_HERE and value == _NOT_HERE[key])}
    asked = {key: value for key, value in asked.items() if key not in idle}
    if unknown := sorted(set(asked) - set(DEFAULTS)):
        raise ValueError(f"get_deq has no option {', '.join(unknown)} here; it has {', '.join(sorted(DEFAULTS))}")
    chosen = {**DEFAULTS, **asked}
    if chosen["f_solver"] not in SOLVERS:
        raise ValueError(f"f_solver={chosen['f_solver']!r} is unknown; valid are {', '.join(SOLVERS)}")
    if isinstance(chosen["grad"], list) and len(chosen["grad"]) == 1:
        (chosen["grad"],) = chosen["grad"]
    if not isinstance(chosen["grad"], int):
        raise ValueError(f"grad must be a number of steps here, got {chosen['grad']!r}")
    solver = SOLVERS[chosen["f_solver"]](
        tol=chosen["f_tol"], max_steps=chosen["f_max_iter"], stop=chosen["f_stop_mode"]
    )
    if chosen["ift"] or chosen["hook_ift"]:
        adjoint: EquationAdjoint = Implicit(GMRES(tol=chosen["b_tol"], max_steps=chosen["b_max_iter"]))
    else:
        adjoint = Phantom(steps=chosen["grad"], damping=chosen["tau"])
    return EquilibriumCall(solver, adjoint)


class EquilibriumCall(nn.Module):
    """What `get_deq` returns."""

    def __init__(self, solver: FixedPointSolver, adjoint: EquationAdjoint) -> None:
        super().__init__()
        self.solver, self.adjoint = solver, adjoint

    def forward(self, func: Callable[..., Any], z_init: Any) -> tuple[list[Any], dict[str, Any]]:
        """([z*], info) of z* = func(z*): of a tensor, or of a list or tuple of them, which are func's arguments.

        `info` has ``nstep`` and the residual of each sample (``abs_lowest`` or ``rel_lowest``), and the `Solution`.
        """
        several = isinstance(z_init, list | tuple)
        start = tuple(z_init) if several else z_init

        def f(z: Any) -> Any:
            value = func(*z) if several else func(z)
            return tuple(value) if several else value

        z, found = fixed_point(f, start, solver=self.solver, adjoint=self.adjoint, batch_dims=1, return_solution=True)
        solution: Solution = found
        info = {"nstep": solution.steps, f"{self.solver.stop}_lowest": solution.residual, "solution": solution}
        return [z], info
