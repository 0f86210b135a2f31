"""The checkpoints that come with deqzoo: ``checkpoints/NAME/``, with fingerprints in ``MANIFEST.json``."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from deqzoo.atomic import whole_file, whole_folder
from deqzoo.errors import CheckpointError
from deqzoo.paths import zoo_path
from deqzoo.zoo.folder import (
    CARD,
    CONFIG,
    FILES,
    METRICS,
    WEIGHTS,
    check_fingerprint,
    fingerprint,
    read_config,
    write_json,
)
from deqzoo.zoo.hub import hub_folder
from deqzoo.zoo.palette import use_palette

PLOTS = "plots"  # folder in a run's, and beside the files of a shipped checkpoint
Manifest = dict[str, dict[str, Any]]


def manifest() -> Manifest:
    """sha256 and size of the files of each shipped checkpoint.

    Cards are generated, and that of the weights stands in ``config.json``, which is among the files. A checkpoint whose
    files do not lie here has its address on the Hub, too, as ``"hub": "hf://OWNER/NAME@COMMIT"``.
    """
    path = zoo_path("checkpoints") / "MANIFEST.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def shipped() -> list[str]:
    """Names of the shipped checkpoints, sorted."""
    return sorted(manifest())


def shipped_folder(name: str) -> Path:
    """Folder of a shipped checkpoint, after a check of its files."""
    files: dict[str, Any] = dict(manifest()[name])
    address, folder = files.pop("hub", None), zoo_path("checkpoints") / name
    if address is not None and not (folder / CONFIG).is_file():
        folder = hub_folder(address)
    for file, expected in files.items():
        check_fingerprint(folder / file, expected)
    return folder


def plots(folder: Path) -> list[str]:
    """Names of the plots that a checkpoint folder has."""
    return sorted(path.name for path in (folder / PLOTS).glob("*.*"))


def publish(runs: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """Make the export of ``runs[0]``, with its plots, the shipped checkpoint of its entry, and return the entry's name.

    The other runs are the same recipe with other seeds: mean and spread of all go to its metrics, and so do the
    ``settings`` of stages, data and trainer; those of the model stand in the checkpoint's ``config.json``.
    """
    from deqzoo.models.registry import kind_of
    from deqzoo.zoo.cards import model_card

    source = runs[0] / "export"
    results = _results(runs)
    config, metrics = read_config(source), json.loads((source / METRICS).read_text())
    metric = kind_of(config["model"]["kind"]).metric
    if len(runs) > 1:
        metrics["seeds"] = _spread({result["seed"]: result["test"][metric] for result in results}, metric)
    metrics["settings"] = {key: settings[key] for key in ("stages", "data", "trainer")}
    name = config["name"]
    with whole_folder(zoo_path("checkpoints") / name) as part:
        shutil.copytree(source, part, dirs_exist_ok=True)
        write_json(part / METRICS, metrics)
        if (runs[0] / PLOTS).is_dir():
            shutil.copytree(runs[0] / PLOTS, part / PLOTS)
            for plot in (part / PLOTS).glob("*.png"):
                use_palette(plot)
        (part / CARD).write_text(model_card(config, metrics, plots(part)))
    write_manifest()
    return name


def add_seeds(runs: Sequence[Path]) -> str:
    """Add finished runs of a shipped entry with other seeds to its mean and spread; returns the entry's name."""
    from deqzoo.models.registry import kind_of

    name = _results(runs)[0]["entry"]
    if name not in manifest():
        raise CheckpointError(f"{name!r} is no entry with weights: publish a run of it first.")
    folder = shipped_folder(name)
    metrics, *results = _results([folder, *runs])
    metric = kind_of(read_config(folder)["model"]["kind"]).metric
    before = metrics.get("seeds") or {"seeds": [metrics["seed"]], metric: [metrics["test"][metric]]}
    values = dict(zip(before["seeds"], before[metric], strict=True))
    if known := [result["seed"] for result in results if result["seed"] in values]:
        raise CheckpointError(f"{name} has a number of seed {known[0]} already; add runs of other seeds.")
    metrics["seeds"] = _spread(values | {result["seed"]: result["test"][metric] for result in results}, metric)
    write_json(folder / METRICS, metrics)
    write_manifest()
    return name


def _spread(values: Mapping[int, float], metric: str) -> dict[str, Any]:
    """Mean and sample standard deviation of a metric by the seed of its run."""
    seeds = sorted(values)
    found = [values[seed] for seed in seeds]
    return {"seeds": seeds, metric: found, "mean": mean(found), "standard_deviation": stdev(found)}


def _results(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The metrics of runs that differ in their seed alone."""
    if missing := [str(run) for run in runs if not (run / METRICS).is_file()]:
        raise CheckpointError(f"not a finished run: {', '.join(missing)}.")
    results: list[dict[str, Any]] = [json.loads((run / METRICS).read_text()) for run in runs]
    if len({_but_for_the_seed(result["command"]) for result in results}) > 1:
        raise CheckpointError("the runs differ in more than their seed; publish those of one recipe.")
    return results


def _but_for_the_seed(command: str) -> str:
    """The words of a command that decide its number.

    >>> _but_for_the_seed("python train.py model=deq_digits trainer.enable_progress_bar=False seed=3")
    'python train.py model=deq_digits'
    """
    return " ".join(word for word in command.split() if not word.startswith(("seed=", "trainer.enable_progress_bar=")))


def write_manifest() -> None:
    """Write ``MANIFEST.json`` anew from the folders beside it; what lies on the Hub stays in it."""
    root = zoo_path("checkpoints")
    entries = {name: files for name, files in manifest().items() if "hub" in files} | {
        folder.name: {file: fingerprint(folder / file) for file in FILES if file not in (CARD, WEIGHTS)}
        for folder in sorted(root.iterdir())
        if (folder / CONFIG).is_file()
    }
    with whole_file(root / "MANIFEST.json") as part:
        write_json(part, entries)
