"""The page of the zoo: a card with a picture for each trained entry, from ``checkpoints/NAME``."""

import json
from html import escape
from pathlib import Path
from typing import Any

from deqzoo.models.common.kind import FAMILIES
from deqzoo.models.common.metrics import METRICS
from deqzoo.models.registry import kind_of
from deqzoo.paths import first_line, zoo_path
from deqzoo.zoo.folder import METRICS as METRICS_FILE
from deqzoo.zoo.folder import read_config
from deqzoo.zoo.shipped import PLOTS, plots, shipped

_TASKS = ("Equilibria", "Neural ODEs", "Flows", "Meta-learning", "Optimisation")  # of FAMILIES
_RATIO = 1.4  # of width and height of a card's picture


def zoo_cards() -> str:
    """The cards in HTML, with what ``docs/zoo.js`` sorts them by."""
    cards = "\n".join(_card(name) for name in shipped())
    return f'<div class="zoo-cards">\n{cards}\n</div>\n'


def picture(name: str) -> Path:
    """The plot that stands for an entry: the still that fits a card best, not that of its training if it can be."""
    from PIL import Image

    folder = zoo_path("checkpoints") / name
    shapes = {}
    for plot in (plot for plot in plots(folder) if plot.endswith(".png")):
        with Image.open(folder / PLOTS / plot) as image:
            shapes[folder / PLOTS / plot] = image.width / image.height
    return min(shapes, key=lambda path: (path.stem == "training", abs(shapes[path] - _RATIO)))


def _card(name: str) -> str:
    folder = zoo_path("checkpoints") / name
    metrics = json.loads((folder / METRICS_FILE).read_text())
    kind = kind_of(read_config(folder)["model"]["kind"])
    nfe = metrics["test"].get("nfe")
    value = metrics["test"][kind.metric]
    task = _TASKS[FAMILIES.index(kind.family)]
    shown = picture(name)
    what = first_line(zoo_path("models") / f"{name}.yaml").partition(":")[0].rstrip(".")
    numbers = [f"{metrics['parameters']:,} parameters"] + ([] if nfe is None else [f"{nfe:.0f} NFE"])
    data = {
        "name": name,
        "task": task,
        "parameters": metrics["parameters"],
        "accuracy": value if kind.metric == "accuracy" else "",
        "nfe": "" if nfe is None else nfe,
    }
    return _html(name, data, f"{METRICS[kind.metric].show(value)} {METRICS[kind.metric].label}", what, numbers, shown)


def _html(name: str, data: dict[str, Any], result: str, what: str, numbers: list[str], shown: Path) -> str:
    attributes = " ".join(f'data-{key}="{escape(str(value))}"' for key, value in data.items())
    source = shown.relative_to(zoo_path("checkpoints").parent).as_posix()
    alt = f"{shown.stem.replace('_', ' ')} of {name}"
    costs = " · ".join([data["task"], *numbers])
    return (
        f'<a class="zoo-card" href="zoo/{name}.html" {attributes}>'
        f'<img src="{source}" alt="{escape(alt)}" loading="lazy"><strong>{name}</strong><span>{escape(what)}</span>'
        f'<span class="zoo-result">{escape(result)}</span><small>{escape(costs)}</small></a>'
    )
