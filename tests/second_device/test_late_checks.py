"""What the host hears of a step later, lest it wait: no NaN or Inf comes to the weights, and a fault has its cause."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from deqzoo.implicit import Tsit5, odeint
from deqzoo.models import NonFiniteError
from deqzoo.models.common.classifier_module import Classifier
from deqzoo.models.common.config import Optimizer, ParameterGroup, Schedule
from deqzoo.models.common.finite import MOST
from deqzoo.models.common.optim import make_optimizer, skips_by_itself
from tests.models.common.test_skips import BATCH, Network, Watch, batches
from tests.second_device.pretended import Waits

GROUPS = [ParameterGroup("norm.*", lr=0.01), ParameterGroup("*.bias", lr=0.01, momentum=0.9, adaptive=True)]
OPTIMIZERS = {
    "adamw": {"optimizer": Optimizer.adamw, "weight_decay": 0.1},
    "sgd": {"optimizer": Optimizer.sgd, "momentum": 0.9},
    "muon": {"optimizer": Optimizer.muon, "parameter_groups": GROUPS, "optimizer_options": {"unit_rows": True}},
}


def fit(loader, *callbacks, network=None, trainer=(), **options):
    options_of_all = {"lr": 0.01, "ema_decay": 0.9, "schedule": Schedule.constant}
    module = Classifier(Network() if network is None else network, **options_of_all | options)
    trainer = Trainer(
        max_epochs=1, callbacks=list(callbacks), accelerator="gpux", strategy="gpux", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **dict(trainer),
    )  # fmt: skip
    trainer.fit(module, loader)
    return module


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad", [0, 2])
def test_a_bad_batch_leaves_all_as_it_was(name, bad, device):
    clipped = {"gradient_clip_val": 1.0, "precision": "bf16-mixed"} if name == "adamw" and bad else {}
    watch = Watch()
    module = fit(batches(4, bad), watch, lookahead_every=1, trainer=clipped, **OPTIMIZERS[name])
    assert skips_by_itself(module.trainer.optimizers[0])
    assert module.skips.total == 1
    state, optimizer, _ = watch.states[bad]
    assert all(value.isfinite().all() for value in state.values())
    if bad:
        torch.testing.assert_close((state, optimizer), watch.states[bad - 1][:2], rtol=0, atol=0)
    assert not torch.equal(watch.states[bad + 1][0]["network.head.weight"], state["network.head.weight"])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad", [0, 2])
def test_good_batches_train_as_if_the_bad_one_had_not_been(name, bad, device):
    data = batches(5, bad)
    x, labels = data.dataset.tensors
    rest = torch.arange(len(x)) // BATCH != bad
    spoilt = fit(data, **OPTIMIZERS[name])
    without = torch.utils.data.TensorDataset(x[rest], labels[rest])
    good = fit(DataLoader(without, batch_size=BATCH), **OPTIMIZERS[name])
    # The host asks before the step that follows a bad one, and then the moving average is rounded otherwise.
    torch.testing.assert_close(spoilt.state_dict(), good.state_dict(), rtol=1e-6, atol=1e-6)
    assert (spoilt.skips.total, good.skips.total) == (1, 0)


def test_ten_in_a_row_end_the_training_with_the_cause(device):
    told = rf"batch {MOST} \(step {MOST}\): 10 steps in a row were skipped. The loss is nan. .*input: sample\(s\) \[3\]"
    with pytest.raises(NonFiniteError, match=told):
        fit(batches(15, *range(1, 15)))


@pytest.mark.parametrize("count", [1, 3])
def test_a_training_shorter_than_that_does_not_end_in_silence(count, device):
    with pytest.raises(NonFiniteError, match=f"{count} steps in a row were skipped.*input"):
        fit(batches(count, *range(count)))


def test_the_check_of_a_good_step_is_no_wait(device):
    with Waits() as waits:
        fit(batches(4))
    assert waits.total
    assert not [place for place in waits.found if "models/common" in place.split(" < ")[0]], waits


def test_the_optimiser_stays_fused_when_it_is_resumed_from_the_cpu(device):
    here, there = nn.Linear(2, 2), nn.Linear(2, 2).to(device)
    for name in ("adamw", "sgd"):
        one, other = make_optimizer(here, name, lr=0.1), make_optimizer(there, name, lr=0.1, fused=True)
        here(torch.ones(1, 2)).sum().backward()
        one.step()
        other.load_state_dict(one.state_dict())
        assert [part["fused"] for part in other.param_groups] == [True, True]
        there(torch.ones(1, 2, device=device)).sum().backward()
        other.step()
        assert not skips_by_itself(make_optimizer(there, name, lr=0.1, fused=True, foreach=True))


def test_a_field_that_has_changed_gives_nan_and_is_an_error_at_the_next_solve(device):
    factor, y0 = [1.0], torch.ones(3, device=device, requires_grad=True)

    def solved():
        return odeint(lambda t, y: -factor[0] * y, y0, [0.0, 1.0], solver=Tsit5())[-1]

    y = solved()
    factor[0] = 1.01
    y.sum().backward()
    assert y0.grad.isnan().all()
    with pytest.raises(RuntimeError, match="in a backward of before, whose gradients are NaN"):
        solved()
    solved()
