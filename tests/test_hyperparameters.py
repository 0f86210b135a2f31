"""Hyperparameter gradients of the examples against finite differences, and second derivatives through them."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))  # they are scripts, not a package

import architecture_search
import penalties


@pytest.mark.parametrize("name", penalties.LOSSES)
def test_penalties_against_finite_differences(name):
    data, loss = penalties.draw_data(name, n=15, features=4), penalties.LOSSES[name]
    t = torch.tensor([-2.0, -1.0, 0.0, 0.5], dtype=torch.float64, requires_grad=True)

    def validation_loss(t):
        w = penalties.minimiser(loss, t, data, torch.zeros(4, dtype=torch.float64))
        return loss(data.x_validation @ w, data.y_validation)

    assert torch.autograd.gradcheck(validation_loss, t)
    assert torch.autograd.gradgradcheck(validation_loss, t)


@pytest.mark.parametrize("name", penalties.LOSSES)
def test_a_warm_start_gives_the_same_minimiser(name):
    data, loss = penalties.draw_data(name, n=15, features=4), penalties.LOSSES[name]
    t = torch.zeros(4, dtype=torch.float64)
    cold = penalties.minimiser(loss, t, data, torch.zeros_like(t))
    warm = penalties.minimiser(loss, t, data, cold + 0.01)
    torch.testing.assert_close(warm, cold, atol=1e-11, rtol=1e-10)


def test_architecture_search_against_finite_differences_and_a_dense_solve():
    by_argmin, dense = architecture_search.validation_losses()
    a = torch.tensor([0.3, -0.2, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(by_argmin, a)
    found, known = (torch.autograd.grad(loss(a), a)[0] for loss in (by_argmin, dense))
    torch.testing.assert_close(found, known, atol=1e-12, rtol=1e-8)
