"""How the solves of a model end in a training of one's own, whether by a loop or by Lightning's Trainer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import nn

from deqzoo.models.common.solves import backward_metrics, forward_metrics
from deqzoo.nn import solver_layers
from deqzoo.plots.convergence import plot_convergence


class ConvergenceMonitor(Callback):
    """Records what the solves of a model's layers cost and reached: a callback of a Trainer, or for a loop.

    Args:
        every: training steps of which one is recorded; to read the numbers waits for the device.

    Attributes:
        rows: for each recorded step its number (``step``), and what of these there is: ``nfe`` and ``nfe_backward``,
            evaluations, the largest over the layers; ``residual`` and ``residual_backward``, their median over the
            samples; ``unconverged``, the share of samples that did not meet the tolerance; of ODEs ``steps``,
            ``rejected`` and ``failed``.

    >>> import torch
    >>> from deqzoo.nn import DEQ
    >>> cell = lambda z, x: torch.tanh(0.5 * z + x)
    >>> model, monitor = nn.Sequential(nn.Linear(2, 2), DEQ(cell)), ConvergenceMonitor()
    >>> for _ in range(3):
    ...     model(torch.ones(4, 2)).sum().backward()
    ...     monitor.record(model)
    >>> len(monitor.rows), sorted(monitor.rows[0])
    (3, ['nfe', 'nfe_backward', 'residual', 'residual_backward', 'step', 'unconverged'])
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.every = every
        self.rows: list[dict[str, float]] = []
        self._step = 0

    def record(self, model: nn.Module) -> None:
        """To be called once per training step, after the backward: the last solves of the model's layers."""
        self._step += 1
        if self._step % self.every:
            return
        layers = solver_layers(model)
        if not layers:
            raise ValueError(f"{type(model).__name__} has no layer that runs a solver (DEQ, NeuralODE) to be monitored")
        found = {**forward_metrics(layers), **backward_metrics(layers)}
        self.rows.append({"step": self._step, **{name: float(value) for name, value in found.items()}})

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """As a callback."""
        self.record(pl_module)

    def summary(self) -> str:
        """A line: means over the recorded steps, and the worst step."""
        if not self.rows:
            return "nothing recorded yet: call record(model) after each backward"
        means = {
            name: sum(row[name] for row in self.rows if name in row) / sum(name in row for row in self.rows)
            for name in dict.fromkeys(name for row in self.rows for name in row)
        }
        parts = [f"{len(self.rows)} steps", f"NFE {means['nfe']:.1f}"]
        if "nfe_backward" in means:
            parts.append(f"backward {means['nfe_backward']:.1f}")
        for name, what in (("unconverged", "samples did not converge"), ("failed", "of the ODE solves failed")):
            if name in means:
                worst = max(self.rows, key=lambda row: row.get(name, 0.0))
                parts.append(f"{means[name]:.1%} {what} (at most {worst[name]:.1%}, in step {worst['step']:.0f})")
        return ", ".join(parts)

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw NFE, residuals and failures over the steps (PNG)."""
        if not self.rows:
            raise ValueError("nothing recorded yet: call record(model) after each backward")
        return plot_convergence(self.rows, Path(path))
