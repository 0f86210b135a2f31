"""A checkpoint goes to the Hugging Face Hub, with the metadata that it lists results by."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from deqzoo.models.common.metrics import METRICS as SHOWN
from deqzoo.models.registry import kind_of
from deqzoo.zoo.folder import CARD, CONFIG, FILES, METRICS
from deqzoo.zoo.hub import SCHEME, hub_errors
from deqzoo.zoo.loading import find_checkpoint
from deqzoo.zoo.shipped import PLOTS


def push_to_hub(
    checkpoint: str | os.PathLike[str], repository: str, *, revision: str | None = None, private: bool = False
) -> str:
    """Upload a checkpoint to the repository ``OWNER/NAME`` of the Hub, which is made if it is not there.

    Its card gets the metadata by which the Hub lists results (``model-index``). You must be logged in (``hf auth
    login``, or ``HF_TOKEN``).

    Args:
        checkpoint: a shipped entry, or a checkpoint folder: a run writes one to ``export/``, `deqzoo.export` does.
        repository: where to.
        revision: a branch; None: main.
        private: of a repository that is made.

    Returns:
        The address of what was uploaded, for `deqzoo.load`: with the commit as its revision.
    """
    folder = find_checkpoint(checkpoint)
    config, metrics = (json.loads((folder / name).read_text()) for name in (CONFIG, METRICS))
    with tempfile.TemporaryDirectory() as temp, hub_errors(f"{SCHEME}{repository}") as hub:
        card = Path(temp) / CARD
        card.write_text(f"---\n{_metadata(hub, config, metrics)}\n---\n\n{(folder / CARD).read_text()}")
        paths = {file: folder / file for file in FILES} | {CARD: card}
        if (folder / PLOTS).is_dir():
            paths |= {f"{PLOTS}/{path.name}": path for path in sorted((folder / PLOTS).iterdir())}
        files = [hub.CommitOperationAdd(name, str(path)) for name, path in sorted(paths.items())]
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        message = f"{config['name']}, by deqzoo"
        done = api.create_commit(repository, files, commit_message=message, revision=revision)
    return f"{SCHEME}{repository}@{done.oid}"


def _metadata(hub: ModuleType, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The head of a model card: library, licence, data set, and the result as the Hub's ``model-index``."""
    kind = kind_of(config["model"]["kind"])
    test, name = metrics.get("test", {}), metrics.get("data", "")
    results = [
        hub.EvalResult(
            task_type=kind.info.items, dataset_type=name, dataset_name=name, dataset_split="test",
            metric_type=kind.metric, metric_name=SHOWN[kind.metric].label, metric_value=test[kind.metric],
        )
    ] if kind.metric in test else []  # fmt: skip
    data = hub.ModelCardData(
        library_name="deqzoo", license="apache-2.0", tags=["deqzoo", "implicit-deep-learning"],
        model_name=config["name"], datasets=[name] if name else None, eval_results=results or None,
    )  # fmt: skip
    return data.to_yaml()
