"""Equations with known solutions."""

import torch

A = torch.tensor([[0.0, 1.0], [-4.0, -0.3]], dtype=torch.float64)
START = torch.tensor([1.0, 0.5], dtype=torch.float64)


def linear(t, y, matrix=A):
    """y' = A y: a damped oscillator."""
    return y @ matrix.T


def exact(times, start=START, matrix=A):
    """exp(A t) y0 at each time."""
    return torch.stack([torch.linalg.matrix_exp(matrix * float(t)) @ start for t in times])


def net(seed=0, size=3):
    """A smooth field, with parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(size, 8), torch.nn.Tanh(), torch.nn.Linear(8, size)).double()


def randn(*shape, seed=0):
    """Normal numbers, float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def relative(found, expected):
    """Relative error of one list of tensors against another."""
    flat = [torch.cat([x.detach().flatten() for x in tensors]) for tensors in (found, expected)]
    return ((flat[0] - flat[1]).norm() / flat[1].norm()).item()
