"""Sinusoid tasks: each is one sinusoid, in the ranges that are named; parts and seeds."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from deqzoo.data import SinusoidData
from deqzoo.data.sinusoids import draw_sinusoids


@settings(max_examples=15)
@given(shots=st.integers(1, 12), queries=st.integers(1, 12), seed=st.integers(0, 1000))
def test_all_points_of_a_task_lie_on_one_sinusoid(shots, queries, seed):
    x, y, q, t = draw_sinusoids(5, shots, queries, Generator().manual_seed(seed))
    assert x.shape == y.shape == (5, shots, 1)
    assert q.shape == t.shape == (5, queries, 1)
    inputs, targets = torch.cat([x, q], 1).double(), torch.cat([y, t], 1).double()
    basis = torch.cat([inputs.sin(), inputs.cos()], 2)
    fit = torch.linalg.lstsq(basis, targets).solution if shots + queries >= 2 else None
    assert fit is not None
    torch.testing.assert_close(basis @ fit, targets, atol=1e-4, rtol=0)
    assert inputs.abs().max() <= 5


def test_amplitudes_and_phases_fill_their_ranges():
    x, y, _, _ = draw_sinusoids(4000, 3, 1, Generator().manual_seed(0))
    fit = torch.linalg.lstsq(torch.cat([x.sin(), x.cos()], 2).double(), y.double()).solution
    amplitude, phase = fit.norm(dim=1).squeeze(1), torch.atan2(-fit[:, 1, 0], fit[:, 0, 0])
    for values, low, high in ((amplitude, 0.1, 5.0), (phase, 0.0, math.pi)):
        ends = torch.quantile(values, torch.tensor([0.01, 0.5, 0.99], dtype=values.dtype))
        expected = [low + share * (high - low) for share in (0.01, 0.5, 0.99)]
        assert ends.tolist() == pytest.approx(expected, abs=0.15)
        assert [values.min().item(), values.max().item()] == pytest.approx([low, high], abs=0.02)


def test_parts_are_drawn_apart_and_do_not_depend_on_the_seed():
    options = {"train_size": 40, "val_size": 30, "test_size": 20}
    data, other = SinusoidData("sinusoid", **options), SinusoidData("sinusoid", seed=5, **options)
    for each in (data, other):
        each.setup()
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 40, "val": 30, "test": 20}
    assert all(torch.equal(a, b) for a, b in zip(data.tensors, other.tensors, strict=True))
    assert len(data.tensors[0][:, 0].unique()) == 90


def test_wrong_names_and_sizes():
    with pytest.raises(ValueError, match="no set of regression tasks 'cosine'; valid is sinusoid"):
        SinusoidData("cosine")
    with pytest.raises(ValueError, match=r"data\.shots must be at least 1"):
        SinusoidData("sinusoid", shots=0)
