"""What is no tensor, no batch or of another dtype is refused with the mend."""

import pytest
import torch

import deqzoo

IMAGES = {
    "deq_digits": (1, 8, 8),
    "deq_cifar_small": (3, 32, 32),
    "mondeq_mnist": (1, 28, 28),
    "node_mnist": (1, 28, 28),
    "deq_deblur": (3, 32, 32),
    "darts_digits": (1, 8, 8),
    "hyper_mnist": (1, 28, 28),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(name):
    network, images = deqzoo.load(name), torch.zeros(2, *IMAGES[name])
    for wrong, error, told in (
        (
            images.numpy(),
            TypeError,
            r"images must be a torch tensor, got ndarray: torch\.as_tensor\(images\)",
        ),
        (images[0], ValueError, r"images\.unsqueeze\(0\) is a batch of one"),
        (images.byte(), ValueError, r"got torch\.uint8: divide those of 0 to 255 by 255"),
        (torch.cat([images, images], 1), ValueError, rf"images are \(B, {images.shape[1]}, height, width\); got"),
    ):
        with pytest.raises(error, match=told):
            network(wrong)


@pytest.mark.parametrize("name", ["deq_sudoku", "deq_maze", "conv_sudoku4"])
def test_puzzles(name):
    with pytest.raises(TypeError, match="puzzles must be a torch tensor, got ndarray"):
        deqzoo.load(name)(torch.zeros(1, 9, 9, dtype=torch.long).numpy())


def test_places_of_a_picture():
    with pytest.raises(TypeError, match="places must be a torch tensor, got list"):
        deqzoo.load("deq_inr")([[0.0, 0.0]])


def test_points():
    with pytest.raises(TypeError, match="x must be a torch tensor, got ndarray"):
        deqzoo.load("node_spheres")(torch.zeros(3, 2).numpy())


def test_images_of_a_density():
    network = deqzoo.load("cnf_digits")
    with pytest.raises(TypeError, match="images must be a torch tensor, got ndarray"):
        network.log_prob(torch.zeros(2, 1, 8, 8).numpy())
    with pytest.raises(ValueError, match=r"images are \(B, 1, height, width\); got \(3, 64\)"):
        network.log_prob(torch.zeros(3, 64))
    with pytest.raises(ValueError, match="images are 8x8 pixels, got 4x16"):
        network.log_prob(torch.zeros(3, 1, 4, 16))


@pytest.mark.parametrize("name", ["deq_lm_shakespeare", "lm_shakespeare"])
def test_tokens(name):
    network = deqzoo.load(name)
    tokens = network.vocabulary.encode("To be")
    assert network(tokens.unsqueeze(0)).shape[:2] == (1, 5)
    for wrong in (tokens, tokens.unsqueeze(0).float()):
        with pytest.raises(ValueError, match=r"tokens are int64 \(B, T\), got .*unsqueeze\(0\) makes them"):
            network(wrong)
    with pytest.raises(TypeError, match="tokens must be a torch tensor, got list"):
        network([[1, 2]])


@pytest.mark.parametrize(
    ("name", "channels"),
    [("ncde_vowels", 12), ("grud_vowels", 12), ("latent_ode_spiral", 2), ("latent_gru_vowels", 12)],
)
def test_series(name, channels):
    network = deqzoo.load(name)
    times, values = torch.linspace(0, 1, 7), torch.zeros(2, 7, channels)
    observed = torch.ones(values.shape, dtype=torch.bool)
    with pytest.raises(TypeError, match="observed must be a torch tensor, got ndarray"):
        network(times, values, observed.numpy())
    with pytest.raises(ValueError, match=r"observed tells .* as torch\.bool; got torch\.float32: mask > 0"):
        network(times, values, observed.float())
    with pytest.raises(ValueError, match=rf"values and observed must be \(B, T, {channels}\), got \(2, 7, 1\)"):
        network(times, values[..., :1], observed[..., :1])
    with pytest.raises(ValueError, match=r"times must be .* increasing"):
        network(times.flip(0), values, observed)


def test_a_latent_ode_takes_series_without_observations():
    times, values = torch.linspace(0, 1, 7), torch.full((2, 7, 2), torch.nan)
    prediction = deqzoo.load("latent_ode_spiral")(times, values, torch.zeros(2, 7, 2, dtype=torch.bool))
    assert prediction.isfinite().all()


def test_points_of_a_density():
    network = deqzoo.load("cnf_moons")
    for wrong in (torch.zeros(3, 2).numpy(), [[0.0, 0.0]]):
        with pytest.raises(TypeError, match="x must be a torch tensor, got "):
            network.log_prob(wrong)
    with pytest.raises(ValueError, match=r"x must be floats, got torch\.int64"):
        network.log_prob(torch.zeros(3, 2, dtype=torch.long))


@pytest.mark.parametrize("name", ["ign_chains", "gcn_chains"])
def test_graphs(name):
    network, features, edges = deqzoo.load(name), torch.zeros(4, 100), torch.tensor([[0, 1], [1, 2]])
    with pytest.raises(TypeError, match="features must be a torch tensor, got ndarray"):
        network(features.numpy(), edges)
    with pytest.raises(TypeError, match="edges must be a torch tensor, got list"):
        network(features, edges.tolist())
    with pytest.raises(ValueError, match=r"features must be \(nodes, 100\), got \(4, 3\)"):
        network(features[:, :3], edges)


def test_times_of_a_pinn():
    network = deqzoo.load("pinn_pendulum")
    with pytest.raises(TypeError, match="times must be a torch tensor, got list"):
        network([0.0, 1.0])
    with pytest.raises(ValueError, match=r"times must be \(T,\), in s, got \(2, 3\)"):
        network(torch.zeros(2, 3))


@pytest.mark.parametrize(("name", "dim"), [("hnn_two_body", 4), ("node_two_body", 4), ("node_free_pendulum", 1)])
def test_states_of_a_system(name, dim):
    network, times = deqzoo.load(name), torch.linspace(0, 1, 3)
    with pytest.raises(TypeError, match="states must be a torch tensor, got ndarray"):
        network(torch.zeros(3, 2 * dim).numpy(), times)
    for wrong in (torch.zeros(3, 2 * dim + 2), torch.zeros(2 * dim)):
        with pytest.raises(ValueError, match=rf"states must be \(B, {2 * dim}\), {dim} positions and then {dim} mom"):
            network(wrong, times)


def test_tasks():
    learner, part = deqzoo.load("maml_sinusoid"), torch.zeros(1, 5, 1)
    with pytest.raises(TypeError, match="query_inputs must be a torch tensor, got ndarray"):
        learner(part, part, part.numpy())
    with pytest.raises(TypeError, match="support_inputs must be a torch tensor, got list"):
        learner.adapt(part[0].tolist(), part[0])
    with pytest.raises(ValueError, match="a support set has a target for each input, got 5 inputs and 4 targets"):
        learner.adapt(part[0], part[0, :4])


def test_inputs_of_a_linear_classifier():
    network = deqzoo.load("data_cleaning_mnist")
    with pytest.raises(TypeError, match="inputs must be a torch tensor, got ndarray"):
        network(torch.zeros(2, 784).numpy())
    with pytest.raises(ValueError, match=r"inputs must have 784 numbers each, got shape \(2, 7\)"):
        network(torch.zeros(2, 7))


def test_times_of_a_prediction():
    network = deqzoo.load("latent_ode_physionet_interpolation")
    series = torch.linspace(0, 1, 5), torch.rand(2, 5, 41), torch.ones(2, 5, 41, dtype=torch.bool)
    with pytest.raises(TypeError, match="at must be a torch tensor, got list"):
        network.predict(*series, at=[])
    with pytest.raises(ValueError, match=r"at must be one or more increasing times, \(T',\), got shape \(0,\)"):
        network.predict(*series, at=torch.zeros(0))
