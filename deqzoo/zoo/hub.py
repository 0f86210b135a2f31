"""Checkpoints on the Hugging Face Hub: ``hf://OWNER/NAME@REVISION``, by huggingface_hub, an extra (``deqzoo[hub]``)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from deqzoo.errors import CheckpointError
from deqzoo.zoo.folder import FILES

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def hub_folder(address: str) -> Path:
    """The folder, in huggingface_hub's cache, of the checkpoint at ``hf://OWNER/NAME@REVISION``.

    A revision is a branch, a tag or a commit; without one it is the main branch. What is in the cache is not fetched
    again, and is all that there is with ``HF_HUB_OFFLINE=1``. The weights are checked against the sha256 in
    ``config.json`` when the folder is read.

    Raises:
        CheckpointError: no such address, no network, or no huggingface_hub; the message says what to do.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise CheckpointError(f"{address!r} is no address of a checkpoint: give hf://OWNER/NAME@REVISION.")
    with hub_errors(address) as hub:
        return Path(hub.snapshot_download(found[1], revision=found[2], allow_patterns=[*FILES]))


@contextmanager
def hub_errors(address: str) -> Iterator[ModuleType]:
    """Around calls of huggingface_hub, which it gives: what fails says what to do."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise CheckpointError(f"{address} needs a package: pip install 'deqzoo[hub]'.") from error
    try:
        yield huggingface_hub
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{address}: the repository has no such revision.") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{address}: there is no such repository, or it is private: log in by `hf auth login`, or set HF_TOKEN."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{address} is not in the cache, and the Hub is not reached. Load it once with a network, and without "
            "HF_HUB_OFFLINE; or copy the folder from another machine, and load it by its path."
        ) from error
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(f"{address}: {' '.join(str(error).split())}") from error
