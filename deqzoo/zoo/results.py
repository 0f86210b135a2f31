"""What the trained entries reached: ``docs/results.md``, ``docs/results.csv``, and the rows in ``README.md``."""

import csv
import io
import json
import re
from collections.abc import Mapping
from typing import Any

from deqzoo.models.common.kind import FAMILIES, Kind
from deqzoo.models.common.metrics import METRICS, total
from deqzoo.models.common.shares import accuracies_agree
from deqzoo.models.registry import kind_of
from deqzoo.paths import head, names, zoo_path
from deqzoo.zoo.cards import duration
from deqzoo.zoo.folder import METRICS as METRICS_FILE
from deqzoo.zoo.folder import read_config
from deqzoo.zoo.shipped import shipped

CHOSEN = (  # for README.md: one or two of each family
    "deq_cifar",
    "deq_sudoku",
    "deq_lm_shakespeare",
    "ign_chains",
    "node_mnist",
    "latent_ode_physionet",
    "cnf_8gaussians_fm",
    "cnf_mnist",
    "imaml_omniglot_5w1s",
    "optnet_sudoku4",
)


def chosen_results() -> str:
    """Ten results in Markdown, for ``README.md``."""
    rows = [_result_row(name, "checkpoints", costs=False) for name in CHOSEN if name in shipped()]
    return "\n".join(["| entry | paper (its number) | ours | parameters |", "| --- | --- | --- | --- |", *rows]) + "\n"


def results_page() -> str:
    """All trained entries in Markdown, for ``docs/results.md``: what the paper says, what was reached, and its cost."""
    lines = [
        "# Results",
        "",
        "What the trained entries reached on the whole test set, what it cost, and what the paper says. The page of an",
        "entry has its command, the hardware, its check and its plots; [`results.csv`](results.csv) has all",
        "numbers. Times are those of training, mostly on one core.",
        "",
    ]
    for family in FAMILIES:
        lines += [
            f"## {family}",
            "",
            "| entry | paper (its number) | ours | parameters | NFE | time |",
            "| --- | --- | --- | --- | --- | --- |",
            *(_result_row(name, "../checkpoints", costs=True) for name in shipped() if _kind(name).family == family),
            "",
        ]
    others = ", ".join(f"[`{name}`](../models/{name}.yaml)" for name in names("models") if name not in shipped())
    return "\n".join(lines) + f"\nRecipes without weights as yet: {others}.\n"


def results_csv() -> str:
    """One line per trained entry, with all that the tables have and more, for ``docs/results.csv``."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(_csv_row(shipped()[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_row(name) for name in shipped())
    return table.getvalue()


def _csv_row(name: str) -> dict[str, Any]:
    metrics, kind, paper = _metrics(name), _kind(name), head(name, "Paper")
    seeds = metrics.get("seeds", {})
    return {
        "entry": name,
        "family": kind.family,
        "data": metrics["data"],
        "metric": kind.metric,
        "value": metrics["test"][kind.metric],
        "n": metrics["test"]["n"],
        "seed": metrics["seed"],
        "seeds": len(seeds.get("seeds", [metrics["seed"]])),
        "mean": seeds.get("mean", ""),
        "standard_deviation": seeds.get("standard_deviation", ""),
        "parameters": metrics["parameters"],
        "nfe": metrics["test"].get("nfe", ""),
        "training_seconds": round(total("time", metrics), 1),
        "hardware": short_hardware(metrics["hardware"]),
        "paper": re.sub(r"\[([^]]*)\]\(.*?\)", r"\1", paper),
        "command": metrics["command"],
        "check_passed": _check(kind, metrics).get("passed", ""),
        "command_reproduces": not head(name, "Trained"),
        "torch": metrics["versions"]["torch"],
    }


def short_paper(paper: str) -> str:
    """A citation without title and further authors.

    >>> short_paper("Chen, Duvenaud, Neural ODEs, [arXiv:1806.07366](https://arxiv.org/abs/1806.07366) (a figure)")
    'Chen et al., [arXiv:1806.07366](https://arxiv.org/abs/1806.07366) (a figure)'
    """
    author, *others = paper.partition("[")[0].split(", ")
    more = len(others) > 2 and "et al." not in author  # authors, title, and what follows the last comma
    return f"{author}{' et al.' * more}, {paper[paper.index('[') :]}"


def short_hardware(hardware: str) -> str:
    """A processor's name without its trade marks.

    >>> short_hardware("CPU Intel(R) Xeon(R) Processor @ 2.80GHz, 1 of 2 cores")
    'CPU Intel Xeon @ 2.80GHz, 1 of 2 cores'
    """
    return re.sub(r"\((R|TM)\)| Processor", "", hardware)


def _result_row(name: str, checkpoints: str, *, costs: bool) -> str:
    metrics = _metrics(name)
    nfe = metrics["test"].get("nfe")
    return row(
        f"[`{name}`]({checkpoints}/{name}/README.md)",
        short_paper(head(name, "Paper")),
        reached(name) + (" (its command does not reproduce it, see its card)" if head(name, "Trained") else ""),
        f"{metrics['parameters']:,}",
        *(("" if nfe is None else f"{nfe:.0f}", duration(total("time", metrics))) if costs else ()),
    )


def row(*cells: str) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def _metrics(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((zoo_path("checkpoints") / name / METRICS_FILE).read_text())
    return found


def _kind(name: str) -> Kind:
    config = read_config(zoo_path("checkpoints") / name)
    return kind_of(config["model"]["kind"])


def reached(name: str) -> str:
    """What a shipped entry reached: the numbers of its kind, and a remark where its check failed."""
    metrics, kind = _metrics(name), _kind(name)
    numbers = [_number(name, kind, metrics) for name in kind.numbers if name in metrics["test"]]
    return f"{', '.join(numbers)}, n = {metrics['test']['n']:,}{_doubt(_check(kind, metrics))}"


def _check(kind: Kind, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    return {} if kind.check is None else metrics.get(kind.check.name, {})


def _doubt(check: Mapping[str, Any]) -> str:
    """What a table says of a check that failed.

    >>> _doubt({"passed": False, "accuracy": 0.6063, "accuracy_tight": 0.5948, "n": 4000})
    ' (**fails its check**: solved to a tight tolerance 59.48 % instead of 60.63 %, n = 4,000)'
    >>> _doubt({"passed": False, "accuracy": 0.7178, "accuracy_tight": 0.7176, "n": 10_000, "nfe": 13.9})
    ' (**fails its check**, see its card)'
    """
    if check.get("passed", True):
        return ""
    if "accuracy_tight" not in check or accuracies_agree(check["accuracy"], check["accuracy_tight"], check["n"]):
        return " (**fails its check**, see its card)"
    tight, own = (f"{100 * check[name]:.2f} %" for name in ("accuracy_tight", "accuracy"))
    return f" (**fails its check**: solved to a tight tolerance {tight} instead of {own}, n = {check['n']:,})"


def _number(name: str, kind: Kind, metrics: Mapping[str, Any]) -> str:
    value = kind.number(name, metrics)
    return value if name == "accuracy" else f"{METRICS[name].label} {value}"
