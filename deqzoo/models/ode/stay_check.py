"""Models of stays beside others: on stays of a set that trained none of them, and beside what needs no training."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.models.common.kind import Check, Trained


@torch.no_grad()
def auc(network: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> tuple[float, int]:
    """Area under the curve of death in hospital, and how many stays it is of."""
    from torchmetrics.functional.classification import binary_auroc

    from deqzoo.data.stays import StayBatch

    chances, labels = [], []
    for batch in batches:
        data = StayBatch(*batch)
        chances.append(network(data.times[0], data.values, data.observed).softmax(1)[:, 1])
        labels.append(data.labels)
    died = torch.cat(labels)
    return round(binary_auroc(torch.cat(chances), died).item(), 6), len(died)


def other_batches(trained: Trained) -> Iterable[tuple[Tensor, ...]]:
    """The stays of set b, if the data are set a alone and it can be had; else none."""
    from deqzoo.data.files import DataNotFoundError
    from deqzoo.data.loader import TensorLoader

    data = trained.data
    if list(data.options.sets) != ["a"]:
        return []
    try:
        whole = data.whole(data.read("b"))
    except DataNotFoundError:
        return []
    loader = TensorLoader(tuple(whole), torch.arange(len(whole.labels)), data.options.eval_batch_size)
    return [tuple(part.to(trained.device) for part in batch) for batch in trained.among(loader)]


def compare_mortality(trained: Trained) -> dict[str, Any]:
    """AUC of the network and of its shipped baseline: on the test stays, and on all of set b."""
    networks: dict[str, tuple[nn.Module, str]] = {"this entry": (trained.network, size(trained.network))}
    if baseline := trained.find_baseline(trained.settings.baseline):
        other = baseline.load(trained.device)
        networks[f"`{baseline.entry}`"] = other, f"{size(other)}, {baseline.metrics['steps']:,} steps"
    others = list(other_batches(trained))
    found: dict[str, Any] = {}
    for name, (network, note) in networks.items():
        area, count = auc(network, trained.test_batches())
        found[name] = {"auc": area, "n": count, "note": note}
        if others:
            found[name]["auc_b"], found[name]["n_b"] = auc(network, others)
    return found


@torch.no_grad()
def compare_interpolation(trained: Trained) -> dict[str, Any]:
    """Errors of the network, of its shipped baseline, and of each channel's mean over the stay."""
    networks: dict[str, tuple[Any, str]] = {"this entry": (trained.network.predict, size(trained.network))}  # type: ignore[dict-item]
    if baseline := trained.find_baseline(trained.settings.baseline):
        other: Any = baseline.load(trained.device)
        networks[f"`{baseline.entry}`"] = other.predict, f"{size(other)}, {baseline.metrics['steps']:,} steps"
    networks["the stay's mean"] = None, "of each channel"
    return {name: {**errors(trained, predict), "note": note} for name, (predict, note) in networks.items()}


def errors(trained: Trained, predict: Any) -> dict[str, float]:
    """Both means of the squared error on the test stays; ``predict`` None: by each stay's and channel's mean."""
    from deqzoo.data.stays import StayBatch
    from deqzoo.models.ode.stay_module import stay_errors

    network: Any = trained.network
    means, squares, counts, stays = 0.0, 0.0, 0.0, 0
    for batch in trained.test_batches():
        data = StayBatch(*batch)
        if predict is None:
            prediction = (data.values * data.counts).sum(1, keepdim=True) / data.counts.sum(1, keepdim=True).clamp(
                min=1
            )
        else:
            prediction = predict(data.times[0], data.values, data.observed)
        square, count = stay_errors(data, prediction, network.span)
        means += (square / count.clamp(min=1)).mean(1).double().sum().item()
        squares, counts = squares + square.double().sum().item(), counts + count.double().sum().item()
        stays += len(data.labels)
    return {"interpolation_mse": means / stays, "measurement_mse": squares / counts}


def size(network: nn.Module) -> str:
    """Number of parameters, in words."""
    return f"{sum(p.numel() for p in network.parameters()):,} parameters"


def mortality_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of the card's table."""
    rows = []
    for name, found in check.items():
        text = f"AUC {found['auc']:.4f} on {found['n']:,} test stays"
        if "auc_b" in found:
            text += f", {found['auc_b']:.4f} on all {found['n_b']:,} of set b, which trained none"
        rows.append((f"{name} ({found['note']})", text, ""))
    return rows


def verdict(check: Mapping[str, Any]) -> str:
    """Where the baseline is the better one, in words."""
    other = next((name for name in check if name.startswith("`")), None)
    if other is None:
        return ""
    names = {"auc": "the test stays", "auc_b": "set b"}
    worse = [names[key] for key in names if check[other].get(key, 0) > check["this entry"].get(key, 0)]
    if worse:
        return f"{other} is better on {' and '.join(worse)}, with these weights."
    return f"It is at least as good as {other}, with these weights."


MORTALITY_CHECK = Check(
    name="comparison",
    title="How does it compare?",
    measure=compare_mortality,
    rows=mortality_rows,
    text=verdict,
)
INTERPOLATION_CHECK = Check(
    name="comparison",
    title="How does it compare?",
    measure=compare_interpolation,
    rows=lambda check: [
        (
            f"{name} ({found['note']})",
            f"{1e3 * found['interpolation_mse']:.3f}e-3 over stays and channels, "
            f"{1e3 * found['measurement_mse']:.3f}e-3 over measurements",
            "",
        )
        for name, found in check.items()
    ],
    text=lambda check: (
        "The paper's 2.118e-3 ± 0.271e-3 (its latent ODE with an ODE-RNN encoder) is of the first sort: its code takes "
        "the mean of each stay and channel, then that over all 41 channels, 0 where nothing was measured."
    ),
)
