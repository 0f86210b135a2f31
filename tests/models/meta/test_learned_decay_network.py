"""Softmax regression with a learned decay per weight: the fit, its gradient, and a feature that tells nothing."""

import copy

import pytest
import torch
from torch import nn

from deqzoo.implicit import CG, NewtonCG
from deqzoo.models import DecayLearner
from tests.implicit.solvers.helpers import F64, assert_close, randn


def learner(start=0.1, filters=1):
    torch.manual_seed(0)
    solvers = {"solver": NewtonCG(tol=1e-12), "linear_solver": CG(tol=1e-13)}
    return DecayLearner((1, 8, 8), 2, filters=filters, start=start, **solvers).double()


def sample(n, seed):
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return images, (images[:, 0, :4].mean((1, 2)) > images[:, 0, 4:].mean((1, 2))).long()


def test_fit_is_stationary_and_features_are_standardised():
    model, (images, labels) = learner(), sample(12, 1)
    decays = torch.rand(5, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    weights = model.fit(images, labels, decays).detach().requires_grad_()
    objective = nn.functional.cross_entropy(model(images, weights), labels) + (decays * weights.square()).sum() / 2
    assert torch.autograd.grad(objective, weights)[0].norm() < 1e-10
    assert_close(model.weights, weights, 1e-15)
    features = model.features(images)
    assert features[:, :-1].mean(0).abs().max() < 1e-12
    assert (features[:, :-1].std(0) < 1).all()
    assert (features[:, -1] == 1).all()
    # A number stands for as many decays.
    with torch.no_grad():
        model.log_decays.copy_(torch.tensor(0.3, dtype=F64).log())
    assert_close(learner().fit(images, labels, 0.3), model.fit(images, labels), 1e-9)


def test_gradient_in_the_decays_against_finite_differences():
    model, (images, labels), (held_out, their_labels) = learner(), sample(12, 1), sample(9, 2)

    def loss(log_decays):
        other = copy.deepcopy(model)
        fitted = other.fit(images, labels, log_decays.exp())
        return nn.functional.cross_entropy(other(held_out, fitted), their_labels)

    assert torch.autograd.gradcheck(loss, (randn(5, 2, seed=3) - 2).requires_grad_())


def test_gradient_in_the_decays_is_the_closed_form():
    """dL/dv = -exp(v) W (H^-1 dL/dW), as the mixed derivative of the penalty is diagonal."""
    model, (images, labels), (held_out, their_labels) = learner(), sample(12, 1), sample(9, 2)
    with torch.no_grad():
        model.log_decays.copy_(randn(5, 2, seed=3) - 2)
    nn.functional.cross_entropy(model(held_out, model.fit(images, labels)), their_labels).backward()
    decays, weights = model.log_decays.detach().exp(), model.weights.clone().requires_grad_()
    features = model.features(images)

    def objective(weights):
        return nn.functional.cross_entropy(features @ weights, labels) + (decays * weights.square()).sum() / 2

    hessian = torch.autograd.functional.hessian(objective, weights.detach()).view(10, 10)
    outer = nn.functional.cross_entropy(model(held_out, weights), their_labels)
    (of_weights,) = torch.autograd.grad(outer, weights)
    known = -decays * weights.detach() * torch.linalg.solve(hessian, of_weights.flatten()).view(5, 2)
    assert_close(model.log_decays.grad, known, 1e-10)


def test_the_validation_loss_falls():
    model, training, (held_out, their_labels) = learner(start=0.01, filters=3), sample(16, 1), sample(60, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    losses = []
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(held_out, model.fit(*training)), their_labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    copy.deepcopy(model)  # no graph hangs on it


def test_bad_options():
    with pytest.raises(ValueError, match="start must be positive"):
        DecayLearner((1, 8, 8), 2, start=0)
    with pytest.raises(ValueError, match="filters must be at least 1"):
        DecayLearner((1, 8, 8), 2, filters=0)
