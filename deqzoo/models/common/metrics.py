"""The numbers of a ``metrics.json``: what they are called where people read them, and how they are written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LARGE = 100.0  # a fraction that is more reads better with an exponent than as a number of per cent with all its digits


@dataclass(frozen=True)
class Metric:
    """How one number is shown.

    Attributes:
        label: its name in reports, cards and tables.
        form: Python's format; ``%`` at its end makes per cent of a fraction.
    """

    label: str
    form: str

    def show(self, value: float) -> str:
        """The number as text.

        >>> METRICS["accuracy"].show(0.98611), METRICS["residual"].show(0.00243)
        ('98.61 %', '2.4e-03')
        >>> METRICS["loss"].show(0.12766), METRICS["loss"].show(2.3e-6)
        ('0.1277', '2.3e-06')
        >>> METRICS["energy_error"].show(1.5497), METRICS["energy_error"].show(24264.1)
        ('154.97 %', '2.4e+06 %')
        """
        if self.form.endswith("f") and value != 0 and float(f"{value:{self.form}}") == 0:
            return f"{value:.1e}"
        if self.form.endswith("%") and abs(value) >= LARGE:
            return f"{100 * value:.1e} %"
        return f"{value:{self.form}}".replace("%", " %")


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", ".2%"),
    "accuracy_flip": Metric("accuracy, logits averaged over an image and its mirror image", ".2%"),
    "accuracy_dropped_30": Metric("accuracy, 30 % of the values dropped", ".2%"),
    "accuracy_dropped_50": Metric("accuracy, 50 % of the values dropped", ".2%"),
    "accuracy_dropped_70": Metric("accuracy, 70 % of the values dropped", ".2%"),
    "rmse": Metric("RMSE inside the window", ".4f"),
    "rmse_beyond": Metric("RMSE beyond the window", ".4f"),
    "rmse_50": Metric("RMSE inside the window, half of its times shown", ".4f"),
    "rmse_beyond_50": Metric("RMSE beyond the window, half of its times shown", ".4f"),
    "rmse_30": Metric("RMSE inside the window, 30 % of its times shown", ".4f"),
    "rmse_beyond_30": Metric("RMSE beyond the window, 30 % of its times shown", ".4f"),
    "auc": Metric("AUC of death in hospital", ".4f"),
    "cross_entropy": Metric("cross-entropy (nats)", ".4f"),
    "interpolation_mse": Metric("interpolation MSE, mean over stays and channels", ".3e"),
    "measurement_mse": Metric("interpolation MSE, mean over measurements", ".3e"),
    "kl": Metric("KL of the posterior (nats per series)", ".1f"),
    "parameter_error": Metric("largest error of a parameter", ".2%"),
    "gravity_over_length": Metric("gravity / length (1/s^2)", ".4f"),
    "damping": Metric("damping (1/s)", ".4f"),
    "energy_error": Metric("largest error of the true energy, over all periods", ".2%"),
    "energy_error_1": Metric("largest error of the true energy, over one period", ".2%"),
    "bits_per_char": Metric("bits per character", ".3f"),
    "perplexity": Metric("perplexity of a token", ".2f"),
    "kl_density": Metric("KL from the true density (nats)", ".4f"),
    "nll": Metric("negative log-likelihood (nats)", ".4f"),
    "bits_per_dim": Metric("bits/dim", ".4f"),
    "mse": Metric("mean squared error", ".4f"),
    "accuracy_alone": Metric("each query asked by itself", ".2%"),
    "accuracy_interval": Metric("95 % interval of it, to each side", ".2%"),
    "mse_interval": Metric("95 % interval of it, to each side", ".4f"),
    "stationarity": Metric("inner gradient left, relative (median)", ".1e"),
    "inner_unconverged": Metric("inner problems not solved to tolerance", ".1%"),
    "puzzles_solved": Metric("whole puzzles solved", ".2%"),
    "puzzles_wrong": Metric("whole puzzles wrong", ".2%"),
    "cells_wrong": Metric("cells wrong", ".2%"),
    "psnr": Metric("PSNR (dB)", ".2f"),
    "loss": Metric("loss", ".4f"),
    "nfe": Metric("NFE (largest over the layers)", ".1f"),
    "residual": Metric("median residual", ".1e"),
    "unconverged": Metric("samples not converged", ".1%"),
    "iterations": Metric("iterations of a program's solver (mean)", ".1f"),
    "steps": Metric("steps accepted (largest over the layers)", ".1f"),
    "rejected": Metric("steps rejected (largest over the layers)", ".1f"),
    "failed": Metric("solves that failed", ".1%"),
}


def result(metric: str, metrics: Mapping[str, Mapping]) -> str:
    """The number of a ``metrics.json`` that an entry is judged by, with its spread where seeds were compared.

    >>> result("accuracy", {"test": {"accuracy": 0.9861}})
    '98.61 %'
    """
    shown = METRICS[metric]
    text = shown.show(metrics["test"][metric])
    if (interval := metrics["test"].get(f"{metric}_interval")) is not None:
        text = f"{text.removesuffix(' %')} ± {shown.show(interval)}"
    if seeds := metrics.get("seeds"):
        spread = f"{shown.show(seeds['mean']).removesuffix(' %')} ± {shown.show(seeds['standard_deviation'])}"
        text += f" (seed {metrics['seed']}; {spread.removesuffix(' %')} over {len(seeds['seeds'])} seeds)"
    return text


def trainings(metrics: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A training's metrics, then those of the weights from which it started, the earliest last.

    >>> [training["steps"] for training in trainings({"steps": 500, "started_from": {"steps": 8750}})]
    [500, 8750]
    """
    yield metrics
    if earlier := metrics.get("started_from"):
        yield from trainings(earlier)


def total(cost: str, metrics: Mapping[str, Any]) -> Any:
    """The time (s) or steps of a training, those of the weights from which it started included.

    >>> total("steps", {"steps": 500, "started_from": {"steps": 8750}})
    9250
    """
    return sum(training[cost] for training in trainings(metrics))
