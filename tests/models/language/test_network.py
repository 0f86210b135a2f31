"""The language model: causal logits, gradients that reach everything, and what it generates."""

import math

import pytest
import torch
from torch.nn import functional as F

from deqzoo.data import Vocabulary
from deqzoo.implicit import Anderson
from deqzoo.models import ContractiveLanguageModel, LanguageModel
from tests.implicit.solvers.helpers import F64, assert_close

VOCABULARY = Vocabulary.of("to be, or not to be", "characters")
SHARP = Anderson(tol=1e-10, max_steps=200)


def model_of(**options):
    """A small one in float64, solved to the end."""
    torch.manual_seed(0)
    options = {"window": 8, "width": 8, "heads": 2, "expansion": 2.0, "solver": SHARP} | options
    return LanguageModel(vocabulary=VOCABULARY, **options).to(F64).eval()


def contractive(**options):
    """One with a contractive cell."""
    torch.manual_seed(0)
    options = {"window": 8, "width": 8, "heads": 2, "features": 4, "solver": SHARP} | options
    return ContractiveLanguageModel(vocabulary=VOCABULARY, **options).to(F64).eval()


MAKERS = {
    "transformer": model_of,
    "explicit": lambda **options: model_of(layers=3, **options),
    "contractive": contractive,
}


def tokens_of(*shape):
    return torch.randint(1, len(VOCABULARY), shape)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_changing_a_token_changes_no_logits_before_it(make):
    model, tokens = make(), tokens_of(2, 8)
    logits = model(tokens)
    for t in range(8):
        other = tokens.clone()
        other[0, t] = tokens[0, t] % (len(VOCABULARY) - 1) + 1
        changed = model(other)
        assert_close(changed[0, :t], logits[0, :t], 1e-8)
        assert (changed[0, t:] - logits[0, t:]).abs().amax(1).min() > 1e-7
        assert torch.equal(changed[1], logits[1])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layers", [0, 2])
def test_gradient_reaches_every_parameter(layers, tied):
    model, tokens = model_of(layers=layers, tied=tied).train(), tokens_of(4, 8)
    F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name
    assert ("head.weight" in dict(model.named_parameters())) != tied


def test_gradient_reaches_every_parameter_of_a_contractive_one():
    model, tokens = contractive().train(), tokens_of(4, 8)
    F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in model.parameters())


def test_contractive_one_is_the_composition_of_its_parts():
    model, tokens = contractive(), tokens_of(2, 5)
    x = model.injection(model.embedding(tokens))
    z = model.deq.cell.initial_state(x)
    for _ in range(200):
        z = model.deq.cell(z, x)
    assert_close(model(tokens), model.head(model.norm(z)), 1e-8)
    assert model.deq.certified
    assert model.equilibria == [model.deq]


def test_explicit_baseline_applies_each_layer_once():
    model, tokens = model_of(layers=2), tokens_of(2, 5)
    first, second = model.layers
    x = model.inject(tokens)
    z = first(x, x)
    assert_close(model(tokens), model.head(second(z, z)), 1e-14)
    assert model.equilibria == []


@pytest.mark.parametrize("layers", [0, 2])
def test_text_follows_from_the_seed(layers):
    model = model_of(layers=layers, solver=Anderson(tol=1e-3))
    text = model.generate("to", length=20, seed=1)
    assert text.startswith("to")
    assert len(text) == 22
    assert set(text) <= set(VOCABULARY.tokens[1:])
    assert model.generate("to", length=20, seed=1) == text
    assert model.generate("to", length=20, seed=2) != text
    assert model.generate("to", length=0) == "to"


def test_greedy_text_is_the_likeliest_token_each_time():
    model = model_of()
    tokens = VOCABULARY.encode("to be")
    for _ in range(6):  # past the window of 8
        logits = model(tokens[None, -8:])[0, -1]
        tokens = torch.cat([tokens, logits[1:].argmax(keepdim=True) + 1])
    for options in ({"temperature": 0.0}, {"top_k": 1, "warm_start": False}):
        assert model.generate("to be", length=6, **options) == VOCABULARY.decode(tokens.tolist())


def test_draws_follow_temperature_and_top_k():
    model = model_of(layers=1)  # no solves: many draws are cheap
    with torch.no_grad():
        model.head.weight.zero_()  # uniform: each token is drawn as often as the others
        model.head.weight[0] = 100.0  # but for the unknown one, which is never drawn
    text = model.generate("t", length=600)
    assert set(text) == set(VOCABULARY.tokens[1:])
    with torch.no_grad():
        model.head.weight.normal_()
    drawn = [len(set(model.generate("t", length=60, temperature=t))) for t in (0.01, 100.0)]
    assert drawn[0] < drawn[1]
    narrow = model.generate("t", length=1, top_k=2, temperature=1e6)
    likeliest = model(VOCABULARY.encode("t")[None])[0, -1, 1:].topk(2).indices + 1
    assert narrow[1] in VOCABULARY.decode(likeliest.tolist())


def test_text_follows_from_the_seed_whatever_the_mode_and_the_temperature():
    model = model_of(layers=1, dropout=0.5)
    model.train()
    state = torch.get_rng_state()
    text = model.generate("to", length=8, seed=1)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert model.eval().generate("to", length=8, seed=1) == text
    likeliest = model.generate("to", length=8, temperature=0.0)
    assert model.generate("to", length=8, temperature=1e-310) == likeliest  # dividing by it overflows
    assert len(model.generate("to", length=8, temperature=1e300)) == 10


@pytest.mark.parametrize("make", [model_of, contractive])
def test_warm_start_saves_evaluations_and_changes_nothing(make):
    model, spent = make(window=32, solver=Anderson(tol=1e-8, max_steps=100)), {}
    hook = lambda deq, *_: spent[warm].append(deq.solution.nfe)  # noqa: E731
    model.deq.register_forward_hook(hook)
    texts = {}
    for warm in (True, False):
        spent[warm] = []
        texts[warm] = model.generate("to be, or not", length=8, seed=3, warm_start=warm)
    assert texts[True] == texts[False]
    assert spent[True][0] == spent[False][0]
    assert sum(spent[True][1:]) < sum(spent[False][1:])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"prompt": "to be?!"}, "characters that the model does not know: '\\?', '!'; it knows ' ', ',', 'b'"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "to", "length": -1}, "must be finite and not negative, got -1"),
        ({"prompt": "to", "temperature": math.inf}, "must be finite and not negative, got 3 and inf"),
        ({"prompt": "to", "temperature": -0.5}, "must be finite and not negative, got 3 and -0.5"),
        ({"prompt": "to", "top_k": 0}, "top_k must be at least 1"),
    ],
)
def test_what_cannot_be_generated(arguments, told):
    with pytest.raises(ValueError, match=told):
        model_of().generate(**{"length": 3} | arguments)


def test_layers_are_not_negative():
    with pytest.raises(ValueError, match="layers must not be negative"):
        model_of(layers=-1)
