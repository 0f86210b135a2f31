"""What ``train.py`` calls: `Run` is one run from its configuration to its folder of results.

``run.py`` is the course of a run; ``settings_checks.py`` refuses what cannot be, ``device.py`` decides how it runs
where, ``callbacks.py`` has what happens beside the steps (checkpoints, seeds), ``progress.py`` shows it, ``limits.py``
binds it, ``history.py`` writes ``metrics.csv``, ``weights.py`` finds what ``ckpt=`` names, ``tracking.py`` talks to
Weights & Biases, ``report.py`` tells the result, ``measure_again.py`` tests shipped weights again.
"""

from deqzoo.training.run import Run

__all__ = ["Run"]
