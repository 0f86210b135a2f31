"""What the pretended device shows: tensors of two devices do not mix, and waits are counted."""

import pytest
import torch
from torch import nn

from tests.second_device.pretended import Waits


@pytest.fixture
def x(device):
    return torch.arange(6.0, device=device).view(2, 3)


def test_two_devices_do_not_mix(x):
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        x + torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        torch.cat([x, torch.ones(1, 3)])
    assert (x + torch.tensor(1.0)).device == x.device  # a number


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool((x > 2).any()),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 2],
        lambda x: torch.tensor([1.0, 2.0]).to(x.device),
        lambda x: torch.tensor([1.0, 2.0]).to(x.device, non_blocking=True),
        lambda x: torch.tensor(1.0, device=x.device),
        lambda x: torch.ones(2, device=x.device).copy_(torch.ones(2)),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: torch.linalg.solve(x[:, :2] + 1, x),
    ],
)
def test_each_of_these_waits_once(x, read):
    with Waits() as waits:
        read(x)
    assert waits.total == 1, waits


def test_these_do_not_wait(x):
    with Waits() as waits:
        torch.full((), 2.0, device=x.device)
        torch.ones(2).pin_memory().to(x.device, non_blocking=True)
        x.to("cpu", non_blocking=True)
        x[1, 2] = 3.0
        x.argsort(1).gather(1, torch.zeros(2, 1, dtype=torch.long, device=x.device))
        nn.functional.cross_entropy(x, torch.zeros(2, dtype=torch.long, device=x.device))
    assert waits.total == 0, waits


def test_a_training_gives_the_numbers_of_the_cpu(device):
    found = []
    for place in (torch.device("cpu"), device):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.ReLU(), nn.Linear(4, 2)).to(place)
        optimizer = torch.optim.AdamW(network.parameters())
        inputs = torch.randn(5, 3).to(place)
        for _ in range(3):
            optimizer.zero_grad()
            network(inputs).square().mean().backward()
            optimizer.step()
        found.append([p.detach().cpu() for p in network.parameters()])
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_tied_parameters_stay_tied(device):
    network = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    network[1].weight = network[0].weight
    network.to(device)
    assert network[1].weight is network[0].weight
    assert network[0].weight.device == device
