"""Loaded networks as a start: their parameters are trained, or frozen, with the head exchanged."""

import pytest
import torch
from torch.nn import functional as F

import deqzoo
from deqzoo.data import ImageData
from deqzoo.zoo import CheckpointError, load

HEADED = ["deq_digits", "mondeq_mnist", "conv_mnist", "node_spheres", "ign_chains", "gcn_chains"]


def inputs(name, count=3):
    torch.manual_seed(0)
    if name.endswith("chains"):
        features = load(name).injection.in_features if name[0] == "i" else load(name).convolutions[0].in_features
        return torch.randn(count, features), torch.tensor([[0, 1], [1, 2]])
    shapes = {"deq_digits": (1, 8, 8), "node_spheres": (2,)}
    return (torch.rand(count, *shapes.get(name, (1, 28, 28))),)


@pytest.mark.parametrize("name", HEADED)
def test_features_are_what_the_last_layer_is_given(name):
    model, x = load(name), inputs(name)
    weight = [module for module in model.head.modules() if isinstance(module, torch.nn.Linear)][-1]
    features = model.features(*x)
    assert features.shape == (3, weight.in_features)
    scale = 1 / 9 if name == "deq_digits" else 1  # of its head
    torch.testing.assert_close(scale * weight(features), model(*x))
    assert not weight._forward_pre_hooks


@pytest.mark.parametrize("name", HEADED)
def test_head_of_other_classes(name, tmp_path):
    model, x = load(name, classes=5), inputs(name)
    assert model.classes == ("0", "1", "2", "3", "4")
    logits = model(*x)
    assert logits.shape == (3, 5)
    F.cross_entropy(logits, torch.tensor([4, 0, 1])).backward()
    names = ("features", "edges") if name.endswith("chains") else ("x",) if name == "node_spheres" else ("images",)
    folder = deqzoo.export(model, tmp_path / "mine", {}, inputs=dict(zip(names, x, strict=True)))
    assert load(folder).classes == model.classes
    torch.testing.assert_close(load(folder)(*x), logits, rtol=1e-4, atol=1e-4)


def test_parameters_are_trained_unless_frozen():
    assert all(parameter.requires_grad for parameter in load("deq_digits").parameters() if parameter.dim() != 4)
    assert not any(parameter.requires_grad for parameter in load("deq_digits", trainable=False).parameters())
    probe = load("deq_digits", classes=["even", "odd"], trainable=False)
    assert [name for name, p in probe.named_parameters() if p.requires_grad] == ["head.linear.weight"]
    assert not probe.training
    whitening = dict(load("deq_digits").named_parameters())["stem.0.weight"]
    assert not whitening.requires_grad  # which training leaves alone, too


def test_a_few_steps_of_fine_tuning_teach_another_task():
    torch.manual_seed(0)
    data = ImageData("digits")
    data.setup()
    model = load("deq_digits", classes=["even", "odd"])
    optimizer = torch.optim.AdamW(model.parameters(), 2e-2)
    for images, digits in list(data.train_dataloader())[:6]:
        optimizer.zero_grad()
        F.cross_entropy(model(images), digits % 2).backward()
        optimizer.step()
    images, digits = next(iter(data.test_dataloader()))
    assert (model(images).argmax(1) == digits % 2).float().mean() > 0.9
    assert all(stage[1].solution.converged.all() for stage in model.body)


def test_language_models_have_features():
    model = load("deq_lm_shakespeare")
    tokens = model.vocabulary.encode("to be")[None]
    torch.testing.assert_close(model.head(model.features(tokens)), model(tokens))


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("cnf_moons", {"classes": 3}, "has no last layer of classes to exchange; leave out classes="),
        ("deq_digits", {"classes": 0}, "classes must be a number of at least 1, or a list of names, each once, got 0"),
        ("deq_digits", {"classes": ["a", "a"]}, "each once, got"),
        ("deq_digits", {"classes": True}, "got True"),
        ("deq_digits", {"classes": 2.5}, "got 2.5"),
        ("deq_digits", {"classes": "even"}, "got 'even'"),
        ("deq_digits", {"dtype": torch.int32}, "dtype=torch.int32: give torch.float32"),
        ("deq_digits", {"dtype": "float16"}, "dtype='float16': give torch.float32"),
        ("deq_digits", {"dtype": torch.complex64}, "dtype=torch.complex64: give"),
    ],
)
def test_what_cannot_be_is_told(name, options, told):
    with pytest.raises(CheckpointError, match=told):
        load(name, **options)
