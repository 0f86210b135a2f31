"""The solvers of ordinary differential equations: options beside a tableau."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

from ..by_name import make
from . import stiff_tableaus, tableaus
from .tableaus import Tableau
from .tolerance_checks import check_tolerances, same


@dataclasses.dataclass(frozen=True, eq=False)
class ODESolver:
    """Base of the Runge-Kutta methods; see `odeint`. Two are equal if their options are, tensors by their values."""

    tableau: ClassVar[Tableau]

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(same(getattr(self, x.name), getattr(other, x.name)) for x in dataclasses.fields(self))

    def __hash__(self) -> int:
        options = (getattr(self, x.name) for x in dataclasses.fields(self))
        return hash((type(self), *(x for x in options if x is None or isinstance(x, (int, float, str)))))


def jumps_of(solver: ODESolver) -> tuple[float, ...]:
    """The times at which f jumps."""
    jumps: tuple[float, ...] = getattr(solver, "jump_times", ())
    return jumps


def is_splitting(solver: ODESolver) -> bool:
    """Whether it moves positions and momenta in turn, and has no stages beside."""
    return isinstance(solver.tableau, tableaus.SplittingTableau)


def is_explicit(solver: ODESolver) -> bool:
    """Whether a step needs no Jacobian of f."""
    return not (solver.tableau.implicit or isinstance(solver.tableau, stiff_tableaus.RosenbrockTableau))


@dataclasses.dataclass(frozen=True, eq=False)
class FixedStep(ODESolver):
    """Base of the methods with steps of one size, without error control.

    Args:
        step_size: largest step, in units of t; each interval between output times is cut into equal steps no longer
            than that, but for the rounding of the times (of float32, where all are numbers of float32): those of ``h *
            torch.arange(n)`` are a step of h apart in float32 as in float64. None: one step per interval.
        jump_times: times at which f jumps: a step ends there, and the next one begins, see `Adaptive`.
    """

    step_size: float | None = None
    jump_times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "jump_times", _checked_jumps(self.jump_times))
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}; time may still run backwards")


@dataclasses.dataclass(frozen=True, eq=False)
class Adaptive(ODESolver):
    """Base of the methods that choose their steps so that the estimated error of each stays below the tolerance:

        rms(error / (atol + rtol max(|y|, |y_new|))) <= 1

    with the root mean square over all unknowns of a system. The next step follows a PI controller,

        h <- h safety e^(-.85/k) e_before^(.2/k),    k = error order + 1,

    that of implicit methods Gustafsson's predictive one, which sees errors grow from step to step,

        h <- h safety e^(-1/k) min(1, h / h_before (e_before / e)^(1/k)),

    and the last four or fewer are made equal, to end where the time span (or a jump) does. It grows tenfold at most,
    that of implicit methods twofold where the error is so small (1e-4 or less) that it says nothing of the next step.
    In a rest (two errors in a row below a twentieth of the tolerance) f is evaluated between the stages as well, so
    that no third of a step goes unseen: what f does after a rest is seen, unless it takes less than a fifth or so of
    the time since the start (a tenth, for implicit methods). For that, set `max_step`.

    The first step is that of Hairer, Norsett and Wanner: an Euler step with an error of a hundredth of the tolerance,
    as the sizes of y, of f, and of the change of f over a tiny step suggest. That costs one evaluation, and three or
    four steps before they are as long as the tolerance allows. With first_step="span" the first step tries the whole
    span: what is easy, as trained networks often are, is done in one step, and what is not pays for it by steps that
    are rejected. But what f does for a while between the stages of so long a step is overlooked: y' = -y + bump(t) from
    rest may converge without the bump. Choose it where f is smooth in t over the whole span. The first two stages
    of an explicit method tell there how fast f changes, r = |k_2 - k_1| / (c_2 h max(|k_1|, |k_2|)), with norms in
    units of the tolerance; an error of

        h max(|k_1|, |k_2|) (r h)^(k-1) / 3^k

    is expected from that, and where that allows for less than half of the step, the step begins anew with as much (or
    the nearest half, third or quarter of the span).

    A step that is rejected twice shrinks by the order that the two errors show, not by the method's: across a kink of
    f, or in a fast start, there is less of it. An error that falls no faster than the step is no estimate at all, and
    is accepted only below a tenth of the tolerance.

    Args:
        rtol, atol: relative and absolute tolerance: a number for all components; or a tensor that broadcasts to the
            state (with batch_dims=1 with or without the leading batch axis); or a pytree of the state's structure with
            such leaves. They are constants for gradients. Both parts of a complex component share theirs.
        max_steps: attempts at most, rejected ones included; then the status is MAX_STEPS.
        first_step: length of the first step, in units of t; "span": the whole span; None: estimated.
        max_step: largest step, in units of t: shorter than anything that f does between two times of rest.
        jump_times: times at which f jumps, in any order: a step ends at each of them that lies in the span, and the
            next one begins with f evaluated anew; f is evaluated a little before (by four units of the last place
            of t) and a little after, never at the jump. They are constants for gradients: where the solution's
            derivative in the time of a jump is wanted, solve in two pieces, with that time the end of one and the
            begin of the other.
        safety: factor on the step that the error estimate allows.
        compile: compute each step as one graph of `torch.compile`, of explicit methods alone; the first solve compiles,
            for seconds. Without effect in `torch.func` transforms, on the tape (`Direct`), and where the steps are
            those of some systems of a batch.

    Source: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", II.4; Gustafsson, "Control theoretic
    techniques for stepsize selection in explicit Runge-Kutta methods", 1991; the order of rejected steps, and the
    predictive controller (with the minimum as in Hairer and Wanner's codes): Gustafsson, "Control-theoretic techniques
    for stepsize selection in implicit Runge-Kutta methods", 1994.
    """

    rtol: Any = 1e-5
    atol: Any = 1e-6
    max_steps: int = 10_000
    first_step: float | Literal["span"] | None = None
    safety: float = 0.9
    max_step: float | None = None
    jump_times: tuple[float, ...] = ()
    compile: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.compile and not is_explicit(self):
            raise ValueError(f"compile is for explicit methods (Tsit5, Dopri5, ...), not for {type(self).__name__}")
        object.__setattr__(self, "jump_times", _checked_jumps(self.jump_times))
        check_tolerances(self.rtol, self.atol)
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")
        for name in ("first_step", "max_step"):
            value = getattr(self, name)
            if isinstance(value, str) and (name, value) != ("first_step", "span"):
                raise ValueError(f"{name} must be a number{', span' * (name == 'first_step')} or None, got {value!r}")
            if value is not None and not isinstance(value, str) and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}; time may still run backwards")
        if not 0 < self.safety < 1:
            raise ValueError(f"safety must lie between 0 and 1, got {self.safety}")

    @property
    def given_first_step(self) -> float | None:
        """The length of the first step, where it is a number."""
        return None if self.first_step is None or self.first_step == "span" else float(self.first_step)


def _checked_jumps(times: Any) -> tuple[float, ...]:
    jumps = tuple(sorted({float(time) for time in times}))
    if not all(map(math.isfinite, jumps)):
        raise ValueError(f"jump_times must be finite, got {jumps}")
    return jumps


class Euler(FixedStep):
    """Euler's method, of order 1, one evaluation per step."""

    tableau = tableaus.EULER


class Midpoint(FixedStep):
    """The explicit midpoint rule, of order 2, two evaluations per step."""

    tableau = tableaus.MIDPOINT


class Heun(FixedStep):
    """Heun's method (explicit trapezoidal rule), of order 2, two evaluations per step."""

    tableau = tableaus.HEUN


class RK4(FixedStep):
    """The classical Runge-Kutta method, of order 4, four evaluations per step."""

    tableau = tableaus.RK4


@dataclasses.dataclass(frozen=True, eq=False)
class Leapfrog(FixedStep):
    """The leapfrog (kick-drift-kick, Stoermer-Verlet) method for separable Hamiltonians H(q, p) = T(p) + V(q):

        dq/dt = dT/dp (p),    dp/dt = -dV/dq (q)

        p_half = p - h/2 dV/dq (q),    q_new = q + h dT/dp (p_half),    p_new = p_half - h/2 dV/dq (q_new)

    of order 2, symplectic and reversible: it solves the equations of a Hamiltonian near by (by O(h^2)) exactly, up to
    what is exponentially small in 1/h, so that the error of the energy stays bounded over very long times, where that
    of Runge-Kutta methods grows. Two calls of f per step, one more in the first.

    The state is a pair (q, p) of tensors of one shape; f(t, (q, p)) returns the pair (dq/dt, dp/dt). T and V may depend
    on t. With `adjoint=Reversible()` the gradient takes the steps back: memory does not grow with their number. There
    is no dense output: `odeint` alone.

    Args:
        step_size, jump_times: see `FixedStep`. A step must be shorter than 2 over the largest frequency.
        check: raise a ValueError where dq/dt depends on q, or dp/dt on p, as with friction: there the method is none.
            Three calls of f per solve; not inside of `torch.func` transforms. That dp/dt is the gradient of a potential
            is not looked at; where it is none, the method keeps its order, but conserves nothing.

    Source: Hairer, Lubich, Wanner, "Geometric numerical integration illustrated by the Stoermer-Verlet method", 2003.

    >>> import torch
    >>> from deqzoo.implicit import Leapfrog, odeint
    >>> start = torch.tensor([1.0], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64)
    >>> q, p = odeint(lambda t, y: (y[1], -y[0]), start, [0.0, 1000.0], solver=Leapfrog(step_size=0.1))
    >>> (q[-1] ** 2 + p[-1] ** 2).item()  # twice the energy, after 159 periods
    0.99...
    """

    check: bool = True

    tableau = tableaus.LEAPFROG


class Bosh3(Adaptive):
    """Bogacki and Shampine's method of order 3 (2), for loose tolerances. Dense output of order 3."""

    tableau = tableaus.BOSH3


class Dopri5(Adaptive):
    """Dormand and Prince's method of order 5 (4), known as ode45. Dense output of order 4."""

    tableau = tableaus.DOPRI5


class Tsit5(Adaptive):
    """Tsitouras' method of order 5 (4), a little more accurate than `Dopri5`: the default. Dense output of order 4."""

    tableau = tableaus.TSIT5


class Dopri8(Adaptive):
    """Dormand and Prince's method of order 8 (DOP853), for tight tolerances and float64. Dense output of order 7.

    The error is that of the embedded method of order 5, damped by one of order 3:  e5^2 / sqrt(e5^2 + e3^2 / 100).
    An output time inside a step costs three evaluations more, once per step.
    """

    tableau = tableaus.DOPRI8


@dataclasses.dataclass(frozen=True, eq=False)
class DiagonallyImplicit(Adaptive):
    """Base of the implicit methods for stiff problems, whose stages are solved one after the other:

        Y = base + gamma h f(t, Y),    by    (I - gamma h J) dY = base + gamma h f(t, Y) - Y,    Y <- Y + dY

    with a Jacobian J = df/dy that is kept over stages and steps for as long as that converges fast, and one
    factorisation for all stages of a step. The iteration ends when by its rate of convergence the error is below
    `stage_tol` times the tolerance of the step; a step where it does not converge is rejected. Above `dense_up_to`
    unknowns per system no Jacobian is written out: Newton's method by GMRES on products with it.

    Where output times lie inside of a step, the dense output is looked at there, see `Rodas5P`; being of order 3, and
    less where f is stiff, it requires more and shorter steps than that of `Rodas5P` does.

    Derivatives are those of the implicit function theorem: `stage_tol` limits their accuracy too, and components below
    `atol`, which no iteration resolves, do enter them. `Solution.nfe` counts n calls of f for a Jacobian in n
    unknowns, one for each product with it. For stiff problems use batch_dims=1 where the samples do not depend on each
    other: with batch_dims=0 all of y is one system.

    Args:
        stage_tol: error of a stage, over the tolerance of the step.
        dense_up_to: unknowns per system up to which Jacobians are written out.

    Source: Hairer, Wanner, "Solving Ordinary Differential Equations II", IV.8.
    """

    stage_tol: float = 1e-3
    dense_up_to: int = 100


class Kvaerno3(DiagonallyImplicit):
    """Kvaerno's L-stable, stiffly accurate method of order 3 (2), for loose tolerances. Dense output of order 3."""

    tableau = stiff_tableaus.KVAERNO3


class Kvaerno5(DiagonallyImplicit):
    """Kvaerno's L-stable, stiffly accurate method of order 5 (4), for stiff problems. Dense output of order 3.

    Cheaper than `Rodas5P` from some ten unknowns per system on, and the one for large systems and for an f that cannot
    be differentiated twice.
    """

    tableau = stiff_tableaus.KVAERNO5


@dataclasses.dataclass(frozen=True, eq=False)
class Rodas5P(Adaptive):
    """Steinebach's Rosenbrock method of order 5 (4), L-stable and stiffly accurate: the first choice for stiff problems
    of up to some ten unknowns per system. Dense output of order 4.

    A step takes one Jacobian J = df/dy, df/dt, one factorisation of I - gamma h J, and eight evaluations of f; nothing
    is iterated, so that there is nothing that may not converge. J is exact, by automatic differentiation, and
    `Solution.nfe` counts n calls of f for it in n unknowns (df/dt comes along). Gradients contain derivatives of J: f
    must be differentiable twice. Use batch_dims=1 where the samples do not depend on each other.

    Where the solution follows a forcing, as below, the estimated error falls with the stiffness, as it does for all
    methods of this kind: the steps become so long that their ends alone are right. So where output times lie inside of
    a step (in dense solutions and searches for events: in all steps), the defect of the dense output is evaluated at
    two of them, those nearest to a fifth and four fifths of the step, and as an error, (I - gamma h J)^-1 gamma h
    (u' - f(t, u)), it has to be within the tolerance too: two calls of f per step, and shorter steps where the
    polynomial does not follow. With a rate of 1e6, 51 output times up to t = 10 take 629 calls of f, 353 without; their
    errors are 1e-5, where SciPy's Radau has 0.39. What f does between more than two output times of a step, for less
    time than that, may still be overlooked: set `max_step`. Gradients through the jumps of a relaxation oscillation
    want a finer tolerance than the solution, see `Discrete`.

    Args:
        most_unknowns: a larger system is refused: that is the size of its Jacobian.

    Source: Steinebach, "Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within the Julia
    Differential Equations package", 2023.

    >>> import torch
    >>> from deqzoo.implicit import odeint
    >>> stiff = lambda t, y: -1e6 * (y - torch.cos(t))
    >>> odeint(stiff, torch.zeros(1, dtype=torch.float64), [0.0, 1.0], solver=Rodas5P())[-1]  # cos(1)
    tensor([0.5403], dtype=torch.float64)
    """

    most_unknowns: int = 1000

    tableau = stiff_tableaus.RODAS5P


ODE_SOLVERS: dict[str, type[ODESolver]] = {
    "bosh3": Bosh3,
    "dopri5": Dopri5,
    "dopri8": Dopri8,
    "euler": Euler,
    "heun": Heun,
    "kvaerno3": Kvaerno3,
    "kvaerno5": Kvaerno5,
    "leapfrog": Leapfrog,
    "midpoint": Midpoint,
    "rk4": RK4,
    "rodas5p": Rodas5P,
    "tsit5": Tsit5,
}


def make_ode_solver(name: str, **options: Any) -> ODESolver:
    """An ODE solver by name. An error lists what is valid.

    >>> make_ode_solver("rk4", step_size=0.1)
    RK4(step_size=0.1, jump_times=())
    """
    solver: ODESolver = make("ODE solver", ODE_SOLVERS, name, options)
    return solver
