"""Implicit deep learning for PyTorch.

Anything defined by a condition (a fixed point, a root, a minimiser) becomes a differentiable function, and a
zoo of trained implicit models loads with one line::

    import deqzoo
    model = deqzoo.load("deq_digits")
    z = deqzoo.fixed_point(f, z0, x)

Names are imported when first used: ``import deqzoo`` alone imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deqzoo.errors import CheckpointError
    from deqzoo.implicit import ImplicitFunction, argmin, fixed_point, odeint, root
    from deqzoo.models.common.monitor import ConvergenceMonitor
    from deqzoo.nn import DEQ, ContinuousFlow, NeuralODE, fixed_steps
    from deqzoo.zoo import export, export_onnx, list_models, load, push_to_hub

__version__ = "0.1.0"

_HOMES = {
    "DEQ": "deqzoo.nn",
    "ContinuousFlow": "deqzoo.nn",
    "NeuralODE": "deqzoo.nn",
    "ImplicitFunction": "deqzoo.implicit",
    "argmin": "deqzoo.implicit",
    "fixed_point": "deqzoo.implicit",
    "odeint": "deqzoo.implicit",
    "push_to_hub": "deqzoo.zoo",
    "root": "deqzoo.implicit",
    "CheckpointError": "deqzoo.errors",
    "ConvergenceMonitor": "deqzoo.models.common.monitor",
    "export": "deqzoo.zoo",
    "export_onnx": "deqzoo.zoo",
    "fixed_steps": "deqzoo.nn",
    "list_models": "deqzoo.zoo",
    "load": "deqzoo.zoo",
}

__all__ = [
    "DEQ",
    "CheckpointError",
    "ContinuousFlow",
    "ConvergenceMonitor",
    "ImplicitFunction",
    "NeuralODE",
    "__version__",
    "argmin",
    "export",
    "export_onnx",
    "fixed_point",
    "fixed_steps",
    "list_models",
    "load",
    "odeint",
    "push_to_hub",
    "root",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use (PEP 562)."""
    if name not in _HOMES:
        offered = ", ".join(sorted(_HOMES))
        raise AttributeError(f"module 'deqzoo' has no attribute {name!r}; it offers {offered}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
