"""How far does what one node knows reach? An implicit graph network and its explicit baseline, by hops and by NFE."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.data.chains import GraphBatch
from deqzoo.implicit import make_solver
from deqzoo.models.common.kind import Trained
from deqzoo.nn import normalized_adjacency, perron_frobenius, use_solver

QUARTERS = 4
APPLIED = (1, 10, 50)  # times that the cell is applied in the ablation
SOLVERS = ("picard", "anderson")
STEPS = (1, 2, 5, 10, 20, 50, 75, 100, 150, 200, 300)


def graph_check(trained: Trained) -> dict[str, Any]:
    """Measure it on all test nodes.

    Returns:
        ``quarters``: by the hops from the node that tells the class, first and last of each quarter, ``accuracy`` and
            ``n``, the nodes.
        ``truncated``: accuracy with the cell applied a few times only, to its start, by the number of times.
        ``cell_parameters``: how many of the network's parameters are the cell's.
        ``norm``: ||W||_inf, ``eigenvalue``: lambda_pf(A) of the graph, from above: well posed where the product is
            below 1.
        ``baseline``: of the shipped baseline, its name, accuracy by quarters, parameters and steps.
    """
    network: Any = trained.network
    graph = GraphBatch(*next(trained.test_batches()))
    adjacency = normalized_adjacency(graph.edges, len(graph.features))
    result: dict[str, Any] = {
        "quarters": _quarters(network, trained),
        "truncated": {str(times): _truncated(trained, "picard", times)[1] for times in APPLIED},
        "cell_parameters": sum(parameter.numel() for parameter in network.deq.cell.parameters()),
        "norm": network.deq.cell.weight.abs().sum(1).max().item(),
        "eigenvalue": perron_frobenius(adjacency, len(graph.features)),
        "kappa": network.deq.cell.kappa,
    }
    if baseline := trained.find_baseline(trained.settings.baseline):
        result["baseline"] = {
            "entry": baseline.entry,
            "accuracy": baseline.metrics["test"]["accuracy"],
            "quarters": _quarters(baseline.load(trained.device), trained),
            **baseline.costs(),
        }
    return result


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of a `graph_check`: check, measured, required."""
    baseline = check.get("baseline")
    rows = []
    for index, quarter in enumerate(check["quarters"]):
        shown = f"{100 * quarter['accuracy']:.2f} %"
        if baseline:
            shown += f"; `{baseline['entry']}`: {100 * baseline['quarters'][index]['accuracy']:.2f} %"
        where = f"{quarter['first']} to {quarter['last']} hops from the node that tells the class"
        rows.append((f"accuracy {where}, {quarter['n']:,} test nodes", shown, "the same everywhere"))
    if baseline:
        size = f"{baseline['parameters']:,} parameters, {baseline['steps']:,} steps, {baseline['time']:.0f} s"
        shown = f"{100 * baseline['accuracy']:.2f} %"
        rows.append((f"explicit baseline `{baseline['entry']}` ({size}), all test nodes", shown, "fails"))
    for times, accuracy in check["truncated"].items():
        what = "once" if times == "1" else f"{times} times"
        rows.append((f"ablation: these weights, the cell applied {what}", f"{100 * accuracy:.2f} %", ""))
    cell = check["cell_parameters"]
    rows.append(("parameters in the equilibrium's cell; the others read features and write classes", f"{cell:,}", ""))
    product = f"{check['norm']:.4f} x {check['eigenvalue']:.4f} = {check['norm'] * check['eigenvalue']:.4f}"
    rows.append(("norm of W times eigenvalue of A: well posed below 1", product, f"<= kappa = {check['kappa']:g}"))
    return rows


def accuracy_by_hops(network: nn.Module, trained: Trained) -> Tensor:
    """Accuracy of the test nodes by their hops from the node that tells the class, (hops,); NaN: there are none."""
    hops, right = _right(network, trained)
    count = torch.bincount(hops)
    return torch.bincount(hops, right.double(), minlength=len(count)) / count


def accuracy_over_nfe(trained: Trained) -> dict[str, list[tuple[int, float]]]:
    """Accuracy of the test nodes over the number of evaluations of the cell, for each solver."""
    return {name: [_truncated(trained, name, steps) for steps in STEPS] for name in SOLVERS}


def _truncated(trained: Trained, solver: str, steps: int) -> tuple[int, float]:
    """NFE and accuracy after the given number of steps from zero."""
    network: Any = trained.network
    with use_solver(network, make_solver(solver, tol=0.0, max_steps=steps, patience=steps + 1)):
        _, right = _right(network, trained)
    return network.deq.solution.nfe, right.double().mean().item()


def _quarters(network: nn.Module, trained: Trained) -> list[dict[str, float]]:
    hops, right = _right(network, trained)
    found = []
    for part in torch.arange(int(hops.max()) + 1).tensor_split(QUARTERS):
        inside = (hops >= part[0].item()) & (hops <= part[-1].item())
        accuracy, n = right[inside].double().mean().item(), int(inside.sum())
        found.append({"first": int(part[0]), "last": int(part[-1]), "accuracy": accuracy, "n": n})
    return found


@torch.no_grad()
def _right(network: nn.Module, trained: Trained) -> tuple[Tensor, Tensor]:
    """Hops of the test nodes, and whether their class is found, on the CPU."""
    hops, right = [], []
    for batch in trained.test_batches():
        graph = GraphBatch(*batch)
        logits = network(graph.features, graph.edges)[graph.nodes]
        hops.append(trained.data.hops[graph.nodes.cpu()])
        right.append((logits.argmax(1) == graph.labels).cpu())
    return torch.cat(hops), torch.cat(right)
