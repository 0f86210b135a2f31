"""What benchmarks and studies print and write: options of the command line, tables, promises kept or not, JSON."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import environment, keep_freed_memory, write_json


@dataclasses.dataclass
class Check:
    """A promise, what was found, and whether it is kept."""

    promise: str
    found: str
    kept: bool


def started(doc: str, parser: argparse.ArgumentParser | None = None) -> argparse.Namespace:
    """The options that every script has (`json`, `quick`, `device`) and those of `parser`; one thread, steady memory.

    Tensors are made on the device, if not told otherwise.
    """
    parser = parser or argparse.ArgumentParser()
    parser.description = doc.splitlines()[0]
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows, checks and environment to FILE")
    parser.add_argument("--quick", action="store_true", help="a smoke run: small problems, one round")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...: where the problems are")
    options = parser.parse_args()
    if options.device != "cpu":
        torch.set_default_device(options.device)
    torch.set_num_threads(1)
    keep_freed_memory()
    return options


def tell_missing(console: Console, **peers: Any) -> None:
    """Name the peers that are None: they are not installed."""
    for name, module in peers.items():
        if module is None:
            console.print(f"{name} is not installed (pip install 'deqzoo\\[bench]'): its rows are left out")


def open_console() -> Console:
    """As wide as the tables where the output is no terminal: rich would take 80 columns and drop the numbers."""
    console = Console()
    return console if console.is_terminal else Console(width=150)


def print_table(
    console: Console, title: str, left: Sequence[str], right: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """A table with columns of text (`left`) and of numbers (`right`), in sections of equal first cells."""
    table = Table(title=title)
    for column in left:
        table.add_column(column, no_wrap=True)
    for column in right:
        table.add_column(column, justify="right")
    last = None
    for first, *others in rows:
        if last not in (None, first):
            table.add_section()
        table.add_row("" if first == last else first, *others)
        last = first
    console.print(table)


def print_checks(console: Console, checks: Iterable[Check]) -> None:
    """One line per promise."""
    for check in checks:
        verdict = "[green]yes[/]" if check.kept else "[red]NO [/]"
        console.print(f"{verdict} {check.promise}: {check.found}")


def finished(
    options: argparse.Namespace, packages: Sequence[str], checks: Sequence[Check] = (), **tables: Sequence[Any]
) -> int:
    """Write the tables (lists of dataclasses) if asked to; the exit status is 1 if a promise is not kept."""
    if options.json:
        content: dict[str, Any] = {"environment": environment(packages), "quick": options.quick}
        for name, rows in {**tables, "checks": checks}.items():
            content[name] = [dataclasses.asdict(row) for row in rows]
        write_json(options.json, content)
    return 0 if options.quick or all(check.kept for check in checks) else 1
