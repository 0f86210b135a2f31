"""The toy series of the latent ODE: noisy windows of two spirals in the plane, one clockwise, one not."""

import numpy as np

from deqzoo.data.series_set import SeriesSet

WINDOW, BEYOND, GRID, END, NOISE = 100, 100, 1000, 6 * np.pi, 0.1
COUNTS = {"train": 900, "val": 100, "test": 1000}
_SEED = 2018


def read_spirals() -> SeriesSet:
    """2,000 windows of spirals: 1,000 to train and validate on, as in the paper, and 1,000 to test on.

    With theta on a grid of 1,000 angles in [0, 6 pi], the spirals are (r cos(a) -/+ 5, r sin(a)), of which half are
    clockwise, a = 6 pi + 1 - theta, r = 15 / a, and half are not, a = theta, r = .3 theta. A window is 100
    neighbouring angles from a random start on; time is theta less its start. Its values have noise of standard
    deviation .1. The true values go on for 100 more, or to the end of the grid; nobody is shown them.

    Source: Chen et al., "Neural Ordinary Differential Equations", 2018, section 5.1, and the generator of their
    published example (``a=0, b=.3``).
    """
    draw = np.random.default_rng(_SEED)
    n = sum(COUNTS.values())
    step = END / (GRID - 1)
    place = draw.integers(WINDOW, GRID - WINDOW, n)[:, None] + np.arange(WINDOW + BEYOND)
    theta = np.minimum(place, GRID - 1) * step
    clockwise = (np.arange(n) % 2 == 0)[:, None]
    angle = np.where(clockwise, END + 1 - theta, theta)
    radius = np.where(clockwise, 15 / angle, 0.3 * theta)
    truth = np.stack([radius * np.cos(angle) + np.where(clockwise, -5, 5), radius * np.sin(angle)], -1)
    truth[place >= GRID] = np.nan
    values = truth + NOISE * draw.standard_normal(truth.shape)
    values[:, WINDOW:] = np.nan
    return SeriesSet(
        times=np.arange(WINDOW + BEYOND) * step,
        values=values,
        truth=truth,
        window=WINDOW,
        parts=dict(zip(COUNTS, np.split(np.arange(n), np.cumsum(list(COUNTS.values()))[:-1]), strict=True)),
        exact=True,
    )
