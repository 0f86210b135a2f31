"""Few-shot classification: a short training of each method on a stand-in, the loaded model, settings that cannot be."""

import copy
import json

import pytest
import torch

import deqzoo
from deqzoo.errors import ConfigError
from deqzoo.models import FewShotNetwork
from deqzoo.models.meta.support_statistics import normalised_by_first
from deqzoo.training import Run
from tests.data.episode_sets import put_in_place
from tests.running import composed, run

SMALL = [
    "trainer.enable_progress_bar=False",
    "trainer.log_every_n_steps=1",
    "trainer.check_val_every_n_epoch=1",
    "trainer.val_check_interval=null",
    "model.width=4",
    "data.batch_size=2",
    "data.eval_batch_size=3",
    "data.queries=2",
    "data.train_queries=3",
    "data.train_episodes=4",
    "data.val_episodes=2",
    "data.test_episodes=5",
]
METHOD = {
    "imaml_omniglot_5w1s": ["stages=[]", "model.solver_options.max_steps=5", "model.linear_solver_options.max_steps=3"],
    "maml_omniglot_5w1s": ["stages=[]", "model.inner_steps=2", "model.checkpoint=true"],
    "fomaml_omniglot_5w1s": ["model.inner_steps=2", "data.shots=2", "model.zero_head=false"],
}


@pytest.fixture(autouse=True)
def small_omniglot(monkeypatch):
    put_in_place(monkeypatch)


@pytest.mark.parametrize("entry", METHOD)
def test_short_training(entry, tmp_path):
    finished = run(tmp_path, f"model={entry}", *SMALL, *METHOD[entry])
    test = json.loads((tmp_path / "metrics.json").read_text())["test"]
    assert test["n"] == 5
    assert 0 <= test["accuracy"] <= 1
    assert ("stationarity" in test) == entry.startswith("imaml")
    assert next(iter(finished.data.train_dataloader()))[2].shape[1] == 5 * 3
    support, labels, queries, targets = next(iter(finished.data.test_dataloader()))
    assert queries.shape[1] == 5 * 2
    correct = []
    for batch in finished.data.test_dataloader():
        correct.append((finished.module.trained_network(*batch[:3]).argmax(2) == batch[3]).float().mean(1))
    correct = torch.cat(correct)
    assert test["accuracy"] == pytest.approx(correct.mean().item(), abs=0.03)
    assert test["accuracy_interval"] == pytest.approx(1.96 * correct.std().item() / 5**0.5, abs=0.03)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["training.png"]
    model = deqzoo.load(tmp_path / "export")
    logits = model(support, labels, queries)
    torch.testing.assert_close(logits, finished.module.trained_network(support, labels, queries), atol=1e-3, rtol=1e-3)
    learner, alone = model.adapt(support[0], labels[0]), model(support, labels, queries, alone=True)
    torch.testing.assert_close(learner(queries[0]), alone[0], atol=1e-3, rtol=1e-3)
    alone = [model(*batch[:3], alone=True).argmax(2) == batch[3] for batch in finished.data.test_dataloader()]
    assert test["accuracy_alone"] == pytest.approx(torch.cat(alone).float().mean().item(), abs=0.03)
    finished.module.step(finished.module.network, (support, labels, queries, targets), "train").loss.backward()
    gradients = {name: p.grad for name, p in finished.module.network.named_parameters() if p.requires_grad}
    # A convolution's bias is taken out by the batch norm behind it: what is left is round-off.
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    modules = finished.module.network.named_modules()
    biases = {f"{name}.bias" for name, module in modules if isinstance(module, torch.nn.Conv2d)}
    assert len(biases) == 4
    assert any("head" in name for name in gradients) == (entry == "fomaml_omniglot_5w1s")
    assert all(gradients[name].abs().sum() > 0 for name in gradients.keys() - biases)


def test_training_starts_from_the_weights_of_another_entry_by_its_name(tmp_path):
    few = ["data.queries=2", "data.train_queries=2"]
    started = Run(composed("model=imaml_omniglot_5w1s", "ckpt=maml_omniglot_5w1s", *few), tmp_path)
    shipped = deqzoo.load("maml_omniglot_5w1s").parameters()
    for ours, theirs in zip(started.module.network.parameters(), shipped, strict=True):
        assert torch.equal(ours, theirs)
    assert started.metrics["started_from"]["command"] == "python train.py model=maml_omniglot_5w1s seed=0"


def test_network_takes_every_size_and_activation():
    for size, flat in (((28, 28), 4), ((32, 32), 4), ((40, 17), 6)):
        network = FewShotNetwork(3, size, ways=4, mean=[0.5] * 3, std=[0.2] * 3, width=6, activation="relu")
        assert network.head.in_features == 6 * flat
        assert network(torch.rand(2, 3, *size)).shape == (2, 4)
    with pytest.raises(ValueError, match="activation=sin: valid are relu, silu, softplus"):
        FewShotNetwork(1, (28, 28), 5, [0.5], [0.5], activation="sin")


def test_eval_mode_changes_nothing():
    """There are no running statistics: a new task has its own."""
    torch.manual_seed(0)
    network, images = FewShotNetwork(1, (28, 28), 5, [0.5], [0.5], width=4), torch.rand(6, 1, 28, 28)
    assert torch.equal(network.train()(images), network.eval()(images))
    assert {name for name, _ in network.named_buffers()} == {"mean", "std"}


def test_an_adapted_network_answers_each_query_by_itself():
    """By all 75 queries, by those of one class, and one by one; the papers' protocol mixes them."""
    torch.manual_seed(0)
    learner = deqzoo.load("maml_omniglot_5w1s")
    support, labels, queries = torch.rand(5, 1, 28, 28), torch.arange(5), torch.rand(75, 1, 28, 28)
    network = learner.adapt(support, labels)
    answers = network(queries)
    for some in (queries[:15], queries[60:], queries[:1]):
        first = next(i for i in range(75) if torch.equal(queries[i], some[0]))
        torch.testing.assert_close(network(some), answers[first : first + len(some)], atol=1e-4, rtol=1e-4)
    of_tasks = [part.expand(3, *part.shape) for part in (support, labels, queries)]
    torch.testing.assert_close(learner(*of_tasks, alone=True)[2], answers, atol=1e-3, rtol=1e-3)
    together = learner(*of_tasks)[0]
    assert (together - answers).abs().max() > 0.1
    assert (learner(*of_tasks[:2], of_tasks[2][:, :15])[0] - together[:15]).abs().max() > 0.1
    copied = copy.deepcopy(network)  # statistics are buffers: they are copied, saved and moved with the network
    copied.load_state_dict(network.state_dict())
    assert torch.equal(copied(queries), answers)
    assert not network.training


def test_support_statistics_are_differentiated_and_match_a_batch_norm_by_hand():
    norm = torch.nn.BatchNorm2d(3, track_running_stats=False).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(6, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    with normalised_by_first(norm, 4):
        out = norm(x)
    alone = norm(x[:4])
    torch.testing.assert_close(out[:4], alone)
    known = torch.nn.functional.batch_norm(
        x[4:], x[:4].mean((0, 2, 3)).detach(), x[:4].var((0, 2, 3), correction=0).detach(), norm.weight, norm.bias
    )
    torch.testing.assert_close(out[4:], known)
    assert torch.equal(norm(x), norm.eval()(x))  # outside, it is as it was
    with normalised_by_first(norm, 4):
        assert torch.autograd.gradcheck(lambda x: norm(x)[4:, :, :1], x, fast_mode=True)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.activation=sin data.queries=2 data.train_queries=2", "model.activation=sin: valid are"),
        ("data.ways=9", "has 5 classes in its smallest part"),
    ],
)
def test_wrong_value_stops_the_run_before_training(override, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=imaml_omniglot_5w1s", *override.split()), tmp_path)


@pytest.mark.parametrize("method", METHOD)
def test_head_that_starts_at_zero_is_fitted_to_each_task_and_not_learned(method, tmp_path):
    trained = run(tmp_path, f"model={method}", *SMALL, *METHOD[method][:1], "model.zero_head=true")
    assert not any(p.any() for p in trained.module.network.network.head.parameters())
    model = deqzoo.load(tmp_path / "export")
    support, labels, *_ = next(iter(trained.data.test_dataloader()))
    adapted = model.adapt(support[0], labels[0])
    assert adapted.head.weight.any()
    assert all(torch.isfinite(p).all() for p in adapted.parameters())
