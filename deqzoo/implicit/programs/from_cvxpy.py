"""CVXPY's problems as differentiable functions: CVXPY does the modelling, `cone_program` the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..linear_solvers import LinearSolver
from ..solution import OnFailure, Solution
from .cone_program import Clarabel, solve_cone_program
from .cones import Cones
from .layout import Sparse


class CvxpyFunction:
    """Values of the parameters -> values of the variables at the solution; see `from_cvxpy`."""

    def __init__(self, problem: Any, parameters: Sequence[Any], variables: Sequence[Any]) -> None:
        data, _, _ = problem.get_problem_data("CLARABEL", solver_opts={"use_quad_obj": False})
        program = data["param_prob"]
        self.cones = _cones(data["dims"])
        self.parameters, self.variables = list(parameters), list(variables)
        self._columns = _columns(program, self.parameters)
        n, m = program.x.size, self.cones.rows
        self._costs = _sparse(program.q, (n + 1, program.total_param_size + 1))
        program.reduced_A.cache()
        entries, index = program.reduced_A.reduced_mat, program.reduced_A.problem_data_index
        places, pointers = index[0], index[1]
        self._entries = _sparse(entries, (len(places), program.total_param_size + 1))
        counts = torch.as_tensor(pointers[1:] - pointers[:-1])
        rows, columns = torch.as_tensor(places).long(), torch.repeat_interleave(torch.arange(n + 1), counts.long())
        self._of_A, self._of_b = columns < n, columns == n  # CVXPY's matrix is (-A, b)
        self._layout = Sparse(rows[self._of_A], columns[self._of_A], (m, n))
        self._rows_of_b = rows[self._of_b]
        self._found = [_Place(program, variable) for variable in self.variables]

    def __call__(
        self,
        *values: Tensor,
        solver: Clarabel | None = None,
        linear_solver: LinearSolver | None = None,
        on_failure: OnFailure = "warn",
        return_solution: bool = False,
    ) -> tuple[Tensor, ...] | tuple[tuple[Tensor, ...], Solution]:
        """Solve for these values, one tensor per parameter, with any leading batch axes, or none; all of one dtype.

        Options are those of `cone_program`. Returns a tensor per variable, with the batch axes in front.
        """
        theta = self._theta(values)
        costs = self._costs[1].times(self._costs[0].to(theta), theta)[..., :-1]
        entries = self._entries[1].times(self._entries[0].to(theta), theta)
        zeros = entries.new_zeros(*entries.shape[:-1], self.cones.rows)
        b = zeros.index_add(-1, self._rows_of_b, entries[..., self._of_b])
        found, solution = solve_cone_program(
            costs, -entries[..., self._of_A], b, self.cones, self._layout, solver, linear_solver, on_failure, True
        )
        variables = tuple(place.read(found.x) for place in self._found)
        return (variables, solution) if return_solution else variables

    def _theta(self, values: Sequence[Tensor]) -> Tensor:
        """All parameters in one vector, column by column, and a 1 for what does not depend on them."""
        if len(values) != len(self.parameters):
            raise ValueError(f"the problem has {len(self.parameters)} parameters, got {len(values)} values")
        batch_shape = torch.Size()
        for value, parameter in zip(values, self.parameters, strict=True):
            leading = value.dim() - len(parameter.shape)
            if leading < 0 or value.shape[leading:] != parameter.shape:
                raise ValueError(
                    f"{parameter.name()} must have shape (..., {', '.join(map(str, parameter.shape))}), got "
                    f"{tuple(value.shape)}"
                )
            batch_shape = torch.broadcast_shapes(batch_shape, value.shape[:leading])
        like = values[0] if values else torch.ones(())
        parts: dict[int, Tensor] = {}
        for column, value, parameter in zip(self._columns, values, self.parameters, strict=True):
            axes = len(parameter.shape)
            leading = value.dim() - axes
            turned = value.permute((*range(leading), *reversed(range(leading, value.dim()))))
            parts[column] = turned.reshape(*value.shape[:leading], -1).expand(*batch_shape, -1)
        one = like.new_ones(*batch_shape, 1)
        return torch.cat([*(parts[column] for column in sorted(parts)), one], dim=-1)


class GeometricFunction:
    """As `CvxpyFunction`, of a geometric program: that in the logarithms of variables and parameters is convex."""

    def __init__(self, problem: Any, parameters: Sequence[Any], variables: Sequence[Any]) -> None:
        from cvxpy.reductions.dgp2dcp.dgp2dcp import Dgp2Dcp

        reduction = Dgp2Dcp(problem)
        convex, _ = reduction.apply(problem)
        held = {p.id for p in convex.parameters()}
        self._positive = [p.id not in held for p in parameters]  # the others are exponents
        given = [
            reduction.canon_methods.parameter_canon(p, [])[0] if positive else p
            for p, positive in zip(parameters, self._positive, strict=True)
        ]
        if {p.id for p in given} != held:
            raise ValueError("a parameter is a factor and an exponent: take two parameters for it")
        by_id = {v.id: v for v in convex.variables()}
        logs = [next(by_id[i] for i in (*reduction.var_id_map.get(v.id, ()), v.id) if i in by_id) for v in variables]
        self._in_logarithms = CvxpyFunction(convex, given, logs)
        self.parameters, self.variables = list(parameters), list(variables)

    def __call__(self, *values: Tensor, return_solution: bool = False, **options: Any) -> Any:
        """As `CvxpyFunction.__call__`; the `Solution` is that in logarithms."""
        if len(values) != len(self._positive):
            raise ValueError(f"the problem has {len(self._positive)} parameters, got {len(values)} values")
        given = [t.log() if positive else t for t, positive in zip(values, self._positive, strict=True)]
        found, solution = self._in_logarithms(*given, return_solution=True, **options)
        variables = tuple(t.exp() for t in found)
        return (variables, solution) if return_solution else variables


def from_cvxpy(
    problem: Any, parameters: Sequence[Any], variables: Sequence[Any], *, gp: bool = False
) -> CvxpyFunction | GeometricFunction:
    """A problem of CVXPY as a torch function of its parameters, differentiable in every mode.

    CVXPY brings the problem into standard form once, as an affine function of the parameters (the problem must be DPP);
    each call evaluates that and solves a `cone_program`, batches included.

    Args:
        problem: a `cvxpy.Problem`, convex.
        parameters: its `cvxpy.Parameter`s, all of them, in the order in which their values are to be passed. Of their
            attributes only signs are supported.
        variables: the `cvxpy.Variable`s whose values are wanted.
        gp: the problem is a geometric (log-log convex) program, its positive parameters must be positive.

    Raises:
        ImportError: without CVXPY and Clarabel (`pip install 'deqzoo[convex]'`).
        ValueError: where the problem is not DPP, or the parameters or variables are not those of the problem.

    Source: Agrawal et al., "Differentiable Convex Optimization Layers", 2019.

    Example::

        import cvxpy
        x, a = cvxpy.Variable(3), cvxpy.Parameter(3)
        project = from_cvxpy(cvxpy.Problem(cvxpy.Minimize(cvxpy.norm(x - a)), [cvxpy.sum(x) == 1, x >= 0]), [a], [x])
        (nearest,) = project(torch.randn(8, 3, dtype=torch.float64, requires_grad=True))
    """
    try:
        import clarabel  # noqa: F401
        import cvxpy
    except ImportError as error:
        raise ImportError("from_cvxpy needs CVXPY and Clarabel: pip install 'deqzoo[convex]'") from error
    if not isinstance(problem, cvxpy.Problem):
        raise TypeError(f"problem must be a cvxpy.Problem, got {type(problem).__name__}")
    if not problem.is_dpp(*(["dgp"] if gp else [])):
        kind = "log-log convex" if gp else "convex"
        hint = "" if gp or not problem.is_dgp() else "; it is a geometric program: pass gp=True"
        raise ValueError(f"the problem must be {kind} and DPP, see CVXPY's tutorial on DPP{hint}")
    if {p.id for p in parameters} != {p.id for p in problem.parameters()}:
        names = ", ".join(p.name() for p in problem.parameters())
        raise ValueError(f"parameters must be those of the problem: {names or 'none'}")
    if not {v.id for v in variables} <= {v.id for v in problem.variables()}:
        names = ", ".join(v.name() for v in problem.variables())
        raise ValueError(f"variables must be among those of the problem: {names}")
    return (GeometricFunction if gp else CvxpyFunction)(problem, parameters, variables)


class _Place:
    """Where a variable stands in x, and how its shape comes back."""

    def __init__(self, program: Any, variable: Any) -> None:
        inner = next((v for v in program.variables if v.id == variable.id), None)
        if inner is None:
            raise ValueError(_attribute(variable))
        start = program.var_id_to_col[variable.id]
        self.entries = slice(start, start + inner.size)
        self.shape = tuple(variable.shape)
        self.matrix: Tensor | None = None
        if tuple(inner.shape) != self.shape:  # of a symmetric one CVXPY keeps the upper triangle, row by row
            self.matrix = _completion(variable, inner.size)

    def read(self, x: Tensor) -> Tensor:
        """The variable's value, (..., *shape)."""
        part = x[..., self.entries]
        if self.matrix is not None:
            part = part @ self.matrix.to(part).mT
        turned = part.reshape((*x.shape[:-1], *reversed(self.shape)))
        leading = x.dim() - 1
        return turned.permute((*range(leading), *reversed(range(leading, turned.dim()))))


def _attribute(variable: Any) -> str:
    return (
        f"{variable.name()} has an attribute by which CVXPY takes other unknowns than its entries; of those from_cvxpy "
        "knows symmetric and PSD alone: state the attribute as a constraint (for diag=True, cvxpy.diag of a vector)"
    )


def _completion(variable: Any, free: int) -> Tensor:
    """The matrix that makes all entries of a symmetric variable of those of its upper triangle, row by row."""
    n = variable.shape[0]
    if tuple(variable.shape) != (n, n) or free != n * (n + 1) // 2:
        raise ValueError(_attribute(variable))
    rows, columns = torch.triu_indices(n, n)
    matrix, order = torch.zeros(n, n, free, dtype=torch.float64), torch.arange(free)
    matrix[rows, columns, order] = matrix[columns, rows, order] = 1.0
    return matrix.flatten(0, 1)


def _cones(dims: Any) -> Cones:
    if getattr(dims, "pnd", None):
        raise ValueError(
            "the problem needs a power cone of more than three dimensions, which from_cvxpy does not know: write it "
            "with those of three (cvxpy.PowCone3D), or with logarithms"
        )
    return Cones(dims.zero, dims.nonneg, tuple(dims.soc), tuple(dims.psd), dims.exp, tuple(dims.p3d))


def _columns(program: Any, parameters: Sequence[Any]) -> list[int]:
    for parameter in parameters:
        size = program.param_id_to_size.get(parameter.id)
        if size != math.prod(parameter.shape):
            raise ValueError(
                f"{parameter.name()} has an attribute (symmetric, PSD, diag ...) that from_cvxpy does not support: "
                "take a plain Parameter, for a semidefinite one its root"
            )
    return [program.param_id_to_col[parameter.id] for parameter in parameters]


def _sparse(matrix: Any, shape: tuple[int, int]) -> tuple[Tensor, Sparse]:
    """The values of a SciPy matrix, and where they stand."""
    found = matrix.tocoo()
    rows, columns = (torch.as_tensor(part).long() for part in (found.row, found.col))
    return torch.as_tensor(found.data), Sparse(rows, columns, shape)
