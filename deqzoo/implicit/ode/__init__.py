"""Ordinary differential equations, dy/dt = f(t, y): implicit differentiation over time.

Reading order
    tableaus.py             Runge-Kutta methods as data
    solvers.py              their options
    tolerances.py           tolerances of each component (tolerance_checks.py: what users may give)
    stiff_tableaus.py       methods for stiff problems as data
    stage_values.py         tableaus as tensors, and the stage values of a step
    counted_field.py        the field, as a method calls it
    steps.py                one step
    linearise.py            the Jacobian of a field, and linear systems with it
    splitting.py            a step of methods for separable Hamiltonians
    stages.py               the stages of diagonally implicit methods
    rosenbrock.py           a step of Rosenbrock's methods
    controllers.py          which steps: equal, or those of an earlier solve
    step_size.py            how steps grow and shrink with their errors
    step_control.py         which steps: controlled by the error
    initial_step.py         the first of those
    times.py                output times, and steps as functions of them
    integrate.py            the loop over steps
    outputs.py              the states at the output times
    trajectory.py           what a solve leaves behind
    complex_states.py       complex tensors as pairs of real ones
    field.py                the user's function on matrices, and the tensors that it reads
    discrete.py             the gradient: the discrete adjoint
    reversible.py           the same, by taking the steps back
    backsolve.py            the gradient: the continuous adjoint
    adjoints.py             how a solution is differentiated: the choice between them
    traced.py               fixed steps in a graph of torch.compile
    odeint.py               the function that users call
    interpolants.py         dense output that is kept
    dense.py                a solution that can be evaluated anywhere
    event.py                until an event
    torchdiffeq_backend.py  the solvers of torchdiffeq

The states of all samples are a matrix (systems, unknowns), as for the other solvers: one row where all share their
steps, a row per sample where each has its own.
"""

from .adjoints import ODE_ADJOINTS, Backsolve, Direct, Discrete, ODEAdjoint, Reversible, make_adjoint
from .dense import DenseSolution, odeint_dense
from .event import odeint_event
from .odeint import odeint
from .solvers import (
    ODE_SOLVERS,
    RK4,
    Adaptive,
    Bosh3,
    DiagonallyImplicit,
    Dopri5,
    Dopri8,
    Euler,
    FixedStep,
    Heun,
    Kvaerno3,
    Kvaerno5,
    Leapfrog,
    Midpoint,
    ODESolver,
    Rodas5P,
    Tsit5,
    make_ode_solver,
)
from .torchdiffeq_backend import TorchDiffEq

__all__ = [
    "ODE_ADJOINTS",
    "ODE_SOLVERS",
    "RK4",
    "Adaptive",
    "Backsolve",
    "Bosh3",
    "DenseSolution",
    "DiagonallyImplicit",
    "Direct",
    "Discrete",
    "Dopri5",
    "Dopri8",
    "Euler",
    "FixedStep",
    "Heun",
    "Kvaerno3",
    "Kvaerno5",
    "Leapfrog",
    "Midpoint",
    "ODEAdjoint",
    "ODESolver",
    "Reversible",
    "Rodas5P",
    "TorchDiffEq",
    "Tsit5",
    "make_adjoint",
    "make_ode_solver",
    "odeint",
    "odeint_dense",
    "odeint_event",
]
