"""Decays of weights: how far apart they are, and what they are worth beside a single one."""

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from deqzoo.plots.figure import COLORS, panels, save


def plot_decays(log_decays: Tensor, errors: Mapping[float, float], learned: float, path: Path) -> Path:
    """Draw test errors and the distribution of the decays.

    Args:
        log_decays: natural logarithms, of any shape.
        errors: the test error in [0, 1] with each single decay.
        learned: that with the learned ones.
        path: of the PNG.
    """
    figure, (of_errors, of_decays) = panels(2, "Weight decays")
    values = [100 * error for error in errors.values()]
    of_errors.plot(list(errors), values, marker="o", color=COLORS[0], label="a single decay")
    of_errors.axhline(100 * learned, color=COLORS[1], label="one for each weight, learned")
    of_errors.set(xscale="log", xlabel="decay", ylabel="test error (%)")
    of_errors.set_ylim(bottom=0)
    of_errors.legend(frameon=False)
    of_decays.hist((log_decays.flatten() / math.log(10)).tolist(), bins=60, color=COLORS[0])
    of_decays.set(xlabel=r"$\log_{10}$ of a learned decay", ylabel="weights")
    return save(figure, path)
