"""What a run tells at its end, and a sweep at its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.rule import Rule
from rich.table import Table

from deqzoo.training.callbacks import console
from deqzoo.zoo.cards import duration


def report(metrics: Mapping[str, Any], folder: Path, *, trained: bool) -> None:
    """What the run reached, where it lies and what to type next."""
    test, entry, exported = metrics["test"], metrics["entry"], shown(folder / "export")
    accuracy = f"{100 * test['accuracy']:.2f} %"
    lines = [
        f"[bold]{metrics['entry']}[/bold] reached [bold green]{accuracy}[/bold green] test accuracy on "
        f"{test['n']:,} images of {metrics['data']} (seed {metrics['seed']}, {metrics['hardware']})",
        f"NFE {test['nfe']:.1f}, median residual {test['residual']:.1e}, "
        f"{100 * test['unconverged']:.1f} % of the samples not converged",
    ]
    if trained:
        lines[0] += f" after {duration(metrics['time'])}"
    lines += ["", f"run folder   {shown(folder)}"]
    if trained:
        lines += [
            f"plots        {shown(folder / 'plots')}",
            f"load it      deqzoo.load({str(exported)!r})",
            f"try next     python train.py model={entry} mode=test ckpt={exported} model.solver=broyden",
        ]
    console.print(Rule(), *lines, sep="\n")


def report_sweep(runs: list[dict[str, Any]]) -> None:
    """A table of several runs: what was changed, and what came of it."""
    table = Table("run", "overrides", "accuracy", "loss", "NFE", "residual", "time")
    for number, run in enumerate(runs):
        test = run["test"]
        cells = [
            str(number),
            " ".join(run["overrides"]),
            f"{100 * test['accuracy']:.2f} %",
            f"{test['loss']:.4f}",
        ]
        cells += [f"{test['nfe']:.1f}", f"{test['residual']:.1e}", duration(run["time"])]
        table.add_row(*cells)
    console.print(table)


def shown(path: Path) -> Path:
    """A path as people type it: relative, if it lies below the working directory."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
