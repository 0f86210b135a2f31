"""A model whose solvers take a fixed number of steps: what `torch.export` and ONNX can hold."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ..implicit import RK4, Picard
from ..implicit.ode.solvers import Adaptive
from ..implicit.pytree import Ravel
from .deq import DEQ
from .layer import SolverLayer, solver_layers
from .ode import NeuralODE

MOST_STEPS = 1024
DAMPINGS = 1.0, 0.5, 0.1


@torch.no_grad()
def fixed_steps(model: nn.Module, *inputs: Any, tol: float = 1e-3, method: str = "forward") -> nn.Module:
    """A frozen copy of a model whose `DEQ` layers iterate, and whose `NeuralODE` layers step, a fixed number of times.

    Equilibria are found by plain or damped iteration (`Picard`), ODEs by `RK4` with equal steps: nothing of it depends
    on the data, so `torch.export.export(fixed_steps(model, x), (x,))` under `torch.no_grad()` can write it out. The
    number of steps is the least power of two with which each layer's output for `inputs` lies within `tol` of the
    layer's own solver at a hundredth of `tol`, relative, for each system. Other inputs may need more of them: give
    typical ones. A `DEQ` that takes a fixed number of steps already (``stop="never"``: an unrolled network) stays as
    it is.

    Args:
        model: a network of any layers; those that run other solvers are refused.
        inputs: of `model.method`, of two samples or more where the batch is to vary.
        tol: relative.
        method: its method that is to be exported.

    Raises:
        ValueError: a layer whose solver cannot be replaced, that needs more than 1024 steps, or a `NeuralODE` that is
            called with times in a tensor: steps of times that are numbers (a list) are known beforehand.

    >>> deq = DEQ(lambda z, x: torch.tanh(0.5 * z + x))
    >>> fixed_steps(deq, torch.ones(2, 3))
    DEQ(solver=Picard(max_steps=4, stop='never'), adjoint=Implicit())
    """
    fixed = copy.deepcopy(model).eval().requires_grad_(False)
    layers = [layer for layer in solver_layers(fixed) if getattr(layer.solver, "stop", None) != "never"]
    for layer in layers:
        layer.solver = _reference(layer, tol / 100)
        layer.on_failure = "raise"  # type: ignore[assignment]
    calls = _recorded(layers, lambda: fixed(*inputs) if method == "forward" else getattr(fixed, method)(*inputs))
    for layer in layers:
        if layer not in calls:
            raise ValueError(f"{method} does not call the model's {type(layer).__name__}")
        if isinstance(_times(layer, *calls[layer][:2]), torch.Tensor):
            raise ValueError(
                f"{method} calls its {type(layer).__name__} with times in a tensor, on whose values the number of "
                "steps depends; a fixed number needs times that are numbers, such as a list"
            )
        _fix(layer, *calls[layer], tol)
    return fixed


def _reference(layer: SolverLayer, tol: float) -> Any:
    """The layer's solver, made exact."""
    solver = layer.solver
    if isinstance(layer, DEQ):
        return dataclasses.replace(solver, tol=tol, rtol=None, max_steps=10_000)
    if isinstance(layer, NeuralODE):
        return dataclasses.replace(solver, rtol=tol, atol=tol) if isinstance(solver, Adaptive) else solver
    raise ValueError(f"{type(layer).__name__} cannot take a fixed number of steps: DEQ and NeuralODE layers can")


def _recorded(layers: list[SolverLayer], run: Callable[[], Any]) -> dict[SolverLayer, tuple[Any, Any, Any]]:
    """The arguments, the keyword arguments and the output of each layer."""
    calls: dict[SolverLayer, tuple[Any, Any, Any]] = {}

    def look(layer: Any, args: Any, kwargs: Any, output: Any) -> None:
        calls[layer] = args, kwargs, output

    hooks = [layer.register_forward_hook(look, with_kwargs=True) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _fix(layer: SolverLayer, args: Any, kwargs: Any, exact: Any, tol: float) -> None:
    """Give the layer the first solver by which it comes within `tol`."""
    ravel = Ravel(exact, layer.batch_dims if isinstance(layer, DEQ) else 0)
    layer.on_failure = "ignore"  # type: ignore[assignment]
    for solver in _candidates(layer, _times(layer, args, kwargs)):
        layer.solver = solver
        found, wanted = ravel.flatten(layer(*args, **kwargs)), ravel.flatten(exact)
        if bool(((found - wanted).norm(dim=1) <= tol * wanted.norm(dim=1)).all()):
            return
    raise ValueError(
        f"{type(layer).__name__} does not come within tol={tol:g} of its solution by {MOST_STEPS} plain steps; give a "
        "larger tol"
    )


def _times(layer: SolverLayer, args: Any, kwargs: Any) -> Any:
    """The times of a call of a `NeuralODE`, those of the layer by default; None for other layers."""
    if not isinstance(layer, NeuralODE):
        return None
    given = args[1] if len(args) > 1 else kwargs.get("t")
    return layer.interval if given is None else given


def _candidates(layer: SolverLayer, times: Any) -> Iterator[Any]:
    steps = [2**i for i in range(MOST_STEPS.bit_length())]
    if isinstance(layer, NeuralODE):
        layer.adjoint = None
        yield from (RK4(step_size=abs(times[-1] - times[0]) / count) for count in steps)
    else:
        yield from (Picard(max_steps=count, stop="never", damping=damping) for count in steps for damping in DAMPINGS)
