"""Set-up shared by all tests."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    """Each test draws the same random numbers whichever tests ran before it."""
    torch.manual_seed(0)
