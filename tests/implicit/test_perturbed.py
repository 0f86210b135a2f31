"""Perturbed optimisers: closed forms of their means and derivatives, each within the error of the draws."""

import itertools

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from deqzoo.implicit import Perturbed, best_assignment, best_choice, best_grid_path, best_ranking
from tests.implicit.problems import draw

MANY = 200_000
THETA = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64)


def difference(theta):
    """P(theta_0 + sigma Z_0 > theta_1 + sigma Z_1) of normal Z, for sigma = 0.7."""
    return torch.special.ndtr((theta[0] - theta[1]) / (0.7 * 2**0.5))


def test_gumbel_noise_gives_softmax_and_its_derivatives():
    perturbed = Perturbed(best_choice, MANY, 0.8, "gumbel", seed=0)
    softmax = lambda theta: torch.softmax(theta / 0.8, 0)  # noqa: E731
    close = {"rtol": 0, "atol": 0.01}  # five standard errors of 200,000 draws
    torch.testing.assert_close(perturbed(THETA), softmax(THETA), **close)
    jacobian = torch.func.jacrev(perturbed)(THETA)
    torch.testing.assert_close(jacobian, torch.func.jacrev(softmax)(THETA), **close)
    torch.testing.assert_close(jacobian, torch.func.jacfwd(perturbed)(THETA))
    value = perturbed.maximum(THETA)
    known = 0.8 * (torch.logsumexp(THETA / 0.8, 0) + np.euler_gamma)
    torch.testing.assert_close(value, known, **close)


def test_gaussian_noise_to_second_order():
    perturbed = Perturbed(best_choice, MANY, 0.7, seed=0)
    theta = THETA[:2]
    first = lambda theta: perturbed(theta)[0]  # noqa: E731
    torch.testing.assert_close(first(theta), difference(theta), rtol=0, atol=0.01)
    torch.testing.assert_close(torch.func.grad(first)(theta), torch.func.grad(difference)(theta), rtol=0, atol=0.01)
    hessian = torch.func.hessian(first)(theta)
    torch.testing.assert_close(hessian, torch.func.hessian(difference)(theta), rtol=0, atol=0.03)


def test_the_loss_has_the_mean_less_the_target_as_gradient():
    perturbed = Perturbed(best_ranking, 50, seed=3, batch_dims=1)
    theta, target = draw(4, 5), best_ranking(draw(4, 5, seed=1))
    loss = perturbed.loss(theta, target)
    assert loss.shape == (4,)
    slope = torch.func.grad(lambda theta: perturbed.loss(theta, target).sum())(theta)
    torch.testing.assert_close(slope, perturbed(theta) - target)
    hessian = torch.func.jacrev(torch.func.grad(lambda t: perturbed.loss(t[None], target[:1]).sum()))(theta[0])
    jacobian = torch.func.jacrev(lambda t: perturbed(t[None])[0])(theta[0])
    torch.testing.assert_close(hessian, jacobian)
    tangent = torch.func.jvp(lambda theta: perturbed.loss(theta, target), (theta,), (target,))[1]
    torch.testing.assert_close(tangent, (slope * target).sum(1))


def test_learning_by_the_loss_recovers_the_argmax():
    """Scores learnt from a ranking alone put the entries in its order."""
    target = torch.tensor([2.0, 4.0, 1.0, 3.0]).double()
    perturbed = Perturbed(best_ranking, 200, 0.5, seed=0)
    theta = torch.zeros(4, dtype=torch.float64)
    losses = []
    for _ in range(100):
        slope, loss = torch.func.grad_and_value(perturbed.loss)(theta, target)
        theta = theta - 0.1 * slope
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(best_ranking(theta[None])[0], target)
    assert slope.abs().max() < 0.1


def test_batch_vmap_and_one_by_one():
    theta = draw(3, 4)
    batch = Perturbed(best_choice, 400, seed=0, batch_dims=1)
    one = Perturbed(best_choice, 400, seed=0)
    mapped = torch.func.vmap(one)(theta)
    for i in range(3):
        torch.testing.assert_close(mapped[i], one(theta[i]))
        # Another place of the batch has other noise, of the same law.
        torch.testing.assert_close(batch(theta)[i], one(theta[i]), rtol=0, atol=0.2)
    jacobian = torch.func.jacrev(batch)(theta)
    assert jacobian[0, :, 1].abs().max() == 0
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(lambda t: one.maximum(t)))(theta), mapped, rtol=0, atol=1e-12
    )


def test_noise_is_fixed_by_a_seed_alone():
    fixed, free = Perturbed(best_choice, 10, seed=1), Perturbed(best_choice, 1000)
    assert torch.equal(fixed(THETA), fixed(THETA))
    assert not torch.equal(free(THETA), free(THETA))


def test_one_draw_has_derivatives():
    theta = THETA.clone().requires_grad_()
    (slope,) = torch.autograd.grad(Perturbed(best_choice, 1, seed=0)(theta).sum(), theta)
    assert torch.isfinite(slope).all()
    assert slope.abs().max() > 0


def test_float32():
    theta = THETA.float().requires_grad_()
    y = Perturbed(best_choice, 100, noise="gumbel")(theta)
    assert y.dtype == torch.float32
    y.square().sum().backward()
    assert torch.isfinite(theta.grad).all()


def test_numpy_argmax():
    perturbed = Perturbed(lambda scores: np.eye(3)[scores.numpy().argmax(1)], 100, seed=0)
    torch.testing.assert_close(perturbed(THETA), Perturbed(best_choice, 100, seed=0)(THETA))


def test_assignment_by_enumeration():
    scores = draw(5, 3, 4)
    for y, score in zip(best_assignment(scores), scores, strict=True):
        best = max(sum(score[i, p] for i, p in enumerate(order)) for order in itertools.permutations(range(4), 3))
        torch.testing.assert_close((y * score).sum(), best)
        assert (y.sum(1) == 1).all()
        assert (y.sum(0) <= 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (4, 5)])
def test_grid_path_by_dijkstra(shape):
    """Costs of the cells entered are those of the edges."""
    costs = draw(6, *shape).abs() + 0.01
    rows, columns = shape
    for path, cost in zip(best_grid_path(-costs), costs, strict=True):
        edges = np.zeros((rows * columns, rows * columns))
        for i, j, (a, b) in itertools.product(range(rows), range(columns), [(0, 1), (1, 0), (1, 1)]):
            if i + a < rows and j + b < columns:
                edges[i * columns + j, (i + a) * columns + j + b] = cost[i + a, j + b]
        known = dijkstra(csr_matrix(edges), indices=0)[-1] + cost[0, 0].item()
        assert set(path.flatten().tolist()) <= {0.0, 1.0}
        assert (path * cost).sum().item() == pytest.approx(known, rel=1e-12)


def test_grid_path_at_ties_is_one_path():
    scores = torch.randint(-1, 2, (50, 5, 6), generator=torch.Generator().manual_seed(0)).double()
    paths = best_grid_path(scores)
    assert set(paths.unique().tolist()) == {0.0, 1.0}
    for path in paths:
        cells = path.nonzero()  # in the order of the path
        steps = cells.diff(dim=0)
        assert cells[0].tolist() == [0, 0]
        assert cells[-1].tolist() == [4, 5]
        assert ((steps >= 0) & (steps <= 1)).all()


def test_grid_path_of_scores_of_both_signs():
    scores = draw(4, 3, 3)
    paths = best_grid_path(scores)
    others = best_grid_path(draw(200, 3, 3, seed=1))
    assert ((paths * scores).sum((1, 2)) >= (others.unsqueeze(1) * scores).sum((2, 3)).amax(0) - 1e-12).all()


def test_bad_input():
    with pytest.raises(ValueError, match="noise must be one of gaussian, gumbel, got 'normal'"):
        Perturbed(best_choice, noise="normal")
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        Perturbed(best_choice, samples=0)
    with pytest.raises(ValueError, match="sigma must be above 0, got 0"):
        Perturbed(best_choice, sigma=0)
    with pytest.raises(ValueError, match=r"argmax must return a tensor like its scores, of shape \(100, 3\)"):
        Perturbed(lambda scores: scores.argmax(1))(THETA)
    with pytest.raises(ValueError, match=r"the target must have the shape of theta \(3,\), got \(2,\)"):
        Perturbed(best_choice).loss(THETA, THETA[:2])
    with pytest.raises(ValueError, match="batch_dims=2 needs that many leading axes"):
        Perturbed(best_choice, batch_dims=2)(THETA)
