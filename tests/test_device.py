"""How a run uses the machine, where that shows without a GPU."""

import pytest
import torch

from deqzoo.config import TrainerConfig
from deqzoo.training import Run
from deqzoo.training.device import devices
from tests.running import SMALL, composed


@pytest.fixture(autouse=True)
def keep_precision():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_auto_is_one_device_on_a_machine_of_eight(tmp_path):
    assert [devices(TrainerConfig(devices=chosen)) for chosen in ("auto", 4, "0,2", -1)] == [1, 4, "0,2", -1]
    trainer = Run(composed(*SMALL), tmp_path)._trainer(False, [], "32-true")
    assert trainer.num_devices == 1


def test_tf32_is_chosen_by_the_run_and_off_by_default(tmp_path):
    for words, allowed in (([], False), (["tf32=true"], True), (["tf32=false"], False)):
        Run(composed(*SMALL, *words), tmp_path)
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allowed, allowed)
