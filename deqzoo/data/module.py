"""The base of the data modules: sets that lie in memory as tensors, in a fixed training, validation and test part."""

from dataclasses import fields
from typing import Any, ClassVar

import torch
from lightning import LightningDataModule
from torch import Tensor

from deqzoo.data.config import DataConfig
from deqzoo.data.info import DataInfo
from deqzoo.data.loader import PassesLoader, TensorLoader


class TensorData(LightningDataModule):
    """A set whose batches are cut from tensors by index, in an order that resumes where it was cut off.

    A subclass sets ``tensors`` (each (N, ...)) and ``parts`` (the indices of "train", "val" and "test") in `setup`, and
    has an `info`. It may make other loaders (`make_loader`).

    Args:
        name: the set.
        seed: of the order; the parts do not depend on it.
        options: the fields of ``Config``; None means the default.
    """

    Config: ClassVar[type[DataConfig]]

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__()
        valid = {field.name for field in fields(self.Config)} - {"kind", "name"}
        if unknown := set(options) - valid:
            listed = ", ".join(sorted(valid))
            raise TypeError(f"{type(self).__name__} has no option {min(unknown)!r}; valid are {listed}")
        given = {key: value for key, value in options.items() if value is not None}
        self.options: Any = self.Config(name=name, **given)
        self.seed = seed
        self.tensors: tuple[Tensor, ...] | None = None
        self.parts: dict[str, Tensor] = {}
        self._train: TensorLoader | None = None
        self._state: dict[str, Any] = {}

    @property
    def info(self) -> DataInfo:
        """What a network must know of the set."""
        raise TypeError(f"{type(self).__name__} does not define info")

    def make_loader(self, part: str, batch_size: int, train: bool, **options: Any) -> TensorLoader:
        """Batches of a part, shuffled (and augmented) if ``train``; ``options`` are those of `TensorLoader`."""
        assert self.tensors is not None
        return TensorLoader(self.tensors, self.parts[part], batch_size, shuffle=train, **options)

    def train_dataloader(self) -> TensorLoader:
        """Shuffled and augmented batches; Lightning's ``overfit_batches`` turns both off."""
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0
        self._train = self._loader("train", self.options.batch_size, train=not overfit)
        if self._state:
            self._train.load_state_dict(self._state)
            self._state = {}
        return self._train

    def val_dataloader(self) -> TensorLoader | list[TensorLoader]:
        """The validation samples, in order; no loader if there are none."""
        loader = self._loader("val", self.options.eval_batch_size)
        return loader if len(loader) else []

    def test_dataloader(self) -> TensorLoader:
        """The test samples, in order."""
        return self._loader("test", self.options.eval_batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Where the training data stand, for a checkpoint.

        Lightning also saves the loader's state by itself, but restores that only in the middle of an epoch.
        """
        return {} if self._train is None else self._train.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next `train_dataloader` go on where ``state_dict`` was taken."""
        self._state = state_dict

    def _loader(self, part: str, batch_size: int, train: bool = False) -> TensorLoader:
        if self.tensors is None:
            raise RuntimeError("the data are not set up: call setup() first (a Trainer does so by itself)")
        trainer = self.trainer
        device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        if getattr(self.options, "device_cache", True) and _fit(self.tensors, device):
            self.tensors = tuple(tensor.to(device) for tensor in self.tensors)
        return self.make_loader(
            part,
            batch_size,
            train,
            device=device,
            seed=self.seed,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
        )


class PassesData(TensorData):
    """A `TensorData` an epoch of whose training is several passes over it, ``repeats`` of the options."""

    def make_loader(self, part: str, batch_size: int, train: bool, **options: Any) -> TensorLoader:
        """Batches of a part, those for training shuffled in each pass."""
        assert self.tensors is not None
        repeats = self.options.repeats if train else 1
        return PassesLoader(self.tensors, self.parts[part], batch_size, repeats=repeats, shuffle=train, **options)


def _fit(tensors: tuple[Tensor, ...], device: torch.device) -> bool:
    """Whether the tensors take at most a quarter of the device's free memory."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return sum(tensor.nbytes for tensor in tensors) <= free / 4
