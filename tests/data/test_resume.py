"""A killed run that Lightning resumes takes the same batches in the same order to the same parameters."""

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from deqzoo.data import Augment, ImageData

EPOCHS = 3
STEPS = 4  # in an epoch
BATCH_SIZE = 314  # of 1257 training images


class Killed(Exception):
    """Stands for kill -9: nothing runs after it but what Lightning does in a `finally`."""


class Probe(LightningModule):
    """A linear classifier that writes down what it is given."""

    def __init__(self, die_at=None, asks_for_length=False):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        self.die_at, self.asks_for_length = die_at, asks_for_length
        self.seen = []

    def loss(self, batch):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.net(images), labels)

    def training_step(self, batch, batch_idx):
        if self.global_step == self.die_at:
            raise Killed
        self.seen.append((self.current_epoch, batch_idx, float(batch[0].sum()), batch[1].tolist()))
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), batch_size=len(batch[1]))

    def configure_optimizers(self):
        if self.asks_for_length:  # as schedules do: it makes Lightning ask for the loader early
            assert self.trainer.estimated_stepping_batches == EPOCHS * STEPS
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(folder, limits, checkpoints, asks_for_length, die_at=None, resume=None):
    module = Probe(die_at, asks_for_length)
    batch_size = 200 if "limit_train_batches" in limits else BATCH_SIZE
    data = ImageData("digits", batch_size=batch_size, augment=Augment(crop=1, rotate=5.0), seed=3)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[ModelCheckpoint(folder, save_last=True, enable_version_counter=False, **checkpoints)],
        **limits,
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=False)
    except Killed:
        assert die_at is not None
    return module


@pytest.mark.parametrize(
    "checkpoints",
    [{"every_n_train_steps": 2}, {"monitor": "val_loss"}, {"every_n_epochs": 1}],
    ids=lambda options: "-".join(map(str, *options.items())),
)
@pytest.mark.parametrize(
    "limits",
    [
        {"max_epochs": EPOCHS},
        {"max_steps": EPOCHS * STEPS, "max_epochs": -1},
        {"max_epochs": EPOCHS, "limit_train_batches": STEPS},
    ],
    ids=["epochs", "steps", "cut-short"],
)
@pytest.mark.parametrize("asks_for_length", [False, True])
def test_resumed_run_equals_an_undisturbed_one(tmp_path, limits, checkpoints, asks_for_length):
    settings = (limits, checkpoints, asks_for_length)
    whole = fit(tmp_path / "whole", *settings)
    assert [step[:2] for step in whole.seen] == [(e, b) for e in range(EPOCHS) for b in range(STEPS)]
    for die_at in (3, STEPS, STEPS + 1, 2 * STEPS + 3):
        folder = tmp_path / str(die_at)
        killed = fit(folder, *settings, die_at=die_at)
        assert killed.seen == whole.seen[:die_at]
        last = folder / "last.ckpt"
        if not last.exists():
            assert die_at < STEPS, "an epoch is over, so that there is a checkpoint"
            continue
        done = torch.load(last, weights_only=False)["global_step"]
        resumed = fit(folder, *settings, resume=last)
        assert resumed.seen == whole.seen[done:], f"killed at {die_at}, resumed from {done}"
        for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
            assert torch.equal(ours, theirs)
