"""Optimisers and learning-rate schedules."""

import pytest
import torch

from deqzoo.models.common.config import ParameterGroup
from deqzoo.models.common.optim import SCHEDULES, lr_scale, make_optimizer, make_schedule


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_schedule_peaks_at_one_after_the_warm_up(name, warmup):
    scales = [lr_scale(step, name=name, total_steps=50, warmup=warmup) for step in range(51)]
    peak = round(warmup * 50)
    assert scales[peak] == pytest.approx(1)
    assert all(0 <= scale <= 1 for scale in scales)
    assert sorted(scales[:peak]) == scales[:peak]
    assert sorted(scales[peak:], reverse=True) == scales[peak:]
    assert scales[-1] == (1 if name == "constant" else pytest.approx(0))
    assert lr_scale(99, name=name, total_steps=50, warmup=warmup) == scales[-1]  # a run that was prolonged


def test_weight_decay_spares_biases():
    for name in ("adamw", "sgd"):
        decayed, spared = make_optimizer(torch.nn.Linear(3, 2), name, lr=0.1, weight_decay=0.5).param_groups
        assert [p.ndim for p in decayed["params"]] == [2]
        assert [p.ndim for p in spared["params"]] == [1]
        assert (decayed["weight_decay"], spared["weight_decay"]) == (0.5, 0.0)


def test_a_parameter_belongs_to_the_first_group_that_fits_its_name():
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    groups = [ParameterGroup("1.*", lr=0.5, momentum=0.8), ParameterGroup("*.bias", lr=0.1, momentum=0.7)]
    kernels, second, biases = make_optimizer(network, "muon", lr=0.02, momentum=0.6, groups=groups).param_groups
    assert kernels["params"] == [network[0].weight]
    assert second["params"] == [network[1].weight, network[1].bias]
    assert biases["params"] == [network[0].bias]
    assert [(g["lr"], g["momentum"], g["orthogonal"]) for g in (kernels, second, biases)] == [
        (0.02, 0.6, True),
        (0.5, 0.8, False),
        (0.1, 0.7, False),
    ]
    with pytest.raises(ValueError, match=r"no parameter left fits 'head\.\*'; there are 0.weight, 0.bias"):
        make_optimizer(network, "muon", lr=0.02, groups=[ParameterGroup("head.*")])
    with pytest.raises(ValueError, match=r"need a group.*: 0.bias, 1.bias"):
        make_optimizer(network, "muon", lr=0.02)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match="adamw, sgd, muon"):
        make_optimizer(torch.nn.Linear(1, 1), "adam", lr=1)
    optimizer = make_optimizer(torch.nn.Linear(1, 1), "sgd", lr=1)
    with pytest.raises(ValueError, match="constant, cosine, linear, one_cycle"):
        make_schedule(optimizer, "step", total_steps=3)
