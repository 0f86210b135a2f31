"""Latent ODEs: what the encoder may see, what the bound is, and that the baseline is one."""

import math

import pytest
import torch

from deqzoo.implicit import Tsit5
from deqzoo.models import LatentODE
from deqzoo.models.ode.latent_ode_network import Posterior, _latest_first

TIMES = torch.tensor([0.0, 0.5, 0.7, 1.5, 2.0])
MODELS = [{"encoder": encoder, "dynamics": dynamics} for encoder in ("gru", "ode_rnn") for dynamics in ("ode", "gru")]


def model(**options):
    torch.manual_seed(0)
    return LatentODE(channels=2, mean=[1.0, -1.0], std=[2.0, 0.5], solver=Tsit5(rtol=1e-6, atol=1e-6), **options)


def series(batch=3):
    values = torch.randn(batch, len(TIMES), 2)
    return values, torch.rand(values.shape) < 0.6


def test_steps_are_the_seen_times_backwards_with_gaps_to_the_next():
    values = torch.arange(20.0).reshape(2, 5, 2)
    observed = torch.zeros(2, 5, 2, dtype=torch.bool)
    observed[0, 1, 0] = observed[0, 3] = True
    steps, valid = _latest_first(TIMES, values, observed)
    assert valid.tolist() == [[True, True], [False, False]]
    torch.testing.assert_close(steps[0], torch.tensor([[6.0, 7.0, 1.0, 1.0, 1.0], [2.0, 0.0, 1.0, 0.0, 0.5]]))
    assert (steps[1] == 0).all()


@pytest.mark.parametrize("options", MODELS)
def test_what_was_not_observed_makes_no_difference(options):
    network, (values, observed) = model(**options), series()
    hidden = values.where(observed, torch.nan)
    torch.testing.assert_close(network(TIMES, values, observed), network(TIMES, hidden, observed))


@pytest.mark.parametrize("options", MODELS)
def test_padding_and_neighbours_make_no_difference(options):
    network, (values, observed) = model(**options), series()
    observed[0], observed[1] = False, True  # nothing, and everything
    together = network(TIMES, values, observed)
    alone = torch.cat([network(TIMES, values[i : i + 1], observed[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", MODELS)
def test_every_parameter_learns(options):
    network, (values, observed) = model(**options), series()
    bound, divergence, _ = network.elbo(TIMES, values, observed, observed)
    assert bound.shape == divergence.shape == (3,)
    (-bound.mean()).backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_bound_is_the_gaussian_one():
    network, (values, observed) = model(noise=0.3), series()
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    hidden = values.where(observed, torch.nan)
    bound, divergence, _ = network.elbo(TIMES, hidden, observed, observed, kl_weight=0.5, generator=generators[0])
    posterior = network.posterior(TIMES, values, observed)
    path = network.decode(posterior.sample(generators[1]), TIMES)
    density = torch.distributions.Normal(path, 0.3).log_prob(values)
    torch.testing.assert_close(bound, density.where(observed, 0.0).sum((1, 2)) - 0.5 * divergence)
    normal = torch.distributions.Normal(posterior.mean, posterior.log_std.exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(divergence, expected)
    assert not network.log_noise.requires_grad


def test_inconsistency_is_the_distance_to_what_is_seen_from_a_time_on():
    network, (values, observed) = model(), series()
    _, _, path = network.elbo(TIMES, values, observed, observed)
    found = network.inconsistency(path, TIMES, values, observed, 2)
    later = network.posterior(TIMES[2:], values[:, 2:], observed[:, 2:])
    expected = -torch.distributions.Normal(later.mean, later.log_std.exp()).log_prob(path[2])
    expected = (expected - later.log_std - 0.5 * math.log(2 * math.pi)).sum(1)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert network.encoder.head.bias.grad[4:].abs().sum() > 0  # the spread of z0, by the path; that at the later time:
    network.zero_grad()
    network.inconsistency(path.detach(), TIMES, values, observed, 2).sum().backward()
    assert network.encoder.head.bias.grad[:4].abs().sum() > 0
    assert (network.encoder.head.bias.grad[4:] == 0).all()


def test_a_path_that_starts_where_the_observations_say_is_consistent():
    network, (values, observed) = model(), series()
    start = network.posterior(TIMES[1:], values[:, 1:], observed[:, 1:]).mean
    path = torch.stack([start] * len(TIMES))
    assert (network.inconsistency(path, TIMES, values, observed, 1) == 0).all()


def test_gradient_reaches_neither_nan_nor_what_is_not_scored():
    network, (values, observed) = model(), series()
    bound, _, _ = network.elbo(TIMES, values.where(observed, torch.nan), observed, observed)
    bound.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_prediction_at_other_times_is_the_same_path():
    network, (values, observed) = model(), series()
    at = torch.tensor([0.5, 1.0, 2.0, 3.0])
    given = network(TIMES, values, observed)
    torch.testing.assert_close(network(TIMES, values, observed, at)[:, [0, 2]], given[:, [1, 4]], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(network(TIMES, values, observed, TIMES), given)
    with pytest.raises(ValueError, match=r"start at times\[0\] = 0 or later, got -1"):
        network(TIMES, values, observed, at - 1.5)


def test_draws_scatter_about_the_posterior_mean():
    posterior = Posterior(torch.tensor([[1.0, -2.0]]).expand(4000, 2), torch.full((4000, 2), math.log(0.5)))
    draws = posterior.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.mean(0), torch.tensor([1.0, -2.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(draws.std(0), torch.tensor([0.5, 0.5]), atol=0.05, rtol=0)
    network, (values, observed) = model(), series()
    assert network.sample(TIMES, values, observed, TIMES[:2], draws=7).shape == (7, 3, 2, 2)


def test_scale_of_the_data_is_inside_the_network():
    small, (values, observed) = model(), series()
    large = LatentODE(channels=2, mean=[10.0, -10.0], std=[20.0, 5.0], solver=small.path.solver)
    large.load_state_dict(small.state_dict())
    torch.testing.assert_close(large(TIMES, 10 * values, observed), 10 * small(TIMES, values, observed))


def test_wrong_sizes_are_told():
    with pytest.raises(ValueError, match="for each of the 3 channels"):
        LatentODE(channels=3, mean=[0.0], std=[1.0])
    with pytest.raises(ValueError, match="noise must be positive"):
        LatentODE(channels=1, mean=[0.0], std=[1.0], noise=0.0)


def test_hidden_state_of_an_ode_rnn_moves_between_observations():
    encoder, (values, observed) = model(encoder="ode_rnn").encoder, series()
    torch.nn.init.zeros_(encoder.rnn.weight_ih_l0[:, -1:])  # the gap as an input
    near, far = (encoder(scale * TIMES, values, observed).mean for scale in (1.0, 2.0))
    assert not torch.allclose(near, far)
    torch.nn.init.zeros_(encoder.drift[-1].weight)
    torch.nn.init.zeros_(encoder.drift[-1].bias)
    near, far = (encoder(scale * TIMES, values, observed).mean for scale in (1.0, 2.0))
    torch.testing.assert_close(near, far)
