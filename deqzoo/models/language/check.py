"""Does the equilibrium of a language model do the work? Also: its explicit baselines, cost of generation, a sample."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.data.vocabulary import NEWLINE
from deqzoo.implicit import Anderson, FixedPointSolver, Picard, make_solver
from deqzoo.models.common.kind import Trained
from deqzoo.models.common.shares import RESIDUAL, SHARE, STATE_SHARE, flop_share, parameter_share, solved_by
from deqzoo.models.language.bits import bits_per_char, totals
from deqzoo.nn.deq import recorded_residuals

GAP = 0.01  # largest gap in bits per character between the own solver and a tight tolerance
BUDGET = 30  # evaluations
TIGHT = Anderson(tol=1e-5, max_steps=60)
SAMPLE = {"length": 400, "temperature": 0.8, "seed": 0}  # how a text is drawn, from a newline on
_SOLVERS, _MOST_STEPS = ("picard", "anderson", "broyden"), 15

Batch = tuple[Tensor, ...]


def language_model_check(trained: Trained) -> dict[str, Any]:
    """Measure it on the whole test part; {} for an explicit baseline.

    Returns:
        ``parameter_share``, ``state_share``: of the cell with its injection, and of the cell, in all parameters.
        ``flop_share``: of both in all FLOPs, with the network's own solver.
        ``certified``: the cell has a Lipschitz constant that is proved to lie below one.
        ``tol``, ``nfe``: of the own solver, the tolerance and the most evaluations in a batch.
        ``unconverged``: the fraction of windows whose relative residual, by an evaluation of its own, is above ``tol``.
        ``median_residual``, ``largest_residual``: of the windows.
        ``bits``, ``bits_tight``, ``bits_one_step``: bits per character with it, with `TIGHT`, and with the cell applied
            once, to its start.
        ``windows``, ``n``: of the test part, and its tokens. ``passed``: shares of 80, 60 and 80 % at least, each
            window converged, to 1e-2 or better within 30 evaluations, and the first two bits within .01.
        ``nfe_warm``, ``nfe_cold``: evaluations per token in `NextTokenModel.generate`, with and without warm start.
        ``prompt``, ``sample``: a text that the model made.
        ``baselines``: of shipped entries for the same text, bits per character and what they cost.
    """
    network: Any = trained.network
    if not network.equilibria:
        return {}
    batches = list(trained.test_batches())
    own, tol = _test(network, batches), float(network.deq.solver.tol)
    tight, once = (_test(network, batches, solver) for solver in (TIGHT, Picard(tol=0.0, max_steps=1)))
    total = _count(network)
    result: dict[str, Any] = {
        "parameter_share": (_count(network.deq.cell) + _count(network.injection)) / total,
        "state_share": parameter_share(network),
        "flop_share": flop_share(network, [network.deq.cell, network.injection], batches[0][0][:8]),
        "certified": network.deq.certified,
        "tol": tol,
        "nfe": own["nfe"],
        "unconverged": (own["residual"] > tol).double().mean().item(),
        "median_residual": own["residual"].median().item(),
        "largest_residual": own["residual"].max().item(),
        "bits": own["bits"],
        "bits_tight": tight["bits"],
        "bits_one_step": once["bits"],
        "windows": len(own["residual"]),
        "n": own["n"],
        "baselines": baselines(trained),
    }
    tokens = network.vocabulary.tokens
    result["prompt"] = NEWLINE if NEWLINE in tokens else tokens[1]
    result["nfe_cold"], _ = _generation(network, result["prompt"], warm_start=False)
    result["nfe_warm"], result["sample"] = _generation(network, result["prompt"], warm_start=True)
    result["passed"] = (
        min(result["parameter_share"], result["flop_share"]) >= SHARE
        and result["state_share"] >= STATE_SHARE
        and result["unconverged"] == 0
        and tol <= RESIDUAL
        and own["nfe"] <= BUDGET
        and abs(result["bits_tight"] - result["bits"]) <= GAP
    )
    return result


def baselines(trained: Trained) -> dict[str, dict[str, float]]:
    """What the baselines that the settings name reached, and what it cost."""
    found = {}
    for entry in trained.settings.baselines:
        if baseline := trained.find_baseline(entry):
            found[entry] = {"bits_per_char": baseline.metrics["test"]["bits_per_char"], **baseline.costs()}
    return found


@torch.no_grad()
def over_nfe(network: nn.Module, batch: Batch) -> dict[str, list[tuple[int, float]]]:
    """Bits per character on a batch over the number of evaluations of the cell, for each solver."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for name in _SOLVERS:
        curves[name] = []
        for steps in range(1, _MOST_STEPS + 1):
            found = _test(network, [batch], make_solver(name, tol=0.0, max_steps=steps))
            curves[name].append((found["nfe"], found["bits"]))
    return curves


@torch.no_grad()
def _test(network: Any, batches: Sequence[Batch], solver: FixedPointSolver | None = None) -> dict[str, Any]:
    """Bits, tokens, the most NFE in a batch, and each window's residual; None: the own solver."""
    sums, nfe = torch.zeros(3, dtype=torch.float64), 0
    with solved_by(network, solver), recorded_residuals(network.equilibria) as residuals:
        for tokens, targets in batches:
            characters = torch.tensor(network.vocabulary.characters, device=targets.device)
            sums += totals(network(tokens), targets, characters).double().cpu()
            nfe = max(nfe, network.deq.solution.nfe)
    return {"bits": bits_per_char(sums).item(), "n": int(sums[1]), "nfe": nfe, "residual": torch.cat(residuals)}


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _generation(network: Any, prompt: str, warm_start: bool) -> tuple[float, str]:
    """NFE per token, and the text."""
    spent: list[int] = []
    hook = network.deq.register_forward_hook(lambda deq, *_: spent.append(deq.solution.nfe))
    try:
        text = network.generate(prompt, **SAMPLE, warm_start=warm_start)
    finally:
        hook.remove()
    return sum(spent) / len(spent), text


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of a `language_model_check`: check, measured, required."""
    n, windows = f"{check['n']:,} test tokens", check["windows"]
    converged = windows - round(check["unconverged"] * windows)
    rows = [
        ("parameters in the equilibrium and its injection", f"{100 * check['parameter_share']:.1f} %", ">= 80 %"),
        ("parameters that act on the state", f"{100 * check['state_share']:.1f} %", ">= 60 %"),
        ("FLOPs in both", f"{100 * check['flop_share']:.1f} %", ">= 80 %"),
        ("the cell is certified to contract", "yes" if check["certified"] else "no", ""),
        (
            f"test windows converged to {check['tol']:g}, within {check['nfe']} NFE",
            f"{converged:,} of {windows:,}",
            "all, within 30 NFE",
        ),
        (
            "residual, median and largest",
            f"{check['median_residual']:.1e}, {check['largest_residual']:.1e}",
            "<= 1e-2",
        ),
        (f"bits per character, {n}", f"{check['bits']:.3f}", "within .01 of the next"),
        (f"bits per character of Anderson to 1e-5, {n}", f"{check['bits_tight']:.3f}", ""),
        (
            f"ablation: these weights, the cell applied once, {n}",
            f"{check['bits_one_step']:.3f}",
            "the equilibrium matters",
        ),
        ("counts as a DEQ", "yes" if check["passed"] else "**no**", ""),
        ("NFE per token in `generate`, solves started from the input", f"{check['nfe_cold']:.1f}", ""),
        ("NFE per token in `generate`, started from the last solution", f"{check['nfe_warm']:.1f}", "fewer"),
    ]
    for name, found in check["baselines"].items():
        cost = f"{found['parameters']:,} parameters, {found['steps']:,} steps, {found['time'] / 60:.0f} min"
        rows.append((f"explicit baseline `{name}` ({cost})", f"{found['bits_per_char']:.3f}", ""))
    return rows


def sample_text(check: Mapping[str, Any]) -> str:
    """The sample of a `language_model_check`, for the model card."""
    options = ", ".join(f"{name}={value!r}" for name, value in SAMPLE.items())
    return f"`model.generate({check['prompt']!r}, {options})`:\n\n```text\n{check['sample'].strip()}\n```"
