"""Damped pendulums, simulated: noisy angles, no velocities. A model is to find the parameters that are known here."""

import numpy as np
from scipy.integrate import solve_ivp

from deqzoo.data.series_set import Floats, SeriesSet

PARAMETERS = {"gravity_over_length": 9.81, "damping": 0.2}  # 1/s^2, 1/s
COUNT, WINDOW, STEP, NOISE = 32, 200, 0.05, 0.02
_SEED = 1687


def simulate_pendulums() -> SeriesSet:
    """32 pendulums of one make, theta'' = -9.81 sin(theta) - .2 theta', let go at random angles and velocities.

    Angles are measured every .05 s for 10 s, with noise of 2 % of their standard deviation (as in Raissi et al., 2019).
    The true ones go on for 10 s more. All serve to train and to test: what is asked is the truth behind them.
    """
    draw = np.random.default_rng(_SEED)
    start = draw.uniform([-2.5, -1.0], [2.5, 1.0], (COUNT, 2))  # rad, rad/s
    times = STEP * np.arange(2 * WINDOW)

    def motion(t: float, state: Floats) -> Floats:
        angle, velocity = state.reshape(2, COUNT)
        acceleration = -PARAMETERS["gravity_over_length"] * np.sin(angle) - PARAMETERS["damping"] * velocity
        return np.concatenate([velocity, acceleration])

    solved = solve_ivp(motion, times[[0, -1]], start.T.ravel(), "DOP853", times, rtol=1e-10, atol=1e-10)
    truth = solved.y[:COUNT, :, None]
    values = truth + NOISE * truth[:, :WINDOW].std() * draw.standard_normal(truth.shape)
    values[:, WINDOW:] = np.nan
    every = np.arange(COUNT)
    parts = {"train": every, "val": every[:0], "test": every}
    return SeriesSet(times, values, truth, window=WINDOW, parts=parts, exact=True, parameters=PARAMETERS)
