"""The numbers of a shipped checkpoint, measured again: after a change of the code that tests it, or of its baseline."""

import json
import tempfile
from pathlib import Path
from typing import Any

from hydra import compose, initialize

from deqzoo import config
from deqzoo.atomic import whole_file
from deqzoo.training.run import Run
from deqzoo.zoo.folder import METRICS, CheckpointError, write_json
from deqzoo.zoo.shipped import shipped, shipped_folder, write_manifest


def measure_again(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Test the shipped weights of an entry as ``mode=test ckpt=pretrained`` does, and write its ``metrics.json`` anew.

    What was measured in training stays: time, hardware, seeds, and the plots.

    Returns:
        the test metrics before and now.
    """
    if name not in shipped():
        raise CheckpointError(f"{name!r} is no entry with weights; valid are {', '.join(shipped())}.")
    words = [f"model={name}", "mode=test", "ckpt=pretrained", "trainer.enable_progress_bar=False"]
    config.register(words)
    with initialize(version_base="1.3", config_path=None):
        settings = compose("run", words)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(settings, Path(folder))
        run.test()
        run.check()
    path = shipped_folder(name) / METRICS
    metrics = json.loads(path.read_text())
    before, now = metrics["test"], run.metrics["test"]
    again = {key: run.metrics[key] for key in ("hardware", "versions")}
    checked = {} if run.kind.check is None else {run.kind.check.name: run.metrics[run.kind.check.name]}
    with whole_file(path) as part:
        write_json(part, metrics | {"test": now, "measured_again": again} | checked)
    write_manifest()
    return before, now
