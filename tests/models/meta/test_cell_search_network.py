"""The search for a cell: its operations, the gradient in the scores, and what is derived."""

import copy

import pytest
import torch
from torch import nn

from deqzoo.implicit import CG, NewtonCG
from deqzoo.models import CellSearch
from tests.implicit.solvers.helpers import F64, assert_close, randn

COUNTS = [7, 5, 7, 5, 3]  # operations of the places


def cell_search(**options):
    torch.manual_seed(0)
    solvers = {"solver": NewtonCG(tol=1e-12), "linear_solver": CG(tol=1e-13)}
    return CellSearch((1, 4, 4), 2, channels=2, strength=0.1, **solvers, **options).double()


def sample(n, seed):
    images = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return images, (images[:, 0, :2].mean((1, 2)) > images[:, 0, 2:].mean((1, 2))).long()


def one_hot(*indices):
    """The same operations in both channels."""
    return [torch.eye(count, dtype=F64)[index].expand(2, count) for count, index in zip(COUNTS, indices, strict=True)]


def test_operations():
    model, (x, _) = cell_search(), sample(3, 1)
    pooled = nn.functional.avg_pool2d(x, 2).flatten(1)
    assert_close(model.cell(x, one_hot(0, 0, 0, 0, 0)), torch.cat([pooled, pooled], 1), 1e-14)
    across = model.filters[2].unflatten(0, (3, 3))  # made in float32
    assert_close(across, torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=F64) / 12**0.5, 1e-7)
    slopes = nn.functional.conv2d(x, across[None, None], padding=1)
    largest = nn.functional.max_pool2d(slopes.abs(), 2).flatten(1)
    assert_close(model.cell(x, one_hot(2, 3, 0, 0, 1)), torch.cat([largest, largest], 1), 1e-14)
    sparse = (-slopes).relu().tanh()[:, :, ::2, ::2].flatten(1)
    assert_close(model.cell(x, one_hot(2, 2, 0, 4, 2)), torch.cat([sparse, sparse], 1), 1e-14)
    # A mixture of filters is the mixture of their responses, where the activations are linear.
    half = [(a + b) / 2 for a, b in zip(one_hot(2, 0, 0, 0, 0), one_hot(3, 0, 0, 0, 0), strict=True)]
    both = [model.cell(x, one_hot(index, 0, 0, 0, 0)) for index in (2, 3)]
    assert_close(model.cell(x, half), (both[0] + both[1]) / 2, 1e-14)


def test_gradient_in_the_scores_against_finite_differences():
    model, training, (held_out, labels) = cell_search(), sample(10, 1), sample(8, 2)

    def loss(*scores):
        other = copy.deepcopy(model)
        for index, new in enumerate(scores):
            other.scores._parameters[str(index)] = new  # in a parameter's place, with its graph
        return nn.functional.cross_entropy(other(held_out, other.fit(*training)), labels)

    assert torch.autograd.gradcheck(loss, [randn(2, count, seed=3).requires_grad_() for count in COUNTS])


def test_first_order_takes_the_classifier_for_a_constant():
    training, (held_out, labels) = sample(10, 1), sample(8, 2)
    gradients = []
    for first_order in (True, False):
        model = cell_search(first_order=first_order)
        nn.functional.cross_entropy(model(held_out, model.fit(*training)), labels).backward()
        gradients.append(torch.cat([scores.grad.flatten() for scores in model.scores]))
    model = cell_search()
    fitted = model.fit(*training)
    constant = fitted._replace(weights=fitted.weights.detach())
    nn.functional.cross_entropy(model(held_out, constant), labels).backward()
    known = torch.cat([scores.grad.flatten() for scores in model.scores])
    assert_close(gradients[0], known, 1e-10)
    assert (gradients[0] - gradients[1]).norm() > 0.01 * gradients[1].norm()


def test_derived_cell_has_the_largest_scores_and_a_stationary_classifier():
    model, (images, labels) = cell_search(), sample(12, 1)
    model.derive(images, labels, images, labels)
    for scores, choice in zip(model.scores, model.derived(), strict=True):
        assert torch.equal(choice.argmax(1), scores.argmax(1))
        assert torch.equal(choice.sum(1), torch.ones(2, dtype=F64))
    weights = model.derived_weights.clone().requires_grad_()
    model.derived_weights = weights
    objective = nn.functional.cross_entropy(model(images), labels) + 0.05 * weights.square().sum()
    assert torch.autograd.grad(objective, weights)[0].norm() < 1e-10


def test_the_best_derived_cell_is_kept():
    model, (images, labels) = cell_search(), sample(12, 1)
    losses = []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for scores in model.scores:
                scores.copy_(torch.randn(scores.shape, dtype=F64, generator=generator))
        best = model.derived_loss.item()
        model.derive(images, labels, images, labels)
        fresh = cell_search()
        fresh.load_state_dict({**model.state_dict(), "derived_loss": torch.tensor(1e9, dtype=F64)})
        fresh.derive(images, labels, images, labels)
        losses.append(fresh.derived_loss.item())
        assert model.derived_loss.item() == min(best, losses[-1])
    assert nn.functional.cross_entropy(model(images), labels).item() == pytest.approx(min(losses), rel=1e-12)


def test_a_low_temperature_makes_the_mixtures_single_operations():
    model = cell_search()
    model.temperature = 1e-4
    for mixture, scores in zip(model.mixtures(), model.scores, strict=True):
        assert_close(mixture, nn.functional.one_hot(scores.argmax(1), scores.shape[1]).double(), 1e-6)


def test_bad_options():
    with pytest.raises(ValueError, match="strength must be positive"):
        CellSearch((1, 8, 8), 2, strength=0)
    with pytest.raises(ValueError, match="channels must be at least 1"):
        CellSearch((1, 8, 8), 2, channels=0)
    with pytest.raises(ValueError, match="images with one channel"):
        CellSearch((3, 8, 8), 2)
