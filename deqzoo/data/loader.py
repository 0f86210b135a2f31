"""Batches by index, in an order that follows from (seed, epoch) alone and can be taken up again."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from deqzoo.errors import ConfigError
from deqzoo.implicit.sending import send

Transform = Callable[[Tensor, Generator], Tensor]


class TensorLoader:
    """Batches of some of the samples of tensors that lie in memory.

    The order of a shuffled epoch is a pure function of (seed, epoch), and `state_dict` says where the loader stands: a
    run that was killed sees the same batches when it is resumed. Each iteration gives the next epoch.

    Args:
        tensors: (N, ...) each, on the same device.
        indices: (n,) int64, the samples of this loader.
        batch_size: samples per batch.
        device: where the batches go; default: where the tensors lie.
        shuffle: a new order each epoch; a last, smaller batch is then left out, so that all steps are alike.
        seed: not negative.
        rank, world_size: this process and the number of processes; each gets its share of ``indices``.

    A batch is a tuple, the chosen samples of each tensor.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        indices: Tensor,
        batch_size: int,
        *,
        device: torch.device | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.tensors, self.indices = tuple(tensors), indices
        self.batch_size, self.device = batch_size, device or self.tensors[0].device
        self.place = self.tensors[0].device  # of the order
        self.shuffle, self.seed = shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.batch = 0  # batches of this epoch that were handed out
        self._resumed = False  # the next iteration goes on in this epoch
        self._announced: int | None = None
        if shuffle and len(self) == 0:
            n = len(indices) // world_size
            raise ConfigError(f"a batch of {batch_size} is more than the {n} samples there are: lower batch_size")

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        if self.shuffle:
            return len(self.indices) // self.world_size // self.batch_size
        return -(-len(self.indices[self.rank :: self.world_size]) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        # All of this runs at the first `next`: Lightning calls iter() before set_epoch().
        if self.batch and not self._resumed:
            self._next_epoch()
        self._resumed = False
        order = self._order()
        while self.batch < len(self):
            start = self.batch * self.batch_size
            self.batch += 1
            yield self._make_batch(order[start : start + self.batch_size])

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands."""
        return {"epoch": self.epoch, "batch": self.batch, "announced": self._announced, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch that was handed out when ``state`` was taken."""
        for name, value in self._identity().items():
            if state[name] != value:
                raise ConfigError(
                    f"cannot resume: the checkpoint's data had {name}={state[name]}, now it is {value}; "
                    f"resume with {name}={state[name]}"
                )
        self.epoch, self.batch, self._announced = state["epoch"], state["batch"], state["announced"]
        self._resumed = True

    @property
    def sampler(self) -> "TensorLoader":
        """This object: Lightning looks here for `set_epoch`."""
        return self

    batch_sampler = None  # Lightning looks for it, too

    def set_epoch(self, number: int) -> None:
        """Lightning announces an epoch; a new number ends the present one, also if it was cut short.

        The loader keeps its own count, as Lightning's skips a number when a run that is limited by
        ``max_steps`` is resumed from the end of an epoch.
        """
        if number != self._announced and self.batch:
            self._next_epoch()
        self._announced = number

    def _next_epoch(self) -> None:
        self.epoch, self.batch, self._resumed = self.epoch + 1, 0, False

    def _identity(self) -> dict[str, int]:
        """What must not change for an epoch to be taken up in its middle."""
        return {"seed": self.seed, "batch_size": self.batch_size, "world_size": self.world_size}

    def _order(self) -> Tensor:
        """Indices of this epoch, of this process."""
        indices = self.indices
        if self.shuffle:
            indices = indices[torch.randperm(len(indices), generator=generator(self.seed, self.epoch))]
        return send(indices[self.rank :: self.world_size], self.place)

    def _make_batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        return tuple(send(tensor[indices], self.device) for tensor in self.tensors)


class PassesLoader(TensorLoader):
    """A `TensorLoader` whose epochs are several passes over a small set, each in an order of its own.

    Args:
        tensors, indices, batch_size, options: as `TensorLoader` has them.
        repeats: passes an epoch.
    """

    def __init__(self, *args: Any, repeats: int = 1, **options: Any) -> None:
        self.repeats = repeats
        super().__init__(*args, **options)

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        if self.shuffle:
            return self.repeats * len(self.indices) // self.world_size // self.batch_size
        return super().__len__()

    def _order(self) -> Tensor:
        if not self.shuffle:
            return super()._order()
        random = generator(self.seed, self.epoch)
        passes = [self.indices[torch.randperm(len(self.indices), generator=random)] for _ in range(self.repeats)]
        return send(torch.cat(passes)[self.rank :: self.world_size], self.place)


class ImageLoader(TensorLoader):
    """Batches (images, labels): (B, C, H, W) float32 in [0, 1] and (B,) int64.

    Args:
        images: (N, C, H, W) uint8, on any device.
        labels: (N,) int64, on the same device.
        indices, batch_size, options: as `TensorLoader` has them.
        white: the byte that becomes 1.0.
        alternating_flip: mirror left and right in every second epoch; some in the even ones, the others in the odd.
        transform: applied to the float images of a batch, with the batch's own generator: its random numbers are a
            function of (seed, epoch, batch).
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        batch_size: int,
        *,
        white: int = 255,
        alternating_flip: bool = False,
        transform: Transform | None = None,
        **options: Any,
    ) -> None:
        super().__init__((images, labels), indices, batch_size, **options)
        self.white, self.transform = white, transform
        self.flipped_first: Tensor | None = None  # (N,), the images that are mirrored in even epochs
        if alternating_flip:
            self.flipped_first = (torch.rand(len(images), generator=generator(self.seed)) < 0.5).to(images.device)

    def _make_batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        pixels, labels = super()._make_batch(indices)
        if self.flipped_first is not None:
            flip = send(self.flipped_first[indices], pixels.device) ^ bool(self.epoch % 2)
            pixels = torch.where(flip.view(-1, 1, 1, 1), pixels.flip(3), pixels)
        images = pixels.float() / self.white
        if self.transform is not None:
            images = self.transform(images, generator(self.seed, self.epoch, self.batch, self.rank))
        return images, labels


def generator(seed: int, *key: int) -> Generator:
    """A CPU generator for a purpose: streams of different keys are independent of each other.

    >>> a, b = (torch.rand(1, generator=generator(0, epoch)) for epoch in (1, 2))
    >>> bool(a == b)
    False
    """
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
