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


@pytest.mark.parametrize("name", ["ncde_vowels", "grud_vowels"])
def test_series(name):
    times, values = torch.linspace(0, 1, 7), torch.zeros(2, 7, 12)
    with pytest.raises(TypeError, match="observed must be a torch tensor, got ndarray"):
        deqzoo.load(name)(times, values, torch.ones(2, 7, 12, dtype=torch.bool).numpy())


def test_times_of_a_prediction():
    network = deqzoo.load("latent_ode_physionet_interpolation")
    series = torch.linspace(0, 1, 5), torch.rand(2, 5, 41), torch.ones(2, 5, 41, dtype=torch.bool)
    with pytest.raises(TypeError, match="at must be a torch tensor, got list"):
        network.predict(*series, at=[])
    with pytest.raises(ValueError, match=r"at must be one or more increasing times, \(T',\), got shape \(0,\)"):
        network.predict(*series, at=torch.zeros(0))
