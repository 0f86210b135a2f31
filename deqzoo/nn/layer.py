"""What layers that run a solver have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import nn
from torch.func import functional_call

from ..implicit import EquationAdjoint, Solution
from ..implicit.by_name import shown
from ..implicit.fixed_point_solvers.blocks import BlockSolver
from ..implicit.modes import in_transform
from ..implicit.ode.solvers import Adaptive, is_explicit
from ..implicit.private_api import Convertible, own_parameters
from ..implicit.pytree import map_tensors
from .randomness import draws_inside


class SolverLayer(nn.Module):
    """A layer whose output a solver finds: `DEQ`, `NeuralODE`.

    Attributes:
        solver: its options, a dataclass of `deqzoo.implicit`; may be exchanged at any time.
        solution: `Solution` of the last forward; its `backward` is filled once the backward pass has run.
    """

    evaluated: ClassVar[str]  # the name that a subclass gives to `function`

    solver: Any
    solution: Solution | None
    _compiled: Callable[..., Any] | None = None
    _compiles_steps = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As any module's; in training by what `compile_training` has made."""
        if self._compiled is not None and self.training and torch.is_grad_enabled():
            return self._compiled(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    @property
    def is_one_graph(self) -> bool:
        """Whether `torch.compile` takes a call and its gradient as a graph each: it does a fixed number of steps."""
        return False

    def extra_repr(self) -> str:
        """Solver and adjoint, for `print(model)`."""
        adjoint = getattr(self, "adjoint", None)
        return f"solver={shown(self.solver)}" + ("" if adjoint is None else f", adjoint={shown(adjoint)}")

    def compile_training(self, **options: Any) -> None:
        """Compile by `torch.compile`, with its options: calls in training as a whole, where they are one graph.

        All others run as before: a call in eval mode, without gradients or under `inference_mode` would each be
        compiled anew. Where they are not one graph, `function` is compiled, in all modes, and in training the steps of
        the solver are, if it can (`Picard(compile=True)`, `Tsit5(compile=True)`).
        """
        if self.is_one_graph:
            self._compiled = torch.compile(super().__call__, **options)
            return
        self._compiles_steps = True
        if isinstance(self.function, nn.Module):
            self.function.compile(**options)

    @property
    def chosen_solver(self) -> Any:
        """The solver; in training that which compiles its steps, after `compile_training`."""
        wanted = self._compiles_steps and self.training and torch.is_grad_enabled()
        if not wanted or not compiles_steps(self.solver) or draws_inside(self.function):
            return self.solver
        return dataclasses.replace(self.solver, compile=True)

    @property
    def function(self) -> Any:
        """What the solver evaluates: the cell of a DEQ, the dynamics of an ODE."""
        return getattr(self, self.evaluated)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without the last solution, which may hang on a graph, and what was compiled."""
        return {**self.__dict__, "solution": None, "_compiled": None, "_compiles_steps": False}


def compiles_steps(solver: Any) -> bool:
    """Whether a solver that stops by itself has a form that compiles its steps."""
    if isinstance(solver, Adaptive):
        return is_explicit(solver)
    return isinstance(solver, BlockSolver) and solver.stop != "never"


def solver_layers(network: nn.Module) -> list[SolverLayer]:
    """The layers of `network` that run a solver, in order."""
    return [module for module in network.modules() if isinstance(module, SolverLayer)]


@contextmanager
def use_solver(network: nn.Module, solver: Any) -> Iterator[None]:
    """Within it, every solver layer of `network` uses `solver`.

    A layer whose adjoint differentiates the steps of another solver (`Unrolled`, `ReversibleIteration`) has the default
    adjoint meanwhile.
    """
    layers = solver_layers(network)
    adjoints = [(layer, getattr(layer, "adjoint", None)) for layer in layers]
    others = [layer for layer, adjoint in adjoints if isinstance(adjoint, EquationAdjoint) and not adjoint.fits(solver)]
    with use_options(layers, solver=solver), use_options(others, adjoint=None):
        yield


@contextmanager
def use_options(layers: Iterable[Any], **options: Any) -> Iterator[None]:
    """Within it, each of the layers has these values of its attributes."""
    own = [(layer, name, getattr(layer, name)) for layer in layers for name in options]
    try:
        for layer, name, _ in own:
            setattr(layer, name, options[name])
        yield
    finally:
        for layer, name, before in own:
            setattr(layer, name, before)


HALF = torch.float16, torch.bfloat16


def half_dtype(function: Any) -> torch.dtype | None:
    """float16 or bfloat16, if a module's parameters are all in it; else None."""
    found = {parameter.dtype for parameter in function.parameters()} if isinstance(function, nn.Module) else set()
    return found.pop() if len(found) == 1 and found <= set(HALF) else None


def evaluated_in(dtype: torch.dtype, f: Callable[..., Any]) -> Callable[..., Any]:
    """`f`, called with floating-point tensors in `dtype`; what it returns is float32."""

    def call(*args: Any) -> Any:
        args = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, args)
        return map_tensors(torch.Tensor.float, f(*args))

    return call


class NeedsFullPrecision(Convertible):
    """A module whose parameters cannot be in half precision: `half()` and the like raise, and say what to do.

    Attributes:
        why: the reason, for the message.
    """

    why: ClassVar[str]

    def before_conversion(self, dtype: torch.dtype) -> None:
        """As `Convertible.before_conversion`: half precision is an error."""
        if dtype in HALF:
            raise TypeError(
                f"{type(self).__name__} has no half precision: {self.why}. Leave the parameters in float32, and run it "
                "under torch.autocast"
            )


def with_parameters(function: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """`function` with the parameters of this moment, and arguments to be given to it after its own.

    Under `torch.func.functional_call` a module holds other parameters only while it is called; the backward evaluates
    it later. Inside transforms they become arguments, so that each level sees its own version of them.
    """
    if not isinstance(function, nn.Module):
        return function, ()
    state = {**dict(function.named_parameters()), **dict(function.named_buffers())}
    if in_transform():
        return lambda *inputs: functional_call(function, inputs[-1], inputs[:-1]), (state,)
    # Where each parameter stands: faster to look up in every call than the module's tree.
    places = [
        (own_parameters(module), name, parameter)
        for module in function.modules()
        for name, parameter in own_parameters(module).items()
    ]

    def call(*inputs: Any) -> Any:
        if all(holder[name] is parameter for holder, name, parameter in places):
            return function(*inputs)
        return functional_call(function, state, inputs)

    return call, ()
