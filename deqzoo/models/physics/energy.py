"""How well learned motion keeps the true energy over many periods; the check of the card, and its pictures."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from deqzoo.data.info import OrbitInfo
from deqzoo.data.mechanics import MECHANICS
from deqzoo.models.common.kind import Trained

AT_ONCE = 10  # periods of a solve
LARGEST = 1e6  # of an error, also where a path is not finite
SHOWN = (1, 10, 100, 1000)  # periods of the card's rows

_known: WeakKeyDictionary[nn.Module, tuple[Any, tuple[Tensor, Tensor]]] = WeakKeyDictionary()


@torch.no_grad()
def follow(network: nn.Module, info: OrbitInfo, starts: Tensor, periods: int) -> tuple[Tensor, Tensor]:
    """The motion of a network over many periods, of the longest orbit that the system has.

    The last answer for a network is kept while its weights stay: the metric, the check and the pictures want the same.

    Returns:
        The largest |H - H_0| / |H_0| within each period, (periods, starts), H the true energy of the network's states
        at all multiples of ``info.spacing``; a path that is not finite, or wrong by more, counts as `LARGEST`. And the
        states of the last solve, of `AT_ONCE` periods or less, (starts, T, 2 dim).
    """
    weights = torch.cat([starts.new_zeros(0), *(parameter.detach().flatten() for parameter in network.parameters())])
    asked = info, starts, periods, weights
    if network in _known and _same(_known[network][0], asked):
        return _known[network][1]
    system = MECHANICS[info.system]
    count = round(system.period / info.spacing)  # states of a period
    energy = system.energy(starts.double())
    states, found = starts, []
    for begin in range(0, periods, AT_ONCE):
        n = count * min(AT_ONCE, periods - begin)
        times = info.spacing * torch.arange(n + 1)
        path = network(states, times)
        states = path[:, -1]
        error = ((system.energy(path[:, 1:].double()) - energy[:, None]) / energy[:, None]).abs()
        found.append(error.unflatten(1, (-1, count)).amax(2).T)
    errors = torch.cat(found).nan_to_num(LARGEST, posinf=LARGEST).clamp(max=LARGEST).float()
    _known[network] = asked, (errors, path)
    return errors, path


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[0] == other[0] and one[2] == other[2] and all(torch.equal(one[i], other[i]) for i in (1, 3))


def energy_check(trained: Trained) -> dict[str, Any]:
    """Measure it from the test's starts.

    Returns:
        ``periods``: numbers of periods, each with ``worst`` and ``median`` error of the starts within the periods so
            far. ``starts``: how many. ``calls``: of the field, per unit of time.
        ``baseline``: of the shipped baseline, its name, the same, parameters and steps.
    """
    result = _measured(trained.network, trained)
    if baseline := trained.find_baseline(getattr(trained.settings, "baseline", None)):
        network = baseline.load(trained.device)
        result["baseline"] = {"entry": baseline.entry, **_measured(network, trained), **baseline.costs()}
    return result


def _measured(network: nn.Module, trained: Trained) -> dict[str, Any]:
    errors = followed(network, trained)[0].cummax(0).values.cpu()
    shown = [n for n in SHOWN if n < len(errors)] + [len(errors)]
    periods = {str(n): {"worst": errors[n - 1].max().item(), "median": errors[n - 1].median().item()} for n in shown}
    return {"periods": periods, "starts": errors.shape[1], "calls": _calls(network, trained)}


@torch.no_grad()
def _calls(network: Any, trained: Trained) -> float:
    """Of the learned law, per unit of time."""
    times = trained.data.info.spacing * torch.arange(101)
    network(starts_of(trained), times)
    return network.ode.solution.nfe / times[-1].item()


def starts_of(trained: Trained) -> Tensor:
    """The starts of the test, (starts, 2 dim)."""
    (states,) = next(iter(trained.test_batches()))
    return states[:, 0]


def followed(network: nn.Module, trained: Trained) -> tuple[Tensor, Tensor]:
    """`follow` from the starts of the test."""
    return follow(network, trained.data.info, starts_of(trained), trained.settings.periods)


def energy_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of an `energy_check`: check, measured, required."""
    baseline = check.get("baseline")
    rows = []
    for periods, found in check["periods"].items():
        shown = f"{found['worst']:.2%} (median {found['median']:.2%})"
        if baseline and periods in baseline["periods"]:
            other = baseline["periods"][periods]
            shown += f"; `{baseline['entry']}`: {other['worst']:.2%} (median {other['median']:.2%})"
        what = "one period" if periods == "1" else f"{int(periods):,} periods"
        rows.append((f"largest error of the true energy over {what}, {check['starts']} unseen starts", shown, ""))
    if baseline:
        last = max(check["periods"], key=int)
        ratio = baseline["periods"][last]["worst"] / check["periods"][last]["worst"]
        rows.append((f"error of `{baseline['entry']}` over that of this entry, in the end", f"{ratio:,.0f}", ">= 100"))
        size = f"{baseline['parameters']:,} parameters, {baseline['steps']:,} steps, {baseline['time']:.0f} s"
        rows.append((f"`{baseline['entry']}`", size, "as many parameters, within 2 %; no less training"))
        calls = f"{check['calls']:.1f}; `{baseline['entry']}`: {baseline['calls']:.1f}"
        rows.append(("calls of the learned law per unit of time", calls, "no fewer for the baseline"))
    return rows
