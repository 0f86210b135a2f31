"""Adaptation methods from the settings of a recipe; what is wrong is a `ConfigError`."""

from collections.abc import Mapping
from typing import Any

from deqzoo.errors import ConfigError
from deqzoo.implicit import LINEAR_SOLVERS, MINIMIZERS, Damped, make_solver
from deqzoo.models.common.options import by_name, described, refuse, settings_errors, solver_for_use
from deqzoo.models.meta.config import AdaptationConfig
from deqzoo.nn import IMAML, MAML, Adaptation, FirstOrderMAML

_IMPLICIT = {"strength", "solver", "solver_options", "linear_solver", "linear_solver_options", "damping"}
_OWN = {  # settings that only some methods have
    "first_order": {"inner_steps", "inner_lr"},
    "imaml": _IMPLICIT,
    "maml": {"inner_steps", "inner_lr", "checkpoint"},
}
METHODS = tuple(_OWN)


def adaptation(settings: AdaptationConfig) -> Adaptation:
    """The method of ``settings.method`` with the options that belong to it."""
    if settings.method not in METHODS:
        raise ConfigError(f"model.method={settings.method}: valid are {', '.join(METHODS)}.")
    if settings.damping < 0:
        raise ConfigError(f"model.damping={settings.damping}: it must not be negative.")
    if settings.inner_steps < 1 or not settings.inner_lr > 0:
        raise ConfigError("model.inner_steps must be at least 1, and model.inner_lr positive.")
    refuse(settings, set().union(*_OWN.values()) - _OWN[settings.method], f"model.method={settings.method}")
    with settings_errors():
        if settings.method == "maml":
            return MAML(settings.inner_steps, settings.inner_lr, settings.checkpoint)
        if settings.method == "first_order":
            return FirstOrderMAML(settings.inner_steps, settings.inner_lr)
        name, options = settings.linear_solver, settings.linear_solver_options
        linear_solver = by_name("model.linear_solver", LINEAR_SOLVERS, make_solver, name, options)
        return IMAML(
            settings.strength,
            by_name("model.solver", MINIMIZERS, make_solver, settings.solver, settings.solver_options),
            Damped(linear_solver, settings.damping) if settings.damping else linear_solver,
            on_failure="ignore",  # how near the solves come is logged
        )


def adaptation_for_use(
    settings: AdaptationConfig, solver: str | None, tol: float | None, max_steps: int | None
) -> None:
    """`solver_for_use` of the minimiser of iMAML; of the other methods, ``max_steps`` is the number of inner steps."""
    if settings.method != "imaml":
        if (solver, tol) != (None, None):
            raise ValueError(f"model.method={settings.method} has no solver to choose, only max_steps")
        settings.inner_steps = settings.inner_steps if max_steps is None else max_steps
        return
    solver_for_use(settings, MINIMIZERS, ("tol", "max_steps"), solver, {"tol": tol}, max_steps)


def adaptation_facts(model: Mapping[str, Any]) -> dict[str, str]:
    """Lines of the card's table, from the ``model`` section of a ``config.json``."""
    if model["method"] != "imaml":
        name = {"maml": "MAML", "first_order": "first-order MAML"}[model["method"]]
        steps = "1 step" if model["inner_steps"] == 1 else f"{model['inner_steps']} steps"
        return {"adaptation": f"{name}, {steps} of {model['inner_lr']}"}
    facts = {
        "adaptation": f"iMAML, strength {model['strength']}",
        "inner solver": described(model["solver"], model["solver_options"]),
        "meta-gradient by": described(model["linear_solver"], model["linear_solver_options"]),
    }
    return facts | ({"damping": str(model["damping"])} if model["damping"] else {})
