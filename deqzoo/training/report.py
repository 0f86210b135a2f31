"""What a run tells at its end, and a sweep at its own."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.rule import Rule
from rich.table import Table

from deqzoo.models.common.kind import Kind
from deqzoo.models.common.metrics import METRICS
from deqzoo.training.progress import console
from deqzoo.zoo.cards import duration


def report(metrics: Mapping[str, Any], folder: Path, kind: Kind, *, trained: bool) -> None:
    """What the run reached, where it lies and what to type next."""
    test, entry, exported = metrics["test"], metrics["entry"], shown(folder / "export")
    metric = METRICS[kind.metric]
    costs = [name for name in METRICS if name in test and name not in (kind.metric, "loss")]
    reached = f"[bold green]{metric.show(test[kind.metric])}[/bold green]"
    lines = [
        f"[bold]{entry}[/bold] reached {reached} test {metric.label} on "
        f"{test['n']:,} {kind.info.items} of {metrics['data']} (seed {metrics['seed']}, {metrics['hardware']})",
        ", ".join(f"{METRICS[name].label} {METRICS[name].show(test[name])}" for name in costs),
    ]
    if "largest_residual" in (check := metrics.get("deq_check", {})):
        lines += _convergence(check)
    if trained:
        lines[0] += f" after {duration(metrics['time'])}"
    lines += ["", f"run folder   {shown(folder)}"]
    if trained:
        lines += [f"plots        {shown(folder / 'plots')}", f"load it      deqzoo.load({str(exported)!r})"]
        again = f"python train.py model={entry} mode=test ckpt={shlex.quote(str(exported))} {kind.try_next}"
        lines += [f"try next     {again.rstrip()}"]
    console.print(Rule(), *lines, sep="\n")


def _convergence(check: Mapping[str, Any]) -> list[str]:
    """How many samples reached their equilibrium, what is predicted there, and whether the model counts as a DEQ."""
    n, missed = check["n"], round(check["unconverged"] * check["n"])
    samples = f"all {n:,} samples converged" if not missed else f"{missed:,} of {n:,} samples did not converge"
    residuals = f"residual {check['median_residual']:.1e} in the median, {check['largest_residual']:.1e} at most"
    counts = "the equilibrium does the work" if check["passed"] else "it does not count as a DEQ: see the card"
    show = METRICS["accuracy"].show
    return [
        f"{samples} ({residuals}, within {check['nfe']:.0f} NFE); {counts}",
        f"accuracy {show(check['accuracy_tight'])} at tolerance 1e-4, {show(check['accuracy_one_step'])} with each "
        f"cell applied once; a second solver, to 1e-5, labels {check['disagreements']:,} of {n:,} otherwise",
    ]


def report_sweep(runs: list[dict[str, Any]]) -> None:
    """A table of several runs: what differs between them, and what came of it."""
    names = [name for name in METRICS if any(name in run["test"] for run in runs)]
    settings = [dict(word.split("=", 1) for word in run["overrides"] if "=" in word) for run in runs]
    swept = [name for name in settings[0] if len({found.get(name) for found in settings}) > 1]
    table = Table("run", *swept, *names, "time")
    for number, (run, found) in enumerate(zip(runs, settings, strict=True)):
        values = [METRICS[name].show(run["test"][name]) if name in run["test"] else "" for name in names]
        table.add_row(str(number), *(found.get(name, "") for name in swept), *values, duration(run["time"]))
    console.print(table)


def shown(path: Path) -> Path:
    """A path as people type it: relative, if it lies below the working directory."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
