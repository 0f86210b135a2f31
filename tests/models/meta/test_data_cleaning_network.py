"""Softmax regression with a weight per example: the fit, its gradient, and a set with known wrong labels."""

import copy

import pytest
import torch
from torch import nn

from deqzoo.implicit import CG, NewtonCG
from deqzoo.models import DataCleaner
from tests.implicit.solvers.helpers import F64, assert_close, randn


def cleaner(n=12, strength=0.1):
    return DataCleaner(n, 3, 2, strength=strength, solver=NewtonCG(tol=1e-12), linear_solver=CG(tol=1e-13)).double()


def test_fit_is_stationary_and_weights_count_in_proportion():
    model, x = cleaner(), randn(12, 3, seed=1)
    labels = (x[:, 0] > 0).long()
    trust = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=F64)
    weights = model.fit(x, labels, trust).detach().requires_grad_()
    losses = nn.functional.cross_entropy(model(x, weights), labels, reduction="none")
    objective = (trust * losses).mean() + 0.05 * weights.square().sum()
    assert torch.autograd.grad(objective, weights)[0].norm() < 1e-10
    assert_close(model.weights, weights, 1e-15)
    # An example that counts twice is two examples.
    twice = cleaner(n=13)
    again = twice.fit(torch.cat([x, x[:1]]), torch.cat([labels, labels[:1]]), torch.ones(13, dtype=F64) * 13)
    doubled = torch.ones(12, dtype=F64) * 12
    doubled[0] = 24
    assert_close(again, cleaner().fit(x, labels, doubled), 1e-8)


def test_gradient_in_the_scores_against_finite_differences():
    model, x, clean = cleaner(), randn(12, 3, seed=1), randn(8, 3, seed=2)
    labels, clean_labels = (x[:, 0] > 0).long(), (clean[:, 0] > 0).long()

    def loss(scores):
        other = copy.deepcopy(model)
        return nn.functional.cross_entropy(other(clean, other.fit(x, labels, scores.sigmoid())), clean_labels)

    assert torch.autograd.gradcheck(loss, randn(12, seed=3).requires_grad_())


def test_gradient_in_the_scores_against_a_dense_solve():
    model, x, clean = cleaner(), randn(12, 3, seed=1), randn(8, 3, seed=2)
    labels, clean_labels = (x[:, 0] > 0).long(), (clean[:, 0] > 0).long()
    with torch.no_grad():
        model.scores.copy_(randn(12, seed=3))
    fitted = model.fit(x, labels)
    nn.functional.cross_entropy(model(clean, fitted), clean_labels).backward()

    features = torch.cat([x, torch.ones(12, 1, dtype=F64)], 1)

    def inner_gradient(weights, scores):
        errors = (features @ weights.view(4, 2)).softmax(1) - nn.functional.one_hot(labels, 2)
        return (features.T @ (scores.sigmoid()[:, None] * errors) / 12 + 0.1 * weights.view(4, 2)).flatten()

    weights, scores = fitted.detach().flatten(), model.scores.detach()
    hessian, mixed = torch.autograd.functional.jacobian(inner_gradient, (weights, scores))
    weights.requires_grad_()
    outer = nn.functional.cross_entropy(model(clean, weights.view(4, 2)), clean_labels)
    (of_weights,) = torch.autograd.grad(outer, weights)
    assert_close(model.scores.grad, -mixed.T @ torch.linalg.solve(hessian, of_weights), 1e-10)


def test_wrong_labels_lose_their_weight():
    x, clean = randn(40, 3, seed=1), randn(40, 3, seed=2)
    labels, clean_labels = (x[:, 0] > 0).long(), (clean[:, 0] > 0).long()
    wrong = torch.arange(40) % 4 == 0
    model = cleaner(n=40, strength=0.01)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    for _ in range(25):
        fitted = model.fit(x, torch.where(wrong, 1 - labels, labels))
        loss = nn.functional.cross_entropy(model(clean, fitted), clean_labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.trust[wrong].mean() < 0.3
    assert model.trust[~wrong].mean() > 0.6
    copy.deepcopy(model)  # no graph hangs on it


def test_bad_strength():
    with pytest.raises(ValueError, match="strength must be positive"):
        DataCleaner(3, 2, 2, strength=0)
