"""Flow matching: the minimiser is the field that carries noise to data, and couplings pair as they say."""

import itertools

import pytest
import torch

from deqzoo.implicit import RK4
from deqzoo.models.flow.flow_matching import INTERPOLANTS, flow_matching_loss, interpolated, pair
from deqzoo.nn import ContinuousFlow, squash_mlp


def test_optimal_pairs_are_those_of_all_permutations():
    torch.manual_seed(0)
    z, x = torch.randn(6, 2), torch.randn(6, 2)
    found = (pair(z, x) - x).square().sum()
    best = min((z[list(order)] - x).square().sum() for order in itertools.permutations(range(6)))
    torch.testing.assert_close(found, best)


def test_interpolants_go_from_noise_to_data_and_know_their_velocity():
    torch.manual_seed(0)
    z, x = torch.randn(2, 5, 3, dtype=torch.float64)
    for interpolant in INTERPOLANTS:
        for t, end in ((0.0, z), (1.0, x)):
            time = torch.tensor(t, dtype=torch.float64)
            torch.testing.assert_close(interpolated(z, x, time, interpolant)[0], end)
        t, h = torch.tensor(0.3, dtype=torch.float64), 1e-5
        before, after = (interpolated(z, x, t + step, interpolant)[0] for step in (-h, h))
        torch.testing.assert_close(interpolated(z, x, t, interpolant)[1], (after - before) / (2 * h))


def test_standard_normal_data_stay_where_they_are_with_the_trigonometric_interpolant():
    """f = 0 is its minimiser: the velocity has mean zero given x_t, so it does not correlate with x_t."""
    torch.manual_seed(0)
    z, x = torch.randn(2, 100_000, dtype=torch.float64)
    for t in (0.1, 0.5, 0.8):
        for interpolant, expected in (("trigonometric", 0.0), ("linear", 2 * t - 1)):
            at_t, velocity = interpolated(z, x, torch.tensor(t, dtype=torch.float64), interpolant)
            assert (at_t * velocity).mean().item() == pytest.approx(expected, abs=0.02)  # five standard errors


@pytest.mark.parametrize("coupling", ["independent", "optimal_transport"])
def test_loss_of_the_exact_field(coupling):
    """For x ~ N(0, s^2), E[x - z | x_t] is known, and with it the least loss that any field can have."""
    torch.manual_seed(0)
    s = 3.0
    x = s * torch.randn(20_000, 1)

    def independent(t, y):
        variance = (1 - t) ** 2 + (s * t) ** 2
        return (y.squeeze(1) * (s**2 * t - (1 - t)) / variance).unsqueeze(1)

    def transport(t, y):  # the monotone map, x = s z
        return (s - 1) * y / (1 + (s - 1) * t.unsqueeze(1))

    own, other = (independent, transport) if coupling == "independent" else (transport, independent)
    torch.manual_seed(1)
    least = flow_matching_loss(own, x, coupling=coupling).mean()
    torch.manual_seed(1)
    assert least < flow_matching_loss(other, x, coupling=coupling).mean()
    if coupling == "independent":  # the variance of x - z given x_t: s^2 / ((1 - t)^2 + s^2 t^2), over t
        t = (torch.arange(1000) + 0.5) / 1000
        assert least.item() == pytest.approx((s**2 / ((1 - t) ** 2 + (s * t) ** 2)).mean().item(), rel=0.04)
    else:  # nothing is left but the error of pairing 128 draws
        assert least < 0.2


def test_a_short_training_finds_the_density():
    torch.manual_seed(0)
    net = squash_mlp(1, (16, 16))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for _ in range(200):
        optimizer.zero_grad()
        flow_matching_loss(net, 1 + torch.randn(512, 1)).mean().backward()
        optimizer.step()
        schedule.step()
    flow = ContinuousFlow(net, (1,), solver=RK4(step_size=0.1)).eval()
    x = torch.linspace(-1, 3, 9).unsqueeze(1)
    truth = torch.distributions.Normal(1.0, 1.0).log_prob(x).squeeze(1)
    assert (flow.log_prob(x) - truth).abs().max() < 0.15
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_images_contexts_and_wrong_coupling():
    images, context = torch.rand(4, 1, 3, 3), torch.randn(4, 2)
    seen = []

    def dynamics(t, x, context):
        seen.append((t.shape, x.shape, context.shape))
        return torch.zeros_like(x)

    assert flow_matching_loss(dynamics, images, context).shape == (4,)
    assert seen == [((4,), (4, 1, 3, 3), (4, 2))]
    assert flow_matching_loss(dynamics, images, context, coupling="optimal_transport", part=3).shape == (4,)
    with pytest.raises(ValueError, match="coupling=ot is unknown; valid are independent, optimal_transport"):
        flow_matching_loss(dynamics, images, context, coupling="ot")
    with pytest.raises(ValueError, match="interpolant=cos is unknown; valid are linear, trigonometric"):
        flow_matching_loss(dynamics, images, context, interpolant="cos")
