"""Cells for the tests of the equilibrium layer, and its reference: the unrolled iteration in float64."""

import torch
from torch import nn

from deqzoo.implicit import (
    GMRES,
    Anderson,
    Implicit,
)
from tests.implicit.solvers.helpers import F64, matrix_of_norm


class Dense2(nn.Module):
    """tanh(dropout(W z) + V x), a contraction of .6."""

    def __init__(self, n=5, dropout=0.0, dtype=F64):
        super().__init__()
        self.to_state = nn.Linear(n, n, dtype=dtype)
        self.injection = nn.Linear(n, n, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.to_state.weight.copy_(matrix_of_norm(n, 0.6, seed=3))

    def forward(self, z, x):
        return torch.tanh(self.dropout(self.to_state(z)) + self.injection(x))


class TwoStates(nn.Module):
    """A state of two tensors of different shapes that drive each other; it brings its own start."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(4, 3, dtype=F64), nn.Linear(3, 4, dtype=F64)
        with torch.no_grad():
            self.down.weight.mul_(0.5)
            self.up.weight.mul_(0.5)

    def initial_state(self, x):
        return x.new_zeros(len(x), 2, 4), x.new_zeros(len(x), 2, 3)

    def forward(self, state, x):
        high, low = state
        return torch.tanh(self.up(low) + x), torch.sin(self.down(high)) + 0.1 * low


SHARP = {"solver": Anderson(max_steps=300), "adjoint": Implicit(GMRES()), "on_failure": "raise"}


def unrolled(cell, x, steps=300):
    z = cell.initial_state(x) if hasattr(cell, "initial_state") else torch.zeros_like(x)
    for _ in range(steps):
        z = cell(z, x)
    return z


def gradients(output, x, cell):
    leaves = output if isinstance(output, tuple) else (output,)
    loss = sum((leaf**2 * torch.arange(1, leaf[0].numel() + 1).view(leaf[0].shape)).sum() for leaf in leaves)
    return torch.autograd.grad(loss, [x, *cell.parameters()])
