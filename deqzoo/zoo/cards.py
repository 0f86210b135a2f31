"""Model cards: ``README.md`` of a checkpoint folder, made from its ``config.json`` and ``metrics.json``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deqzoo.data.table import data_rows
from deqzoo.models.common.kind import Kind
from deqzoo.models.common.metrics import METRICS, trainings
from deqzoo.models.registry import kind_of
from deqzoo.paths import head

FACTS = {  # labels in a recipe's head comment, and what a card calls what they say
    "Paper": "paper (its number)",
    "Below the paper": "why below the paper",
    "Better hardware": "on better hardware",
}
TELL_CLASSES = "accuracy", "auc"  # metrics of networks that do


def model_card(config: Mapping[str, Any], metrics: Mapping[str, Any], plots: Sequence[str] = ()) -> str:
    """The card in Markdown. What ``metrics`` does not hold is left out; ``plots`` are files in ``plots/``."""
    name, model, test = config["name"], config["model"], metrics.get("test", {})
    kind = kind_of(model["kind"])
    lines = [f"# {name}", ""]
    if test:
        first = kind.numbers[0]
        what = f"{METRICS[first].label} on the {test['n']:,} test {kind.info.items} of `{metrics['data']}`"
        lines += [f"**{kind.number(first, metrics)}** {what}.", ""]
    lines += ["```python", "import deqzoo", "", f'model = deqzoo.load("{name}")  # {kind.takes}', "```"]
    lines += ["", "| | |", "| --- | --- |"]
    lines += [f"| {label} | {value} |" for label, value in _facts(kind, model, metrics).items()]
    if kind.check is not None and (measured := metrics.get(kind.check.name)):
        lines += ["", f"## {kind.check.title}", "", "| check | measured | required |", "| --- | --- | --- |"]
        lines += [f"| {' | '.join(row)} |" for row in kind.check.rows(measured)]
        lines += [] if kind.check.text is None else ["", kind.check.text(measured)]
    if plots:
        lines += ["", "## Plots", ""]
        lines += [f"![{Path(plot).stem.replace('_', ' ')}](plots/{plot})" for plot in plots]
    tells = kind.metric in TELL_CLASSES and "classes" in config["data"]
    classes = f", classes: {', '.join(config['data']['classes'])}" if tells else ""
    lines += [
        "",
        f"Kind `{model['kind']}`{classes}. Trained and tested on the "
        "named data only: an example of its method, not made for decisions about people.",
        "",
        "This file is generated (`python -m deqzoo tables`).",
    ]
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(45.2), duration(2699.5), duration(12600)
    ('45 s', '45 min', '3.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _training(metrics: Mapping[str, Any]) -> str:
    steps = f"{metrics['steps']:,} steps, " if metrics.get("steps") else ""
    return f"{steps}{duration(metrics['time'])} on {metrics['hardware']}"


def _versions(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in metrics["versions"].items())


def _facts(kind: Kind, model: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    facts, test = kind.facts(model), metrics.get("test", {})
    if "parameters" in metrics:
        facts["parameters"] = f"{metrics['parameters']:,}"
    for name, metric in METRICS.items():
        if name in test and name != kind.numbers[0]:
            facts["test loss" if name == "loss" else metric.label] = kind.number(name, metrics)
    if (data := data_rows().get(metrics.get("data", ""))) is not None:
        facts["data"] = f"{data[-2]}; licence: {data[-1]}"
    if "command" in metrics:
        facts["command"] = f"`{metrics['command']}`"
        if otherwise := head(metrics.get("entry", ""), "Trained"):
            facts["not reproducible by this command"] = otherwise
        facts["seed"] = str(metrics["seed"])
        for label, fact in FACTS.items():
            if told := head(metrics.get("entry", ""), label):
                facts[fact] = told
        facts["training"] = _training(metrics)
        if earlier := list(trainings(metrics))[1:]:
            trained = (f"`{training['command']}`, {_training(training)}" for training in earlier)
            facts["started from weights of"] = "; these from those of ".join(trained)
        facts["versions"] = _versions(metrics)
        if again := metrics.get("measured_again"):
            facts["measured again"] = f"on {again['hardware']}, {_versions(again)}"
    return facts
