"""The MDEQ classifier: published sizes, shapes, normalisation inside, gradients, overfitting, independent samples."""

import pytest
import torch
from torch.nn import functional as F

from deqzoo.implicit import Anderson, Broyden, OneStep, Phantom
from deqzoo.models import MDEQClassifier
from deqzoo.models.equilibrium.mdeq_network import Bottleneck


def build(**options):
    torch.manual_seed(0)
    defaults = {
        "in_channels": 3,
        "classes": ["cat", "dog", "owl"],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "widths": [4, 6],
        "expansion": 2.0,
        "groups": 2,
        "head_widths": [2, 3],
        "final_width": 8,
        "solver": Anderson(tol=1e-3, max_steps=20),
    }
    return MDEQClassifier(**{**defaults, **options})


def images(n=3, size=8):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


LARGE = {"widths": [32, 64, 128, 256], "head_widths": [14, 28, 56, 112], "final_width": 1680}


@pytest.mark.parametrize(
    ("options", "parameters", "in_cell"),
    [
        ({"widths": [24, 24], "head_widths": [8, 16], "final_width": 200}, 159_034, 111_840),
        (LARGE, 11_099_998, 8_717_792),
    ],
    ids=["small", "large"],
)
def test_published_networks_have_their_number_of_parameters(options, parameters, in_cell):
    """The paper's .17M and 10M; torchdeq's large one has 11.1M."""
    with torch.device("meta"):
        model = build(classes="0123456789", expansion=5.0, groups=8, **options)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in model.body.cell.parameters()) == in_cell


@pytest.mark.parametrize("n", [0, 1, 4])
@pytest.mark.parametrize("size", [8, 9])
def test_logits_have_a_column_per_class(n, size):
    model = build().eval()
    assert model(images(n, size)).shape == (n, 3)
    assert model.classes == ("cat", "dog", "owl")
    assert [tuple(t.shape[1:]) for t in model.body.solution.value] == [
        (4, size, size),
        (6, -(-size // 2), -(-size // 2)),
    ]
    assert model.equilibria == [model.body]


def test_four_resolutions():
    model = build(widths=[4, 4, 6, 8], head_widths=[2, 2, 3, 4])
    assert model(images(4)).shape == (4, 3)
    assert len(model.stem) == 9  # a third convolution makes the injection
    assert len(build().stem) == 6


def test_the_head_goes_from_the_highest_to_the_lowest_resolution():
    head = build(widths=[4, 4, 6], head_widths=[1, 2, 3]).eval().head
    z = [torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4), torch.randn(2, 6, 2, 2)]
    a, b, c = (block(t) for block, t in zip(head.bottlenecks, z, strict=True))
    y = head.down[1](head.down[0](a) + b) + c
    assert torch.allclose(head(z), head.linear(head.final(y).mean(dim=(2, 3))))
    assert a.shape == (2, Bottleneck.EXPANSION * 1, 8, 8)
    assert isinstance(head.bottlenecks[0].shortcut, torch.nn.Identity)  # 4 channels come in and go out


def test_the_normalisation_is_inside():
    plain = build(mean=[0.0] * 3, std=[1.0] * 3).eval()
    inside = build().eval()
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    assert torch.allclose(inside(images()), plain((images() - mean) / std), atol=1e-4)


@pytest.mark.parametrize("gradient", [None, Phantom(5, 0.5)], ids=["implicit", "phantom"])
def test_every_parameter_gets_a_finite_gradient(gradient):
    model = build(adjoint=gradient)
    F.cross_entropy(model(images()), torch.tensor([0, 1, 2])).backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_one_batch_can_be_overfitted():
    model = build(solver=Broyden(tol=1e-3, max_steps=6), adjoint=OneStep())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    data, labels = images(6, size=6), torch.arange(6) % 3
    for _ in range(40):
        loss = F.cross_entropy(model(data), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert (model(data).argmax(1) == labels).all()


def test_a_sample_gets_the_same_logits_in_any_batch():
    model = build().double().eval()
    data = images(4).double()
    together = model(data)
    for i in range(4):
        assert torch.allclose(model(data[i : i + 1])[0], together[i], atol=1e-8)


def test_bfloat16_autocast_trains():
    model = build(solver=Anderson(tol=1e-2, max_steps=10), adjoint=Phantom(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(images()).float(), torch.tensor([0, 1, 2]))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"mean": [0.5]}, "3 channels"), ({"head_widths": [2]}, "^head_widths"), ({"groups": 4}, "^groups=4")],
)
def test_bad_options_are_errors_that_say_what_is_needed(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
