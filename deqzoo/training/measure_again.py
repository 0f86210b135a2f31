"""The numbers of a shipped checkpoint, measured again: after a change of the code that tests it, or of its baseline."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hydra import compose, initialize
from omegaconf import OmegaConf
from safetensors.torch import save_file

from deqzoo import config
from deqzoo.atomic import whole_folder
from deqzoo.config import to_plain
from deqzoo.errors import CheckpointError
from deqzoo.training.run import Run
from deqzoo.zoo.conversions import FORMAT
from deqzoo.zoo.folder import CONFIG, GOLDEN, METRICS, read_golden, write_json
from deqzoo.zoo.loading import golden_tensors
from deqzoo.zoo.shipped import shipped, shipped_folder, write_manifest


def measure_again(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Test the shipped weights of an entry as ``mode=test ckpt=pretrained`` does, and write its metrics anew.

    So are the recipe's settings, which may have another solver or tolerance since, and the golden output. What was
    measured in training stays: time, hardware, seeds, and the plots.

    Returns:
        the test metrics before and now.
    """
    if name not in shipped():
        raise CheckpointError(f"{name!r} is no entry with weights; valid are {', '.join(shipped())}.")
    words = [f"model={name}", "mode=test", "ckpt=pretrained", "trainer.enable_progress_bar=False"]
    config.register(words)
    with initialize(version_base="1.3", config_path=None):
        composed = compose("run", words)
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(composed, Path(scratch))
        run.test()
        run.check()
    folder = shipped_folder(name)
    metrics = json.loads((folder / METRICS).read_text())
    before, now = metrics["test"], run.metrics["test"]
    again = {key: run.metrics[key] for key in ("hardware", "versions")}
    checked = {} if run.kind.check is None else {run.kind.check.name: run.metrics[run.kind.check.name]}
    network: Any = run.module.trained_network.cpu()
    settings = _with(json.loads((folder / CONFIG).read_text()), to_plain(OmegaConf.structured(network.recipe[0])))
    golden = golden_tensors(network, read_golden(folder)[0])
    with whole_folder(folder) as part:
        shutil.copytree(folder, part, dirs_exist_ok=True)
        write_json(part / CONFIG, settings)
        write_json(part / METRICS, metrics | {"test": now, "measured_again": again} | checked)
        save_file(golden, part / GOLDEN)
        (part / GOLDEN).chmod(0o644)  # safetensors writes files that others may not read
    write_manifest()
    return before, now


def _with(stored: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """The stored config.json with the recipe's values; in one of an older format without what that does not know."""
    known = recipe if stored["format"] == FORMAT else {key: recipe[key] for key in stored["model"] if key in recipe}
    return {**stored, "model": stored["model"] | known}
