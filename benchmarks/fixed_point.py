"""Fixed-point solvers, ours beside torchdeq's: `python -m benchmarks.fixed_point [--json FILE] [--quick]`.

Every solver gets the same problem, start, tolerance, budget and thread, and looks at its stop rule at every step.
The facts that deqzoo promises of its solvers are computed from the table at the end; the exit status is 1 if one fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.measure import CountCalls, HostReads, PeakBytes, interleaved, median_ratio
from benchmarks.problems import Problem, solver_problems
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started
from deqzoo.implicit import Anderson, Broyden, Picard, fixed_point

try:
    from torchdeq.solver import get_solver
except ImportError:
    get_solver = None

OURS, PEER = "deqzoo", "torchdeq"
HARDEST = "symmetric, radius .99"
BROYDEN_STEPS = 200  # torchdeq's Broyden allocates its whole budget before the first step, so both get a modest one

Run = Callable[[Callable[..., Tensor]], Tensor]  # a solver, bound to a problem: map -> solution


@dataclasses.dataclass
class Row:
    """One solver on one problem."""

    problem: str
    library: str
    solver: str
    nfe: int
    seconds: float
    over_bare: float  # time over that of the same number of bare calls of f, median over the rounds
    over_peer: float | None  # time over that of torchdeq's fastest solver that solved the problem
    peak_bytes: int  # most bytes alive at once, above what was there before; f's own intermediates included
    residual: float  # worst system, evaluated anew in float64
    solved: bool
    host_reads: int


def contenders(problem: Problem) -> dict[tuple[str, str], Run]:
    """Every solver, bound to the problem, by library and name."""
    runs: dict[tuple[str, str], Run] = {}
    few = min(problem.max_steps, BROYDEN_STEPS)
    common: dict[str, Any] = {"tol": problem.tol, "stop": problem.stop}
    for name, solver in {
        "Picard": Picard(max_steps=problem.max_steps, **common),
        "Anderson": Anderson(max_steps=problem.max_steps, **common),
        "Anderson, depth 3": Anderson(depth=3, max_steps=problem.max_steps, **common),
        "Anderson, depth 30": Anderson(depth=30, max_steps=problem.max_steps, **common),
        "Broyden": Broyden(max_steps=few, **common),
    }.items():
        runs[OURS, name] = lambda f, solver=solver: fixed_point(
            f, problem.z0, problem.x, solver=solver, batch_dims=1, on_failure="ignore"
        )
    if get_solver is not None:
        for name, steps in {
            "fixed_point_iter": problem.max_steps,
            "anderson": problem.max_steps,
            "broyden": few,
        }.items():
            runs[PEER, name] = lambda f, name=name, steps=steps: get_solver(name)(
                lambda z: f(z, problem.x), problem.z0, max_iter=steps, tol=problem.tol, stop_mode=problem.stop
            )[0]
    return runs


def measure(problem: Problem, rounds: int) -> list[Row]:
    """One row per solver: a run that counts, then timed rounds in which it follows as many bare calls of f."""
    runs = contenders(problem)
    rows = {}
    for (library, name), run in runs.items():
        f = CountCalls(problem.f)
        with HostReads() as reads, PeakBytes() as memory:
            z = run(f)
        rows[library, name] = Row(
            problem.name, library, name, f.calls, math.nan, math.nan, None, memory.peak,
            problem.residual(z), problem.solved(z), reads.count,
        )  # fmt: skip
    calls: dict[Any, Callable[[], Any]] = {}
    for key, run in runs.items():
        calls["bare", key] = lambda nfe=rows[key].nfe: iterate_plainly(problem, nfe)
        calls[key] = lambda run=run: run(problem.f)
    times = interleaved(calls, 1)
    one_round = sum(seconds for (seconds,) in times.values())
    times = interleaved(calls, rounds * max(1, min(5, round(2 / one_round))))  # short rounds are the noisy ones
    for key, row in rows.items():
        row.seconds = statistics.median(times[key])
        row.over_bare = median_ratio(times[key], times["bare", key])
    peer = fastest(list(rows.values()), PEER)
    for key, row in rows.items():
        row.over_peer = median_ratio(times[key], times[peer.library, peer.solver]) if peer else None
    return list(rows.values())


def iterate_plainly(problem: Problem, calls: int) -> None:
    """z <- f(z, x), with no solver around it."""
    z = problem.z0
    for _ in range(calls):
        z = problem.f(z, problem.x)


def fastest(rows: list[Row], library: str) -> Row | None:
    """The fastest of a library's solvers that solved the problem."""
    return min((r for r in rows if r.library == library and r.solved), key=lambda r: r.seconds, default=None)


def fewest(rows: list[Row], library: str) -> Row | None:
    """The solver of a library that solved the problem with the fewest calls of f."""
    return min((r for r in rows if r.library == library and r.solved), key=lambda r: r.nfe, default=None)


def broyden_memory(problem: Problem) -> dict[str, dict[int, int]]:
    """Peak bytes of each Broyden on this problem, by library and step limit."""
    peaks: dict[str, dict[int, int]] = {}
    for steps in (50, 500):
        limited = dataclasses.replace(problem, max_steps=steps)
        runs: dict[str, Callable[[], Any]] = {
            OURS: lambda p=limited: fixed_point(
                p.f, p.z0, p.x, solver=Broyden(tol=p.tol, stop=p.stop, max_steps=p.max_steps), batch_dims=1
            )
        }
        if get_solver is not None:
            runs[PEER] = lambda p=limited: get_solver("broyden")(
                lambda z: p.f(z, p.x), p.z0, max_iter=p.max_steps, tol=p.tol, stop_mode=p.stop
            )
        for library, run in runs.items():
            with PeakBytes() as memory:
                run()
            peaks.setdefault(library, {})[steps] = memory.peak
    return peaks


def speed_check(name: str, ours: Row, peer: Row) -> Check:
    """Time: .7 of torchdeq's best where that wastes more than its bare calls of f, else overhead at most 1.25."""
    if peer.over_bare > 2:
        return Check(
            f"{name}: time at most .7 of torchdeq's best ({peer.solver}, {peer.over_bare:.2f}x its bare f calls)",
            f"{ours.solver} {ours.over_peer:.2f} of it",
            ours.over_peer <= 0.7,
        )
    return Check(
        f"{name}: overhead at most 1.25 (torchdeq's best, {peer.solver}, has {peer.over_bare:.2f})",
        f"{ours.solver} {ours.over_bare:.2f}, and {ours.over_peer:.2f} of torchdeq's time",
        ours.over_bare <= 1.25,
    )


def checks(rows: list[Row], memory: dict[str, dict[int, int]]) -> list[Check]:
    """What deqzoo promises of its solvers, as facts of this run."""
    found = []
    for name in dict.fromkeys(row.problem for row in rows):
        of_problem = [row for row in rows if row.problem == name]
        ours, peer = fewest(of_problem, OURS), fewest(of_problem, PEER)
        our_time, peer_time = fastest(of_problem, OURS), fastest(of_problem, PEER)
        if ours is None or our_time is None:
            found.append(Check(f"{name}: solved", "by none of ours", False))
        elif peer is not None and peer_time is not None:
            found.append(
                Check(
                    f"{name}: NFE no higher than torchdeq's best ({peer.solver}, {peer.nfe})",
                    f"{ours.solver} {ours.nfe}",
                    ours.nfe <= peer.nfe,
                )
            )
            found.append(speed_check(name, our_time, peer_time))
    for row in rows:
        if row.problem == HARDEST and row.library == OURS and row.solver in ("Anderson", "Broyden"):
            how = f"residual {row.residual:.1e} after {row.nfe} NFE"
            found.append(Check(f"{HARDEST}: solved by {row.solver}", how, row.solved))
    few, many = memory[OURS].values()
    sizes = {name: " and ".join(f"{peak / 2**20:.2f}" for peak in peaks.values()) for name, peaks in memory.items()}
    text = "; ".join(f"{name} {size} MiB" for name, size in sizes.items())
    found.append(Check("Broyden: the same peak with max_steps 50 and 500", text, many <= 1.01 * few))
    return found


def print_report(console: Console, rows: list[Row], found: list[Check]) -> None:
    """The table and the promises."""
    print_table(
        console,
        "Fixed-point solvers, stop rule checked at every step",
        ["problem", "library", "solver"],
        ["NFE", "ms", "over bare f", "over torchdeq's best", "peak MiB", "residual", "host reads"],
        [
            (
                row.problem, row.library, row.solver, f"{row.nfe}" if row.solved else f"({row.nfe})",
                f"{row.seconds * 1e3:.1f}", f"{row.over_bare:.2f}",
                "" if row.over_peer is None else f"{row.over_peer:.2f}",
                f"{row.peak_bytes / 2**20:.1f}", f"{row.residual:.1e}", f"{row.host_reads}",
            )
            for row in rows
        ],
    )  # fmt: skip
    console.print("NFE in brackets: not solved within the budget. Times: median CPU time of interleaved rounds.")
    print_checks(console, found)


def main() -> int:
    """Run, print, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", metavar="TEXT", default="", help="only problems whose name contains TEXT")
    options = started(__doc__, parser)
    console = open_console()
    if get_solver is None:
        console.print("torchdeq is not installed (pip install 'deqzoo\\[bench]'): ours alone")
    problems = [p for p in solver_problems(options.quick) if options.only in p.name]
    with torch.no_grad():
        rows = [row for problem in problems for row in measure(problem, 1 if options.quick else 9)]
        memory = broyden_memory(solver_problems(options.quick)[3])
    found = checks(rows, memory)
    print_report(console, rows, found)
    return finished(options, ["deqzoo", PEER], found, rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
