"""`export_onnx`: a model as an ONNX file, which runs without deqzoo and without torch."""

from __future__ import annotations

import importlib.util
import inspect
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.atomic import whole_file
from deqzoo.models.meta.learner import MetaLearner
from deqzoo.nn import fixed_steps

_MEANINGS = {  # part of a message of PyTorch's -> what it says of the model
    "data-dependent": "which operations it runs depends on the values of its inputs",
    "Generator": "it draws random numbers from a generator",
    "aten::rand": "it draws random numbers",
    "No ONNX function found": "it has an operation that ONNX has not",
}


@torch.no_grad()
def export_onnx(
    model: nn.Module, path: str | os.PathLike[str], *inputs: Tensor, tol: float = 1e-3, method: str = "forward"
) -> Path:
    """Write a model as an ONNX file, whole or not at all; its solvers take a fixed number of steps, see `fixed_steps`.

    (`deqzoo.export` writes a checkpoint folder, which `deqzoo.load` takes.) It takes networks whose solvers are those
    of `DEQ` and `NeuralODE` layers, or that have none; the tests run files of equilibria.

    Args:
        model: in any mode; the file holds it in eval mode.
        path: of the file.
        inputs: typical ones, as the method takes them. The size of their first axis may be another where the file is
            used, if the network allows it, and it is 2 or more here.
        tol: by which each solution may differ from the solver's, relative.
        method: that is exported; the file's inputs have the names of its arguments, its output is called ``output``.

    Raises:
        ValueError: a model that needs something else than a fixed number of plain steps, or an operation that ONNX
            has not.
    """
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise ValueError(f"export_onnx needs {' and '.join(missing)}: pip install 'deqzoo[onnx]'")
    if isinstance(model, MetaLearner):
        raise ValueError("a MetaLearner adapts to each task anew; export the network that its adapt(...) returns")
    _refuse_estimates(model)
    called = _Method(fixed_steps(model, *inputs, tol=tol, method=method), method)
    names = list(inspect.signature(getattr(model, method)).parameters)[: len(inputs)]
    try:
        sizes = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
        program = torch.export.export(called, inputs, dynamic_shapes=(sizes,))
        written: Any = torch.onnx.export(
            program, input_names=names, output_names=["output"], dynamo=True, verbose=False
        )
    except Exception as error:
        raise ValueError(f"{type(model).__name__}.{method} cannot be written as ONNX: {_reason(error)}") from error
    with whole_file(Path(path)) as part:
        written.save(str(part))
    return Path(path)


def _reason(error: BaseException) -> str:
    """The first line of what an exception began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    for part, meaning in _MEANINGS.items():
        if part in line:
            return f"{meaning} ({line})"
    return line


def _refuse_estimates(model: nn.Module) -> None:
    for module in model.modules():
        if (divergence := getattr(module, "eval_divergence", "exact")) != "exact":
            raise ValueError(f"the flow's divergence is an estimate ({divergence}); set eval_divergence='exact'")


class _Method(nn.Module):
    """A method as a module's forward."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *inputs: Tensor) -> Any:
        return self.model(*inputs) if self.method == "forward" else getattr(self.model, self.method)(*inputs)
