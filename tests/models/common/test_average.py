"""The moving average of the weights is that of torch, state and numbers, without its count on the device."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from deqzoo.models.common.average import MovingAverage


def test_it_is_the_average_of_torch_and_reads_its_state():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    ours = MovingAverage(network, 0.9)
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for step in range(4):
        network(torch.randn(5, 2))
        with torch.no_grad():
            network[0].weight.add_(0.1)
        ours.update(network)
        theirs.update_parameters(network)
        torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
        if step == 1:  # goes on from a checkpoint of theirs
            ours = MovingAverage(network, 0.9)
            ours.load_state_dict(theirs.state_dict())
    assert ours.updates == 4
