"""How much a model came to trust its training examples."""

from pathlib import Path

import torch
from torch import Tensor

from deqzoo.plots.figure import COLORS, panels, save


def plot_trust(trust: Tensor, wrong: Tensor, path: Path) -> Path:
    """Draw the distribution of the weights (N,) in [0, 1] of examples with right and with ``wrong`` (N,) labels."""
    figure, (axis,) = panels(1, "Weights of the training examples")
    edges = torch.linspace(0, 1, 31).tolist()
    for name, chosen, color in (("right label", ~wrong, COLORS[0]), ("wrong label", wrong, COLORS[1])):
        axis.hist(trust[chosen].tolist(), bins=edges, label=name, color=color, alpha=0.6)
    axis.set(xlabel="weight", ylabel="examples")
    axis.legend(frameon=False)
    return save(figure, path)
