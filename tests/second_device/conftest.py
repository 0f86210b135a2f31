"""The pretended device, for the tests of this folder."""

import pytest
import torch

from tests.second_device import pretended


@pytest.fixture(scope="session")
def _registered():
    if missing := pretended.why_not():
        pytest.skip(missing)
    pretended.register()


@pytest.fixture
def device(_registered, monkeypatch):
    """The pretended device; while a test has it, nobody else's tensors pretend to be pinned."""
    pretended.pretend_pinning(monkeypatch)
    with torch.autograd.set_multithreading_enabled(False):  # in this thread an error of a backward pass can be told
        yield torch.device(pretended.DEVICE)
