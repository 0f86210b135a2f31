"""Implicit differentiation for PyTorch: functions defined by a condition, differentiated without their solver.

Let y(x) be defined by F(y, x) = 0: a fixed point z = f(z, x) has F = z - f(z, x), a minimiser F = grad_y of the
objective. Whatever found y, the implicit function theorem gives its derivative where A = dF/dy is regular:

    dy/dx = -A^-1 dF/dx          forward mode, one linear solve with A per direction
    dL/dx = -(A^-T dL/dy)^T dF/dx    reverse mode, one linear solve with A^T per gradient

The matrix A is never written out: linear solvers see products v -> A v and u -> A^T u. Memory does not depend on the
number of iterations of the solver.

Reading order
    bridge.py               all implicit autodiff: how a gradient comes about
    implicit_function.py    ImplicitFunction: any black box, made differentiable by that
    lifting.py              how the tensors that a condition reads are found
    operator.py             products with a Jacobian and its transpose
    linear_solvers/         GMRES, CG, MINRES, LSMR, NormalCG, BiCGSTAB, Neumann, Dense, SVD; Damped
    fixed_point_solvers/    base.py: the loop, the stop rule, freezing; Picard, Anderson, Broyden;
                            splitting.py: monotone problems; ForwardBackward, PeacemanRachford
    root_solvers/           Newton, NewtonKrylov; Bisection, Chandrupatla for one unknown
    constraints/            projections and proximal operators; Simplex, Box, L1, ...: sets and penalties as objects
    minimizers/             GradientDescent, LBFGS, NewtonCG, TrustRegion;
                            with a set or penalty: ProximalGradient, MirrorDescent, ProjectedNewton
    conditions.py           optimality conditions, for any solver: stationarity, KKT, projected and proximal gradient
    problem.py              what is solved, and the condition of its solution
    traced.py               the exact derivative in a graph of torch.compile
    adjoints.py             how the solution is differentiated: exactly, or at less cost
    api.py                  fixed_point, root, argmin
    linear_solve.py         linear_solve, by a factorisation that derivatives use again
    structured.py           matrices with solves of their own: Diagonal, Tridiagonal, BlockDiagonal, Kronecker ...
    least_squares/          least_squares: LevenbergMarquardt, Dogleg, GaussNewton; robust losses
    programs/               quadratic_program, linear_program, by an interior-point method; cone_program, from_cvxpy
    transport.py            sinkhorn: entropic optimal transport, balanced or not
    soft_sorting.py         soft_sort, soft_rank: projections onto the permutahedron
    perturbed.py            Perturbed: any argmax (combinatorial.py has some) averaged over noise; Fenchel-Young losses
    ode/                    ordinary differential equations: odeint, its solvers and adjoints
    spectral.py             the spectral radius of a Jacobian
    curvature.py            Hessians and Gauss-Newton matrices as products, their extreme eigenvalues
    by_name.py              solvers, adjoints and cells by name
    black_box.py            solvers that torch cannot see into, under vmap too
    grads_batched.py        the older vmap of torch.autograd
    solution.py, pytree.py, rows.py, modes.py    what the others stand on
    private_api.py          what of torch is used that is not public, and why

A solver knows nothing of autodiff, and the bridge nothing of what is inside a solver.
"""

from . import conditions
from .adjoints import (
    EQUATION_ADJOINTS,
    Adjoint,
    EquationAdjoint,
    Implicit,
    OneStep,
    Phantom,
    ReversibleIteration,
    Unrolled,
)
from .api import SOLVERS, argmin, fixed_point, make_solver, root
from .call_site import warn_once
from .combinatorial import best_assignment, best_choice, best_grid_path, best_ranking
from .constraints import (
    L1,
    AffineSet,
    Box,
    Constraint,
    ElasticNet,
    GroupLasso,
    HalfSpace,
    Hyperplane,
    L1Ball,
    L2Ball,
    L2Norm,
    LInfBall,
    NonNegative,
    NuclearNorm,
    Penalty,
    SecondOrderCone,
    SemidefiniteCone,
    Simplex,
    TotalVariation,
    TransportPolytope,
    projections,
    proximal,
)
from .curvature import Extremes, curvature, extreme_eigenvalues, gauss_newton, hessian
from .fixed_point_solvers import (
    SPLITTINGS,
    Anderson,
    Broyden,
    FixedPointSolver,
    ForwardBackward,
    MonotoneMap,
    PeacemanRachford,
    Picard,
)
from .implicit_function import ImplicitFunction
from .least_squares import (
    LEAST_SQUARES_SOLVERS,
    LOSSES,
    Cauchy,
    Dogleg,
    GaussNewton,
    GaussNewtonStep,
    Huber,
    LeastSquaresSolver,
    LevenbergMarquardt,
    Loss,
    SoftL1,
    Square,
    least_squares,
)
from .linear_solve import linear_solve
from .linear_solvers import (
    CG,
    GMRES,
    LINEAR_SOLVERS,
    LSMR,
    MINRES,
    SVD,
    BiCGSTAB,
    Damped,
    Dense,
    LinearSolver,
    Neumann,
    NormalCG,
)
from .minimizers import (
    CONSTRAINED_MINIMIZERS,
    LBFGS,
    MINIMIZERS,
    ConstrainedMinimizer,
    GradientDescent,
    Minimizer,
    MirrorDescent,
    NewtonCG,
    ProjectedNewton,
    ProximalGradient,
    TrustRegion,
)
from .ode import (
    ODE_ADJOINTS,
    ODE_SOLVERS,
    RK4,
    Backsolve,
    Bosh3,
    DenseSolution,
    Direct,
    Discrete,
    Dopri5,
    Dopri8,
    Euler,
    Heun,
    Kvaerno3,
    Kvaerno5,
    Leapfrog,
    Midpoint,
    ODEAdjoint,
    ODESolver,
    Reversible,
    Rodas5P,
    TorchDiffEq,
    Tsit5,
    make_adjoint,
    make_ode_solver,
    odeint,
    odeint_dense,
    odeint_event,
)
from .operator import LinearOperator
from .perturbed import Perturbed
from .programs import (
    Clarabel,
    Cones,
    ConeSolution,
    InteriorPoint,
    PrimalDual,
    cone_program,
    from_cvxpy,
    linear_program,
    quadratic_program,
)
from .root_solvers import Bisection, BracketingSolver, Chandrupatla, Newton, NewtonKrylov
from .soft_sorting import soft_rank, soft_sort
from .solution import NonConvergenceError, NonConvergenceWarning, Solution, Status
from .spectral import spectral_radius
from .structured import BlockDiagonal, Diagonal, Kronecker, LowRankPlusDiagonal, StructuredMatrix, Tridiagonal
from .transport import Transport, sinkhorn

__all__ = [
    "CG",
    "CONSTRAINED_MINIMIZERS",
    "EQUATION_ADJOINTS",
    "GMRES",
    "L1",
    "LBFGS",
    "LEAST_SQUARES_SOLVERS",
    "LINEAR_SOLVERS",
    "LOSSES",
    "LSMR",
    "MINIMIZERS",
    "MINRES",
    "ODE_ADJOINTS",
    "ODE_SOLVERS",
    "RK4",
    "SOLVERS",
    "SPLITTINGS",
    "SVD",
    "Adjoint",
    "AffineSet",
    "Anderson",
    "Backsolve",
    "BiCGSTAB",
    "Bisection",
    "BlockDiagonal",
    "Bosh3",
    "Box",
    "BracketingSolver",
    "Broyden",
    "Cauchy",
    "Chandrupatla",
    "Clarabel",
    "ConeSolution",
    "Cones",
    "ConstrainedMinimizer",
    "Constraint",
    "Damped",
    "Dense",
    "DenseSolution",
    "Diagonal",
    "Direct",
    "Discrete",
    "Dogleg",
    "Dopri5",
    "Dopri8",
    "ElasticNet",
    "EquationAdjoint",
    "Euler",
    "Extremes",
    "FixedPointSolver",
    "ForwardBackward",
    "GaussNewton",
    "GaussNewtonStep",
    "GradientDescent",
    "GroupLasso",
    "HalfSpace",
    "Heun",
    "Huber",
    "Hyperplane",
    "Implicit",
    "ImplicitFunction",
    "InteriorPoint",
    "Kronecker",
    "Kvaerno3",
    "Kvaerno5",
    "L1Ball",
    "L2Ball",
    "L2Norm",
    "LInfBall",
    "Leapfrog",
    "LeastSquaresSolver",
    "LevenbergMarquardt",
    "LinearOperator",
    "LinearSolver",
    "Loss",
    "LowRankPlusDiagonal",
    "Midpoint",
    "Minimizer",
    "MirrorDescent",
    "MonotoneMap",
    "Neumann",
    "Newton",
    "NewtonCG",
    "NewtonKrylov",
    "NonConvergenceError",
    "NonConvergenceWarning",
    "NonNegative",
    "NormalCG",
    "NuclearNorm",
    "ODEAdjoint",
    "ODESolver",
    "OneStep",
    "PeacemanRachford",
    "Penalty",
    "Perturbed",
    "Phantom",
    "Picard",
    "PrimalDual",
    "ProjectedNewton",
    "ProximalGradient",
    "Reversible",
    "ReversibleIteration",
    "Rodas5P",
    "SecondOrderCone",
    "SemidefiniteCone",
    "Simplex",
    "SoftL1",
    "Solution",
    "Square",
    "Status",
    "StructuredMatrix",
    "TorchDiffEq",
    "TotalVariation",
    "Transport",
    "TransportPolytope",
    "Tridiagonal",
    "TrustRegion",
    "Tsit5",
    "Unrolled",
    "argmin",
    "best_assignment",
    "best_choice",
    "best_grid_path",
    "best_ranking",
    "conditions",
    "cone_program",
    "curvature",
    "extreme_eigenvalues",
    "fixed_point",
    "from_cvxpy",
    "gauss_newton",
    "hessian",
    "least_squares",
    "linear_program",
    "linear_solve",
    "make_adjoint",
    "make_ode_solver",
    "make_solver",
    "odeint",
    "odeint_dense",
    "odeint_event",
    "projections",
    "proximal",
    "quadratic_program",
    "root",
    "sinkhorn",
    "soft_rank",
    "soft_sort",
    "spectral_radius",
]

_RENAMED = {
    "ADJOINTS": "ODE_ADJOINTS",
    "GRADIENTS": "EQUATION_ADJOINTS",
    "Gradient": "EquationAdjoint",
    "OdeSolver": "ODESolver",
    "make_gradient": "make_adjoint",
}


def __getattr__(name: str) -> object:
    """The names of the release before, with a warning."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = _RENAMED[name]
    message = f"deqzoo.implicit.{name} is called {new} now; the old name goes with the next minor release"
    warn_once(message, DeprecationWarning, name)
    return globals()[new]
