"""Does the equilibrium of a DEQ transformer do the work? And: its explicit twins, what generation costs, a sample."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.implicit import Anderson, Picard, make_solver
from deqzoo.models.baseline import baseline_costs, shipped_baseline
from deqzoo.models.bits import bits_per_char, totals
from deqzoo.models.deq_check import RESIDUAL, SHARE, flop_share, parameter_share
from deqzoo.models.kinds import Trained
from deqzoo.nn import use_solver
from deqzoo.nn.vocabulary import NEWLINE

GAP = 0.01  # largest gap in bits per character between 12 evaluations and a tight tolerance
SAMPLE = {"length": 400, "temperature": 0.8, "seed": 0}  # how a text is drawn, from a newline on
_SOLVERS, _MOST_STEPS = ("picard", "anderson", "broyden"), 15

Batch = tuple[Tensor, ...]


def language_model_check(trained: Trained) -> dict[str, Any]:
    """Measure it on the whole test part; {} for an explicit twin.

    Returns:
        ``parameter_share``, ``flop_share``: of the equilibrium cell in the whole network.
        ``median_residual``: relative, with the network's own solver.
        ``bits_12_nfe``, ``bits_tight``: bits per character of Anderson after 12 evaluations, and at tolerance 1e-4.
        ``bits_one_step``: with the cell applied once, to its start.
        ``n``: test tokens. ``passed``: at least 80 % of parameters and FLOPs in the cell, a median residual of at most
            1e-2, and the two within .01 bits.
        ``nfe_warm``, ``nfe_cold``: evaluations a token in `LanguageModel.generate`, with and without warm start.
        ``prompt``, ``sample``: a text that the model made.
        ``baselines``: of shipped entries for the same text, bits per character and what they cost.
    """
    network: Any = trained.network
    if not network.equilibria:
        return {}
    batches = list(trained.test_batches())
    sums, residual = _test(network, batches)
    with use_solver(network, Anderson(tol=0.0, max_steps=11)):  # f is called once more than that
        at_12, _ = _test(network, batches)
    with use_solver(network, Anderson(tol=1e-4, max_steps=50)):
        tight, _ = _test(network, batches)
    with use_solver(network, Picard(tol=0.0, max_steps=1)):
        one_step, _ = _test(network, batches)
    result: dict[str, Any] = {
        "parameter_share": parameter_share(network),
        "flop_share": flop_share(network, batches[0][0][:8]),
        "median_residual": residual,
        "bits_12_nfe": bits_per_char(at_12).item(),
        "bits_tight": bits_per_char(tight).item(),
        "bits_one_step": bits_per_char(one_step).item(),
        "n": int(sums[1]),
        "baselines": baselines(trained.settings.baselines, trained.data),
    }
    tokens = network.vocabulary.tokens
    result["prompt"] = NEWLINE if NEWLINE in tokens else tokens[1]
    result["nfe_cold"], _ = _generation(network, result["prompt"], warm_start=False)
    result["nfe_warm"], result["sample"] = _generation(network, result["prompt"], warm_start=True)
    result["passed"] = (
        min(result["parameter_share"], result["flop_share"]) >= SHARE
        and residual <= RESIDUAL
        and abs(result["bits_tight"] - result["bits_12_nfe"]) <= GAP
    )
    return result


def baselines(entries: Sequence[str], data: Any) -> dict[str, dict[str, float]]:
    """What the shipped ones among these entries reached on the same data, and what it cost."""
    found = {}
    for entry in entries:
        if contents := shipped_baseline(entry, data):
            bits = contents.metrics["test"]["bits_per_char"]
            found[entry] = {"bits_per_char": bits, **baseline_costs(contents.metrics)}
    return found


@torch.no_grad()
def over_nfe(network: nn.Module, batch: Batch) -> dict[str, list[tuple[int, float]]]:
    """Bits per character on a batch after so many evaluations of the cell, for each solver."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for name in _SOLVERS:
        curves[name] = []
        for steps in range(1, _MOST_STEPS + 1):
            with use_solver(network, make_solver(name, tol=0.0, max_steps=steps)):
                sums, _ = _test(network, [batch])
            nfe = network.equilibria[0].solution.nfe  # type: ignore[index, union-attr]
            curves[name].append((nfe, bits_per_char(sums).item()))
    return curves


@torch.no_grad()
def _test(network: Any, batches: Sequence[Batch]) -> tuple[Tensor, float]:
    """Sums over the batches (see `totals`), and the median residual."""
    sums, residuals = torch.zeros(3, dtype=torch.float64), []
    for tokens, targets in batches:
        characters = torch.tensor(network.vocabulary.characters, device=targets.device)
        sums += totals(network(tokens), targets, characters).double().cpu()
        residuals.append(network.deq.solution.residual)
    return sums, torch.cat(residuals).median().item()


def _generation(network: Any, prompt: str, warm_start: bool) -> tuple[float, str]:
    """NFE a token, and the text."""
    spent: list[int] = []
    hook = network.deq.register_forward_hook(lambda deq, *_: spent.append(deq.solution.nfe))
    try:
        text = network.generate(prompt, **SAMPLE, warm_start=warm_start)
    finally:
        hook.remove()
    return sum(spent) / len(spent), text


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of a `language_model_check`: check, measured, asked for."""
    n = f"{check['n']:,} test tokens"
    rows = [
        ("parameters in the equilibrium cell", f"{100 * check['parameter_share']:.1f} %", ">= 80 %"),
        ("FLOPs in the equilibrium cell", f"{100 * check['flop_share']:.1f} %", ">= 80 %"),
        ("median test residual", f"{check['median_residual']:.1e}", "<= 1e-2"),
        (f"bits per character at tol 1e-4, {n}", f"{check['bits_tight']:.3f}", "within .01 of the next"),
        (f"bits per character at 12 NFE, {n}", f"{check['bits_12_nfe']:.3f}", ""),
        (
            f"ablation: these weights, the cell applied once, {n}",
            f"{check['bits_one_step']:.3f}",
            "the equilibrium matters",
        ),
        ("counts as a DEQ", "yes" if check["passed"] else "**no**", ""),
        ("NFE a token in `generate`, solves started from the input", f"{check['nfe_cold']:.1f}", ""),
        ("NFE a token in `generate`, started from the last solution", f"{check['nfe_warm']:.1f}", "fewer"),
    ]
    for name, found in check["baselines"].items():
        cost = f"{found['parameters']:,} parameters, {found['steps']:,} steps, {found['time'] / 60:.0f} min"
        rows.append((f"explicit twin `{name}` ({cost})", f"{found['bits_per_char']:.3f}", ""))
    return rows


def sample_text(check: Mapping[str, Any]) -> str:
    """The sample of a `language_model_check`, for the model card."""
    options = ", ".join(f"{name}={value!r}" for name, value in SAMPLE.items())
    return f"`model.generate({check['prompt']!r}, {options})`:\n\n```text\n{check['sample'].strip()}\n```"
