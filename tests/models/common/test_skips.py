"""A step with a NaN or Inf is skipped and leaves no trace; ten in a row end the training with their cause."""

import copy
import importlib
import pkgutil

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import deqzoo.models
from deqzoo.implicit import Anderson, OneStep, Status
from deqzoo.models import NonFiniteError
from deqzoo.models.common.classifier_module import Classifier
from deqzoo.models.common.config import Schedule
from deqzoo.models.common.finite import MOST
from deqzoo.models.common.module import SolverModule
from deqzoo.nn import DEQ

BATCH = 8


class Network(nn.Module):
    """A batch normalisation, whose statistics a NaN would spoil for good, before an equilibrium."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.inject, self.cell = nn.BatchNorm1d(4), nn.Linear(4, 6), nn.Linear(6, 6)
        self.deq = DEQ(self.f, solver=Anderson(tol=1e-3, max_steps=30), adjoint=OneStep())
        self.head = nn.Linear(6, 3)

    def f(self, z, x):
        return torch.tanh(0.5 * self.cell(z) + x)

    def forward(self, x):
        return self.head(self.deq(self.inject(self.norm(x))))


def batches(count, *bad, value=torch.nan):
    """A loader of `count` batches, of which one sample of each of the `bad` ones holds the value."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count * BATCH, 4, generator=generator)
    labels = torch.randint(0, 3, (len(x),), generator=generator)
    for batch in bad:
        x[batch * BATCH + 3, 1] = value
    return DataLoader(TensorDataset(x, labels), batch_size=BATCH)


class Watch(Callback):
    """The whole state after each batch."""

    def __init__(self):
        self.states, self.logged = [], []

    def on_train_batch_end(self, trainer, module, *_):
        state = (module.state_dict(), trainer.optimizers[0].state_dict()["state"], module.skips.total)
        self.states.append(copy.deepcopy(state))
        self.logged.append(dict(trainer.logged_metrics))


def fit(loader, network=None, **options):
    options_of_module = {"lr": 0.01, "ema_decay": 0.9, "schedule": Schedule.constant}
    module = Classifier(Network() if network is None else network, **options_of_module)
    watch = Watch()
    trainer = Trainer(
        max_epochs=1, callbacks=[watch], log_every_n_steps=1, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, loader)
    return module, watch


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_batch_leaves_weights_optimiser_average_and_buffers_as_they_were(value):
    module, watch = fit(batches(6, 2, value=value))
    (before, optimiser_before, _), (after, optimiser_after, skipped) = watch.states[1:3]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    torch.testing.assert_close(optimiser_after, optimiser_before, rtol=0, atol=0)
    assert skipped == 1
    assert "train/skipped" not in watch.logged[1]
    assert [logged["train/skipped"] for logged in watch.logged[2:]] == [1.0] * 4
    assert not torch.equal(watch.states[3][0]["network.head.weight"], after["network.head.weight"])
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


def test_good_batches_train_as_if_the_bad_one_had_not_been():
    data = batches(6, 2)
    x, labels = data.dataset.tensors
    rest = torch.arange(len(x)) // BATCH != 2
    spoilt, _ = fit(data)
    good, _ = fit(DataLoader(TensorDataset(x[rest], labels[rest]), batch_size=BATCH))
    torch.testing.assert_close(spoilt.state_dict(), good.state_dict(), rtol=0, atol=0)


def test_ten_in_a_row_end_the_training_with_the_cause():
    told = rf"batch {MOST} \(step {MOST}\): 10 steps in a row were skipped. The loss is nan. .*input: sample\(s\) \[3\]"
    with pytest.raises(NonFiniteError, match=told):
        fit(batches(15, *range(1, 15)))


def test_nine_in_a_row_do_not():
    module, _ = fit(batches(14, *range(MOST - 1), *range(MOST, 13)))
    assert (module.skips.total, module.skips.row) == (MOST + 2, 0)


def test_a_nan_parameter_ends_the_training():
    network = Network()
    with torch.no_grad():
        network.cell.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"The fault is in the parameters: cell\.weight is not finite"):
        fit(batches(MOST + 2), network)


def test_a_training_shorter_than_that_does_not_end_in_silence():
    with pytest.raises(NonFiniteError, match=r"3 steps in a row were skipped.*the input"):
        fit(batches(3, 0, 1, 2))


class BadBackward(torch.autograd.Function):
    """The identity, whose gradient is not finite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.nan


def test_a_gradient_that_is_not_finite_is_skipped_too():
    class Sometimes(Network):
        calls = 0

        def forward(self, x):
            self.calls += 1
            y = super().forward(x)
            return BadBackward.apply(y) if self.calls == 3 else y

    _, watch = fit(batches(5), Sometimes())
    (before, optimiser_before, _), (after, optimiser_after, skipped) = watch.states[1:3]
    for name, parameter in after.items():
        if "norm" not in name:  # its statistics are those of a finite forward
            assert torch.equal(parameter, before[name]), name
    torch.testing.assert_close(optimiser_after, optimiser_before, rtol=0, atol=0)
    assert skipped == 1


def test_one_bad_part_of_an_accumulated_step_skips_the_step():
    module, watch = fit(batches(8, 2), accumulate_grad_batches=2)
    torch.testing.assert_close(watch.states[3][0], watch.states[1][0] | _buffers(watch.states[3][0]), rtol=0, atol=0)
    assert module.skips.total == 1
    assert module.global_step == 4


def _buffers(state):
    return {name: value for name, value in state.items() if "running" in name or "num_batches" in name}


def test_mixed_precision():
    module, watch = fit(batches(6, 2), precision="bf16-mixed")
    torch.testing.assert_close(watch.states[2][0], watch.states[1][0], rtol=0, atol=0)
    assert module.skips.total == 1


def test_the_count_is_resumed():
    module, _ = fit(batches(4, 2, 3))
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    resumed = Classifier(Network())
    resumed.on_load_checkpoint(checkpoint)
    assert (resumed.skips.total, resumed.skips.row) == (2, 2)
    resumed.on_load_checkpoint({})  # of a training from before steps were skipped
    assert resumed.skips.total == 2


def test_no_kind_trains_in_another_way():
    """What a kind's module overrides of the training step calls this one, which skips."""
    for module in pkgutil.walk_packages(deqzoo.models.__path__, "deqzoo.models."):
        importlib.import_module(module.name)
    ahead, seen = [SolverModule], set()
    while ahead:
        seen.add(cls := ahead.pop())
        ahead += cls.__subclasses__()
    ours = {cls for cls in seen - {SolverModule} if cls.__module__.startswith("deqzoo.")}
    assert len(ours) > 10
    hooks = ("training_step", "on_before_optimizer_step", "optimizer_step", "on_save_checkpoint", "on_load_checkpoint")
    overridden = {(cls.__name__, hook) for cls in ours for hook in hooks if hook in vars(cls)}
    assert overridden == {("DEQModule", "training_step")}  # around that of `SolverModule`


def test_the_deq_tells_which_samples():
    network = Network().eval()
    x = torch.randn(3, 4)
    x[1, 0] = torch.nan
    with pytest.warns(RuntimeWarning, match="1 of 3 systems"):
        assert network(x).isnan().all(1).tolist() == [False, True, False]
    assert network.deq.solution.status.tolist() == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
