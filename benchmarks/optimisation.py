"""Optimisation layers beside the peers': `python -m benchmarks.optimisation [--json FILE] [--quick]`.

Random convex programs with n unknowns, n / 5 equalities and n inequalities, in batches, float64: solution and gradients
of all six arguments by `quadratic_program`, by qpth and, for small ones, by cvxpylayers (with the root of P as its
parameter). What accuracy each comes to is in the table: |x - x*| for an x* solved to the last digit. The other tables
are those of `cones.py` (problems of CVXPY by `from_cvxpy` and by cvxpylayers), `constrained.py` (`argmin` on a set and
with a penalty), `fitting.py` (`least_squares`), `soft_ranking.py` and `transport.py`, each of which but the first runs
alone, too. The peers are installed by `benchmarks/requirements-peers.sh`; what is missing is left out.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import warnings
from collections.abc import Callable

import torch
from rich.console import Console
from torch import Tensor

from benchmarks import cones, constrained, fitting, soft_ranking, transport
from benchmarks.measure import interleaved
from benchmarks.report import Check, finished, open_console, print_checks, print_table, started, tell_missing
from benchmarks.side_by_side import over_fastest_peer
from deqzoo.implicit import InteriorPoint, quadratic_program

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from qpth.qp import QPFunction
except ImportError:
    QPFunction = None
try:
    import cvxpy
    from cvxpylayers.torch import CvxpyLayer
except ImportError:
    cvxpy = CvxpyLayer = None

SIZES = [
    (10, 1),
    (10, 64),
    (10, 512),
    (50, 1),
    (50, 64),
    (50, 512),
    (200, 1),
    (200, 64),
    (200, 512),
    (500, 1),
    (500, 8),
]
QUICK = [(4, 1), (4, 3)]
CVXPY_UP_TO = 50, 64  # unknowns, batch
TOL = 1e-11  # relative; of qpth 1e-9, absolute
ACCURATE = InteriorPoint(tol=1e-13)
MOST, MOST_LARGE = 0.5, 0.8  # of the faster peer's time, up to 50 unknowns and above
PACKAGES = [
    "deqzoo",
    "qpth",
    "cvxpy",
    "cvxpylayers",
    "clarabel",
    "diffcp",
    "jaxopt",
    "theseus-ai",
    "torchsort",
    "POT",
    "geomloss",
]
Arguments = tuple[Tensor, ...]


@dataclasses.dataclass
class ProgramRow:
    """One library's solution and gradients of a batch of quadratic programs."""

    problem: str
    library: str
    seconds: float
    over_peer: float | None  # over the faster peer
    error: float  # max |x - x*|
    gradient_error: float  # relative, of the gradient in q


def random_programs(n: int, batch: int) -> Arguments:
    """(root of P, q, A, b, G, h) of feasible programs."""
    source = torch.Generator().manual_seed(1000 * n + batch)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, dtype=torch.float64, generator=source)

    root = draw(n, n) / n**0.5 + 0.3 * torch.eye(n, dtype=torch.float64)
    q, A, G, inside = draw(n), draw(max(n // 5, 1), n), draw(n, n), draw(n, 1)
    h = (G @ inside).squeeze(-1) + torch.rand(batch, n, dtype=torch.float64, generator=source)
    return root, q, A, (A @ inside).squeeze(-1), G, h


def ways(n: int, batch: int) -> dict[str, Callable[..., Tensor]]:
    """x of (root of P, q, A, b, G, h), by library."""
    found: dict[str, Callable[..., Tensor]] = {
        "deqzoo": lambda F, *others: quadratic_program(F.mT @ F, *others, solver=InteriorPoint(tol=TOL)).x
    }
    if QPFunction is not None:
        found["qpth"] = lambda F, q, A, b, G, h: QPFunction(verbose=-1, eps=1e-9)(F.mT @ F, q, G, h, A, b)
    if CvxpyLayer is not None and n <= CVXPY_UP_TO[0] and batch <= CVXPY_UP_TO[1]:
        p = max(n // 5, 1)
        x, shapes = cvxpy.Variable(n), [(n, n), n, (p, n), p, (n, n), n]
        F, q, A, b, G, h = parameters = [cvxpy.Parameter(shape) for shape in shapes]
        objective = cvxpy.Minimize(0.5 * cvxpy.sum_squares(F @ x) + q @ x)
        layer = CvxpyLayer(cvxpy.Problem(objective, [A @ x == b, G @ x <= h]), parameters, [x])
        found["cvxpylayers"] = lambda *given: layer(*given)[0]
    return found


def with_gradients(way: Callable[..., Tensor], arguments: Arguments) -> tuple[Tensor, Tensor]:
    """x, and the gradient of sum(x^2) in q; those in the others are taken too."""
    leaves = [t.detach().requires_grad_() for t in arguments]
    x = way(*leaves)
    return x.detach(), torch.autograd.grad(x.square().sum(), leaves)[1]


def program_table(quick: bool) -> list[ProgramRow]:
    """Each size, each library."""
    rows = []
    for n, batch in QUICK if quick else SIZES:
        arguments = random_programs(n, batch)
        exact, slope = with_gradients(
            lambda F, *others: quadratic_program(F.mT @ F, *others, solver=ACCURATE, on_failure="ignore").x, arguments
        )
        libraries = ways(n, batch)
        results = {name: with_gradients(way, arguments) for name, way in libraries.items()}
        calls = {name: lambda way=way, given=arguments: with_gradients(way, given) for name, way in libraries.items()}
        times = interleaved(calls, 1 if quick else (3 if n * batch > 10_000 else 11))
        for name, (x, gradient) in results.items():
            row = ProgramRow(
                f"n = {n}, batch {batch}",
                name,
                statistics.median(times[name]),
                over_fastest_peer(times) if name == "deqzoo" else None,
                (x - exact).abs().max().item(),
                ((gradient - slope).norm() / slope.norm()).item(),
            )
            rows.append(row)
    return rows


def checks(programs: list[ProgramRow]) -> list[Check]:
    """The promises: accuracy everywhere, and time against the faster peer."""
    ours = [row for row in programs if row.library == "deqzoo"]
    worst = max((max(row.error, row.gradient_error) for row in ours), default=math.nan)
    found = [Check("quadratic programs and their gradients are exact to 1e-6", f"{worst:.1e}", worst <= 1e-6)]
    for row in ours:
        if row.over_peer is not None:
            limit = MOST if int(row.problem.split(",")[0].split()[-1]) <= 50 else MOST_LARGE
            promise = f"{row.problem}: at most {limit} of the faster peer's time"
            found.append(Check(promise, f"{row.over_peer:.2f}", row.over_peer <= limit))
    return found


def print_tables(console: Console, programs: list[ProgramRow], of_cones: list[cones.ConeRow]) -> None:
    """Both tables."""

    def shown(r: ProgramRow | cones.ConeRow) -> tuple[str, ...]:
        over = "" if r.over_peer is None else f"{r.over_peer:.2f}"
        return r.problem, r.library, f"{r.seconds * 1e3:.1f}", over, f"{r.error:.0e}", f"{r.gradient_error:.0e}"

    print_table(
        console,
        "Quadratic programs: solution and gradients of all six arguments",
        ["problem", "library"],
        ["ms", "over the faster peer", "|x - x*|", "gradient error"],
        map(shown, programs),
    )
    print_table(
        console,
        "Problems of CVXPY: solution and gradients of all parameters; differences are from ours",
        ["problem", "library"],
        ["ms", "over cvxpylayers", "difference", "of gradients"],
        map(shown, of_cones),
    )


def main() -> int:
    """Run, print, and write."""
    options = started(__doc__)
    console = open_console()
    tell_missing(console, qpth=QPFunction, cvxpylayers=CvxpyLayer)
    programs, of_cones = program_table(options.quick), cones.cone_table(options.quick)
    print_tables(console, programs, of_cones)
    difference = cones.difference_from_diffcp(2 if options.quick else cones.RANDOM)
    found, tables = checks(programs) + cones.checks(of_cones, difference), {}
    for part in (constrained, fitting, soft_ranking, transport):
        tables[part.COMPARISON.name], promised = part.COMPARISON.printed(console, options.quick)
        found += promised
    print_checks(console, found)
    return finished(options, PACKAGES, found, programs=programs, cones=of_cones, **tables)


if __name__ == "__main__":
    raise SystemExit(main())
