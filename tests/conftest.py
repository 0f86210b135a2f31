"""Set-up shared by all tests."""

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("no deadline", deadline=None)  # no test asserts a time
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def _seed():
    """Each test draws the same random numbers whichever tests ran before it."""
    torch.manual_seed(0)
