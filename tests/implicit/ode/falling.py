"""What falls or turns until an event, for the tests of events."""

import torch

from deqzoo.implicit import Tsit5, odeint_event

SPAN = torch.tensor([0.0, 5.0], dtype=torch.float64)
TIGHT = Tsit5(rtol=1e-10, atol=1e-12)


def double(*values):
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def fall(t, y, g=9.81):
    return torch.stack([y[1], -g + 0 * y[1]])


def turn(t, y):
    """y = cos(t) from (1, 0)."""
    return torch.stack([y[1], -y[0]])


def height(t, y, *args):
    return y[0]


def landing(h, g, **options):
    return odeint_event(fall, torch.stack([h, torch.zeros_like(h)]), SPAN, height, g, **options)
