"""Networks, solvers and gradients from the settings of a recipe; what is wrong is a `ConfigError`."""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from deqzoo.errors import ConfigError
from deqzoo.implicit import (
    EQUATION_ADJOINTS,
    LINEAR_SOLVERS,
    ODE_ADJOINTS,
    ODE_SOLVERS,
    SOLVERS,
    SPLITTINGS,
    make_adjoint,
    make_ode_solver,
    make_solver,
)
from deqzoo.nn import DEQ, FlowODE, MonDEQ, NeuralODE


@contextmanager
def settings_errors() -> Iterator[None]:
    """What a network has against its options (a `ValueError` that begins with the option), as a `ConfigError`."""
    try:
        yield
    except ConfigError:  # says already which setting is meant
        raise
    except ValueError as error:
        raise ConfigError(f"model.{error}.") from error


def construct(make: Callable[..., Any], *sources: Any, **given: Any) -> Any:
    """``make`` called with what is ``given`` and, for its other parameters, what the ``sources`` have by their names.

    A new option of a network is so declared in its settings and in the network alone. What the network has against it
    is a `ConfigError`.

    Args:
        make: a network's class, or a function that makes one.
        sources: the typed settings of a recipe, and what is known of its data; the first that has a name counts.
        given: what the sources do not have, or not as ``make`` takes it: a solver is a name in the settings.

    >>> from deqzoo.models.common.config import ODESolverConfig
    >>> construct(lambda solver, compile: (solver, compile), ODESolverConfig(compile=True), solver="an object")
    ('an object', True)
    """
    with settings_errors():
        return make(**{**arguments_of(make, *sources), **given})


def arguments_of(make: Callable[..., Any], *sources: Any) -> dict[str, Any]:
    """What the dataclasses ``sources`` have by the names of the parameters of ``make``; see `construct`.

    >>> from deqzoo.models.common.config import ODESolverConfig
    >>> arguments_of(lambda solver, width=3: None, ODESolverConfig())
    {'solver': 'tsit5'}
    """
    names = inspect.signature(make).parameters
    return {name: value for source in reversed(sources) for name, value in vars(source).items() if name in names}


def by_name(
    setting: str, valid: Collection[str], make: Callable[..., Any], name: str, options: Mapping[str, Any]
) -> Any:
    """``make(name, **options)``; ``setting`` is what the user wrote the name after."""
    if name not in valid:
        raise ConfigError(f"{setting}={name}: valid are {', '.join(sorted(valid))}.")
    try:
        return make(name, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{setting}={name}: {error}.") from error


def refuse(settings: Any, names: Iterable[str], where: str) -> None:
    """Settings that have no meaning ``where`` they are must be at their defaults; else it is a `ConfigError`."""
    default = type(settings)()
    for name in sorted(names):
        if getattr(settings, name) != getattr(default, name):
            raise ConfigError(f"model.{name} has no meaning for {where}; leave it out.")


def fixed_point_solver(settings: Any) -> Any:
    """The solver of ``settings.solver`` and ``settings.solver_options``; what they leave open is as in `DEQ`."""
    options = _like(DEQ.default_solver, SOLVERS, settings)
    return by_name("model.solver", SOLVERS, make_solver, settings.solver, options)


def monotone_solver(settings: Any) -> Any:
    """As `fixed_point_solver`, of a monotone problem, for `MonDEQ`: operator splitting solves it, too."""
    valid = {**SOLVERS, **SPLITTINGS}
    return by_name("model.solver", valid, make_solver, settings.solver, _like(MonDEQ.default_solver, valid, settings))


def _like(default: Any, valid: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    """The options of ``settings``; the tolerances and the budget that they leave open are those of the ``default``."""
    solver = valid.get(settings.solver)
    has = {field.name for field in fields(solver)} & {field.name for field in fields(default)} if solver else set()
    open_ = has & {"tol", "rtol", "atol", "max_steps"}
    return {name: getattr(default, name) for name in sorted(open_)} | dict(settings.solver_options)


def fixed_point_adjoint(settings: Any) -> Any:
    """The adjoint of ``settings``; its options may hold ``linear_solver`` and ``linear_solver_options``."""
    options = dict(settings.adjoint_options)
    linear_options = options.pop("linear_solver_options", {})
    if linear_options or "linear_solver" in options:
        linear = options.get("linear_solver", "gmres")
        setting = "model.adjoint_options.linear_solver"
        options["linear_solver"] = by_name(setting, LINEAR_SOLVERS, make_solver, linear, linear_options)
    if options.get("share_inverse") and settings.solver != "broyden":
        raise ConfigError(
            "model.adjoint_options.share_inverse needs model.solver=broyden, which builds an inverse Jacobian; "
            f"got {settings.solver}."
        )
    if settings.adjoint not in EQUATION_ADJOINTS:
        raise ConfigError(f"model.adjoint={settings.adjoint}: valid are {', '.join(sorted(EQUATION_ADJOINTS))}.")
    try:
        return make_adjoint(settings.adjoint, **options)
    except (TypeError, ValueError) as error:
        hint = "Leave out what the recipe sets with ~model.adjoint_options.NAME."
        raise ConfigError(f"model.adjoint={settings.adjoint}: {error}. {hint}") from error


def solver_for_use(
    settings: Any,
    valid: Mapping[str, Any],
    kept: Collection[str],
    solver: str | None,
    tolerances: Mapping[str, float | None],
    max_steps: int | None,
) -> None:
    """Change typed settings, in place, to another solver, tolerance or step limit; None: as before.

    Another solver keeps only those of the recipe's options that are ``kept``: the rest are the old one's own. The
    recipe's ``max_steps`` is a budget for its own solver and tolerance: with others the solver's default in ``valid``
    holds, where it is larger.
    """
    options = dict(settings.solver_options)
    other_solver = solver is not None and solver != settings.solver
    if other_solver:
        options = {key: value for key, value in options.items() if key in kept}
        settings.solver = solver
    changes = {key: value for key, value in tolerances.items() if value is not None}
    if max_steps is not None:
        changes["max_steps"] = max_steps
    elif (other_solver or changes) and "max_steps" in options:
        options["max_steps"] = max(getattr(valid.get(settings.solver), "max_steps", 0), options["max_steps"])
    settings.solver_options = options | changes


def fixed_point_for_use(settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
    """`solver_for_use` of a fixed-point solver; the adjoint becomes the exact one.

    It stays where the solver takes a fixed number of steps: the output is that of these steps,
    which need not have come to the fixed point.
    """
    solver_for_use(settings, {**SOLVERS, **SPLITTINGS}, ("tol", "max_steps"), solver, {"tol": tol}, max_steps)
    if settings.solver_options.get("stop") == "never":
        return
    # Exact, and unlike the cheaper adjoints of training it leaves the output alone.
    settings.adjoint, settings.adjoint_options = "implicit", {}


def described(name: str, options: Mapping[str, Any]) -> str:
    """A solver and its options in words.

    >>> described("anderson", {"tol": 0.01})
    'anderson (tol=0.01)'
    """
    return f"{name} ({', '.join(f'{key}={value}' for key, value in options.items())})" if options else name


def ode_solver(settings: Any, layer: type[NeuralODE] | type[FlowODE] = NeuralODE) -> Any:
    """The solver of ``settings.solver`` and ``settings.solver_options``; what they leave open is as in ``layer``."""
    options = _like(layer.default_solver, ODE_SOLVERS, settings)
    return by_name("model.solver", ODE_SOLVERS, make_ode_solver, settings.solver, options)


def ode_adjoint(settings: Any) -> Any:
    """The adjoint of ``settings.adjoint`` and ``settings.adjoint_options``."""
    return by_name("model.adjoint", ODE_ADJOINTS, make_adjoint, settings.adjoint, settings.adjoint_options)


def ode_for_use(settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
    """`solver_for_use` of an ODE solver, of which the tolerance is rtol and atol."""
    kept = {field.name for field in fields(ODE_SOLVERS[solver])} if solver in ODE_SOLVERS else ()
    solver_for_use(settings, ODE_SOLVERS, kept, solver, {"rtol": tol, "atol": tol}, max_steps)
